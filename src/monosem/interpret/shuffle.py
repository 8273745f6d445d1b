"""A control: features with the contexts of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monosem.interpret.example import Examples
from monosem.shapes import InputError

MIXED = 5
"""Features that shuffling contexts among them needs."""


def shuffled(features: Sequence[Examples]) -> list[Examples]:
    """A control: every feature with random contexts of the others in place of its own, as many as it had.

    Neighbours are of different features, which `MIXED` features allow; raises `InputError` for fewer.
    """
    if len(features) < MIXED:
        raise InputError(f"shuffled contexts need at least {MIXED} features: draw more, or leave that control out")
    return [_mixed(place, features) for place in range(len(features))]


def _mixed(place: int, features: Sequence[Examples]) -> Examples:
    own, others = features[place], [*features[place + 1 :], *features[:place]]
    generator = np.random.default_rng([own.latent, 5])

    def mixed(kind: str) -> list[Any]:
        """One of each other feature in turn, until there are as many as before."""
        order = generator.permutation(len(others)).tolist()
        columns = [_in_any_order(getattr(others[other], kind), generator) for other in order]
        turns = [column[turn] for turn in range(max(map(len, columns))) for column in columns if turn < len(column)]
        return turns[: len(getattr(own, kind))]

    return Examples(own.latent, own.shown, mixed("positives"), mixed("negatives"))


def _in_any_order(items: Sequence[Any], generator: np.random.Generator) -> list[Any]:
    return [items[place] for place in generator.permutation(len(items)).tolist()]
