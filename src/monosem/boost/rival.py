"""What a residual has to be better than, without training of its own (arXiv 2507.12990; details are our choice)."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, TopK, boosted
from monosem.shapes import InputError
from monosem.training.calibration import calibrate, quantile

GRAFTED = "grafted"
"""The name of the group of latents that come from a fine-tuned copy."""


@torch.no_grad()
def more_latents(core: SAE, batches: list[Float[Tensor, "B D"]], l0: float) -> SAE | None:
    """The core with so much lower thresholds, or so much larger k, that its L0 on these tokens is `l0`.

    What sparsity alone brings; to the nearest whole number unless the rule is BatchTopK. None for a rule without
    either, and for thresholds that no factor moves.
    """
    if isinstance(core.rule, TopK):
        return core.at(round(l0))
    new = copy.deepcopy(core).eval()
    if isinstance(new.rule, BatchTopK):
        new.rule.cut.copy_(quantile(new, batches, float(l0)))
        return new
    found = calibrate(new, batches, round(l0))
    return None if found is None or found["factor"] is None else new


@torch.no_grad()
def grafted(core: SAE, finetuned: SAE, count: int, batches: list[Float[Tensor, "B D"]], k: int) -> SAE:
    """The frozen core with the `count` latents of its fine-tuned copy that changed most, 1 − cos of decoder rows.

    Weights and thresholds are the copy's; one with TopK gets a threshold at which k of them are active on these
    tokens. The paper calls this stitching, which here is the name of the concatenation (`monosem.sae.stitch`).
    """
    finetuned = finetuned.to(core.W_dec.device)
    tuned_encoder = finetuned.encoder
    if not (isinstance(core.encoder, DenseEncoder) and isinstance(tuned_encoder, DenseEncoder)):
        raise InputError("latents can be taken over only where each has a row: use a dense core")
    change = 1 - functional.cosine_similarity(core.W_dec, finetuned.W_dec)
    chosen = change.sort(descending=True, stable=True).indices[:count]
    encoder = DenseEncoder(core.d_in, len(chosen)).to(core.W_dec)
    encoder.weight.copy_(tuned_encoder.weight[chosen])
    encoder.bias.copy_(tuned_encoder.bias[chosen])
    if finetuned.centre is not None:
        encoder.bias.sub_(encoder.weight @ finetuned.centre)
    tuned = finetuned.rule
    rule = JumpReLU(len(chosen)) if isinstance(tuned, JumpReLU) else BatchTopK(len(chosen), min(k, len(chosen)))
    taken = SAE(
        encoder,
        rule,
        d_out=core.d_out,
        scale=finetuned.scale,
        code_scale=finetuned.code_scale,
        out_scale=finetuned.out_scale,
        subtract_b_dec=False,
        info={key: core.info[key] for key in ("site", "target") if key in core.info} | {"name": GRAFTED},
    )
    taken.to(core.W_dec).eval()
    taken.W_dec.copy_(finetuned.W_dec[chosen])
    if isinstance(rule, JumpReLU) and isinstance(tuned, JumpReLU):
        rule.threshold.copy_(tuned.threshold[chosen])
    elif isinstance(rule, BatchTopK):
        rule.cut.copy_(tuned.cut if isinstance(tuned, BatchTopK) else quantile(taken, batches, rule.k))
    return boosted(core, {GRAFTED: taken})
