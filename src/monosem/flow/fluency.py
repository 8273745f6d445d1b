"""Offline coherence: how likely the plain model finds a text, between its own texts and shuffled ones, and repetition.

C = C_nll · C_rep. C_nll = clip((N1 − NLL) / (N1 − N0), 0, 1), N0 and N1 the medians of plain texts and of the same with
their tokens shuffled. Repetition makes a text likely, so C_rep = min(1, D3 / D3_0), D3 the share of distinct trigrams
and D3_0 the tenth percentile of plain texts. Not comparable with a judge's scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from monosem.shapes import InputError

APART = 0.5
"""Nats that N1 has to exceed N0 by."""


class Coherence(NamedTuple):
    """C and its two factors, each from 0 to 1."""

    value: float
    likely: float
    varied: float


@dataclass(frozen=True)
class Fluency:
    """The scale: N0, N1 in nats a token, and D3_0."""

    plain: float
    shuffled: float
    distinct: float

    @classmethod
    def of(cls, plain: Sequence[float], shuffled: Sequence[float], texts: Sequence[Sequence[int]]) -> Fluency:
        """From mean losses of plain texts and of their shuffled selves, and the plain texts' tokens.

        Raises `InputError` where shuffling costs less than half a nat: then the loss says nothing about order.
        """
        if not plain or not shuffled:
            raise InputError("fluency is measured against plain texts, and all of them are empty: write more tokens")
        n0, n1 = float(np.median(plain)), float(np.median(shuffled))
        if n1 - n0 < APART:
            raise InputError(
                f"plain texts have a median loss of {n0:.2f} nats a token and {n1:.2f} with their tokens shuffled: "
                f"fluency needs {APART} between them; use a model that writes better, or a lower temperature"
            )
        shares = [distinct_trigrams(text) for text in texts if len(text) >= 3]
        return cls(n0, n1, float(np.quantile(shares, 0.1)) if shares else 1.0)

    def score(self, loss: float, text: Sequence[int]) -> Coherence:
        """Of a text with this mean loss; 0 for an empty one."""
        if not text:
            return Coherence(0.0, 0.0, 0.0)
        likely = float(np.clip((self.shuffled - loss) / (self.shuffled - self.plain), 0, 1))
        varied = min(1.0, distinct_trigrams(text) / self.distinct) if len(text) >= 3 else 1.0
        return Coherence(likely * varied, likely, varied)

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def distinct_trigrams(text: Sequence[int]) -> float:
    """Distinct trigrams of tokens as a share of all; a text of fewer than three tokens has none, and 1."""
    trigrams = list(zip(text, text[1:], text[2:]))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0


def shuffled(texts: Sequence[Sequence[int]], seed: int = 0) -> list[list[int]]:
    """Each text with its tokens in a random order."""
    generator = np.random.default_rng(seed)
    return [[text[place] for place in generator.permutation(len(text))] for text in texts]
