"""Measuring autoencoders on a text, one metric a file; and where each of their latents fires."""

from monosem.evaluate.context import Context
from monosem.evaluate.evaluation import Evaluation, evaluate
from monosem.evaluate.feature import feature_statistics
from monosem.evaluate.feature_file import FeatureStatistics
from monosem.evaluate.promotion import Promoted, promoted

__all__ = [
    "Context",
    "Evaluation",
    "FeatureStatistics",
    "Promoted",
    "evaluate",
    "feature_statistics",
    "promoted",
]
