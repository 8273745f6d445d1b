"""Proxies that read nothing but token ids: how few types a feature fires on, and on how much of a text.

They say how specific a feature is to single tokens, not whether anybody understands it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.evaluation import FeatureStatistics
from monosem.interpret.entropy import random_entropy, unit_entropy
from monosem.interpret.example import Drawn
from monosem.interpret.planning import Control
from monosem.interpret.scoring import FeatureScore, Score

JUDGE = "lexical"
ENTROPY, BELOW, RATIO = "token_entropy", "bits_below_chance", "multitoken_ratio"


def lexical(
    statistics: FeatureStatistics,
    drawn: Drawn,
    *,
    controls: Sequence[Control] = ("shuffled",),
    sae: str = "sae",
) -> list[Score]:
    """Token entropy in bits, how far below that of as many random tokens, and multi-token ratio (arXiv 2505.22255).

    The entropy −Σ p log₂ p is over token types, p a type's share of all activations of a feature, by counts. The ratio
    is the mean, over windows in which a feature fires, of the tokens on which it does over the tokens that count.
    `shuffled`: as many random tokens for each feature. A constant answer has no meaning here.
    """
    latents = [one.latent for one in drawn.features]
    own = [statistics.activations(latent).tokens.astype(np.int64) for latent in latents]
    kept = np.flatnonzero(~statistics.left_out().reshape(-1))
    generator = np.random.default_rng(drawn.seed or 0)
    places: dict[Control | None, list[np.ndarray]] = {None: own}
    if "shuffled" in controls:
        places["shuffled"] = [np.sort(generator.choice(kept, len(one), replace=False)) for one in own]
    types = torch.from_numpy(np.unique(statistics.text().reshape(-1), return_inverse=True)[1].reshape(-1))
    expected = random_entropy(types[kept], [len(one) for one in own])
    per_window = np.bincount(kept // statistics.length, minlength=statistics.n_windows)
    found = []
    for control, tokens in places.items():
        bits = unit_entropy(_counts(types, tokens)).numpy()
        ratios = [_ratio(one // statistics.length, per_window) for one in tokens]
        figures = {ENTROPY: bits, BELOW: expected - bits, RATIO: ratios}
        levels = {ENTROPY: float(expected.mean()), BELOW: 0.0, RATIO: float("nan")}
        for method, values in figures.items():
            scores = [
                FeatureScore(latent, float(value), len(one), 0) for latent, value, one in zip(latents, values, tokens)
            ]
            found.append(Score(sae, method, JUDGE, control, levels[method], scores, drawn=drawn))
    return found


def _counts(types: Int[Tensor, " N"], tokens: Sequence[np.ndarray]) -> Float[Tensor, "V U"]:
    """On how many tokens of each type each of some features fires."""
    most = int(types.max()) + 1
    return torch.stack([torch.bincount(types[one], minlength=most) for one in tokens], dim=1).float()


def _ratio(windows: Int[np.ndarray, " N"], kept: Int[np.ndarray, " W"]) -> float:
    where, counts = np.unique(windows, return_counts=True)
    return float((counts / kept[where]).mean())
