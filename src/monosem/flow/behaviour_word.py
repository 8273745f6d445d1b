"""Scorers of behaviour that look at words: a classifier, and a lexicon."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast
from zlib import crc32

import numpy as np
from jaxtyping import Float64
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit

from monosem.flow.behaviour import Linear
from monosem.flow.sample import Sample, Split

SLOTS = 2**16
"""Hashed words and pairs of words."""
WORDS = 200
"""Words, at most, of a lexicon that is taken from texts."""
_C = 30.0
_SHORTEST, _CLEAR = 3, 3.0


def words(text: str) -> list[str]:
    """Lower-case words."""
    return re.findall(r"\w+", text.lower())


class Classifier:
    """p(theme | words), as many texts of either kind, calibrated by Platt's two parameters on texts of its own."""

    name = "classifier"

    def __init__(self, theme: Split, background: Split) -> None:
        fitted = _hashed([*theme.train, *background.train]), _sides(theme.train, background.train)
        self._weight, self._bias = _fit(*fitted, _C)
        raw = self._margin([*theme.calibrate, *background.calibrate])
        # Two parameters on one number: hardly any penalty is needed.
        (self._slope,), self._offset = _fit(csr_array(raw[:, None]), _sides(theme.calibrate, background.calibrate), 1e3)

    def score(self, texts: Sequence[Sample]) -> Float64[np.ndarray, " N"]:
        return expit(self._slope * self._margin(texts) + self._offset)

    def describe(self) -> dict[str, Any]:
        return {"features": "hashed words and pairs of words", "slots": SLOTS}

    def _margin(self, texts: Sequence[Sample]) -> Float64[np.ndarray, " N"]:
        return _hashed(texts) @ self._weight + self._bias


def lexicon(theme: Split, background: Split, given: Sequence[str] = ()) -> Linear:
    """The share of words that are in the lexicon: `given`, or words that tell the theme from other text best."""
    listed = sorted({word for one in given for word in words(one)}) or telling(theme.train, background.train)
    return Linear.of("lexicon", partial(_share, frozenset(listed)), theme, background, {"words": listed})


def telling(theme: Sequence[Sample], background: Sequence[Sample]) -> list[str]:
    """Words of greatest standardised log odds with a Dirichlet prior of the pooled counts (Monroe and others, 2008)."""
    counts = [Counter(word for one in side for word in words(one.text)) for side in (theme, background)]
    pooled = counts[0] + counts[1]
    known = [word for word in pooled if len(word) >= _SHORTEST]
    prior = np.array([pooled[word] for word in known], dtype=float)
    odds, variance = [], 0.0
    for own in counts:
        found, total = np.array([own[word] for word in known]) + prior, sum(own.values()) + sum(pooled.values())
        odds.append(np.log(found) - np.log(total - found))
        variance = variance + 1 / found
    clear = (odds[0] - odds[1]) / np.sqrt(variance)
    best = np.argsort(-clear, kind="stable")[:WORDS]
    return sorted(known[place] for place in best if clear[place] > _CLEAR)


def _share(known: frozenset[str], texts: Sequence[Sample]) -> Float64[np.ndarray, " N"]:
    found = [words(one.text) for one in texts]
    return np.array([sum(word in known for word in own) / max(len(own), 1) for own in found], dtype=float)


def _hashed(texts: Sequence[Sample]) -> csr_array:
    """Counts of words and of pairs of neighbours, each row of norm 1."""
    rows, columns = [], []
    for row, one in enumerate(texts):
        own = words(one.text)
        keys = [*own, *(" ".join(pair) for pair in pairwise(own))]
        columns += [crc32(key.encode()) % SLOTS for key in keys]
        rows += [row] * len(keys)
    counts = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(texts), SLOTS))
    counts.sum_duplicates()
    norms = np.sqrt(counts.power(2).sum(1))
    scaled = counts.tocoo()
    return csr_array((scaled.data / norms[scaled.row], (scaled.row, scaled.col)), shape=counts.shape)


def _sides(theme: Sequence[Sample], background: Sequence[Sample]) -> Float64[np.ndarray, " N"]:
    return np.concatenate([np.ones(len(theme)), -np.ones(len(background))])


def _fit(x: csr_array, signs: Float64[np.ndarray, " N"], c: float) -> tuple[Float64[np.ndarray, " D"], float]:
    """min ‖w‖²/2 + c Σ weight_n log(1 + exp(−y_n (w · x_n + b))), either side weighing the same."""
    weights = np.where(signs > 0, len(signs) / (2 * (signs > 0).sum()), len(signs) / (2 * (signs < 0).sum()))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (x @ parameters[:-1] + parameters[-1])
        slopes = -c * weights * signs * expit(-margins)
        value = parameters[:-1] @ parameters[:-1] / 2 + c * (weights * np.logaddexp(0, -margins)).sum()
        return float(value), np.append(parameters[:-1] + x.T @ slopes, slopes.sum())

    _, columns = cast(tuple[int, int], x.shape)
    found = minimize(loss, np.zeros(columns + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return found[:-1], float(found[-1])
