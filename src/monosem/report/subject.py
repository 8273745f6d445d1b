"""What a report shows of one autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from monosem.evaluation import FeatureStatistics
from monosem.interpret import Label
from monosem.sae import SAE


class Subject(NamedTuple):
    """An autoencoder, `Evaluation.to_json()` of it, its feature statistics, its lines of `metrics.jsonl`,
    and the labels of its latents, where some have one.
    """

    name: str
    sae: SAE
    evaluation: dict[str, Any]
    features: FeatureStatistics
    log: list[dict[str, Any]]
    labels: Mapping[int, Sequence[Label]] = MappingProxyType({})
