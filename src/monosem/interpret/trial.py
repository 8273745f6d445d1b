"""Questions whose right answers are known: detection, fuzzing, intruder. One feature's at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from monosem.evaluation import Context
from monosem.interpret import prompt
from monosem.interpret.example import Examples
from monosem.interpret.form import NO, YES, Choice, Marks
from monosem.interpret.judge import Question
from monosem.interpret.passage import active, marked, plain
from monosem.lm.spelling import Spelling

INTRUDED = 5
"""Passages of an intruder question, of which one does not belong."""


class Trial(NamedTuple):
    """A question about a feature, and the right answer to each of its parts."""

    latent: int
    question: Question
    truth: list[str]


def detection(own: Examples, label: str, spelling: Spelling, per_question: int) -> list[Trial]:
    """Is the feature active in this unmarked passage? Positives of all strengths against random and hard negatives."""
    items = [(plain(one, spelling), YES) for one in own.positives]
    items += [(plain(one.context, spelling), NO) for one in own.negatives]
    return list(_verdicts("detection", prompt.DETECT, own.latent, label, items, per_question))


def fuzzing(own: Examples, label: str, spelling: Spelling, per_question: int) -> list[Trial]:
    """Are these marks right? Half are; a quarter are on other tokens of a positive, a quarter in a negative.

    The shares are those of arXiv 2505.22255, sec. 5; the negatives, random ones there, have hard ones among them here.
    Two thirds of the positives and a third of the negatives are used. Wrong marks are as many as right ones, on tokens
    at random.
    """
    generator = np.random.default_rng([own.latent, 2])
    order = generator.permutation(len(own.positives)).tolist()
    right = [own.positives[place] for place in order[: 2 * len(order) // 3]]
    moved = [own.positives[place] for place in order[len(right) :]]
    silent = [own.negatives[place].context for place in generator.permutation(len(own.negatives))[: len(moved)]]
    items = [(marked(one, spelling, active(one)), YES) for one in right]
    for one, like in zip([*moved, *silent], itertools.cycle(own.positives)):
        places = _elsewhere(one, len(active(like)), generator)
        items.append((marked(one, spelling, places), NO))
    return list(_verdicts("fuzzing", prompt.FUZZ, own.latent, label, items, per_question))


def intruder(own: Examples, label: str, spelling: Spelling, per_question: int) -> list[Trial]:
    """Which of five marked passages does not belong (arXiv 2507.08473)? No label is needed; chance is 1/5.

    The four that belong are of neighbouring strengths; the intruder has as many marks, on tokens at random.
    """
    generator = np.random.default_rng([own.latent, 3])
    size = INTRUDED - 1
    groups = [own.positives[start : start + size] for start in range(0, len(own.positives) - size + 1, size)]
    # Every place comes equally often, so that naming one place is right in one of five.
    everywhere = [
        place for _ in range(-(-len(groups) // INTRUDED)) for place in generator.permutation(INTRUDED).tolist()
    ]
    trials = []
    for place, group, negative in zip(everywhere, groups, generator.permutation(len(own.negatives)).tolist()):
        context = own.negatives[negative].context
        passages = [marked(one, spelling, active(one)) for one in group]
        passages.insert(place, marked(context, spelling, _elsewhere(context, len(active(group[0])), generator)))
        form = Choice(tuple(str(number) for number in range(1, INTRUDED + 1)))
        question = Question(prompt.INTRUDE.format(n=INTRUDED), prompt.numbered(passages), form)
        trials.append(Trial(own.latent, question, [str(place + 1)]))
    return trials


def _verdicts(
    method: str, system: str, latent: int, label: str, items: Sequence[tuple[str, str]], per_question: int
) -> Iterator[Trial]:
    order = np.random.default_rng([latent, 4]).permutation(len(items)).tolist()
    for start in range(0, len(order), per_question):
        part = [items[place] for place in order[start : start + per_question]]
        texts = prompt.verdicts(method, system, label, [passage for passage, _ in part])
        form = Choice() if len(part) == 1 else Marks(len(part))
        yield Trial(latent, Question(*texts, form), [truth for _, truth in part])


def _elsewhere(context: Context, n: int, generator: np.random.Generator) -> list[int]:
    """Up to `n` places, at least one, on which the feature is silent."""
    silent = [place for place, value in enumerate(context.values) if value == 0] or list(range(len(context.values)))
    return generator.permutation(silent)[: max(n, 1)].tolist()
