"""What is asked about the features that were drawn, and about their controls, before anything is asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from monosem.interpret.example import Drawn, Examples
from monosem.interpret.form import YES
from monosem.interpret.judge import Question
from monosem.interpret.shuffle import MIXED, shuffled
from monosem.interpret.trial import INTRUDED, Trial, detection, fuzzing, intruder
from monosem.lm.spelling import Spelling
from monosem.shapes import InputError

Control = Literal["shuffled", "constant"]


class Method(NamedTuple):
    """A way of asking: its questions, the value of guessing, whether it needs labels, and a constant answer."""

    trials: Callable[[Examples, str, Spelling, int], list[Trial]]
    chance: float
    labelled: bool
    constant: str


METHODS = {
    "detection": Method(detection, 0.5, True, YES),
    "fuzzing": Method(fuzzing, 0.5, True, YES),
    "intruder": Method(intruder, 1 / INTRUDED, False, "1"),
}


@dataclass(frozen=True)
class Plan:
    """Everything that one score asks; `unasked` features of those drawn have no label, or too few contexts."""

    sae: str
    method: str
    control: Control | None
    trials: list[Trial]
    drawn: Drawn
    unasked: int = 0

    @property
    def questions(self) -> list[Question]:
        return [one.question for one in self.trials]


def plan(
    method: str,
    drawn: Drawn,
    spelling: Spelling,
    *,
    labels: Mapping[int, str] | None = None,
    control: Control | None = None,
    per_question: int = 8,
    sae: str = "sae",
) -> Plan:
    """The questions of one method; features without a label are left out where it needs one.

    Raises `InputError` for an unknown method, when no feature is left, or when none has contexts enough for a question.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown: use {', '.join(METHODS)}")
    chosen, known = METHODS[method], labels or {}
    features = _askable(drawn, method, known)
    if not features:
        raise InputError(f"{method} needs labels and none of {len(drawn.features)} features of {sae} has one")
    if control == "shuffled":
        features = shuffled(features)
    trials = [
        trial
        for one in features
        for trial in chosen.trials(one, known.get(one.latent, ""), spelling, min(per_question, 8))
    ]
    if not trials:
        raise InputError(
            f"{method} has nothing to ask about {sae}: a question holds {INTRUDED - 1} contexts in which one fires: "
            "draw more of them (--examples, --least)"
        )
    return Plan(sae, method, control, trials, drawn, len(drawn.features) - len({one.latent for one in trials}))


def plans(
    drawn: Mapping[str, Drawn],
    methods: Sequence[str],
    labels: Mapping[str, Mapping[int, str]],
    spelling: Spelling,
    *,
    per_question: int = 8,
    alone: Collection[str] = (),
) -> list[Plan]:
    """Each method on each autoencoder, then its controls as far as there are features enough.

    Autoencoders `alone`, controls themselves, have none. Raises `InputError` as `plan`, or where nothing has a label.
    """
    found = []
    for name, one in drawn.items():
        for method in methods:
            count = len(_askable(one, method, labels.get(name, {})))
            controls = _controls(count, name in alone)
            settings = {"labels": labels.get(name), "per_question": per_question, "sae": name}
            found += [plan(method, one, spelling, control=control, **settings) for control in controls]
    if not found:
        raise InputError("no feature that was drawn has a label: monosem label gives some, with the same --features")
    return found


def _controls(count: int, alone: bool) -> list[Control | None]:
    """What is asked about so many features."""
    if alone or not count:
        return [None] if count else []
    return [None, "shuffled", "constant"] if count >= MIXED else [None, "constant"]


def _askable(drawn: Drawn, method: str, labels: Mapping[int, str]) -> list[Examples]:
    """The features that a method can ask about."""
    return [one for one in drawn.features if not METHODS[method].labelled or one.latent in labels]
