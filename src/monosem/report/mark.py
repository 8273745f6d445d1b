"""Characters that cannot be seen, made visible in HTML."""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape

_SIGNS = {"\n": "↵", "\r": "␍", "\t": "⇥", " ": "·", "\u00a0": "⍽"}
_JOINERS = {"\u200c", "\u200d"}  # they shape the characters around them
_RUNS = re.compile(r"^ +$| {2,}")
_EDGES = re.compile(r"^ +| +$| {2,}")


def marked(text: str, alone: bool = False) -> Markup:
    """Escaped text in which line ends, tabs, repeated spaces and invisible characters are signs in `<i>`.

    Text that stands `alone` shows the spaces at its ends as well.
    """
    spaces: set[int] = set()
    for match in (_EDGES if alone else _RUNS).finditer(text):
        spaces.update(range(*match.span()))
    return Markup("").join(
        Markup("<i>{}</i>").format(_sign(letter)) if place in spaces or _hidden(letter) else escape(letter)
        for place, letter in enumerate(text)
    )


def _hidden(letter: str) -> bool:
    invisible = unicodedata.category(letter) in {"Cc", "Cf", "Zl", "Zp"}
    return letter == "\u00a0" or (invisible and letter not in _JOINERS)


def _sign(letter: str) -> str:
    return _SIGNS.get(letter) or letter.encode("unicode_escape").decode()
