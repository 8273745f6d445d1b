"""Total variation of the activations about their global mean, streamed."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor


class Variation:
    """Σ‖x − mean‖² over all tokens, with the mean over all tokens, in float64.

    Each batch is summed about its own mean and moved to the global one by n·‖mean_b − mean‖²: nothing large
    is ever subtracted from something large. Keeps one mean [D] per batch.
    """

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._means: list[Float64[Tensor, " D"]] = []
        self._within: list[float] = []

    def update(self, x: Float[Tensor, "B D"]) -> None:
        x = x.double()
        mean = x.mean(0)
        self._counts.append(len(x))
        self._means.append(mean.cpu())
        self._within.append((x - mean).square().sum().item())

    @property
    def tokens(self) -> int:
        return sum(self._counts)

    def mean(self) -> Float64[Tensor, " D"]:
        """Mean over all tokens."""
        # Relative to the first batch's mean, so that a large mean costs no digits.
        start = self._means[0]
        shift = sum(n * (mean - start) for n, mean in zip(self._counts, self._means))
        return start + torch.as_tensor(shift) / self.tokens

    def per_batch(self) -> np.ndarray:
        """Σ‖x − mean‖² of each batch, about the global mean; their sum is the total variation."""
        mean = self.mean()
        between = [n * (own - mean).square().sum().item() for n, own in zip(self._counts, self._means)]
        return np.array(self._within) + np.array(between)
