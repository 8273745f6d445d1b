"""Activation thresholds θ, one a latent: what an activation has to exceed, and the unit that folding measures it in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float32
from torch import Tensor

from monosem.flow.suite import Suite
from monosem.sae import SAE, BatchTopK, GroupedEncoder, JumpReLU
from monosem.shapes import InputError, Site

Thresholds = Mapping[Site, Float32[Tensor, " F"]]
"""Positive thresholds by site in units of codes, instead of the rules' own: `Firing.medians`, for example."""


@torch.no_grad()
def thresholds(sae: SAE) -> Float32[Tensor, " F"]:
    """Of JumpReLU the learned ones, of BatchTopK its one for all; in units of codes, never negative.

    Raises `InputError` for TopK and ReLU, which have none.
    """
    encoders = list(sae.encoder) if isinstance(sae.encoder, GroupedEncoder) else [sae.encoder]
    parts = []
    for encoder, rule in zip(encoders, sae.rules, strict=True):
        if isinstance(rule, JumpReLU):
            own = rule.threshold
        elif isinstance(rule, BatchTopK) and not rule.cut.isnan():
            own = rule.cut.expand(encoder.n_latents)
        else:
            raise InputError(
                f"{type(rule).__name__} autoencoders have no thresholds to fold by: "
                "use unfolded weights, or the median activation of each latent (pseudo thresholds)"
            )
        parts.append(own.detach().float().clamp_min(0))
    return torch.cat(parts)


def positive_thresholds(suite: Suite, site: Site, given: Thresholds | None = None) -> Float32[Tensor, " F"]:
    """Those given for a site, else its own. Raises `InputError` for latents whose threshold is 0."""
    found = given[site] if given is not None and site in given else thresholds(suite[site])
    if none := int((found <= 0).sum()):
        raise InputError(
            f"{none:,} of {len(found):,} latents at {site} have a threshold of 0, by which nothing can be divided: "
            "use unfolded weights or pseudo thresholds"
        )
    return found
