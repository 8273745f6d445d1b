"""HierarchicalTopK: every prefix of a token's ranked activations reconstructs it (arXiv 2505.24473)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monosem import kernels
from monosem.sae.fit import Fit
from monosem.sae.function import nested_loss
from monosem.shapes import InputError
from monosem.shapes.codes import Codes


class Hierarchical:
    """L = 1/(B·D) Σ_b Σ_{j in J} w_j ‖r_j‖² with r_j the residual after the j strongest latents, Σ w = 1.

    Ranks after the last budget get no gradient. J = {k} is the TopK loss, J = {k, 4k} with weights 8/9 and 1/9 that
    of Multi-TopK. Needs fixed codes sorted by value.
    """

    def __init__(self, budgets: tuple[int, ...], weights: tuple[float, ...]) -> None:
        self.budgets, self.weights = budgets, tuple(weight / sum(weights) for weight in weights)

    def fit(self, codes: Codes, W_dec: Tensor, target: Tensor) -> Fit:
        _check_ranks(codes, self.budgets[-1])
        cuts = torch.tensor(self.budgets, device=target.device).expand(len(target), -1)
        wide = torch.promote_types(target.dtype, torch.float32)
        weights = torch.tensor(self.weights, dtype=wide, device=target.device) / target.numel()
        loss, errors, residual = nested_loss(codes, cuts, W_dec, target, weights)
        errors = errors / target.numel()
        return Fit(loss, errors[-1].to(loss.dtype), residual, errors)

    def rank_weights(self) -> list[float]:
        """W_r = Σ_{j ≥ r} w_j: how much of the loss rank r takes part in, from rank 1 to the last budget."""
        pairs = list(zip(self.budgets, self.weights, strict=True))
        return [sum(weight for budget, weight in pairs if budget >= rank) for rank in range(1, self.budgets[-1] + 1)]

    def describe(self) -> dict[str, Any]:
        return {"J": list(self.budgets), "weights": list(self.weights), "rank_weights": self.rank_weights()}


def _check_ranks(codes: Codes, most: int) -> None:
    """Ranks are part of the method; whether they are sorted is looked at in debug mode alone, as it waits."""
    if codes.indices is None or codes.offsets is not None:
        raise InputError("the hierarchical objective needs a fixed number of ranked latents: use the rule topk")
    if most > codes.values.shape[1]:
        raise InputError(f"budget {most} is beyond the {codes.values.shape[1]} ranks of the codes: lower it or raise k")
    if kernels.debugging():
        rising = codes.values.diff(dim=1) > 1e-6 * codes.values[:, 1:].abs()
        if bool(rising.any()):
            token = int(rising.any(1).nonzero()[0])
            raise InputError(f"values of token {token} are not sorted in descending order: the loss would be another")
