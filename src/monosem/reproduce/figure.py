"""What judges share: reading explained variance at a budget, means over seeds, cells, bands."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from monosem.reproduce.arm import Measured
from monosem.reproduce.claim import Evidence, Line
from monosem.reproduce.verdict import Interval

Read = Callable[[Measured], float]
"""One figure of what was measured."""


def ev(k: int) -> Read:
    """EV with the k strongest latents."""
    return lambda found: found["ev"][found["k"].index(k)]


def ev_at_l0(l0: float, most: int) -> Read:
    """EV at a mean number of active latents, on straight lines between budgets, at most the largest trained one."""
    return lambda found: float(np.interp(l0, found["l0"][:most], found["ev"][:most]))


def worst(found: Sequence[Interval]) -> Interval:
    """The one that reaches lowest: what a claim about all of them hangs on."""
    return min(found, key=lambda one: one.low)


def ends_of(found: Interval) -> tuple[float, float]:
    """Low and high."""
    return found.low, found.high


def mean(evidence: Evidence, name: str, read: Read) -> float:
    """Over seeds."""
    return statistics.fmean(evidence.values(name, read))


def signed(found: Interval) -> list[str]:
    """Mean, and both ends of its interval, as cells."""
    return [f"{found.mean:+.4f}", f"{found.low:+.4f} … {found.high:+.4f}"]


def band(label: str, x: Sequence[float], found: Sequence[Interval], *, dashed: bool = False) -> Line:
    """A curve of means with the intervals around it."""
    low, high = [one.low for one in found], [one.high for one in found]
    return Line(label, list(x), [one.mean for one in found], low, high, dashed)


def summary(found: Interval) -> dict[str, object]:
    """JSON-able."""
    return {"mean": found.mean, "interval": list(ends_of(found)), "by_seed": list(found.values)}


def own_ev(found: Measured) -> float:
    """EV at the k an arm was trained for."""
    return found["ev"][found["k"].index(found["trained"])]


def silent(found: Measured) -> float:
    """Share of latents that never fire on the held-out tokens."""
    return found["dead"]


def own_l0(found: Measured) -> float:
    """L0 at the k an arm was trained for."""
    return found["l0"][found["k"].index(found["trained"])]
