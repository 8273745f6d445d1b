"""What is measured on a trained autoencoder, over held-out tokens, in raw space, with sums in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from monosem.evaluation.batch import Batch
from monosem.evaluation.density import Density
from monosem.evaluation.explained_variance import ExplainedVariance
from monosem.evaluation.l0 import l0
from monosem.evaluation.per_k import PerK
from monosem.evaluation.ratio import Ratio
from monosem.evaluation.variation import Variation
from monosem.reproduce.arm import Measured
from monosem.reproduce.data import Data
from monosem.reproduce.scale import Scale
from monosem.sae import SAE, TopK
from monosem.shapes.codes import Codes

Measure = Callable[[SAE, Data, Scale], Measured]
"""Figures of one autoencoder, JSON-able; those of several measures are put side by side."""

BATCH = 1024
FEW = 8
"""The small budget at which dead latents are counted as well."""


def batches(sae: SAE, x: Float[Tensor, "N D"]) -> Iterator[Batch]:
    """The tokens through an autoencoder, some at a time."""
    for part in x.split(BATCH):
        yield Batch.of(sae, part)


def curve(sae: SAE, data: Data, scale: Scale) -> Measured:
    """`ev` and `l0` at every budget in `k`, and the k that was `trained` for.

    Budgets go up to that k, and to twice as many (extrapolated) where it is the scale's. Autoencoders whose number of
    active latents varies have one entry.
    """
    if not isinstance(sae.rule, TopK):
        return {"trained": trained_k(sae), "k": [trained_k(sae)], **_whole(sae, data.held_out)}
    most = 2 * sae.rule.k if sae.rule.k == scale.k else sae.rule.k
    reading = sae.at(min(most, sae.n_latents)) if most > sae.rule.k else sae
    variation, per_k = Variation(), PerK(reading)
    for batch in batches(reading, data.held_out):
        variation.update(batch.x)
        per_k.update(batch)
    rows = per_k.compute(float(variation.per_batch().sum()))
    budgets, explained, active = ([row[key] for row in rows] for key in ("k", "explained_variance", "l0"))
    return {"trained": sae.rule.k, "k": budgets, "ev": _short(explained), "l0": _short(active)}


def trained_k(sae: SAE) -> int:
    """The mean number of active latents an autoencoder was trained for."""
    return int(sae.info["training"]["config"]["k"])


def _whole(sae: SAE, x: Float[Tensor, "N D"]) -> Measured:
    active = Ratio()
    for batch in batches(sae, x):
        active.update(l0(batch))
    return {"ev": _short([explained_variance(sae, x)]), "l0": _short([active.compute().value])}


def explained_variance(sae: SAE, x: Float[Tensor, "N D"]) -> float:
    """1 − Σ‖x − x̂‖² / Σ‖x − mean‖² over these tokens."""
    variation, explained = Variation(), ExplainedVariance()
    for batch in batches(sae, x):
        variation.update(batch.x)
        explained.update(batch)
    return explained.compute(variation).value


def dead(sae: SAE, data: Data, scale: Scale) -> Measured:
    """Share of latents without any activation on the held-out tokens: `dead`, and `dead_few` with the 8 strongest."""
    ranked = isinstance(sae.rule, TopK) and sae.rule.k >= FEW
    whole, few = Density(sae.n_latents), Density(sae.n_latents)
    for batch in batches(sae, data.held_out):
        whole.update(batch)
        if ranked:
            few.update(replace(batch, codes=batch.codes.at(FEW)))
    found = {"dead": whole.compute()["frac_dead"]}
    return found | ({"dead_few": few.compute()["frac_dead"]} if ranked else {})


def crowding(sae: SAE, data: Data, scale: Scale) -> Measured:
    """`crowding`: mean over latents of the largest cosine with another decoder row."""
    rows = _unit(sae.W_dec.detach())
    largest = []
    for start in range(0, len(rows), BATCH):
        cosines = rows[start : start + BATCH] @ rows.T
        own = torch.arange(len(cosines), device=rows.device)
        cosines[own, own + start] = -1
        largest.append(cosines.max(1).values.double())
    return {"crowding": round(float(torch.cat(largest).mean()), 6)}


def rank_recovery(sae: SAE, data: Data, scale: Scale) -> Measured:
    """`recovery`: at each rank, how well latents there match a known atom: mean over tokens of the best cosine."""
    if "atoms" not in data.truth or not isinstance(sae.rule, TopK):
        return {}
    rows = _unit(sae.W_dec.detach().cpu())
    best = (rows @ _unit(data.truth["atoms"]).T).max(1).values
    codes = (batch.codes for batch in batches(sae, data.held_out))
    return {"recovery": _short(by_rank(codes, best.double()).tolist())}


def rank_entropy(sae: SAE, data: Data, scale: Scale) -> Measured:
    """`entropy`: at each rank, mean over tokens of the token entropy of the latents there, in bits."""
    if data.tokens is None or not isinstance(sae.rule, TopK):
        return {}
    codes = [batch.codes for batch in batches(sae, data.held_out)]
    entropy = token_entropy(codes, data.tokens)
    return {"entropy": _short(by_rank(codes, entropy).tolist())}


def by_rank(codes: Iterable[Codes], score: Float64[Tensor, " F"]) -> Float64[Tensor, " K"]:
    """Mean score of the latents at each rank of a token's sorted activations, over tokens active there.

    NaN at a rank that no token reaches.
    """
    total = count = torch.zeros(1, dtype=torch.float64)
    for one in codes:
        assert one.indices is not None
        active = one.active.double().cpu()
        total = total + (score[one.indices.cpu()] * active).sum(0)
        count = count + active.sum(0)
    return total / count


def token_entropy(codes: Sequence[Codes], tokens: Int[Tensor, " N"]) -> Float64[Tensor, " F"]:
    """−Σ_t p_t log₂ p_t, p_t the share of a latent's activations that fall on token type t; 0 for a silent latent."""
    latents, types = [], []
    for one, part in zip(codes, tokens.split([one.rows for one in codes]), strict=True):
        rows, active, _ = one.entries()
        latents.append(active.cpu())
        types.append(part.cpu()[rows.cpu()])
    pairs, counts = torch.unique(torch.stack([torch.cat(latents), torch.cat(types)]), dim=1, return_counts=True)
    total = torch.zeros(codes[0].n_latents, dtype=torch.float64).index_add_(0, pairs[0], counts.double())
    share = counts.double() / total[pairs[0]]
    return torch.zeros_like(total).index_add_(0, pairs[0], -share * share.log2())


def _unit(rows: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _short(values: Iterable[float | None]) -> list[float | None]:
    """Six decimals are far below any difference that is judged; what is not defined is null."""
    return [None if value is None or math.isnan(value) else round(value, 6) for value in values]
