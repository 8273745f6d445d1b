"""Objectives turn one batch of scaled activations into a loss. One row of `OBJECTIVES` each."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from monosem.sae.autoencoder import SAE
from monosem.sae.fit import Nesting, Whole
from monosem.sae.function import decode
from monosem.sae.hierarchical import Hierarchical
from monosem.sae.matryoshka import Matryoshka
from monosem.sae.penalty import Penalty
from monosem.shapes.codes import Codes


class Loss(NamedTuple):
    """All terms are means over tokens and dimensions, in the scaled space.

    `fit` is what the objective minimises, `mse` the error of all codes; `errors` those of nested prefixes.
    """

    total: Float[Tensor, ""]
    fit: Float[Tensor, ""]
    mse: Float[Tensor, ""]
    penalty: Float[Tensor, ""]
    aux: Float[Tensor, ""]
    codes: Codes
    errors: Float64[Tensor, " n"] | None = None


class Objective(nn.Module):
    """fit + penalty + aux_coefficient · auxiliary loss; `nesting` says what the fit is.

    The auxiliary loss (arXiv 2406.04093, A.2) reconstructs the detached residual from the `k_aux` strongest dead
    latents of each token; it is a mean over the same entries as the main term, and 0 while no latent is dead.
    """

    def __init__(
        self,
        penalty: Penalty,
        nesting: Nesting | None = None,
        *,
        aux_coefficient: float = 1 / 32,
        k_aux: int = 64,
    ) -> None:
        super().__init__()
        self.penalty, self.nesting = penalty, nesting or Whole()
        self.aux_coefficient, self.k_aux = aux_coefficient, k_aux

    def forward(
        self,
        sae: SAE,
        x: Float[Tensor, "B D"],
        dead: Int[Tensor, " S"] | None = None,
        target: Float[Tensor, "B E"] | None = None,
    ) -> Loss:
        """`x` is multiplied by the scale of inputs, `target` (None: x) by that of outputs."""
        codes = sae.encoder.select(x, sae.rule, sae.centre)
        left = (x if target is None else target) - sae.b_dec
        if sae.W_skip is not None:
            left = left - x @ sae.W_skip
        fit = self.nesting.fit(codes, sae.W_dec, left)
        penalty = self.penalty(codes, sae.rule, sae.d_out)
        aux = x.new_zeros(())
        if dead is not None and len(dead) and self.aux_coefficient:
            aux = self.aux_coefficient * self._auxiliary(sae, x, fit.residual, dead)
        total = fit.loss + penalty + aux
        return Loss(total, fit.loss.detach(), fit.mse, penalty.detach(), aux.detach(), codes, fit.errors)

    def _auxiliary(self, sae: SAE, x: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
        k = min(self.k_aux, len(dead))
        codes = sae.encoder.select_among(dead, x, k, sae.centre)
        return (residual - decode(codes, sae.W_dec)).square().mean()


OBJECTIVES: dict[str, type[Nesting]] = {
    "reconstruction": Whole,
    "hierarchical": Hierarchical,
    "matryoshka": Matryoshka,
}
