"""A claim of a paper as an experiment: what it needs, and how what was found is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from monosem.reproduce.arm import Arm, Measured, Trial
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Verdict


class Table(NamedTuple):
    """Cells as they are printed; long tables are folded."""

    title: str
    header: list[str]
    rows: list[list[str]]
    folded: bool = False


class Line(NamedTuple):
    """A curve, with a band around it where `low` and `high` are given; or `points` alone, hollow where `dashed`."""

    label: str
    x: list[float]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    dashed: bool = False
    points: bool = False


class Plot(NamedTuple):
    """A picture; from `shaded_from` on the horizontal axis it shows what was not trained."""

    name: str
    title: str
    caption: str
    x: str
    y: str
    lines: list[Line]
    log_x: bool = False
    shaded_from: float | None = None


class Finding(NamedTuple):
    """What a claim came to; tables and plots are for the page alone."""

    verdict: Verdict
    interval: tuple[float, float] | None
    measured: dict[str, Any]
    control: dict[str, Any]
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    note: str = ""


class Evidence(NamedTuple):
    """What was measured, by arm or trial and seed."""

    scale: Scale
    found: Mapping[tuple[str, int | None], Measured]

    def measured(self, name: str, seed: int | None = None) -> Measured:
        return self.found[name, seed]

    def values(self, name: str, read: Callable[[Measured], float]) -> list[float]:
        """One figure a seed, in the order of the scale's seeds."""
        return [read(self.found[name, seed]) for seed in self.scale.seeds]

    def paired(self, name: str, control: str, read: Callable[[Measured], float]) -> list[float]:
        """The arm's figure minus the control's, seed by seed."""
        return [a - b for a, b in zip(self.values(name, read), self.values(control, read), strict=True)]


def nothing(scale: Scale) -> Sequence[Any]:
    """No arms, or no trials."""
    return ()


def always(scale: Scale) -> str | None:
    """Testable at every scale."""
    return None


def only(data: str, otherwise: str) -> Callable[[Scale], str | None]:
    """Testable on one kind of data alone."""
    return lambda scale: None if scale.data == data else otherwise


@dataclass(frozen=True)
class Claim:
    """`definition` says what is measured, what confirms and what contradicts."""

    id: str
    claim: str
    definition: str
    judge: Callable[[Evidence], Finding]
    kind: Literal["statistical", "identity", "timing"] = "statistical"
    arms: Callable[[Scale], Sequence[Arm]] = nothing
    trials: Callable[[Scale], Sequence[Trial]] = nothing
    untestable: Callable[[Scale], str | None] = always
    """Why nothing is run at this scale, if so."""
