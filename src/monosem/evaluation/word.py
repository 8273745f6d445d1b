"""Where a word stands in a text that is only known as tokens."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from monosem.lm.spelling import Piece, Spelling, pieces
from monosem.shapes import InputError


class Word(NamedTuple):
    """What is looked for: whole words `pattern` finds in running text, and tokens that are the word or match it."""

    given: str
    pattern: re.Pattern[str]
    regex: bool

    @classmethod
    def of(cls, given: str, regex: bool = False) -> Word:
        """Case does not count. Raises `InputError` for nothing, and for a pattern that is none or finds nothing."""
        text = given if regex else given.strip()
        if not text:
            raise InputError("the word to search for is empty: give a word, such as Paris")
        try:
            pattern = re.compile(text if regex else rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
        except re.error as error:
            raise InputError(f"{given!r} is not a regular expression ({error}): escape special characters") from None
        if pattern.search(""):
            raise InputError(f"{given!r} matches everywhere, even in empty text: give a pattern that needs a letter")
        return cls(text, pattern, regex)

    def is_token(self, text: str) -> bool:
        """Whether one token by itself is the word, spaces aside, or matches the expression."""
        if self.regex:
            return self.pattern.search(text) is not None
        return text.strip().casefold() == self.given.casefold()


class Text:
    """Windows of tokens [N, T] with the bytes of each."""

    def __init__(self, tokens: Int[np.ndarray, "N T"], spelling: Spelling) -> None:
        self._tokens = tokens
        self._bytes = {token: spelling.spell(token) for token in np.unique(tokens).tolist()}

    def marked(self, word: Word) -> Bool[np.ndarray, "N T"]:
        """The tokens a word is made of, wherever it stands, and the tokens that are the word."""
        own = [token for token, spelled in self._bytes.items() if word.is_token(_text(spelled))]
        marks = np.isin(self._tokens, own)
        for row, window in zip(marks, self._tokens.tolist()):
            spelled = [self._bytes[token] for token in window]
            if word.pattern.search(b"".join(spelled).decode(errors="replace")):
                for start, stop in spans(pieces(spelled), word.pattern):
                    row[start:stop] = True
        return marks

    def near(self, word: str, n: int = 3) -> list[str]:
        """The words of the text most like `word`."""
        joined = (b"".join(self._bytes[token] for token in window) for window in self._tokens.tolist())
        known = {found.casefold() for text in joined for found in re.findall(r"\w+", text.decode(errors="replace"))}
        return difflib.get_close_matches(word.casefold(), sorted(known), n)


def spans(parts: Sequence[Piece], pattern: re.Pattern[str]) -> Iterable[tuple[int, int]]:
    """First token and the token after the last of every place in which a pattern matches."""
    ends = np.cumsum([len(part.text) for part in parts]).tolist()
    for found in pattern.finditer("".join(part.text for part in parts)):
        if found.end() > found.start():
            first, last = bisect_right(ends, found.start()), bisect_right(ends, found.end() - 1)
            yield parts[first].start, parts[last].stop


def around(marks: Bool[np.ndarray, "N T"], width: int) -> Bool[np.ndarray, "N T"]:
    """Tokens with a marked one at most `width` places away in their window."""
    total = np.pad(marks.cumsum(1), ((0, 0), (1, 0)))
    places = np.arange(marks.shape[1])
    low, high = np.maximum(places - width, 0), np.minimum(places + width + 1, marks.shape[1])
    return total[:, high] > total[:, low]


def _text(spelled: bytes) -> str:
    return spelled.decode(errors="backslashreplace")
