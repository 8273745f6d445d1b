"""A short phrase for what a feature stands for, from the contexts it is strongest in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from monosem.interpret import prompt
from monosem.interpret.example import Examples
from monosem.interpret.form import Phrase
from monosem.interpret.judge import Judge, Question, ask
from monosem.interpret.passage import active, marked
from monosem.interpret.store import Label
from monosem.lm.spelling import Spelling


class Labelled(NamedTuple):
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


def label(judge: Judge, features: Sequence[Examples], spelling: Spelling, sae: str = "sae") -> Labelled:
    """Ask a judge for the label of every feature."""
    asked = ask(judge, questions(features, spelling), f"labels of {sae}")
    found = [
        Label(own.latent, answer[0], judge.name, prompt.VERSION, own.origin, {})
        for own, answer in zip(features, asked.answers, strict=True)
        if answer is not None
    ]
    return Labelled(found, asked.malformed, asked.missing)
