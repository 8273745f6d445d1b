"""Offline behaviour: how much of a theme a text has, by three scorers that know it from texts; 0 to 1.

`classifier`: logistic regression on hashed words and pairs of words, its probability calibrated. `lexicon`: the share
of words that are among the theme's. `features`: the share of tokens on which features fire that fire on the theme when
the plain model reads the text. The last two are mapped linearly, so that other text gives 0 and the theme's own 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float64

from monosem.flow.sample import Sample, Split


class Scorer(Protocol):
    """Gives every text a number from 0 (none of the theme) to 1."""

    @property
    def name(self) -> str: ...

    def score(self, texts: Sequence[Sample]) -> Float64[np.ndarray, " N"]: ...

    def describe(self) -> dict[str, Any]:
        """What it looks for, JSON-able."""
        ...


@dataclass(frozen=True)
class Linear:
    """A rate mapped so that other text has 0 in the mean and the theme's own 1, and clipped."""

    name: str
    rate: Callable[[Sequence[Sample]], Float64[np.ndarray, " N"]]
    background: float
    theme: float
    said: dict[str, Any]

    @classmethod
    def of(
        cls,
        name: str,
        rate: Callable[[Sequence[Sample]], Float64[np.ndarray, " N"]],
        theme: Split,
        background: Split,
        said: dict[str, Any],
    ) -> Linear:
        """Its scale is that of the calibration part."""
        low, high = (float(rate(split.calibrate).mean()) for split in (background, theme))
        return cls(name, rate, low, high, said)

    def score(self, texts: Sequence[Sample]) -> Float64[np.ndarray, " N"]:
        """Where the theme's rate is not above that of other text, nothing can be told: NaN."""
        if self.theme <= self.background:
            return np.full(len(texts), np.nan)
        return np.clip((self.rate(texts) - self.background) / (self.theme - self.background), 0.0, 1.0)

    def describe(self) -> dict[str, Any]:
        return {**self.said, "rate of other text": self.background, "rate of the theme": self.theme}
