"""Measuring autoencoders on a text, one metric a file; and where each of their latents fires."""

from monosem.evaluation.comparison import Comparison, compare
from monosem.evaluation.context import Context
from monosem.evaluation.evaluation import Evaluation, evaluate
from monosem.evaluation.feature import feature_statistics, statistics_of
from monosem.evaluation.feature_file import FeatureStatistics
from monosem.evaluation.match import Match
from monosem.evaluation.paired import Difference
from monosem.evaluation.place import shared_place
from monosem.evaluation.promotion import Promoted, promoted, promotes
from monosem.evaluation.prompt import PromptReading, read_prompt
from monosem.evaluation.search import Hit, search_features

__all__ = [
    "Comparison",
    "Context",
    "Difference",
    "Evaluation",
    "FeatureStatistics",
    "Hit",
    "Match",
    "Promoted",
    "PromptReading",
    "compare",
    "evaluate",
    "feature_statistics",
    "promoted",
    "promotes",
    "read_prompt",
    "search_features",
    "shared_place",
    "statistics_of",
]
