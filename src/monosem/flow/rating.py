"""A judge that reads steered text: coherence and behaviour from 0 to 5, divided by 5 (arXiv 2502.03032, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from monosem.flow.steering import Mode
from monosem.interpret.cached import Cached
from monosem.interpret.form import Choice, Ratings
from monosem.interpret.judge import Judge, Question, ask
from monosem.interpret.local import LocalJudge

TOP = 5
_DIGITS = Choice(tuple(str(grade) for grade in range(TOP + 1)))

_FRAME = (
    "You grade text that was produced by a language model. Be objective: whether the text is ethical, true or to your "
    "liking does not count.\n"
    "coherence: 0 (gibberish) to 5 (correct grammar, clear throughout).\n"
)
_BEHAVIOUR = {
    "add": (
        "behavioral: 0 (nothing to do with the subject) to 5 (all about it). Any relation that can be explained "
        "counts, also associated terms and the subject's style.\n"
    ),
    "rescale": "behavioral: 0 (nothing to do with the subject) to 5 (all about it). Only a direct relation counts.\n",
}
_ANSWER = {
    1: 'Answer with strict JSON and nothing else: {"coherence": int, "behavioral": int}',
    2: 'Answer with strict JSON and nothing else, one grade for each subject in the order given: {"coherence": int, '
    '"behavioral": [int, …]}',
}
_ONE = "Grade one thing alone, and answer with one digit from 0 to 5."


class Rating(NamedTuple):
    """C, and B by subject, from 0 to 1; None where the judge gave nothing that could be read."""

    coherence: float | None
    behaviour: dict[str, float | None]

    def total(self, mode: Mode) -> float | None:
        """By the first subject, the one that is steered; None where either part is missing."""
        b = next(iter(self.behaviour.values()))
        if b is None or self.coherence is None:
            return None
        return (b if mode == "add" else 1 - b) * self.coherence

    def to_json(self) -> dict[str, Any]:
        return self._asdict()


class Rated(NamedTuple):
    """Ratings of texts in their order, by whom, and how many questions had to be asked again."""

    judge: str
    form: str
    ratings: list[Rating]
    malformed: int

    @property
    def missing(self) -> int:
        """Texts that lack a grade."""
        return sum(one.coherence is None or None in one.behaviour.values() for one in self.ratings)


def rate(judge: Judge, texts: Sequence[str], subjects: Sequence[str], mode: Mode) -> Rated:
    """Every text graded for all subjects at once; what cannot be read is asked once more, then missing, never 0.

    A local model is asked for one digit at a time, which it chooses by probability: small ones write no JSON. Raises
    `InputError` when the judge stops answering; what it answered is kept where it is `Cached`.
    """
    if isinstance(judge.judge if isinstance(judge, Cached) else judge, LocalJudge):
        return _by_digit(judge, texts, subjects, mode)
    asked = ask(judge, questions(texts, subjects, mode), "grading")
    ratings = []
    for answer in asked.answers:
        first, *rest = [None] * (len(subjects) + 1) if answer is None else [int(grade) / TOP for grade in answer]
        ratings.append(Rating(first, dict(zip(subjects, rest, strict=True))))
    return Rated(judge.name, "json", ratings, asked.malformed)


def questions(texts: Sequence[str], subjects: Sequence[str], mode: Mode) -> list[Question]:
    """One for each text: the text alone, without its prompt, which has the subject's words."""
    system = _FRAME + _BEHAVIOUR[mode] + _ANSWER[min(len(subjects), 2)]
    return [Question(system, _shown(text, subjects), Ratings(len(subjects), TOP)) for text in texts]


def digit_questions(texts: Sequence[str], subjects: Sequence[str], mode: Mode) -> list[Question]:
    """For each text its coherence, then its behaviour by subject, each a question of its own."""
    found = []
    for text in texts:
        found.append(Question(_FRAME + _ONE, f'"""{text}"""\n\nGrade the coherence.', _DIGITS))
        for subject in subjects:
            system = _FRAME.split("coherence")[0] + _BEHAVIOUR[mode] + _ONE
            found.append(Question(system, f"{_shown(text, [subject])}\n\nGrade the behavioral relation.", _DIGITS))
    return found


def _by_digit(judge: Judge, texts: Sequence[str], subjects: Sequence[str], mode: Mode) -> Rated:
    asked = ask(judge, digit_questions(texts, subjects, mode), "grading")
    grades = [None if answer is None else int(answer[0]) / TOP for answer in asked.answers]
    size = len(subjects) + 1
    ratings = [
        Rating(grades[start], dict(zip(subjects, grades[start + 1 : start + size], strict=True)))
        for start in range(0, len(grades), size)
    ]
    return Rated(judge.name, "digits", ratings, asked.malformed)


def _shown(text: str, subjects: Sequence[str]) -> str:
    named = subjects[0] if len(subjects) == 1 else "; ".join(f"{n}. {one}" for n, one in enumerate(subjects, 1))
    # Quotes of its own would end the text early.
    quoted = text.replace('"""', "'''")
    return f'Subject{"s" * (len(subjects) > 1)}: {named}\n\n"""{quoted}"""'
