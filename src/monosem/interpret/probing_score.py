"""How well yes-or-no answers fit, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from scipy.special import ndtri, stdtrit
from torch import Tensor

from monosem.interpret.interval import Mean

CONFIDENCE = 0.95


class Graded(NamedTuple):
    """Answers to `n` questions: the share that is right, and F1 of yes (0 where nothing was found)."""

    accuracy: float
    f1: float
    n: int


def graded(said: Bool[Tensor, " N"], true: Bool[Tensor, " N"]) -> Graded:
    """Accuracy, and 2·TP / (2·TP + FP + FN)."""
    hits = int((said & true).sum())
    named = int(said.sum()) + int(true.sum())
    return Graded(float((said == true).float().mean()), 2 * hits / named if named else 0.0, len(true))


def mean(values: Sequence[float], most: float = 1.0) -> Mean:
    """Over classes or letters: mean ± t(0.975, n − 1) · s / √n, cut at 0 and at the `most` that is possible."""
    count = len(values)
    found = torch.tensor(values, dtype=torch.float64)
    middle = float(found.mean()) if count else math.nan
    if count < 2:
        return Mean(middle, math.nan, math.nan)
    reach = float(stdtrit(count - 1, 0.5 + CONFIDENCE / 2)) * float(found.std()) / math.sqrt(count)
    return Mean(middle, max(middle - reach, 0.0), min(middle + reach, most))


def share(hits: float, count: int) -> Mean:
    """A share of `count` answers with Wilson's interval."""
    if not count:
        return Mean(math.nan, math.nan, math.nan)
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    centre = (hits + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(hits * (1 - hits) / count + z * z / (4 * count * count))
    return Mean(hits, centre - reach, centre + reach)
