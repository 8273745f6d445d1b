"""A comparison as one HTML file that loads nothing: figures, paired differences, trade-offs, matched latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

from monosem.disk import whole_file
from monosem.evaluation import Comparison, Difference, Match, promoted, promotes
from monosem.evaluation.match import Pairs
from monosem.evaluation.provenance import whereabouts
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.report import plot, tradeoff
from monosem.report.colour import colour
from monosem.report.page import environment
from monosem.sae import SAE

FIGURES = {
    "explained_variance": ("explained variance", "1 − Σ‖x − x̂‖² / Σ‖x − mean‖² over the kept tokens", ".4f"),
    "l0": ("L0", "mean number of active latents on a token", ".2f"),
    "ce_loss_score": (
        "CE score, zero",
        "(CE with the site set to zero − CE with x̂ in its place) / (CE with zero − CE of the unchanged model)",
        ".4f",
    ),
    "ce_loss_score_mean": ("CE score, mean", "the same with the site set to its mean instead of zero", ".4f"),
    "kl_div": ("KL, nats", "KL(unchanged ‖ x̂ in place) of the next-token distribution", ".4f"),
}
"""Heading, meaning and style of each figure."""
EXAMPLES = 12


class Example(NamedTuple):
    """A latent with its nearest in the other autoencoder, and what both promote."""

    a: int
    b: int
    cosine: float
    promoted_a: list[str]
    promoted_b: list[str]
    label_a: str | None = None
    label_b: str | None = None


class Shared(NamedTuple):
    """A match with latents that both have, drawn at random, and those of `a` that `b` has least."""

    match: Match
    found: list[Example]
    missing: list[Example]


def write_comparison(
    path: str | Path,
    comparison: Comparison,
    saes: Mapping[str, SAE],
    lm: LanguageModel,
    *,
    command: str,
    captions: Mapping[str, Mapping[int, str]] = MappingProxyType({}),
) -> Path:
    """Write the page of `compare`'s result; `command` is shown as what made it.

    `captions`: labels of latents by autoencoder, where some have one.
    """
    evaluations = {name: one.to_json() for name, one in comparison.evaluations.items()}
    reference = next(iter(evaluations))
    origin = evaluations[reference]["provenance"]
    text = (
        environment()
        .get_template("comparison.html.j2")
        .render(
            names=list(evaluations),
            colours=[colour(place) for place in range(len(evaluations))],
            title=f"{len(evaluations)} autoencoders of {whereabouts(origin)} in {lm.name}",
            origin=origin,
            n_tokens=evaluations[reference]["n_tokens"],
            command=command,
            figures=FIGURES,
            evaluations=evaluations,
            differences=_differences(comparison, reference),
            reference=reference,
            pictures=tradeoff.pictures(comparison, evaluations) if plot.available() else None,
            shared=[_shared(one, saes, lm, captions) for one in comparison.matches if one.a == reference],
            matches=[one.to_json() for one in comparison.matches],
        )
    )
    with whole_file(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def _differences(comparison: Comparison, reference: str) -> dict[str, dict[str, Difference]]:
    """By autoencoder, then by metric, what it has more than the first."""
    known = {one.metric for one in comparison.differences}
    return {
        name: {key: comparison.difference(key, reference, name) for key in FIGURES if key in known}
        for name in comparison.evaluations
        if name != reference
    }


def _shared(
    match: Match, saes: Mapping[str, SAE], lm: LanguageModel, captions: Mapping[str, Mapping[int, str]]
) -> Shared:
    """Random ones of the mutual pairs above 0.7, and the latents of `a` farthest from any of `b`."""
    good = np.flatnonzero(match.mutual.cosine.numpy() > 0.7)
    drawn = np.sort(np.random.default_rng(0).choice(good, min(EXAMPLES, len(good)), replace=False))
    near = match.nearest.a_to_b
    far = near.cosine.argsort(stable=True)[:EXAMPLES]
    first, second = saes[match.a], saes[match.b]
    known = [captions.get(name, {}) for name in (match.a, match.b)]
    rows = [_examples(pairs, first, second, lm) for pairs in (match.mutual.at(torch.from_numpy(drawn)), near.at(far))]
    return Shared(match, *([_captioned(one, *known) for one in part] for part in rows))


def _captioned(one: Example, first: Mapping[int, str], second: Mapping[int, str]) -> Example:
    return one._replace(label_a=first.get(one.a), label_b=second.get(one.b))


def _examples(pairs: Pairs, first: SAE, second: SAE, lm: LanguageModel) -> list[Example]:
    a, b, cosines = (column.tolist() for column in pairs)
    return [Example(*row) for row in zip(a, b, cosines, _words(first, a, lm), _words(second, b, lm), strict=True)]


def _words(sae: SAE, latents: list[int], lm: LanguageModel, n: int = 6) -> list[list[str]]:
    if not latents or not promotes(sae, lm):
        return [[] for _ in latents]
    spelling = Spelling(lm.tokenizer)
    found = promoted(sae, lm, latents, min(n, lm.vocab_size)).top_ids.tolist()
    return [[spelling.word(token) for token in row] for row in found]
