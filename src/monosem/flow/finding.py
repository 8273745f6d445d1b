"""Latents of a suite that a word belongs to: those to begin a flow graph with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from monosem.evaluation import promotes
from monosem.evaluation.promotion import extremes
from monosem.evaluation.word import Word
from monosem.flow.node import Node
from monosem.flow.suite import Suite
from monosem.interpret import labels
from monosem.lm.spelling import Spelling
from monosem.progress import progress
from monosem.shapes import InputError, Site

if TYPE_CHECKING:
    from monosem.lm import LanguageModel

PROMOTED = 10
"""Promoted tokens of a latent among which the word is sought."""
_ROWS = 256


class Found(NamedTuple):
    """A latent, why the word belongs to it, and its label where it has one; a `score` of 1 is a label with the word."""

    node: Node
    score: float
    reason: str
    label: str | None


def find_latents(
    suite: Suite, word: str, lm: LanguageModel | None = None, *, sites: Sequence[Site] | None = None, n: int = 20
) -> list[Found]:
    """The `n` latents of residual sites (or of `sites`) that a word belongs to most, best first.

    A label that has the word counts 1, the r-th promoted token that is the word 1/(1 + r), r ≤ 10; promoted tokens need
    a model. Case does not count. Raises `InputError` where there is none.
    """
    chosen = [site for site in suite if site.kind == "resid_post"] if sites is None else list(sites)
    query = Word.of(word)
    found: dict[Node, Found] = {}
    for one in [*_promoting(suite, chosen, query, lm), *_labelled(suite, chosen, query)]:
        known = found.get(one.node)
        found[one.node] = one if known is None else _joined(known, one)
    if not found:
        without = " (without a model, promoted tokens are not known)" if lm is None else " and no promoted token is it"
        raise InputError(
            f"no latent of {len(chosen)} sites belongs to {word!r}: no label has it{without}; try another word, "
            "or search one autoencoder's contexts with monosem features --search"
        )
    return sorted(found.values(), key=lambda one: (-one.score, str(one.node)))[:n]


def _labelled(suite: Suite, sites: Sequence[Site], query: Word) -> Iterator[Found]:
    for site in sites:
        folder = suite.folder(site)
        for latent, own in ({} if folder is None else labels(folder)).items():
            if query.pattern.search(own[0].text):
                yield Found(Node(site, latent), 1.0, "its label", own[0].text)


def _promoting(suite: Suite, sites: Sequence[Site], query: Word, lm: LanguageModel | None) -> Iterator[Found]:
    if lm is None:
        return
    spelling = Spelling(lm.tokenizer)
    words = {token: text for token in range(lm.vocab_size) if query.is_token(text := spelling.word(token))}
    writing = [site for site in sites if words and promotes(suite[site], lm)]
    with progress("promoted tokens", sum(suite.n_latents(site) for site in writing), "latents") as bar:
        for site in writing:
            for start in range(0, suite.n_latents(site), _ROWS):
                rows = suite[site].W_dec[start : start + _ROWS].detach()
                top = extremes(rows, lm, min(PROMOTED, lm.vocab_size)).top_ids
                hits = torch.from_numpy(np.isin(top.numpy(), list(words)))
                for row in hits.any(1).nonzero().flatten().tolist():
                    rank = int(hits[row].int().argmax())
                    text = words[int(top[row, rank])]
                    yield Found(Node(site, start + row), 1 / (2 + rank), f"promotes {text!r}, rank {rank + 1}", None)
                bar.advance(len(rows))


def _joined(a: Found, b: Found) -> Found:
    """The same latent with both reasons, and the better score."""
    return Found(a.node, max(a.score, b.score), f"{a.reason}; {b.reason}", b.label or a.label)
