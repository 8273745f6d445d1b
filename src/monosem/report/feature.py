"""Everything a report shows of one latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from monosem.evaluation import promoted, promotes
from monosem.interpret import Label
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.report.context import Line, line, peak
from monosem.report.parent import Factors, Sibling, factors, siblings
from monosem.report.subject import Subject
from monosem.sae import origin

TOP, GROUPS, WORDS, BINS = 5, 3, 8, 24


class Word(NamedTuple):
    """A token of the vocabulary and its logit."""

    text: str
    value: float


class Feature(NamedTuple):
    """A latent: how often and how strongly it fires, the tokens it promotes, and where it fires.

    `histogram` counts its activations in equal bins from 0 to `max`; `peaks` are the distinct texts it fires
    on most; `sampled` has one random context from each third of its activations, the strongest third first.
    A latent of a KronSAE has factors, and siblings among the latents that are shown; one of a composition has an
    origin: its group, and its number there. `labels`: what judges say it stands for, the latest first.
    """

    latent: int
    factors: Factors | None
    origin: str | None
    siblings: list[Sibling]
    density: float
    tokens: int
    mean: float
    max: float
    histogram: list[int]
    peaks: list[str]
    promoted: list[Word]
    suppressed: list[Word]
    top: list[Line]
    sampled: list[Line]
    labels: Sequence[Label]


def features(
    subject: Subject,
    lm: LanguageModel,
    spelling: Spelling,
    latents: Sequence[int],
    seed: int,
    shown: Sequence[int] = (),
) -> list[Feature]:
    """One for each of `latents`, which must be alive, in the same order; siblings are sought in `shown`."""
    words: list[tuple[list[Word], list[Word]]] = [([], []) for _ in latents]
    if promotes(subject.sae, lm):
        found = promoted(subject.sae, lm, latents, min(WORDS, lm.vocab_size))
        words = [
            (_words(spelling, *top), _words(spelling, *bottom))
            for top, bottom in zip(
                zip(found.top_ids.tolist(), found.top_values.tolist()),
                zip(found.bottom_ids.tolist(), found.bottom_values.tolist()),
            )
        ]
    return [_feature(subject, spelling, latent, *own, seed, shown) for latent, own in zip(latents, words)]


def _words(spelling: Spelling, ids: Sequence[int], values: Sequence[float]) -> list[Word]:
    return [Word(spelling.word(token), value) for token, value in zip(ids, values)]


def _feature(
    subject: Subject,
    spelling: Spelling,
    latent: int,
    up: list[Word],
    down: list[Word],
    seed: int,
    shown: Sequence[int],
) -> Feature:
    own = subject.features
    top = own.top(latent, TOP)
    values = own.activations(latent).values
    return Feature(
        latent=latent,
        factors=factors(subject.sae, latent),
        origin="/".join(map(str, origin(subject.sae, latent))) if "groups" in subject.sae.info else None,
        siblings=siblings(subject.sae, latent, shown),
        density=own.density(latent),
        tokens=len(values),
        mean=own.mean(latent),
        max=own.max(latent),
        histogram=np.histogram(values, bins=BINS, range=(0, own.max(latent)))[0].tolist(),
        peaks=list(dict.fromkeys(peak(context, spelling) for context in top)),
        promoted=up,
        suppressed=down,
        top=[line(context, latent, own, spelling) for context in top],
        sampled=[line(one, latent, own, spelling) for one in own.quantiles(latent, 1, GROUPS, seed)],
        labels=subject.labels.get(latent, ()),
    )
