"""Figures of a deactivation experiment: of one method, of two compared, and how a table shows them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from monosem.evaluation.by_window import Terms
from monosem.evaluation.paired import Interval
from monosem.interpret.interval import RESAMPLES


class Outcome(NamedTuple):
    """Figures of one method at one r: all active predecessors removed, targets from nowhere counted apart.

    `success` is the share of targets with an active predecessor that fell silent, `change` the mean of
    1 − z_new/z_old, `loss` the mean relative change of the loss from the token on. `tries` of a search: removals each
    target chose among, in the mean.
    """

    method: str
    r: float
    targets: int
    nowhere: int
    success: Interval
    change: Interval
    loss: Interval
    losses: int
    tries: float


class Contrast(NamedTuple):
    """`a` minus `b` on the targets both have a figure for, in pairs."""

    a: str
    b: str
    r: float
    on: str
    targets: int
    success: Interval
    change: Interval


def ratio(terms: Terms) -> Interval:
    """Σ num / Σ den with 95 % percentile bounds, windows drawn with replacement; bounds are NaN for fewer than two."""
    there = terms.den > 0
    return _bootstrapped([Terms(terms.num[there], terms.den[there])])


def apart(a: Terms, b: Terms) -> Interval:
    """The ratio of `a` minus that of `b` over the same windows, with 95 % percentile bounds."""
    there = (a.den > 0) | (b.den > 0)
    return _bootstrapped([Terms(one.num[there], one.den[there]) for one in (a, b)])


def _bootstrapped(parts: list[Terms]) -> Interval:
    """The first ratio, minus the second if there is one."""
    n = len(parts[0].num)
    value = _gap([Terms(one.num[None], one.den[None]) for one in parts])[0]
    drawn = _gap([Terms(one.num[_picks(n)], one.den[_picks(n)]) for one in parts])
    if n < 2 or not np.isfinite(drawn).any():
        return Interval(float(value), math.nan, math.nan, n)
    low, high = np.nanquantile(drawn, [0.025, 0.975]).tolist()
    return Interval(float(value), low, high, n)


def _gap(parts: list[Terms]) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        first, *rest = (one.num.sum(1) / one.den.sum(1) for one in parts)
    return first - sum(rest)


@lru_cache(maxsize=8)
def _picks(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(max(n, 1), size=(RESAMPLES, n))


def row_of(one: Outcome) -> list[str]:
    """A line of the table: method, r, targets, nowhere, success, change, loss, tries."""
    share = one.nowhere / (one.nowhere + one.targets) if not one.tries else float("nan")
    return [
        one.method,
        f"{one.r:g}",
        f"{one.targets:,}",
        "–" if np.isnan(share) else f"{share:.0%}",
        _percent(one.success),
        _number(one.change),
        "–" if not one.losses else f"{one.loss.value:+.5f} [{one.loss.low:+.5f}, {one.loss.high:+.5f}]",
        f"{one.tries:.0f}" if one.tries else "–",
    ]


def _percent(one: Interval) -> str:
    """A share with its bounds."""
    return f"{one.value:.1%}" + ("" if np.isnan(one.low) else f" [{one.low:.1%}, {one.high:.1%}]")


def _number(one: Interval) -> str:
    """A number with its bounds."""
    return f"{one.value:.3f}" + ("" if np.isnan(one.low) else f" [{one.low:.3f}, {one.high:.3f}]")


def plain_record(record: dict[str, Any]) -> dict[str, Any]:
    """JSON-able: intervals by name."""
    return {key: value._asdict() if isinstance(value, Interval) else value for key, value in record.items()}


def group_row(record: dict[str, Any]) -> list[str]:
    """A line of `Deactivation.by_group`: group, removed origins, targets, success, change."""
    figures = [_percent(record["success"]), _number(record["change"])]
    return [record["group"], record["removed"], f"{record['targets']:,}", *figures]


def contrast_row(one: Contrast) -> list[str]:
    """A line of a table: the pair, r, the targets it is on, differences; a star where 0 lies outside the interval."""
    return [f"{one.a} − {one.b}", f"{one.r:g}", one.on, f"{one.targets:,}", _gain(one.success), _gain(one.change)]


def _gain(one: Interval) -> str:
    bounds = "[–]" if np.isnan(one.low) else f"[{one.low:+.3f}, {one.high:+.3f}]"
    return f"{one.value:+.3f} {bounds}{'*' if one.clear else ' '}"
