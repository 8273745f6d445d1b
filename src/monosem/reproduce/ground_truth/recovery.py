"""Which known features a dictionary holds: cosines of their atoms with decoder rows."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from monosem.evaluation.match import nearest, one_to_one_pairs
from monosem.reproduce.arm import Measured
from monosem.reproduce.data import Data
from monosem.reproduce.scale import Scale
from monosem.sae import SAE

RECOVERED = 0.9
"""A feature is recovered where some decoder row has a larger cosine with its atom."""
GROUPS = 10


def recovery(sae: SAE, data: Data, scale: Scale) -> Measured:
    """Shares of the features recovered, and mean cosines; nothing for data without known features."""
    if "features" not in data.truth:
        return {}
    return compared(sae.W_dec.detach().cpu(), data.truth["features"], data.truth["rates"])


def compared(rows: Float[Tensor, "L D"], atoms: Float[Tensor, "F D"], rates: Float64[Tensor, " F"]) -> Measured:
    """Decoder rows against atoms; signs count, the lengths of rows do not.

    `recovered`: share of features with a row of cosine above 0.9; `one_to_one`: the same where a row counts for one
    feature only (assignment with the greatest sum of cosines). `of_firings`: share of all firings that are those of
    recovered features. `of_frequent`: share recovered of the L most frequent features, which is what a dictionary of L
    rows could hold. `rows`: share of rows that are a feature. `mmcs`: mean over features of the largest cosine, beside
    `mmcs_chance`, that of as many random directions. `by_rate`: share recovered in each tenth of the features, the
    most frequent tenth first.
    """
    found = nearest(atoms, rows)
    held = (found.a_to_b.cosine > RECOVERED).double()
    order = rates.argsort(descending=True)
    random = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    figures = {
        "recovered": held.mean(),
        "one_to_one": (one_to_one_pairs(atoms, rows).cosine > RECOVERED).sum() / len(atoms),
        "of_firings": (held * rates).sum() / rates.sum(),
        "of_frequent": held[order[: len(rows)]].mean(),
        "rows": (found.b_to_a.cosine > RECOVERED).double().mean(),
        "mmcs": found.a_to_b.cosine.double().mean(),
        "mmcs_chance": nearest(atoms, random).a_to_b.cosine.double().mean(),
    }
    tenths = [round(float(part.mean()), 6) for part in held[order].tensor_split(GROUPS)]
    return {name: round(float(value), 6) for name, value in figures.items()} | {"by_rate": tenths}
