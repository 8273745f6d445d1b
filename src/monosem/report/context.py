"""A context of a latent as a line of text, each piece with the activations it is shaded by."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np

from monosem.evaluation import Context, FeatureStatistics
from monosem.lm.spelling import Piece, Spelling

Kind = Literal["plain", "active", "special", "excluded"]


class Span(NamedTuple):
    """Text of one piece, or of several plain ones; `values` are its tokens' activations.

    `share` is the greatest of them over the latent's maximum; `peak` marks the piece the context is about.
    """

    text: str
    kind: Kind
    values: tuple[float, ...] = ()
    share: float = 0.0
    peak: bool = False


class Line(NamedTuple):
    """A context's spans, whether the window goes on before and after them, and where they are from."""

    value: float
    spans: list[Span]
    before: bool
    after: bool
    window: int
    position: int
    group: int | None


def line(context: Context, latent: int, features: FeatureStatistics, spelling: Spelling) -> Line:
    """The text of `context`, with its special and excluded tokens told apart."""
    start, stop = context.start, context.start + len(context.tokens)
    excluded = features.excluded(context.window)[start:stop]
    most = features.max(latent)
    spans = [_span(piece, context, excluded, most, spelling.special) for piece in spelling.pieces(context.tokens)]
    return Line(
        context.value,
        list(_joined(spans)),
        start > 0,
        stop < features.length,
        context.window,
        context.position,
        context.group,
    )


def peak(context: Context, spelling: Spelling) -> str:
    """The text of the piece that `context` is about."""
    place = context.position - context.start
    return next(piece.text for piece in spelling.pieces(context.tokens) if place < piece.stop)


def _span(piece: Piece, context: Context, excluded: np.ndarray, most: float, special: frozenset[int]) -> Span:
    part = slice(piece.start, piece.stop)
    values = tuple(context.values[part])
    kind: Kind = "plain"
    if max(values) > 0:
        kind = "active"
    elif context.tokens[piece.start] in special:
        kind = "special"
    elif excluded[part].any():
        kind = "excluded"
    is_peak = piece.start <= context.position - context.start < piece.stop
    return Span(piece.text, kind, values, max(values) / most, is_peak)


def _joined(spans: list[Span]) -> Iterator[Span]:
    """Neighbouring plain spans as one."""
    for plain, run in groupby(spans, lambda span: span.kind == "plain"):
        if plain:
            yield Span("".join(span.text for span in run), "plain")
        else:
            yield from run
