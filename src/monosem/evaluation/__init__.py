"""Measuring autoencoders on a text, one metric a file; and where each of their latents fires."""

from monosem.evaluation.context import Context
from monosem.evaluation.evaluation import Evaluation, evaluate
from monosem.evaluation.feature import feature_statistics
from monosem.evaluation.feature_file import FeatureStatistics
from monosem.evaluation.place import shared_place
from monosem.evaluation.promotion import Promoted, promoted, promotes

__all__ = [
    "Context",
    "Evaluation",
    "FeatureStatistics",
    "Promoted",
    "evaluate",
    "feature_statistics",
    "promoted",
    "promotes",
    "shared_place",
]
