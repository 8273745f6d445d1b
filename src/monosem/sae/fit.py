"""How well codes explain their inputs: the part of a loss that an objective chooses."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from monosem.sae.function import decode, nested_loss
from monosem.shapes.codes import Codes


class Fit(NamedTuple):
    """Means over tokens and dimensions; `errors` has the mean squared error of every nested prefix, if there are."""

    loss: Float[Tensor, ""]
    mse: Float[Tensor, ""]
    residual: Float[Tensor, "B D"]
    errors: Float64[Tensor, " n"] | None = None


@runtime_checkable
class Nesting(Protocol):
    """A way to fit codes: as a whole, or as nested prefixes that each have to explain the input."""

    def fit(self, codes: Codes, W_dec: Float[Tensor, "F D"], target: Float[Tensor, "B D"]) -> Fit:
        """`target` is what the decoder rows have to sum to: the input without b_dec."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-able; empty for the whole."""
        ...


class Whole:
    """mean ‖target − Σ f_i W_dec[i]‖²: one prefix, all codes."""

    def fit(self, codes: Codes, W_dec: Tensor, target: Tensor) -> Fit:
        if codes.indices is None:
            residual = target - decode(codes, W_dec)
            mse = residual.square().mean()
            return Fit(mse, mse.detach(), residual.detach())
        wide = torch.promote_types(target.dtype, torch.float32)
        weights = torch.full((1,), 1 / target.numel(), dtype=wide, device=target.device)
        loss, _, residual = nested_loss(codes, _ends(codes), W_dec, target, weights)
        return Fit(loss, loss.detach(), residual)

    def describe(self) -> dict[str, Any]:
        return {}


def _ends(codes: Codes) -> Int[Tensor, "B 1"]:
    """How many entries each token has."""
    if codes.offsets is not None:
        return codes.offsets.diff()[:, None]
    return torch.tensor([[codes.values.shape[1]]], device=codes.values.device).expand(len(codes.values), 1)
