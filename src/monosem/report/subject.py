"""What a report shows of one autoencoder."""

from __future__ import annotations

from typing import Any, NamedTuple

from monosem.evaluation import FeatureStatistics
from monosem.sae import SAE


class Subject(NamedTuple):
    """An autoencoder, `Evaluation.to_json()` of it, its feature statistics, its lines of `metrics.jsonl`."""

    name: str
    sae: SAE
    evaluation: dict[str, Any]
    features: FeatureStatistics
    log: list[dict[str, Any]]
