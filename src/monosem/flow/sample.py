"""Pieces of text as scorers read them, of a theme and of other text, split by document into three parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from monosem.shapes import InputError
from monosem.text import Corpus

PARTS = {"train": 0.6, "calibrate": 0.2, "test": 0.2}
"""Scorers are fitted on the first, their scale on the second, and judged themselves on the third."""
LEAST = 10
"""Pieces that a part needs."""
_CHARACTERS = 64


class Sample(NamedTuple):
    """A text to be scored, as tokens and as words, and the tokens before it, which are never scored."""

    ids: list[int]
    text: str
    before: list[int]


class Split(NamedTuple):
    """Pieces to fit on, to set a scale on, and to test on; no document is in two of them."""

    train: list[Sample]
    calibrate: list[Sample]
    test: list[Sample]


def samples(
    corpus: Corpus, tokenizer: Any, *, length: int, count: int = 400, seed: int = 0, before: Sequence[int] = ()
) -> Split:
    """At most `count` pieces of `length` tokens, as many documents as possible; a last piece may be half as long.

    Raises `InputError` for a corpus of anything but text, and for fewer than `LEAST` pieces in a part.
    """
    if corpus.form != "text":
        raise InputError(f"{corpus.name} holds {corpus.form}, not text: give plain text")
    documents = [one for one in corpus.documents if isinstance(one, str)]
    order = np.random.default_rng(seed).permutation(len(documents))
    cuts = np.cumsum([round(share * len(documents)) for share in list(PARTS.values())[:-1]])
    found = []
    for part, share, places in zip(PARTS, PARTS.values(), np.split(order, cuts)):
        cut = _pieces([documents[place] for place in places], tokenizer, length, list(before))
        found.append([piece for piece, _ in zip(cut, range(round(share * count)))])
        if len(found[-1]) < LEAST:
            raise InputError(
                f"{corpus.name} gives {len(found[-1])} pieces of {length} tokens to {part} on, {LEAST} are needed: "
                "give more documents (a blank line ends one in a text file), or write fewer tokens"
            )
    return Split(*found)


def _pieces(documents: Sequence[str], tokenizer: Any, length: int, before: list[int]) -> Iterator[Sample]:
    """The first piece of every document, then the second, …"""
    cut = [list(_cut(document, tokenizer, length)) for document in documents]
    for row in zip_longest(*cut):
        for ids in row:
            if ids is not None:
                yield Sample(ids, tokenizer.decode(ids, skip_special_tokens=True), before)


def _cut(document: str, tokenizer: Any, length: int) -> Iterator[list[int]]:
    # Only the beginning of a long document: others have their turn first.
    ids = tokenizer(document[: _CHARACTERS * length], add_special_tokens=False)["input_ids"]
    for start in range(0, len(ids), length):
        piece = ids[start : start + length]
        if 2 * len(piece) >= length:
            yield piece
