"""Encoders make pre-activations and own selection. One row of `ENCODERS` each."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from monosem.sae.function import Choose, Select
from monosem.sae.rule import Rule
from monosem.shapes.codes import Codes


class DenseEncoder(nn.Module):
    """pre = (x − centre) weightᵀ + bias, with a row of its own for every latent."""

    def __init__(self, d_in: int, n_latents: int) -> None:
        super().__init__()
        self.d_in, self.n_latents = d_in, n_latents
        self.weight = nn.Parameter(torch.zeros(n_latents, d_in))
        self.bias = nn.Parameter(torch.zeros(n_latents))

    def config(self) -> dict[str, Any]:
        return {}

    def initialise(self, W_dec: Float[Tensor, "F D"]) -> None:
        """Start as the transpose of the decoder."""
        with torch.no_grad():
            self.weight.copy_(W_dec)

    def pre_acts(self, x: Float[Tensor, "B D"], centre: Float[Tensor, " D"] | None) -> Float[Tensor, "B F"]:
        return functional.linear(x if centre is None else x - centre, self.weight, self.bias)

    def select(self, x: Float[Tensor, "B D"], rule: Rule, centre: Float[Tensor, " D"] | None) -> Codes:
        return self._selected(x, centre, rule.choose, rule.learned() if self.training else None)

    def select_among(
        self,
        latents: Int[Tensor, " S"],
        x: Float[Tensor, "B D"],
        choose: Choose,
        centre: Float[Tensor, " D"] | None,
    ) -> Codes:
        """Select from some latents alone; the product costs in proportion to their number."""
        return self._selected(x, centre, choose, latents=latents)

    def _selected(
        self,
        x: Tensor,
        centre: Tensor | None,
        choose: Choose,
        learned: tuple[nn.Parameter, float] | None = None,
        latents: Tensor | None = None,
    ) -> Codes:
        # In evaluation the entries around a threshold are not stored, so it gets no gradient.
        threshold, bandwidth = learned or (None, None)
        values, indices, offsets = Select.apply(
            x, centre, self.weight, self.bias, threshold, choose, bandwidth, latents
        )
        return Codes(values, indices, self.n_latents, offsets)


ENCODERS: dict[str, type[DenseEncoder]] = {"dense": DenseEncoder}
