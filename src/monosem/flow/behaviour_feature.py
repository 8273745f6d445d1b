"""A scorer of behaviour by features of the last layer that fire on the theme and are not steered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from monosem.flow.behaviour import Linear
from monosem.flow.node import Node
from monosem.flow.sample import Sample, Split
from monosem.flow.suite import Suite
from monosem.flow.theme import CLEAR, distinction, fired, rates
from monosem.lm import LanguageModel
from monosem.sae import SAE
from monosem.shapes import InputError, Site

FEATURES = 10
NEAR = 0.5
"""Absolute cosine with a steered direction from which on a feature may not score."""


def features(
    lm: LanguageModel,
    suite: Suite,
    theme: Split,
    background: Split,
    steered: Float[Tensor, "S D"],
    nodes: Sequence[Node] = (),
    count: int = FEATURES,
) -> Linear:
    """The share of tokens on which one of `count` features fires, at the last layer of the suite.

    They are those that tell the theme best, among those that are neither steered nor close to a steered direction.
    Raises `InputError` where there is none.
    """
    site = Site("resid_post", max(suite.layers()))
    sae = suite[site].eval()
    free = ~suite.direction(site).dead.cpu() & ~_near(suite.direction(site).unit.cpu(), steered)
    free[[node.latent for node in nodes if node.site == site]] = False
    own, other = (rates(lm, site, sae, split.train) for split in (theme, background))
    best = torch.where(free, distinction(own, other), -torch.inf).topk(min(count, sae.n_latents))
    chosen = best.indices[best.values > CLEAR].tolist()
    if not chosen:
        raise InputError(f"no feature of {site} that is not steered fires more on the theme than on other text")
    wanted = torch.zeros(sae.n_latents, dtype=torch.bool)
    wanted[chosen] = True
    said = {"features": [str(Node(site, latent)) for latent in chosen]}
    return Linear.of("features", partial(_share, lm, site, sae, wanted), theme, background, said)


def _near(unit: Float32[Tensor, "F D"], steered: Float[Tensor, "S D"]) -> Bool[Tensor, " F"]:
    if not len(steered):
        return torch.zeros(len(unit), dtype=torch.bool)
    directions = torch.nn.functional.normalize(steered.float().cpu(), dim=1)
    return (unit @ directions.T).abs().amax(1) >= NEAR


def _share(
    lm: LanguageModel, site: Site, sae: SAE, wanted: Bool[Tensor, " F"], texts: Sequence[Sample]
) -> Float64[np.ndarray, " N"]:
    """The share of each text's tokens on which any wanted latent fires."""
    found = np.zeros(len(texts))
    for one in fired(lm, site, sae, texts):
        found[one.place] = len(one.tokens[wanted[one.latents]].unique()) / max(one.length, 1)
    return found
