"""How well a label, or a feature without one, stands up to questions with known answers; with its controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from monosem.interpret.example import Drawn
from monosem.interpret.form import NO, YES
from monosem.interpret.interval import Mean, auc, bootstrap
from monosem.interpret.judge import Asked, Constant, Judge, ask
from monosem.interpret.planning import METHODS, Control, Plan
from monosem.interpret.shuffle import MIXED


class FeatureScore(NamedTuple):
    """One feature: the value, from how many answered and missing parts, and the rates of a yes or no.

    `value` of detection and fuzzing is balanced accuracy (`tpr` + `tnr`)/2, of intruder accuracy; NaN where no positive
    or no negative was answered. `auc` ranks by the odds of a yes, where the judge gives them.
    """

    latent: int
    value: float
    answered: int
    missing: int
    tpr: float = math.nan
    tnr: float = math.nan
    auc: float = math.nan


@dataclass(frozen=True)
class Score:
    """A method on the features drawn from one autoencoder, by one judge; scores of two judges are never merged.

    `control`: None for the features as they are; `shuffled`, each with the contexts of the others; `constant`, one
    answer whatever the question. `malformed` counts questions that were asked again, `missing` parts without answer,
    `unasked` features that were drawn and have no label, or too few contexts for a question.
    """

    sae: str
    method: str
    judge: str
    control: Control | None
    chance: float
    features: list[FeatureScore]
    malformed: int = 0
    unasked: int = 0
    drawn: Drawn | None = field(default=None, repr=False)

    @property
    def mean(self) -> Mean:
        """Over features with a value, with a bootstrap interval over them."""
        return bootstrap(self._values)

    @property
    def valued(self) -> int:
        """Features with a value."""
        return len(self._values)

    @property
    def asked(self) -> int:
        """Features that the score is about: those asked about, and those that could not be."""
        return len(self.features) + self.unasked

    @property
    def auc(self) -> Mean:
        return bootstrap([one.auc for one in self.features if not math.isnan(one.auc)])

    @property
    def missing(self) -> int:
        return sum(one.missing for one in self.features)

    def to_json(self) -> dict[str, Any]:
        """JSON-able, NaN where nothing was answered."""
        names = ("sae", "method", "judge", "control", "chance", "valued", "asked", "unasked", "malformed", "missing")
        return {
            **{name: getattr(self, name) for name in names},
            "mean": self.mean._asdict(),
            "auc": self.auc._asdict(),
            "features": [one._asdict() for one in self.features],
            "drawn": None if self.drawn is None else self.drawn.to_json(),
        }

    @property
    def _values(self) -> list[float]:
        return [one.value for one in self.features if not math.isnan(one.value)]


def score(judge: Judge, planned: Plan) -> Score:
    """Ask a plan's questions; a plan whose control is `constant` is answered without the judge."""
    chosen, name = METHODS[planned.method], judge.name
    if planned.control == "constant":
        judge = Constant(chosen.constant, judge.per_question)
    label = " ".join(filter(None, [planned.method, planned.control, f"of {planned.sae}"]))
    asked = ask(judge, planned.questions, label)
    features = [
        _feature(latent, parts, planned.method != "intruder") for latent, parts in _parts(planned, asked).items()
    ]
    counts = {"malformed": asked.malformed, "unasked": planned.unasked}
    about = planned.sae, planned.method, name, planned.control, chosen.chance
    return Score(*about, features, **counts, drawn=planned.drawn)


def unmixed(found: Sequence[Score]) -> list[Score]:
    """Scores whose contexts could not be shuffled, for want of features: their table lacks that control."""
    mixed = {(one.sae, one.method) for one in found if one.control == "shuffled"}
    controlled = {(one.sae, one.method) for one in found if one.control is not None}
    return [
        one
        for one in found
        if one.control is None and (one.sae, one.method) in controlled - mixed and len(one.features) < MIXED
    ]


class _Part(NamedTuple):
    truth: str
    answer: str | None
    odds: float | None


def _parts(planned: Plan, asked: Asked) -> dict[int, list[_Part]]:
    """Every part of every question with its answer, by feature."""
    found: dict[int, list[_Part]] = {}
    for trial, answer, odds in zip(planned.trials, asked.answers, asked.odds, strict=True):
        answers: Sequence[str | None] = answer or [None] * len(trial.truth)
        own = found.setdefault(trial.latent, [])
        own += [_Part(truth, said, odds) for truth, said in zip(trial.truth, answers, strict=True)]
    return found


def _feature(latent: int, parts: Sequence[_Part], balanced: bool) -> FeatureScore:
    answered = [one for one in parts if one.answer is not None]
    counts = len(answered), len(parts) - len(answered)
    if not balanced:
        return FeatureScore(latent, _share(answered), *counts)
    yes, no = ([one for one in answered if one.truth == truth] for truth in (YES, NO))
    odds = [[one.odds for one in side if one.odds is not None] for side in (yes, no)]
    tpr, tnr = _share(yes), _share(no)
    return FeatureScore(latent, (tpr + tnr) / 2, *counts, tpr, tnr, auc(*odds))


def _share(parts: Sequence[_Part]) -> float:
    """The share of right answers; NaN for none."""
    return sum(one.answer == one.truth for one in parts) / len(parts) if parts else math.nan
