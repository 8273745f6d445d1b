"""The dense encoder: pre-activations from a row of its own for every latent, and their selection."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from monosem import kernels
from monosem.sae.function import Choose, Select
from monosem.sae.rule import Rule, TopK
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

    @torch.no_grad()
    def initialise(self, d_out: int, generator: torch.Generator) -> Float[Tensor, "F D"]:
        """Random unit rows for the decoder, returned; the encoder starts as their transpose where widths agree."""
        rows = unit_rows(self.n_latents, d_out, generator)
        self.weight.copy_(rows if d_out == self.d_in else unit_rows(self.n_latents, self.d_in, generator))
        return rows

    @torch.no_grad()
    def rescale(self, inputs: float, codes: float) -> None:
        """Change the function to codes · f(inputs · x)."""
        self.weight.mul_(inputs * codes)
        self.bias.mul_(codes)

    def pre_acts(self, x: Float[Tensor, "B D"], centre: Float[Tensor, " D"] | None) -> Float[Tensor, "B F"]:
        return functional.linear(x if centre is None else x - centre, self.weight) + self.bias

    def select(self, x: Float[Tensor, "B D"], rule: Rule, centre: Float[Tensor, " D"] | None) -> Codes:
        return self._selected(x, centre, _choice(rule), rule.learned() if self.training else None)

    def select_among(
        self, latents: Int[Tensor, " S"], x: Float[Tensor, "B D"], k: int, centre: Float[Tensor, " D"] | None
    ) -> Codes:
        """The k largest of some latents alone; the product costs in proportion to their number."""
        return self._selected(x, centre, lambda x, weight, bias: kernels.linear_topk(x, weight, bias, k), None, latents)

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


def _choice(rule: Rule) -> Choose:
    """TopK is fused with its product; under autocast its product is of low precision, its values are not."""
    if isinstance(rule, TopK):
        return lambda x, weight, bias: kernels.linear_topk(x, weight, bias, rule.k, _autocast(x))
    return lambda x, weight, bias: rule.choose(functional.linear(x, weight).to(x.dtype), bias)


def _autocast(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def unit_rows(count: int, width: int, generator: torch.Generator) -> Float[Tensor, "F D"]:
    """Rows of unit norm in random directions."""
    rows = torch.randn(count, width, generator=generator)
    return rows / rows.norm(dim=1, keepdim=True)
