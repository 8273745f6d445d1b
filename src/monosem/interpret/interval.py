"""What other features would change: bootstrap intervals over features."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000


class Mean(NamedTuple):
    """A mean and its 95 % percentile interval; the interval is NaN for fewer than two values."""

    value: float
    low: float
    high: float


def bootstrap(values: ArrayLike, seed: int = 0) -> Mean:
    """The mean over features, resampled with replacement 2,000 times; NaN for none."""
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        return Mean(float(found.mean()) if len(found) else math.nan, math.nan, math.nan)
    picks = np.random.default_rng(seed).integers(len(found), size=(RESAMPLES, len(found)))
    low, high = np.quantile(found[picks].mean(1), [0.025, 0.975]).tolist()
    return Mean(float(found.mean()), low, high)


def auc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """P(positive > negative), ties count half; NaN without one of each (Mann–Whitney)."""
    yes, no = np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64)
    if not len(yes) or not len(no):
        return math.nan
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([yes, no]))
    n, m = len(yes), len(no)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
