"""Which features a word belongs to: those that fire on it or beside it, and those that promote it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from monosem.evaluation import context
from monosem.evaluation.feature_file import FeatureStatistics
from monosem.evaluation.promotion import promoted, promotes
from monosem.evaluation.word import Text, Word, around
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.progress import progress
from monosem.sae import SAE
from monosem.shapes import InputError

_LATENTS = 256


class Hit(NamedTuple):
    """A feature and its evidence, of which `score` is the greatest part and `reason` says it.

    Of its `contexts` strongest contexts (one a window), the strongest token is part of the word in `peaks`, and in
    `near` others the word stands close by. `mean_on` is its mean activation over the tokens of the word, `mean_off`
    over all others; `share` of its whole activation is on the word. Its `rank`-th promoted token, `promoted`, is the
    word; None where none of the first ten is.
    """

    latent: int
    score: float
    reason: str
    contexts: int
    peaks: int
    near: int
    mean_on: float
    mean_off: float
    share: float
    rank: int | None
    promoted: str | None


class _Marks(NamedTuple):
    """Kept tokens, flat, that are part of the word, or close to it or part; shares of kept tokens on and beside it."""

    on: Bool[np.ndarray, " N"]
    near: Bool[np.ndarray, " N"]
    width: int
    share_on: float
    share_beside: float


def search_features(
    statistics: FeatureStatistics,
    sae: SAE,
    lm: LanguageModel,
    word: str,
    *,
    regex: bool = False,
    n: int = 20,
    contexts: int = 20,
    width: int = 8,
) -> list[Hit]:
    """The `n` features a word belongs to most, best first.

    A feature's score is the greatest of: the share of its `contexts` strongest contexts whose strongest token is part
    of the word; half the share in which the word stands within `width` tokens of it instead; 1/(1 + r) if its r-th
    promoted token is the word, r ≤ 10. Shares are what exceeds chance (how common the word is), over one context more
    than there are, so that a single lucky one does not win.

    Case does not count. A word is found whole, over however many tokens, or as a token of its own (`ing`); with
    `regex` it is a regular expression, searched in running text and in each token. Reads the stored text and
    activations; the model's unembedding alone is used. Raises `InputError` for a word that never occurs, with the
    nearest words, and for statistics of another autoencoder.
    """
    if statistics.n_latents != sae.n_latents:
        raise InputError(
            f"the statistics are of {statistics.n_latents} latents, the autoencoder has {sae.n_latents}: gather its own"
        )
    query, spelling = Word.of(word, regex), Spelling(lm.tokenizer)
    text = Text(statistics.text(), spelling)
    marks = _marks(statistics, text, query, width)
    ranks = _ranks(statistics, sae, lm, spelling, query)
    if not marks.on.any() and not ranks:
        raise InputError(_nowhere(statistics, text, query))
    sums = statistics.on(marks.on)[1]
    candidates = np.union1d(np.flatnonzero(statistics.on(marks.near)[0]), sorted(ranks)).astype(np.int64)
    hits = [
        _hit(latent, statistics, marks, contexts, float(sums[latent]), ranks.get(latent))
        for latent in candidates.tolist()
    ]
    return sorted((hit for hit in hits if hit.score > 0), key=lambda hit: (-hit.score, -hit.share, hit.latent))[:n]


def _marks(statistics: FeatureStatistics, text: Text, query: Word, width: int) -> _Marks:
    kept = ~statistics.left_out()
    marked = text.marked(query) & kept
    near = around(marked, width) & kept
    on, beside = int(marked.sum()), int((near & ~marked).sum())
    return _Marks(marked.ravel(), near.ravel(), width, on / statistics.n_tokens, beside / statistics.n_tokens)


def _ranks(
    statistics: FeatureStatistics, sae: SAE, lm: LanguageModel, spelling: Spelling, query: Word
) -> dict[int, tuple[int, str]]:
    """Latents alive on the text that promote the word: at which rank, and as which token."""
    if not promotes(sae, lm):
        return {}
    words = {token: word for token in range(lm.vocab_size) if query.is_token(word := spelling.word(token))}
    alive = np.flatnonzero(statistics.densities > 0).tolist()
    if not words or not alive:
        return {}
    return {latent: (rank, words[token]) for latent, rank, token in _promotions(sae, lm, alive, list(words))}


def _promotions(
    sae: SAE, lm: LanguageModel, latents: Sequence[int], tokens: Sequence[int]
) -> Iterator[tuple[int, int, int]]:
    """Latent, rank and token of the first promoted token that is one of `tokens`, where one is."""
    with progress("promoted tokens", len(latents), "features") as bar:
        for start in range(0, len(latents), _LATENTS):
            part = latents[start : start + _LATENTS]
            found = promoted(sae, lm, part, min(10, lm.vocab_size)).top_ids.numpy()
            matches = np.isin(found, tokens)
            for row in np.flatnonzero(matches.any(1)).tolist():
                rank = int(matches[row].argmax())
                yield part[row], rank + 1, int(found[row, rank])
            bar.advance(len(part))


def _hit(
    latent: int,
    statistics: FeatureStatistics,
    marks: _Marks,
    most: int,
    on: float,
    promotion: tuple[int, str] | None,
) -> Hit:
    """The evidence for one latent, of whose activations those on the word sum to `on`."""
    tokens, values = statistics.activations(latent)
    top = tokens[context.strongest(tokens, values, statistics.length, most)]
    peaks = int(marks.on[top].sum())
    near = int(marks.near[top].sum()) - peaks
    contexts = f"of {len(top)} contexts"
    evidence = {
        f"its peak in {peaks} {contexts}": _excess(peaks, marks.share_on, len(top)),
        f"within {marks.width} tokens of the peak in {near} {contexts}": _excess(near, marks.share_beside, len(top))
        / 2,
    }
    if promotion is not None:
        evidence[f"promoted, rank {promotion[0]}"] = 1 / (1 + promotion[0])
    reason = max(evidence, key=lambda key: evidence[key])
    total, marked = statistics.mean(latent) * len(tokens), int(marks.on.sum())
    means = on / max(marked, 1), (total - on) / max(statistics.n_tokens - marked, 1)
    share = on / total if total else 0.0
    return Hit(latent, evidence[reason], reason, len(top), peaks, near, *means, share, *(promotion or (None, None)))


def _excess(found: int, chance: float, of: int) -> float:
    return max(found - chance * of, 0) / (of + 1)


def _nowhere(statistics: FeatureStatistics, text: Text, query: Word) -> str:
    where = f"on none of the {statistics.n_tokens:,} tokens read, and no feature promotes it"
    if query.regex:
        return f"{query.given!r} matches {where}: give another expression, or read more text with --windows"
    near = text.near(query.given)
    advice = f"the nearest words are {', '.join(near)}" if near else "no word of the text is like it"
    return f"{query.given!r} occurs {where}: {advice}, or read more text with --windows"
