"""What a question asks for, and how an answer in free words is read."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

YES, NO = "Yes", "No"
_THOUGHTS = re.compile(r"^.*</think>", re.DOTALL)
_COMMAND = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HEADING = re.compile(r"^(?:(?:label|explanation|answer)\W+|\d+[.)]\s+)+", re.IGNORECASE)
_LIST = re.compile(r"\[[\s01,]*\]")
_OBJECT = re.compile(r"\{[^{}]*\}")


class Choice(NamedTuple):
    """One of a few words."""

    options: tuple[str, ...] = (YES, NO)

    @property
    def tokens(self) -> int:
        """Tokens that an answer needs at most."""
        return 16

    @property
    def reminder(self) -> str:
        return f"Answer with one of these alone: {', '.join(self.options)}."

    def read(self, text: str) -> list[str] | None:
        """The word an answer begins with, or the only one in it; None where that is not one of the options."""
        words = [word.casefold() for word in re.findall(r"\w+", spoken(text))]
        known = {option.casefold(): option for option in self.options}
        found = {known[word] for word in words if word in known}
        if words and words[0] in known:
            return [known[words[0]]]
        return [found.pop()] if len(found) == 1 else None

    def said(self, option: str) -> str:
        """An answer that `read` understands."""
        return option

    def begun(self, text: str) -> bool:
        """Whether an answer that was cut off says something already: a thought may end with any word."""
        first = re.search(r"\w+", spoken(text))
        return first is not None and first[0].casefold() in {option.casefold() for option in self.options}


class Marks(NamedTuple):
    """A yes or no for each of `n` passages, as a list of 1 and 0."""

    n: int

    @property
    def tokens(self) -> int:
        return 4 * self.n + 32

    @property
    def reminder(self) -> str:
        return (
            f"Answer with a list of {self.n} digits alone, such as [{', '.join('10'[i % 2] for i in range(self.n))}]."
        )

    def read(self, text: str) -> list[str] | None:
        """The last list in an answer; None unless it has `n` entries."""
        found = _LIST.findall(spoken(text))
        try:
            digits = json.loads(found[-1]) if found else []
        except ValueError:
            return None
        return [YES if digit else NO for digit in digits] if len(digits) == self.n and set(digits) <= {0, 1} else None

    def said(self, option: str) -> str:
        return json.dumps([int(option == YES)] * self.n)

    def begun(self, text: str) -> bool:
        return spoken(text).startswith("[")


class Phrase(NamedTuple):
    """A short phrase."""

    longest: int = 200

    @property
    def tokens(self) -> int:
        return 64

    @property
    def reminder(self) -> str:
        return "Answer with one short phrase alone."

    def read(self, text: str) -> list[str] | None:
        """The first line that says something, without quotes, a heading or a number; None where there is none."""
        lines = [_bare(_HEADING.sub("", _bare(line))) for line in spoken(text).splitlines()]
        return next(([line[: self.longest]] for line in lines if re.search(r"\w", line)), None)

    def said(self, option: str) -> str:
        return option

    def begun(self, text: str) -> bool:
        return True


class Ratings(NamedTuple):
    """A grade from 0 to `top` for coherence, and one for each of `n` subjects, as a JSON object."""

    n: int = 1
    top: int = 5

    @property
    def tokens(self) -> int:
        return 4 * self.n + 32

    @property
    def reminder(self) -> str:
        grades = "int" if self.n == 1 else f"[{', '.join(['int'] * self.n)}]"
        return f'Answer with {{"coherence": int, "behavioral": {grades}}} alone, every grade from 0 to {self.top}.'

    def read(self, text: str) -> list[str] | None:
        """Coherence, then the subjects' grades, of the last object in an answer; None for any other form or grade."""
        found = _OBJECT.findall(spoken(text))
        try:
            given = json.loads(found[-1]) if found else {}
        except ValueError:
            return None
        behaviour = given.get("behavioral")
        grades = [given.get("coherence"), *(behaviour if isinstance(behaviour, list) else [behaviour])]
        fits = all(type(grade) is int and 0 <= grade <= self.top for grade in grades)
        return [str(grade) for grade in grades] if fits and len(grades) == self.n + 1 else None

    def said(self, option: str) -> str:
        grade = int(option)
        return json.dumps({"coherence": grade, "behavioral": grade if self.n == 1 else [grade] * self.n})

    def begun(self, text: str) -> bool:
        return spoken(text).startswith("{")


Form = Choice | Marks | Phrase | Ratings


def spoken(text: str) -> str:
    """An answer without the thoughts that some models write before it; "" where it ends inside them."""
    said = _THOUGHTS.sub("", text).strip()
    return "" if "<think>" in said else said


def _bare(line: str) -> str:
    """Without what cannot be printed, such as commands to a terminal, and without quotes around it."""
    line = "".join(char for char in _COMMAND.sub("", line) if char.isprintable())
    return line.strip().strip("\"'`*“”.").strip()
