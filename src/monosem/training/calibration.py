"""Final calibration: move thresholds so that mean L0 on training tokens is the target. Reported, never silent."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem import kernels
from monosem.sae import SAE, BatchTopK, JumpReLU


@torch.no_grad()
def calibrate(sae: SAE, batches: list[Float[Tensor, "B D"]], k: int, held: int = 0) -> dict[str, Any] | None:
    """Set thresholds for a mean L0 of k on these tokens; None for rules without thresholds.

    The one threshold of BatchTopK becomes the midpoint of the (k·N)-th and the next largest pre-activation of all N
    tokens, so that L0 is k exactly (0 if fewer are positive). Those of JumpReLU are scaled by one factor: each batch's
    own would make its L0 exactly k, and their mean is applied. The first `held` of them stay.
    """
    if not isinstance(sae.rule, (BatchTopK, JumpReLU)):
        return None
    sae.eval()
    tokens = sum(len(x) for x in batches)
    if isinstance(sae.rule, BatchTopK):
        threshold = sae.rule.cut
        before = None if threshold.isnan() else _l0(sae, batches)
        was, now = threshold.clone(), quantile(sae, batches, k)
        threshold.copy_(now)
        found: dict[str, Any] = {"threshold": float(now), "factor": float(now / was)}
    else:
        threshold, before = sae.rule.threshold, _l0(sae, batches)
        if not (threshold[held:] > 0).all():
            return {"factor": None, "reason": "some thresholds are not positive, so no factor moves them"}
        factor = torch.stack([_factor(sae.pre_acts(x), threshold, k, held) for x in batches]).mean()
        threshold[held:] *= factor
        found = {"factor": float(factor)}
    return {**found, "l0_before": before, "l0_after": _l0(sae, batches), "training_tokens": tokens}


@torch.no_grad()
def quantile(sae: SAE, batches: list[Float[Tensor, "B D"]], k: int | float) -> Float[Tensor, ""]:
    """The threshold above which there are k positive pre-activations a token, in the mean of all batches."""
    wanted = round(k * sum(len(x) for x in batches))
    largest = torch.empty(0, device=sae.W_dec.device)
    for x in batches:
        candidates = torch.cat([largest, sae.pre_acts(x).flatten()])
        largest = candidates.topk(min(wanted + 1, len(candidates))).values
    if len(largest) <= wanted or largest[wanted - 1] <= 0:
        return torch.zeros((), device=largest.device)
    return (largest[wanted - 1] + largest[wanted].clamp_min(0)) / 2


def _factor(pre: Float[Tensor, "B F"], threshold: Float[Tensor, " F"], k: int, held: int) -> Float[Tensor, ""]:
    """What multiplies the thresholds after those held so that this batch's L0 is k, with one new latent at least."""
    if not held:
        return kernels.batch_topk(pre / threshold, k).values.min()
    there = int((pre[:, :held] > threshold[:held].clamp_min(0)).sum())
    ratios = (pre[:, held:] / threshold[held:]).flatten()
    largest = ratios.topk(min(max(k * len(pre) - there, 1), len(ratios))).values
    return largest[largest > 0].min()


def _l0(sae: SAE, batches: list[Float[Tensor, "B D"]]) -> float:
    return sum(int(sae.codes(x).l0().sum()) for x in batches) / sum(len(x) for x in batches)
