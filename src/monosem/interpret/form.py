"""What a question asks for, and how an answer in free words is read."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

YES, NO = "Yes", "No"
_THOUGHTS = re.compile(r"^.*</think>", re.DOTALL)
_LIST = re.compile(r"\[[\s01,]*\]")


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
        """The first line that says something, without quotes or a heading; None where there is none."""
        lines = [line.strip().strip("\"'`*“”.").strip() for line in spoken(text).splitlines()]
        lines = [re.sub(r"^(?:label|explanation|answer)\W+", "", line, flags=re.IGNORECASE) for line in lines]
        return next(([line[: self.longest]] for line in lines if re.search(r"\w", line)), None)

    def said(self, option: str) -> str:
        return option


Form = Choice | Marks | Phrase


def spoken(text: str) -> str:
    """An answer without the thoughts that some models write before it."""
    return _THOUGHTS.sub("", text).strip()
