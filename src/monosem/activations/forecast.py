"""How long recording will take, from passes that were really made."""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor

from monosem.lm import LanguageModel
from monosem.shapes import Site
from monosem.text import Windows


class Forecast(NamedTuple):
    """Seconds to record: by the median pass, and if every pass were as quick as the quickest, as slow as the slowest.

    Of `passes` passes of `windows` windows each, after one that warmed up. Writing to disk is not in it.
    """

    seconds: float
    least: float
    most: float
    passes: int
    windows: int


def forecast(
    lm: LanguageModel, windows: Windows, sites: list[Site], n_windows: int, *, batch: int = 8, passes: int = 5
) -> Forecast:
    """Predict the recording of `n_windows` windows at the sites by passes as `record` makes them."""
    tokens = windows.tokens[:batch]
    taken = [_pass_seconds(lm, tokens, sites) for _ in range(passes + 1)][1:]
    rounds = n_windows / len(tokens)
    return Forecast(median(taken) * rounds, min(taken) * rounds, max(taken) * rounds, passes, len(tokens))


def _pass_seconds(lm: LanguageModel, tokens: Int[Tensor, "W T"], sites: list[Site]) -> float:
    start = time.perf_counter()
    for act in lm.capture(tokens, sites).values():
        act.cpu()  # recording keeps them there, and a GPU is waited for
    return time.perf_counter() - start
