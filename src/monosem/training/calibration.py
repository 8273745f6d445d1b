"""Final calibration: move thresholds so that mean L0 on training tokens is the target. Reported, never silent."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem import kernels
from monosem.sae import SAE, BatchTopK, JumpReLU


@torch.no_grad()
def calibrate(sae: SAE, batches: list[Float[Tensor, "B D"]], k: int) -> dict[str, Any] | None:
    """Scale every threshold by one factor; None for rules without thresholds.

    Each batch's factor makes its mean L0 exactly k; their mean is applied.
    """
    if not isinstance(sae.rule, (BatchTopK, JumpReLU)):
        return None
    sae.eval()
    threshold = sae.rule.threshold if isinstance(sae.rule, JumpReLU) else sae.rule.cut
    assert threshold is not None
    if not (threshold > 0).all():
        return {"factor": None, "reason": "some thresholds are not positive, so no factor moves them"}
    before = sum(float(sae.codes(x).l0().float().mean()) for x in batches) / len(batches)
    ratios = [kernels.batch_topk(sae.pre_acts(x) / threshold, k).values.min() for x in batches]
    factor = torch.stack(ratios).mean()
    threshold.mul_(factor)
    after = sum(float(sae.codes(x).l0().float().mean()) for x in batches) / len(batches)
    tokens = sum(len(x) for x in batches)
    return {"factor": float(factor), "l0_before": before, "l0_after": after, "training_tokens": tokens}
