"""The measure of the study: what a judge that reads, sentence embeddings and token types say of the units of an arm."""

from __future__ import annotations

import time

import torch
from jaxtyping import Float64
from torch import Tensor

from monosem.interpret import Score
from monosem.reproduce.arm import Measured
from monosem.reproduce.data import Data
from monosem.reproduce.interpretability import judge, text
from monosem.reproduce.measure import BATCH, by_rank
from monosem.reproduce.scale import Scale
from monosem.sae import SAE, TopK


def interpretability(sae: SAE, data: Data, scale: Scale) -> Measured:
    """`read`: for every budget, and for `pre`, means over features drawn; `ranks`: coherence at each rank of K."""
    if data.text is None:
        return {}
    read: Measured = {}
    ranks: Measured = {}
    for name, of in text.units(sae, scale):
        found = text.statistics(of, data.held_out, data.text)
        own = text.drawn(found, scale)
        if own is None:
            read[name] = None
            continue
        scores = text.scores(found, own, data.text)
        if scale.extra.get("judge"):
            scores += judge.scores(scale.extra["judge"], own, data.text, name)
        read[name] = text.figures(scores, own)
        if isinstance(sae.rule, TopK) and name == str(scale.k):
            ranks = {"ranks": by_ranks(sae, data, scores[0])}
    return {"read": read, **ranks}


def seconds(scale: Scale) -> float:
    """What reading the units of an arm takes, from embedding some sentences."""
    some = ["the features of a language model are read by a sentence model, and this is one of its texts"] * 32
    text.encoder()(some)
    start = time.perf_counter()
    text.encoder()(some)
    each = (time.perf_counter() - start) / len(some)
    return each * scale.extra["features"] * 2 * scale.extra["contexts"]


def by_ranks(sae: SAE, data: Data, score: Score) -> list[float | None]:
    """At each rank, the mean score of the features drawn, over tokens on which one of them has that rank."""
    known = torch.zeros(sae.n_latents, dtype=torch.float64)
    asked = torch.zeros(sae.n_latents, dtype=torch.float64)
    for one in score.features:
        if one.value == one.value:
            known[one.latent], asked[one.latent] = one.value, 1.0
    codes = [sae.codes(part) for part in data.held_out.split(BATCH)]
    total, share = by_rank(codes, known), by_rank(codes, asked)
    return _short(total / share)


def _short(values: Float64[Tensor, " K"]) -> list[float | None]:
    return [None if value != value else round(value, 6) for value in values.tolist()]
