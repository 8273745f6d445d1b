"""What a probe is asked: one class against as many others, half to learn from and half to test on apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from monosem.interpret.probing_example import Labelled
from monosem.shapes import InputError

LEAST = 10
"""Examples a class needs on either side."""


class Problem(NamedTuple):
    """One class against as many others: rows to learn from and rows to test on."""

    name: str
    train: Int64[Tensor, " N"]
    test: Int64[Tensor, " M"]
    y: Bool[Tensor, " all"]


def drawn_problems(examples: Labelled, seed: int) -> list[Problem]:
    """One class against the rest, as many of each; of two classes only the first, as the second is its mirror.

    Classes of too few examples are left out. Raises `InputError` for fewer than two classes.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index, name in _classes(examples):
        y = examples.labels == index
        train, test = (_balanced(y, part, generator) for part in (examples.train, ~examples.train))
        if min(len(train), len(test)) >= 2 * LEAST:
            found.append(Problem(name, train, test, y))
    return found


def too_few(examples: Labelled) -> str:
    """Why no class can be probed, or nothing; examples need not have been read. Raises as `drawn_problems`."""
    if drawn_problems(examples, 0):
        return ""
    return (
        f"{examples.source}: no class has {LEAST} examples to learn from and {LEAST} to test on, with as many others: "
        "give more of them (--examples)"
    )


def skipped(examples: Labelled, problems: list[Problem]) -> list[str]:
    """Classes with too few examples."""
    done = [one.name for one in problems]
    return [name for _, name in _classes(examples) if name not in done]


def _classes(examples: Labelled) -> list[tuple[int, str]]:
    if len(examples.classes) < 2:
        raise InputError(f"{examples.source} has {len(examples.classes)} class: give examples of at least two")
    return list(enumerate(examples.classes))[: 1 if len(examples.classes) == 2 else None]


def _balanced(y: Bool[Tensor, " N"], among: Bool[Tensor, " N"], generator: torch.Generator) -> Int64[Tensor, " M"]:
    positive, negative = ((own & among).nonzero().flatten() for own in (y, ~y))
    count = min(len(positive), len(negative))
    drawn = [own[torch.randperm(len(own), generator=generator)[:count]] for own in (positive, negative)]
    return torch.cat(drawn)
