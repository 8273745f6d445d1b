"""Held-out text, split off by document."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from monosem.shapes import InputError
from monosem.text.corpus import Corpus
from monosem.text.document import Document, content


class Split(NamedTuple):
    """Documents to train on and documents never trained on."""

    train: list[Document]
    held_out: list[Document]


def split(corpus: Corpus, held_out: float = 0.1, seed: int = 0) -> Split:
    """Order documents by a hash of (seed, document) and hold out the first share `held_out` of them.

    The order does not depend on the order of the corpus. Both sides get at least one document.
    Raises `InputError` when there are fewer than two, or the share is not between 0 and 1.
    """
    if not 0 < held_out < 1:
        raise InputError(f"held_out is {held_out}: give a share between 0 and 1, such as 0.1")
    total = len(corpus.documents)
    if total < 2:
        raise InputError(
            f"{corpus.name} has {total} document: 2 are needed to hold one out (in a .txt file blank lines "
            "separate documents)"
        )
    ordered = sorted(corpus.documents, key=lambda document: _place(seed, document))
    cut = min(max(round(total * held_out), 1), total - 1)
    return Split(train=ordered[cut:], held_out=ordered[:cut])


def _place(seed: int, document: Document) -> bytes:
    return hashlib.sha256(f"{seed}\n".encode() + content(document)).digest()
