"""Objectives turn one batch of scaled activations into a loss. One row of `OBJECTIVES` each."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem import kernels
from monosem.sae.autoencoder import SAE
from monosem.sae.function import decode
from monosem.sae.penalty import Penalty
from monosem.shapes.codes import Codes


class Loss(NamedTuple):
    """All terms are means over tokens and dimensions, in the scaled space."""

    total: Float[Tensor, ""]
    mse: Float[Tensor, ""]
    penalty: Float[Tensor, ""]
    aux: Float[Tensor, ""]
    codes: Codes


class Reconstruction(nn.Module):
    """mean (x̂ − x)² + penalty + aux_coefficient · auxiliary loss.

    The auxiliary loss (arXiv 2406.04093, A.2) reconstructs the detached residual from the `k_aux` strongest dead
    latents of each token; it is a mean over the same entries as the main term, and 0 while no latent is dead.
    """

    def __init__(self, penalty: Penalty, *, aux_coefficient: float = 1 / 32, k_aux: int = 64) -> None:
        super().__init__()
        self.penalty, self.aux_coefficient, self.k_aux = penalty, aux_coefficient, k_aux

    def forward(self, sae: SAE, x: Float[Tensor, "B D"], dead: Int[Tensor, " S"] | None = None) -> Loss:
        codes = sae.encoder.select(x, sae.rule, sae.centre)
        residual = x - (decode(codes, sae.W_dec) + sae.b_dec)
        mse = residual.square().mean()
        penalty = self.penalty(codes, sae.rule, sae.d_in)
        aux = x.new_zeros(())
        if dead is not None and len(dead) and self.aux_coefficient:
            aux = self.aux_coefficient * self._auxiliary(sae, x, residual.detach(), dead)
        return Loss(mse + penalty + aux, mse.detach(), penalty.detach(), aux.detach(), codes)

    def _auxiliary(self, sae: SAE, x: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
        k = min(self.k_aux, len(dead))
        codes = sae.encoder.select_among(dead, x, lambda pre: kernels.topk(pre, k), sae.centre)
        return (residual - decode(codes, sae.W_dec)).square().mean()


OBJECTIVES = {"reconstruction": Reconstruction}
