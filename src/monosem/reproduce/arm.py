"""What a study runs: arms are trained on a stream of activations, trials are anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monosem.reproduce.scale import Scale

Measured = dict[str, Any]
"""JSON-able figures of one arm or trial with one seed."""


@dataclass(frozen=True)
class Arm:
    """One autoencoder a seed; its name is unique in the study."""

    name: str
    sae: str
    """A point on the axes, such as `kron+hierarchical`."""
    family: str
    """Whose learning rate it uses."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Training settings that differ from the scale's."""
    data: str = ""
    """Which data of the study; the scale's if not said."""
    offset: int = 0
    """Added to the seed of initial weights and order, not to that of the data: a twin that differs by chance alone."""


@dataclass(frozen=True)
class Family:
    """Arms that share a learning rate: the one that gives the representative the largest score on validation data."""

    representative: Callable[[Scale], Arm]
    score: Callable[[Measured], float]


@dataclass(frozen=True)
class Trial:
    """Work that is not an arm: one row a seed, or a single one where chance plays no part."""

    name: str
    run: Callable[[Scale, int | None], Measured]
    predict: Callable[[Scale], float]
    """Seconds for one seed, from a short piece of the real work."""
    settings: Callable[[Scale], dict[str, Any]]
    """Everything that decides the result, JSON-able."""
    seeded: bool = True
