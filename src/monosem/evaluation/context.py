"""Stretches of text around activations of one latent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Context(NamedTuple):
    """Tokens around one activation `value` at `position` of `window`, cut at the window's ends.

    `tokens` are the ids from position `start` on, `values` this latent's activation on each (0 where inactive
    or excluded); `group` is the quantile group a sample was drawn from.
    """

    window: int
    position: int
    value: float
    start: int
    tokens: list[int]
    values: list[float]
    group: int | None = None


def strongest(tokens: np.ndarray, values: np.ndarray, length: int, n: int) -> np.ndarray:
    """Entries of the n greatest values, at most one a window, descending; ties go to the earlier token."""
    if not len(tokens):
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort((tokens, -values))
    _, first = np.unique(tokens[order] // length, return_index=True)
    return order[np.sort(first)[:n]]


def sampled(
    tokens: np.ndarray,
    values: np.ndarray,
    length: int,
    n: int,
    groups: int,
    generator: np.random.Generator,
    width: int,
) -> list[np.ndarray]:
    """Up to n random entries of each of `groups` equal shares by value, strongest share first.

    Stretches of `width` tokens on either side of the chosen entries do not overlap.
    """
    order = np.lexsort((tokens, -values))
    taken: dict[int, list[int]] = {}
    chosen = []
    for share in np.array_split(order, groups):
        own: list[int] = []
        for entry in generator.permutation(share):
            if len(own) == n:
                break
            window, position = divmod(int(tokens[entry]), length)
            if all(abs(position - other) > 2 * width for other in taken.get(window, [])):
                taken.setdefault(window, []).append(position)
                own.append(int(entry))
        chosen.append(np.array(own, dtype=np.int64))
    return chosen


def around(text: np.ndarray, window: int, position: int, tokens: np.ndarray, values: np.ndarray, width: int) -> Context:
    """The context of one position; `tokens` and `values` are all activations of the latent, by token."""
    start, stop = max(0, position - width), min(len(text), position + width + 1)
    flat = window * len(text)
    low, high = np.searchsorted(tokens, [flat + start, flat + stop])
    own = np.zeros(stop - start, dtype=np.float32)
    own[tokens[low:high] - (flat + start)] = values[low:high]
    return Context(window, position, float(own[position - start]), start, text[start:stop].tolist(), own.tolist())
