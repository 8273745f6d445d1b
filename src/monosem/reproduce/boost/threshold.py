"""Thresholds set by quantile, so that a wanted L0 is met exactly on the tokens they are set on."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.sae import SAE, BatchTopK, GroupedEncoder
from monosem.training.calibration import quantile

Batches = Sequence[Float[Tensor, "B D"]]


@torch.no_grad()
def at_l0(sae: SAE, batches: Batches, l0: float) -> SAE:
    """A copy of an autoencoder with one BatchTopK threshold, set so that `l0` latents are active a token."""
    new = copy.deepcopy(sae)
    assert isinstance(new.rule, BatchTopK)
    new.rule.cut.copy_(quantile(new, list(batches), l0))
    return new.eval()


@torch.no_grad()
def with_last_at(sae: SAE, batches: Batches, k: float) -> SAE:
    """A copy of a sum whose last group has k latents active a token; other groups keep their thresholds.

    A group that keeps a fixed number of latents of each token has no threshold, and the copy is equal.
    """
    new = copy.deepcopy(sae)
    alone = last(new)
    if isinstance(alone.rule, BatchTopK):
        alone.rule.cut.copy_(quantile(alone, list(batches), k))
    return new.eval()


def last(sae: SAE) -> SAE:
    """The encoder, rule and centre of the last group of a sum, shared, as an autoencoder without a decoder."""
    assert isinstance(sae.encoder, GroupedEncoder)
    alone = SAE(
        list(sae.encoder)[-1],
        sae.rules[-1],
        d_out=sae.d_out,
        scale=sae.scale,
        code_scale=sae.code_scale,
        out_scale=None if sae.out_scale == sae.scale else sae.out_scale,
        subtract_b_dec=sae.subtract_b_dec,
    ).to(sae.W_dec.device)
    alone.b_dec = sae.b_dec
    return alone.eval()


@torch.no_grad()
def l0(sae: SAE, batches: Batches) -> float:
    """Mean active latents a token."""
    return sum(int(sae.codes(x).l0().sum()) for x in batches) / sum(len(x) for x in batches)
