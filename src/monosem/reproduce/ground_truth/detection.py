"""Which known features a latent tells: when a feature is present, and when not."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.reproduce.arm import Measured
from monosem.reproduce.data import Data
from monosem.reproduce.measure import batches
from monosem.reproduce.scale import Scale
from monosem.sae import SAE


def detection(sae: SAE, data: Data, scale: Scale) -> Measured:
    """`f1`: for every feature that of the latent which tells it best, weighted by the feature's rate.

    Any latent counts, whatever its decoder row is, so a dictionary of random directions may detect what it does not
    recover. Best of many on the same tokens: an upper bound. Nothing for data without known features.
    """
    if "present" not in data.truth:
        return {}
    active = torch.cat([batch.codes.dense() > 0 for batch in batches(sae, data.truth["probe"])])
    scores = f1(active.cpu(), data.truth["present"]).max(0).values.double()
    rates = data.truth["rates"]
    return {"f1": round(float((scores * rates).sum() / rates.sum()), 6)}


def f1(active: Bool[Tensor, "N L"], present: Bool[Tensor, "N F"]) -> Float[Tensor, "L F"]:
    """2·both / (active + present) of every latent and feature; 0 where neither ever is."""
    both = active.float().T @ present.float()
    either = active.sum(0).unsqueeze(1) + present.sum(0)
    return 2 * both / either.clamp_min(1)
