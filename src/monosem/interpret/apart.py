"""Places of a text whose surroundings share no token, and contexts from all strengths of a feature among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from monosem.evaluation import Context


class Apart:
    """Places in windows of `length` tokens of which no two have a token within `width` of both."""

    def __init__(self, length: int, width: int, taken: Iterable[Context] = ()) -> None:
        self.length, self.width = length, width
        self._taken: dict[int, list[int]] = {}
        for one in taken:
            self._taken.setdefault(one.window, []).append(one.position)

    def take(self, place: int) -> bool:
        """Whether a flat place is apart from all that were taken; then it is taken too."""
        window, position = divmod(place, self.length)
        own = self._taken.setdefault(window, [])
        if any(abs(position - other) <= 2 * self.width for other in own):
            return False
        own.append(position)
        return True


def from_groups(
    tokens: Int[np.ndarray, " N"],
    values: Float[np.ndarray, " N"],
    n: int,
    groups: int,
    apart: Apart,
    generator: np.random.Generator,
) -> list[tuple[int, int]]:
    """Up to `n` random places and their groups, `groups` equal shares by strength, in turn from each; strongest first.

    A group that has no further place apart from the others gives up its turns.
    """
    shares = np.array_split(np.lexsort((tokens, -values)), groups)
    waiting = [iter(generator.permutation(tokens[share]).tolist()) for share in shares]
    found: list[tuple[int, int]] = []
    left = list(range(groups))
    while left and len(found) < n:
        for group in list(left):
            place = next((one for one in waiting[group] if apart.take(one)), None)
            if place is None:
                left.remove(group)
            else:
                found.append((place, group))
            if len(found) == n:
                break
    return sorted(found, key=lambda item: item[1])


def silent(
    tokens: Int[np.ndarray, " N"], places: Int[np.ndarray, " P"], length: int, width: int
) -> Bool[np.ndarray, " P"]:
    """Around which flat places no activation (`tokens`, ascending) lies within `width` tokens of the same window."""
    places = places.astype(np.int64)
    first = places // length * length
    low = np.searchsorted(tokens, np.maximum(places - width, first))
    high = np.searchsorted(tokens, np.minimum(places + width + 1, first + length))
    return low == high


def spread(contexts: Sequence[Context], n: int) -> list[Context]:
    """`n` of some contexts, from every group in turn; the strongest group first."""
    turns = sorted(_turns(contexts), key=lambda item: item[:2])[:n]
    return [one for _, _, one in sorted(turns, key=lambda item: item[1::-1])]


def _turns(contexts: Sequence[Context]) -> Iterator[tuple[int, int, Context]]:
    seen: dict[int, int] = {}
    for one in contexts:
        group = one.group or 0
        seen[group] = seen.get(group, -1) + 1
        yield seen[group], group, one
