"""Several texts in given shares: whole windows of each, interleaved."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from monosem.disk import digest
from monosem.shapes import InputError
from monosem.text.window import Windows

_WEIGHTED = re.compile(r",|:[0-9.]+$")


class Part(NamedTuple):
    """A text and its share of the windows."""

    name: str
    share: float


def parts(text: str) -> list[Part]:
    """What `NAME:WEIGHT,NAME:WEIGHT` says, weights scaled to sum to 1; any other text is one part.

    Raises `InputError` for a part without a weight, a weight that is not above 0, and a name given twice.
    """
    if not _WEIGHTED.search(text) or Path(text).expanduser().exists():
        return [Part(text, 1.0)]
    pairs = [piece.rpartition(":") for piece in text.split(",") if piece.strip()]
    weights = {}
    for name, _, weight in pairs:
        name = name.strip()
        if not name:
            raise InputError(f"text {text!r}: {weight.strip()!r} has no weight, write NAME:WEIGHT,NAME:WEIGHT")
        if name in weights:
            raise InputError(f"text {text!r}: {name} comes twice, give its whole weight once")
        weights[name] = _weight(name, weight.strip())
    total = math.fsum(weights.values())
    return [Part(name, weight / total) for name, weight in weights.items()]


def mixed(
    texts: Sequence[Windows], mixture: Sequence[Part], *, seed: int = 0, wanted: int | None = None, repeat: bool = False
) -> Windows:
    """Windows of several texts, so that every beginning holds each in its share, to less than a window.

    Window j of part p stands at (j + u_p) / share_p, with u_p drawn from `seed`; the order is that of these places.
    It ends where the first part runs out. With `repeat` parts that run out before there are `wanted` windows begin
    anew. Raises `InputError` when there are fewer than `wanted` and parts may not repeat.
    """
    shares = np.array([part.share for part in mixture])
    counts = np.array([len(text.tokens) for text in texts])
    offsets = np.random.default_rng((seed, 2)).random(len(shares))
    least = int(np.argmin((counts + offsets) / shares))
    before = _order(shares, offsets, counts, float((counts[least] + offsets[least]) / shares[least]))
    repeated = wanted is not None and len(before) < wanted
    if wanted is not None and repeated:
        if not repeat:
            raise InputError(_runs_out(texts, mixture, least, len(before), wanted))
        enough = np.ceil(shares * wanted).astype(int) + 2
        before = _order(shares, offsets, enough, math.inf)[:wanted]
    return _joined(texts, mixture, before, seed, wanted if repeated else None)


def _order(shares: np.ndarray, offsets: np.ndarray, counts: np.ndarray, end: float) -> Int[np.ndarray, " N"]:
    """The part of each window in the order of their places, as far as these lie before `end`."""
    places = [(np.arange(count) + offset) / share for count, offset, share in zip(counts, offsets, shares)]
    which = np.repeat(np.arange(len(shares)), [len(place) for place in places])
    joined = np.concatenate(places)
    order = np.argsort(joined, kind="stable")
    return which[order[joined[order] < end]]


def _joined(
    texts: Sequence[Windows], mixture: Sequence[Part], order: np.ndarray, seed: int, repeated: int | None
) -> Windows:
    rows, first_row, first_document = np.empty(len(order), np.int64), 0, 0
    documents = []
    for number, text in enumerate(texts):
        mine = np.flatnonzero(order == number)
        rows[mine] = first_row + np.arange(len(mine)) % len(text.tokens)
        documents.append(text.documents + first_document)
        first_row += len(text.tokens)
        first_document += int(text.documents.max()) + 1
    which = torch.from_numpy(rows)
    return Windows(
        torch.cat([text.tokens for text in texts])[which],
        torch.cat(documents)[which],
        torch.cat([text.special for text in texts])[which],
        _identity(texts, mixture, seed, repeated),
        torch.from_numpy(order.astype(np.int32)),
    )


def _identity(texts: Sequence[Windows], mixture: Sequence[Part], seed: int, repeated: int | None) -> dict[str, Any]:
    """The keys that all parts share as a text has them, and every part with its share."""
    identities = [text.identity for text in texts]
    same = {key: value for key, value in identities[0].items() if all(row.get(key) == value for row in identities)}
    described = [
        {"share": part.share, **{key: value for key, value in row.items() if key not in same}}
        for part, row in zip(mixture, identities, strict=True)
    ]
    names = ",".join(f"{row['corpus']}:{part.share:.4g}" for part, row in zip(mixture, identities, strict=True))
    mixture_identity = {"corpus": names, "revision": digest(described), "parts": described, "mixture_seed": seed}
    return same | mixture_identity | ({} if repeated is None else {"repeated": repeated})


def _runs_out(texts: Sequence[Windows], mixture: Sequence[Part], least: int, found: int, wanted: int) -> str:
    length = texts[least].tokens.shape[1]
    held, share = len(texts[least].tokens), mixture[least].share
    return (
        f"the mixture runs out: {mixture[least].name} gave its {held * length:,} tokens, its share {share:.3g} of "
        f"{wanted * length:,} is {math.ceil(share * wanted) * length:,}: lower its share to "
        f"{0.99 * held / wanted:.3g}, ask for at most {found * (length - 1):,} tokens (--distinct-tokens; --tokens of "
        "record), or let parts repeat (--repeat)"
    )


def _weight(name: str, weight: str) -> float:
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"text: the weight of {name} is {weight!r}, expected a number above 0 as in NAME:0.7,NAME:0.3")
    return value
