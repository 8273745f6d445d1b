"""Sums over each window of a text: what paired differences between autoencoders are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from monosem.evaluation.batch import Batch
from monosem.evaluation.variation import Variation


class Terms(NamedTuple):
    """Numerators and denominators [N] of a metric, one a window; the metric is Σ num / Σ den."""

    num: Float64[np.ndarray, " N"]
    den: Float64[np.ndarray, " N"]


class ByWindow:
    """Squared error, variation and active latents of each window that has a kept token."""

    def __init__(self) -> None:
        self._variation = Variation()
        self._tokens: list[int] = []
        self._batch: list[int] = []
        self._errors: dict[str, list[float]] = {}
        self._active: dict[str, list[float]] = {}

    def read(self, acts: Float[Tensor, "B D"], keep: Bool[Tensor, "W T"]) -> None:
        """The kept activations of the next W windows, in order."""
        self._batch = [count for count in keep.sum(1).tolist() if count]
        self._tokens += self._batch
        for part in acts.split(self._batch):
            self._variation.update(part)

    def update(self, name: str, batch: Batch) -> None:
        """What one autoencoder makes of the activations last read."""
        self._errors.setdefault(name, []).extend(self._sums(batch.squared_error))
        self._active.setdefault(name, []).extend(self._sums(batch.codes.l0()))

    def terms(self, name: str) -> dict[str, Terms]:
        """`explained_variance` and `l0` of one autoencoder."""
        variation, tokens = self._variation.per_batch(), np.array(self._tokens, dtype=np.float64)
        return {
            "explained_variance": Terms(variation - np.array(self._errors[name]), variation),
            "l0": Terms(np.array(self._active[name]), tokens),
        }

    def _sums(self, values: Tensor) -> list[float]:
        return torch.stack([part.double().sum() for part in values.split(self._batch)]).tolist()
