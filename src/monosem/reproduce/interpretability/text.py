"""What units fire on: statistics over held-out text, features drawn from them, and how coherent their contexts are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.evaluation import FeatureStatistics, statistics_of
from monosem.interpret import Drawn, Sampling, Score, SentenceEncoder, by_firing, coherence, draw, lexical
from monosem.interpret.proxy import BELOW
from monosem.lm.precision import fastest_dtype
from monosem.lm.spelling import Spelling
from monosem.reproduce.arm import Measured
from monosem.reproduce.data import Text
from monosem.reproduce.measure import BATCH
from monosem.reproduce.scale import Scale
from monosem.sae import SAE, KronEncoder, TopK
from monosem.shapes import InputError
from monosem.shapes.codes import Codes

Encode = Callable[[Float[Tensor, "B D"]], Codes]


def units(sae: SAE, scale: Scale) -> Iterator[tuple[str, Encode]]:
    """What is read of an autoencoder: its latents at each of its budgets, and a Kron encoder's rows as `pre`."""
    for k in _ks(sae, scale):
        yield str(k), (sae.at(k) if isinstance(sae.rule, TopK) else sae).codes
    if isinstance(sae.encoder, KronEncoder):
        yield "pre", lambda x: _parents(sae, x)


def _ks(sae: SAE, scale: Scale) -> list[int]:
    config = sae.info["training"]["config"]
    nested = config["sae"] == ["hierarchical"]
    return [*scale.extra["ks"], scale.k] if nested else [config["k"]]


def _parents(sae: SAE, x: Float[Tensor, "B D"]) -> Codes:
    """p and q of every head as if they were latents, active where one that is selected is made of them.

    They are positive on a fifth of all tokens, where hardly a context would be without them.
    """
    assert isinstance(sae.encoder, KronEncoder)
    both = torch.cat(sae.pre_latents(x), dim=2).flatten(1)
    rows, latents, _ = sae.codes(x).entries()
    used = torch.zeros_like(both)
    for parent in sae.encoder.parents(latents):
        used[rows, parent] = 1.0
    return Codes(both * used, None, both.shape[1])


def sampling(scale: Scale) -> Sampling:
    """How many contexts of a feature are read."""
    n = scale.extra["contexts"]
    return Sampling(positives=n, negatives=n, least=n)


def statistics(of: Encode, x: Float[Tensor, "N D"], text: Text) -> FeatureStatistics:
    """Where every unit fires on the held-out text."""
    return statistics_of((of(part) for part in x.split(BATCH)), text.windows, text.keep)


def drawn(found: FeatureStatistics, scale: Scale) -> Drawn | None:
    """Features at random; half of the silent contexts are such that a unit firing on the same tokens does fire."""
    try:
        return draw(found, scale.extra["features"], similar=by_firing(found), sampling=sampling(scale))
    except InputError:
        return None


def scores(found: FeatureStatistics, own: Drawn, text: Text) -> list[Score]:
    """By sentence embeddings, beside shuffled contexts; and by token types alone."""
    spelling = Spelling(text.tokenizer)
    read = coherence(encoder(), own, spelling, judge=JUDGE, controls=("shuffled",))
    return [*read, *(one for one in lexical(found, own, controls=()) if one.method == BELOW)]


@cache
def encoder() -> SentenceEncoder:
    """The sentence model, loaded once; in half precision where that is faster: cosines change by less than 1e-4."""
    return SentenceEncoder.embedded(dtype=getattr(torch, fastest_dtype().dtype))


JUDGE = "embedding:all-MiniLM-L6-v2"


def figures(found: list[Score], own: Drawn) -> Measured:
    """Means over features, None where none has a value; and how they were drawn."""
    means = {_name(one): None if math.isnan(one.mean.value) else round(one.mean.value, 6) for one in found}
    return {**means, "features": len(own.features), "alive": own.alive, "few": own.few, "dense": own.dense}


def _name(one: Score) -> str:
    return one.method if one.control is None else f"{one.method}_{one.control}"
