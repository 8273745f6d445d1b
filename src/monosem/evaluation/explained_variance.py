"""Explained variance, in its one true meaning: 1 − Σ‖x − x̂‖² / Σ‖x − mean‖², all means over all tokens."""

from __future__ import annotations

import numpy as np

from monosem.evaluation.batch import Batch
from monosem.evaluation.ratio import Figure, quotient
from monosem.evaluation.variation import Variation


class ExplainedVariance:
    """Predicting the mean gives 0, a perfect reconstruction 1.

    The variation belongs to the activations and is shared by every autoencoder that reads them. The standard
    error takes the mean as given: the variation is stationary there, so the mean's error is of second order.
    """

    def __init__(self) -> None:
        self._errors: list[float] = []

    def update(self, batch: Batch) -> None:
        self._errors.append(batch.squared_error.sum().item())

    def compute(self, variation: Variation) -> Figure:
        unexplained = quotient(np.array(self._errors), variation.per_batch())
        return Figure(1 - unexplained.value, unexplained.error)
