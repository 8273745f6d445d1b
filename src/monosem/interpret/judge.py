"""Who is asked: one interface for endpoints, local models and constants; and asking with one repetition."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

from monosem.interpret.form import Form
from monosem.progress import progress


@dataclass(frozen=True)
class Question:
    """Text for a judge, and the form that an answer must have; `attempt` tells a repetition from the first."""

    system: str
    user: str
    form: Form
    attempt: int = 0

    def again(self) -> Question:
        """The same, with a word on the form."""
        return replace(self, user=f"{self.user}\n\n{self.form.reminder}", attempt=self.attempt + 1)

    def to_json(self) -> dict[str, Any]:
        """What decides an answer."""
        form = [type(self.form).__name__, *self.form]
        return {"system": self.system, "user": self.user, "form": form, "attempt": self.attempt}


class Reply(NamedTuple):
    """The answer to question `index` as it was given; "" where there was none.

    `odds` is log p of the first option of a choice minus that of the likeliest other, where the judge knows it.
    """

    index: int
    text: str
    odds: float | None = None


@runtime_checkable
class Judge(Protocol):
    """Somebody who answers questions. `per_question`: how many passages one question should hold."""

    name: str
    per_question: int

    def settings(self) -> dict[str, Any]:
        """What beside its name decides its answers, JSON-able."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text, exactly or about."""
        ...

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Each answer as soon as it is there, in any order.

        Raises `InputError` when it cannot answer any more, after all answers that were given.
        """
        ...


class Asked(NamedTuple):
    """Answers in the order of the questions, None where two attempts gave nothing of the asked form.

    `malformed` counts questions that were asked again.
    """

    answers: list[list[str] | None]
    odds: list[float | None]
    malformed: int

    @property
    def missing(self) -> int:
        return sum(answer is None for answer in self.answers)


def ask(judge: Judge, questions: Sequence[Question], label: str = "questions") -> Asked:
    """Ask everything; what cannot be read is asked once more, then missing."""
    answers: list[list[str] | None] = [None] * len(questions)
    odds: list[float | None] = [None] * len(questions)
    with progress(f"{label}: {judge.name}", len(questions), "questions") as bar, _asked(judge, questions) as replies:
        for reply in replies:
            answers[reply.index], odds[reply.index] = questions[reply.index].form.read(reply.text), reply.odds
            bar.advance()
    unread = [place for place, answer in enumerate(answers) if answer is None]
    if unread:
        with _asked(judge, [questions[place].again() for place in unread]) as replies:
            for reply in replies:
                place = unread[reply.index]
                answers[place], odds[place] = questions[place].form.read(reply.text), reply.odds
    return Asked(answers, odds, len(unread))


@contextmanager
def _asked(judge: Judge, questions: Sequence[Question]) -> Iterator[Iterator[Reply]]:
    """Replies; a judge that is left in the middle hears of it at once, and not when its memory is cleared."""
    replies = judge.ask(questions)
    try:
        yield replies
    finally:
        if isinstance(replies, Generator):
            replies.close()


class Constant:
    """A control: whatever the question, the same answer."""

    def __init__(self, option: str, per_question: int = 1) -> None:
        self.name, self.option, self.per_question = f"constant:{option}", option, per_question

    def settings(self) -> dict[str, Any]:
        return {}

    def count(self, text: str) -> int:
        return 0

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        for index, question in enumerate(questions):
            yield Reply(index, question.form.said(self.option))
