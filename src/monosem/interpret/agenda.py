"""Everything that is to be asked, labels first: what it costs, and the scores as they come."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from monosem.interpret.cached import Cached
from monosem.interpret.example import Drawn
from monosem.interpret.judge import Question
from monosem.interpret.labelling import Labelling, label, questions, recalled, without
from monosem.interpret.planning import METHODS, Plan, plans
from monosem.interpret.scoring import Score, score
from monosem.lm.spelling import Spelling

_UNKNOWN = "a phrase of about as many words as a label has"


@dataclass(frozen=True)
class Agenda:
    """Methods on the features drawn from some autoencoders, by one judge.

    `labels` are known ones, by autoencoder and latent; with `complete` no others are asked for. Of autoencoders `alone`
    no controls are asked for: they are controls.
    """

    judge: Cached
    drawn: Mapping[str, Drawn]
    methods: Sequence[str]
    labels: Mapping[str, Mapping[int, str]]
    spelling: Spelling
    complete: bool = False
    alone: Collection[str] = ()
    _given: dict[str, dict[int, str]] = field(default_factory=dict, init=False)

    def questions(self) -> list[Question]:
        """All of them, for an estimate: a label that nobody knows yet is taken to be of the usual length."""
        missing = self._unlabelled()
        found = [one for own in missing.values() for one in questions(own.features, self.spelling)]
        # Unlike each other, as labels are: what is alike is counted once.
        guessed = {
            name: {own.latent: f"{_UNKNOWN} {own.latent}" for own in one.features}
            | recalled(self.judge, one, self.spelling)
            for name, one in missing.items()
        }
        known = {name: {**guessed.get(name, {}), **self.labels.get(name, {})} for name in self.drawn}
        return found + [one for plan in self._plans(known) if plan.control != "constant" for one in plan.questions]

    def label(self) -> Iterator[tuple[str, Labelling]]:
        """Labels for the features that have none, an autoencoder at a time; those that `scores` is about."""
        for name, one in self._unlabelled().items():
            found = label(self.judge, one.features, self.spelling, name)
            self._given[name] = {own.latent: own.text for own in found.labels}
            yield name, found

    def scores(self) -> Iterator[Score]:
        """A score for each autoencoder, method and control. Raises `InputError` where no feature has a label."""
        known = {name: {**self.labels.get(name, {}), **self._given.get(name, {})} for name in self.drawn}
        for one in self._plans(known):
            yield score(self.judge, one)

    def _plans(self, labels: Mapping[str, Mapping[int, str]]) -> list[Plan]:
        own = self.judge.per_question
        return plans(self.drawn, self.methods, labels, self.spelling, per_question=own, alone=self.alone)

    def _unlabelled(self) -> dict[str, Drawn]:
        """The features that need a label and have none."""
        if self.complete or not any(METHODS[method].labelled for method in self.methods):
            return {}
        left = {name: without(one, self.labels.get(name, {})) for name, one in self.drawn.items()}
        return {name: one for name, one in left.items() if one.features}
