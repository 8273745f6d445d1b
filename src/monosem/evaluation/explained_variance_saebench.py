"""What SAEBench 0.6.0 prints as explained variance. Not an R²: kept only to compare with its tables."""

from __future__ import annotations

import math

from monosem.evaluation.batch import Batch


class ExplainedVarianceSAEBench:
    """1 − E‖e‖² / (E‖x‖² − (mean of x² over tokens and dimensions)²).

    It changes with the unit of x and can exceed 1. Means are taken over all tokens alike.
    """

    def __init__(self) -> None:
        self._error = self._square = 0.0
        self._tokens = self._width = 0

    def update(self, batch: Batch) -> None:
        self._error += batch.squared_error.sum().item()
        self._square += batch.x.square().sum().item()
        self._tokens, self._width = self._tokens + batch.rows, batch.x.shape[1]

    def compute(self) -> float:
        square = self._square / self._tokens
        total = square - (square / self._width) ** 2
        return math.nan if total == 0 else 1 - self._error / self._tokens / total
