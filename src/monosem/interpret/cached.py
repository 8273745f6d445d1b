"""Answers kept on disk by content: a question is paid for once, and an interrupted run continues."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from monosem.disk import cache_folder, digest
from monosem.interpret.judge import Judge, Question, Reply
from monosem.shapes import InputError

_SCHEMA = "CREATE TABLE IF NOT EXISTS answer (key TEXT PRIMARY KEY, judge TEXT NOT NULL, text TEXT NOT NULL, odds REAL)"


class Estimate(NamedTuple):
    """What asking costs: requests, tokens sent, tokens answered at most, and answers that are known already.

    Repetitions of what cannot be read come on top. `price` is in the currency of the two prices, None without them.
    """

    requests: int
    tokens_in: int
    tokens_out: int
    known: int
    price: float | None = None


class Cached:
    """A judge that asks only what it has not been asked before; every answer is written as it comes.

    An answer that cannot be read is asked for again in the next run, unless its repetition could be read.
    """

    def __init__(self, judge: Judge, path: Path | None = None) -> None:
        """`path`: an SQLite file; by default one for all judges in the cache folder."""
        self.judge, self.name, self.per_question = judge, judge.name, judge.per_question
        self.path = path or cache_folder() / "judges" / "answers.sqlite"
        self._settings = judge.settings()

    def settings(self) -> dict[str, Any]:
        return self._settings

    def count(self, text: str) -> int:
        return self.judge.count(text)

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        with self._open() as (read, write):
            places: dict[str, list[int]] = {}
            for index, question in enumerate(questions):
                places.setdefault(self._key(question), []).append(index)
            new: list[str] = []

            def keep(reply: Reply) -> None:
                write(new[reply.index], reply.text, reply.odds)

            for key, indices in places.items():
                if (row := self._readable(read, questions[indices[0]])) is None:
                    new.append(key)
                else:
                    yield from (Reply(index, *row) for index in indices)
            for reply in _kept(self.judge.ask([questions[places[key][0]] for key in new]), keep) if new else ():
                yield from (reply._replace(index=index) for index in places[new[reply.index]])

    def estimate(self, questions: Sequence[Question], prices: tuple[float, float] | None = None) -> Estimate:
        """What `ask` will cost; `prices` are for a million tokens sent and a million answered."""
        asked = {self._key(question): question for question in questions}
        with self._open() as (read, _):
            new = [question for question in asked.values() if self._readable(read, question) is None]
        sent = sum(self.count(question.system) + self.count(question.user) for question in new)
        longest = self._settings.get("max_tokens")
        answered = sum(longest or question.form.tokens for question in new)
        price = None if prices is None else (sent * prices[0] + answered * prices[1]) / 1e6
        return Estimate(len(new), sent, answered, len(asked) - len(new), price)

    def recall(self, questions: Sequence[Question]) -> list[list[str] | None]:
        """The answers that are known already, in the order of the questions, without asking anybody."""
        with self._open() as (read, _):
            rows = [(one, read(self._key(one))) for question in questions for one in (question, question.again())]
        found = [None if row is None else question.form.read(row[0]) for question, row in rows]
        return [first or second for first, second in zip(found[::2], found[1::2], strict=True)]

    def _readable(self, read: Callable[[str], Any], question: Question) -> Any:
        """An answer as it was kept, where it or its repetition could be read; else None."""
        row = read(self._key(question))
        if row is None or question.form.read(row[0]) is not None:
            return row
        if question.attempt:
            return None
        again = question.again()
        repeated = read(self._key(again))
        return row if repeated is not None and again.form.read(repeated[0]) is not None else None

    def _key(self, question: Question) -> str:
        return digest([self.name, self._settings, question.to_json()], 64)

    @contextmanager
    def _open(
        self,
    ) -> Iterator[tuple[Callable[[str], Any], Callable[[str, str, float | None], Any]]]:
        """Functions that read and write an answer by its key."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as file:
                file.execute(_SCHEMA)

                def read(key: str) -> Any:
                    return file.execute("SELECT text, odds FROM answer WHERE key = ?", (key,)).fetchone()

                def write(key: str, text: str, odds: float | None) -> None:
                    row = (key, self.name, text, odds)
                    file.execute("INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?)", row)

                yield read, write
        except sqlite3.Error as error:
            raise InputError(f"{self.path} cannot be used ({error}): move it away to begin a new one") from None


def _kept(replies: Iterator[Reply], keep: Callable[[Reply], None]) -> Iterator[Reply]:
    """Every reply, kept as it comes; where whoever takes them is stopped, those on their way are still kept."""
    reply = None
    try:
        for reply in replies:
            keep(reply)
            yield reply
    except (KeyboardInterrupt, GeneratorExit):
        if reply is not None:
            keep(reply)
        for late in _late(replies):
            keep(late)
        raise


def _late(replies: Iterator[Reply]) -> Iterator[Reply]:
    """What a judge that is told to stop still has."""
    if not isinstance(replies, Generator):
        return
    with suppress(KeyboardInterrupt, StopIteration):
        yield replies.throw(KeyboardInterrupt())
        yield from replies
