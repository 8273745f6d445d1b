"""From paired per-seed differences to a verdict.

The rule: a claim that a difference exceeds a bound is confirmed when the 95 % t interval of its mean lies above the
bound, contradicted when it lies below, else undecided. With fewer than five seeds an interval on one side implies that
every seed is on that side; with fewer than three nothing is decided.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from scipy.special import stdtrit

Verdict = Literal["confirmed", "contradicted", "undecided", "not tested"]
LEAST_SEEDS = 3


class Interval(NamedTuple):
    """The mean over seeds, the ends of its 95 % t interval, and the values of the seeds."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]


def interval(differences: Sequence[float]) -> Interval:
    """mean ± t(0.975, n − 1) · s / √n; one value has no interval, its ends are NaN."""
    values = tuple(differences)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan, values)
    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, values)


def above(differences: Sequence[float], bound: float = 0.0) -> Verdict:
    """The claim that the mean difference is greater than `bound`."""
    found = interval(differences)
    if len(found.values) < LEAST_SEEDS:
        return "undecided"
    if found.low > bound:
        return "confirmed"
    return "contradicted" if found.high < bound else "undecided"


def below(differences: Sequence[float], bound: float = 0.0) -> Verdict:
    """The claim that the mean difference is less than `bound`."""
    return above([-value for value in differences], -bound)


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """A claim made of several: confirmed if all are, contradicted if any is."""
    found = set(verdicts)
    if found == {"confirmed"}:
        return "confirmed"
    return "contradicted" if "contradicted" in found else "undecided"
