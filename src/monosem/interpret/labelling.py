"""A short phrase for what a feature stands for, from the contexts it is strongest in; which labels may be judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from monosem.interpret import prompt
from monosem.interpret.cached import Cached
from monosem.interpret.example import Drawn, Examples
from monosem.interpret.form import Phrase
from monosem.interpret.judge import Judge, Question, ask
from monosem.interpret.passage import active, marked
from monosem.interpret.store import Label
from monosem.lm.spelling import Spelling


class Labelling(NamedTuple):
    """Labels that were given; questions asked again, and features left without one."""

    labels: list[Label]
    malformed: int
    missing: int


def questions(features: Sequence[Examples], spelling: Spelling) -> list[Question]:
    """One a feature: its shown contexts with the active tokens marked, the strongest first."""
    return [
        Question(
            prompt.EXPLAIN,
            prompt.numbered([marked(one, spelling, active(one)) for one in own.shown]),
            Phrase(),
        )
        for own in features
    ]


def label(judge: Judge, features: Sequence[Examples], spelling: Spelling, sae: str = "sae") -> Labelling:
    """Ask a judge for the label of every feature."""
    asked = ask(judge, questions(features, spelling), f"labels of {sae}")
    found = [
        Label(own.latent, answer[0], judge.name, prompt.VERSION, own.origin, {})
        for own, answer in zip(features, asked.answers, strict=True)
        if answer is not None
    ]
    return Labelling(found, asked.malformed, asked.missing)


def usable(known: Mapping[int, Sequence[Label]], drawn: Drawn, judge: str) -> dict[int, str]:
    """The labels by `judge`, in today's words, that were made from the very contexts that are not judged.

    `known` are the labels of an autoencoder, the latest first. Any other may have been made from contexts by which it
    would then be judged.
    """
    origins = {own.latent: own.origin for own in drawn.features}
    return {
        latent: one.text
        for latent, found in known.items()
        for one in reversed(found)
        if (one.judge, one.prompt, one.origin) == (judge, prompt.VERSION, origins.get(latent))
    }


def recalled(judge: Cached, drawn: Drawn, spelling: Spelling) -> dict[int, str]:
    """The labels that a judge has given before, wherever they were not stored; nobody is asked."""
    answers = judge.recall(questions(drawn.features, spelling))
    return {own.latent: answer[0] for own, answer in zip(drawn.features, answers, strict=True) if answer is not None}


def without(drawn: Drawn, labels: Mapping[int, str]) -> Drawn:
    """The features that have no label yet."""
    return replace(drawn, features=[own for own in drawn.features if own.latent not in labels])
