"""The difference of one metric between two autoencoders on the same windows, with an interval."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from monosem.evaluation.by_window import Terms
from monosem.evaluation.ratio import quotient

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A difference, the bounds that hold it with 95 % confidence, and the windows they are from.

    The bounds are NaN where fewer than two windows have a say.
    """

    value: float
    low: float
    high: float
    windows: int

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside the bounds."""
        return self.low > 0 or self.high < 0


class Difference(NamedTuple):
    """By how much `metric` is greater for `b` than for `a`."""

    a: str
    b: str
    metric: str
    interval: Interval

    def reversed(self) -> Difference:
        """The same pair the other way round."""
        value, low, high, windows = self.interval
        return Difference(self.b, self.a, self.metric, Interval(-value, -high, -low, windows))

    def to_json(self) -> dict[str, Any]:
        """JSON-able; bounds that are not defined are null."""
        bounds = {key: value if math.isfinite(value) else None for key, value in self.interval._asdict().items()}
        return {"a": self.a, "b": self.b, "metric": self.metric, **bounds}


def difference(a: Terms, b: Terms) -> Interval:
    """Σ (num_b − num_a) / Σ den over windows that both were measured on, ± t · its standard error.

    With r_w = num_b,w − num_a,w − difference · den_w over n windows, SE = sqrt(n/(n−1) · Σ r_w²) / Σ den_w; t has
    n − 1 degrees of freedom. What both find hard in a window cancels. Windows are taken as independent draws of
    text; the interval says nothing about other training seeds.
    """
    if a.den.shape != b.den.shape or not np.allclose(a.den, b.den, rtol=1e-9, atol=0):
        raise ValueError("a paired difference needs both metrics on the same windows")
    gained = b.num - a.num
    counts = (a.den != 0) | (gained != 0)
    n = int(counts.sum())
    value, error = quotient(gained[counts], a.den[counts])
    if error is None:
        return Interval(value, math.nan, math.nan, n)
    reach = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * error
    return Interval(value, value - reach, value + reach, n)
