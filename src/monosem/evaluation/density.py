"""On which share of the tokens each latent is active: dead, alive and dense latents."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from monosem.evaluation.batch import Batch


class Density:
    """Tokens on which each latent is active; dead means never active on the tokens evaluated."""

    def __init__(self, n_latents: int) -> None:
        self._counts = torch.zeros(n_latents, dtype=torch.int64)
        self._tokens = 0

    def update(self, batch: Batch) -> None:
        _, latents, _ = batch.codes.entries()
        self._counts += torch.bincount(latents, minlength=len(self._counts)).cpu()
        self._tokens += batch.rows

    def densities(self) -> Float64[Tensor, " F"]:
        return self._counts.double() / self._tokens

    def compute(self) -> dict[str, float]:
        """`frac_alive`, `frac_dead`, and the shares of latents with density over 1 % and 10 %."""
        density = self.densities()
        alive = (density > 0).double().mean().item()
        return {
            "frac_alive": alive,
            "frac_dead": 1 - alive,
            "freq_over_1_percent": (density > 0.01).double().mean().item(),
            "freq_over_10_percent": (density > 0.1).double().mean().item(),
        }

    def histogram(self) -> list[dict[str, float]]:
        """Latents by log10 density, in steps of a quarter; dead ones are absent."""
        logs = self.densities()[self._counts > 0].log10()
        if not len(logs):
            return []
        places, counts = torch.floor(logs * 4).clamp_max(-1).unique(return_counts=True)
        return [
            {"log10_low": place / 4, "log10_high": place / 4 + 0.25, "latents": count}
            for place, count in zip(places.tolist(), counts.tolist())
        ]
