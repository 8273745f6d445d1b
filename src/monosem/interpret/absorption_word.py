"""First-letter absorption: latents that take over a word from the latent of its letter (arXiv 2409.14507).

The definitions are those of SAEBench 0.6 (arXiv 2503.09532), on numbers alone: x is the activation of a word, d the
unit vector of a linear probe for its letter, p = x · d, and latent i adds s_i = f_i · W_dec[i] · d to p.

* main latents: those of the smallest k-sparse probe after which one latent more raises F1 by at most 0.03;
* absorption fraction: at most 3 absorbers (not main, cos(W_dec[i], d) ≥ 0.1, s_i > 0), which add A. 0 where the main
  latents add m ≥ p or A < 0.4 p, 1 where m ≤ 0, else a / (a + m) with a = min(A, p − m);
* full absorption: no main latent fires, and the latent with the greatest s_i has cos ≥ 0.025 and s_i ≥ 0.4 p, p > 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.interpret.probing_logistic import fit, fit_all
from monosem.interpret.probing_score import graded

COSINE, FULL_COSINE, PROPORTION, ABSORBERS = 0.1, 0.025, 0.4, 3
MOST_SPLITS, JUMP, L1 = 10, 0.03, 0.01
_SILENT = 1e-8


class Absorbed(NamedTuple):
    """Of each of N words of a letter: the absorption fraction, and whether absorption is full."""

    fraction: Float[Tensor, " N"]
    full: Bool[Tensor, " N"]


def absorbed(
    activations: Float[Tensor, "N A"],
    p: Float[Tensor, " N"],
    cosines: Float[Tensor, " A"],
    main: Int64[Tensor, " m"],
) -> Absorbed:
    """Both measures of every word. Activations are in the unit in which decoder rows have norm 1 and p is given.

    A word with p ≤ 0 has no absorption.
    """
    shares = activations * cosines
    own = shares[:, main].sum(1)
    others = torch.ones(shares.shape[1], dtype=torch.bool)
    others[main] = False
    able = others & (cosines >= COSINE) & (shares > 0)
    taken = torch.where(able, shares, 0.0).topk(min(ABSORBERS, shares.shape[1]), dim=1).values.sum(1)
    missing = torch.minimum(taken, p - own)
    fraction = torch.where(own <= 0, 1.0, missing / (missing + own)).clamp(0, 1)
    none = (p <= 0) | (own >= p) | (taken < PROPORTION * p)
    top = shares.max(1)
    full = (activations[:, main].abs() < _SILENT).all(1) & (cosines[top.indices] >= FULL_COSINE)
    full = full & (p > 0) & (top.values >= PROPORTION * p)
    return Absorbed(torch.where(none, 0.0, fraction), full)


class Splits(NamedTuple):
    """The main latents of a letter (columns), and F1 on test words of probes with 1, 2, … of the strongest."""

    main: Int64[Tensor, " m"]
    f1: list[float]


def splits(
    train: Float[Tensor, "N A"],
    train_y: Bool[Tensor, "N C"],
    test: Float[Tensor, "M A"],
    test_y: Bool[Tensor, "M C"],
    classes: list[int],
) -> dict[int, Splits]:
    """For each of the classes: latents by their weights in an L1 probe of all, then balanced k-sparse probes."""
    weights = fit_all(train, train_y, l1=L1).weight
    found = {}
    for one in classes:
        ranked = weights[one].argsort(descending=True, stable=True)[:MOST_SPLITS]
        kept, scores = 0, []
        for k in range(1, len(ranked) + 1):
            probe = fit(train[:, ranked[:k]], train_y[:, one], balanced=True)
            scores.append(graded(probe.scores(test[:, ranked[:k]]) > 0, test_y[:, one]).f1)
            if k > 1 and scores[-1] <= scores[-2] + JUMP:
                break
            kept = k
        found[one] = Splits(ranked[:kept], scores)
    return found
