"""A threshold for each latent in place of one for all, with the same firing rates.

With one threshold, folding multiplies every latent by the same number: it cannot change what is nearest to what.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from monosem import kernels
from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, KronEncoder
from monosem.shapes import InputError


@torch.no_grad()
def with_own_thresholds(sae: SAE, batches: Sequence[Float[Tensor, "_ D"]]) -> SAE:
    """A BatchTopK autoencoder as JumpReLU: each latent fires as often as when each batch keeps its B·k largest.

    A latent's threshold is the midpoint between its n-th and next largest pre-activation in all batches, n being how
    often it was kept; one that never was gets a threshold above all it reached. Batches are raw activations, read
    twice; weights are copied. Raises `InputError` for other rules, and where nothing is active.
    """
    if not isinstance(sae.rule, BatchTopK) or not isinstance(sae.encoder, (DenseEncoder, KronEncoder)):
        raise InputError(f"{type(sae.rule).__name__}: only BatchTopK has one threshold that can be made one a latent")
    kept = torch.zeros(sae.n_latents, dtype=torch.int64)
    smallest = torch.inf
    for x in batches:
        values, indices, _ = kernels.batch_topk(sae.pre_acts(x.to(sae.W_dec.device)), sae.rule.k)
        assert indices is not None
        kept += torch.bincount(indices.cpu(), minlength=sae.n_latents)
        smallest = min(smallest, float(values.min()) if len(values) else torch.inf)
    if smallest == torch.inf:
        raise InputError("no latent is active on these activations: give other tokens")
    # No latent's n-th largest value is below the smallest that any batch kept.
    floor = 0.9 * smallest
    values, latents = _above(sae, batches, floor)
    made = _jumprelu(sae)
    assert isinstance(made.rule, JumpReLU)
    made.rule.threshold.copy_(_midpoints(values, latents, kept, floor))
    return made


def _above(
    sae: SAE, batches: Sequence[Float[Tensor, "_ D"]], floor: float
) -> tuple[Float[Tensor, " N"], Int64[Tensor, " N"]]:
    """Pre-activations above `floor` with the latents they belong to."""
    low, parts = torch.full((sae.n_latents,), floor, device=sae.W_dec.device), []
    for x in batches:
        values, indices, _ = kernels.above(sae.pre_acts(x.to(sae.W_dec.device)), low)
        assert indices is not None
        parts.append((values.cpu(), indices.long().cpu()))
    return torch.cat([values for values, _ in parts]), torch.cat([indices for _, indices in parts])


def _midpoints(
    values: Float[Tensor, " N"], latents: Int64[Tensor, " N"], kept: Int64[Tensor, " F"], floor: float
) -> Float32[Tensor, " F"]:
    """Between the n-th and the next largest value of each latent; `floor` stands for a value that was not gathered."""
    order = values.argsort(descending=True)
    order = order[latents[order].argsort(stable=True)]
    counts = torch.bincount(latents, minlength=len(kept))
    starts = counts.cumsum(0) - counts
    ranked = torch.cat([values[order], torch.full((1,), floor, dtype=values.dtype)])
    largest = torch.where(counts > 0, ranked[starts], floor)
    last = ranked[(starts + kept - 1).clamp_min(0)]
    following = torch.where(kept < counts, ranked[starts + kept], floor)
    return torch.where(kept > 0, (last + following) / 2, 1.01 * largest).float()


def _jumprelu(sae: SAE) -> SAE:
    made = SAE(
        copy.deepcopy(sae.encoder),
        JumpReLU(sae.n_latents),
        scale=sae.scale,
        code_scale=sae.code_scale,
        out_scale=sae.out_scale,
        subtract_b_dec=sae.subtract_b_dec,
        info=dict(sae.info),
    )
    made.W_dec.copy_(sae.W_dec)
    made.b_dec.copy_(sae.b_dec)
    return made.eval()
