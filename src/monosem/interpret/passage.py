"""A context as text, with or without its tokens marked."""

from __future__ import annotations

from collections.abc import Collection

from monosem.evaluation import Context
from monosem.lm.spelling import Spelling

OPEN, CLOSE = "<<", ">>"
SHARE = 0.3
"""Tokens with at least this share of the greatest activation of their context are marked."""


def plain(context: Context, spelling: Spelling) -> str:
    """The text alone, on one line."""
    return marked(context, spelling, ())


def active(context: Context) -> list[int]:
    """Places in the context on which the feature fires strongly enough to be marked; none where it is silent."""
    least = SHARE * max(context.values)
    return [place for place, value in enumerate(context.values) if value > 0 and value >= least]


def marked(context: Context, spelling: Spelling, places: Collection[int]) -> str:
    """The text on one line, marks around neighbouring tokens in `places`; a space before them stays outside."""
    text, inside = "", False
    for piece in spelling.pieces(context.tokens):
        wanted = any(place in places for place in range(piece.start, piece.stop))
        word = piece.text.replace("\r", "").replace("\n", "⏎")
        if wanted and not inside:
            bare = word.lstrip(" ")
            text += word[: len(word) - len(bare)] + OPEN + bare
        else:
            text += (CLOSE if inside and not wanted else "") + word
        inside = wanted
    return text + (CLOSE if inside else "")
