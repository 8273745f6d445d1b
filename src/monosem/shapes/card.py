"""What a notebook shows of an object: a little HTML that brings its own style and escapes what it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

_SIGNS = {"\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"}
_BOX = "border-left: 3px solid #0072B2; padding: .1em 0 .3em .9em; margin: .3em 0; line-height: 1.45"
_CELL = "padding: .1em 1.2em .1em 0; text-align: left; vertical-align: top; background: none"


def card(title: str, rows: Mapping[str, str], *parts: str) -> str:
    """A heading, one line a row that is not empty, and further parts that are HTML already."""
    lines = [[name, value] for name, value in rows.items() if value]
    return f'<div style="{_BOX}"><b>{visible(title)}</b>{_table(lines, soft_first=True)}{"".join(parts)}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """A table of text, and a line under it."""
    head = "".join(f'<th style="{_CELL}; font-weight: 600">{visible(cell)}</th>' for cell in header)
    return f"{_table(rows, head)}{soft(note) if note else ''}"


def soft(text: str) -> str:
    """A line in the background."""
    return f'<div style="opacity: .7; font-size: .9em">{visible(text)}</div>'


def shaded(pieces: Iterable[tuple[str, float, str]]) -> str:
    """A line of text: pieces with a shade from 0 (none) to 1 and what is said when one points at them."""
    return "".join(_piece(*piece) for piece in pieces)


def visible(text: str) -> str:
    """Escaped text whose line ends, tabs and hard spaces are signs."""
    return escape("".join(_SIGNS.get(letter, letter) for letter in text))


def _piece(text: str, share: float, said: str) -> str:
    if not share:
        return visible(text)
    shade = f"background: rgba(244, 140, 20, {0.1 + 0.65 * min(share, 1):.2f}); border-radius: 2px"
    return f'<span style="{shade}" title="{escape(said)}">{visible(text)}</span>'


def _table(rows: Iterable[Sequence[str]], head: str = "", soft_first: bool = False) -> str:
    body = "".join(f"<tr>{''.join(_cells(row, soft_first))}</tr>" for row in rows)
    heading = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<table style="border-collapse: collapse; margin: .2em 0">{heading}<tbody>{body}</tbody></table>'


def _cells(row: Sequence[str], soft_first: bool) -> Iterable[str]:
    for place, cell in enumerate(row):
        style = f"{_CELL}; opacity: .7" if soft_first and not place else _CELL
        yield f'<td style="{style}">{visible(cell)}</td>'
