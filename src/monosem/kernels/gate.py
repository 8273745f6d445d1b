"""How two pre-latents make a latent (arXiv 2505.22255). One row of `GATES` each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Pair = tuple[Tensor, Tensor]


class Gate(NamedTuple):
    """`score` ranks latents, `value` is their activation, `slopes` its derivatives by both parents.

    `degree`: scaling both parents by c scales the value by c to this power. `clamps`: slopes contain √(v/u), which
    has no bound; the clamp is one for this ratio, so it does not depend on the scale of activations.
    """

    score: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor, float], Pair]
    degree: int
    clamps: bool = False


def _product(u: Tensor, v: Tensor) -> Tensor:
    return u.relu() * v.relu()


def _mand(u: Tensor, v: Tensor) -> Tensor:
    """√u·√v where both are positive, else exactly 0: of two tiny factors the product may vanish, the roots do not."""
    return u.relu().sqrt() * v.relu().sqrt()


def _mand_slopes(u: Tensor, v: Tensor, clamp: float) -> Pair:
    active = (u > 0) & (v > 0)
    by_u, by_v = 0.5 * (v / u).sqrt().clamp_max(clamp), 0.5 * (u / v).sqrt().clamp_max(clamp)
    return torch.where(active, by_u, 0.0), torch.where(active, by_v, 0.0)


def _product_slopes(u: Tensor, v: Tensor, clamp: float) -> Pair:
    active = (u > 0) & (v > 0)
    return torch.where(active, v, 0.0), torch.where(active, u, 0.0)


def _min(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(u, v).relu()


def _min_slopes(u: Tensor, v: Tensor, clamp: float) -> Pair:
    active, first = (u > 0) & (v > 0), u <= v
    return (active & first).to(u.dtype), (active & ~first).to(u.dtype)


def _soft(u: Tensor, v: Tensor) -> Tensor:
    return functional.softplus(u).sqrt() * functional.softplus(v).sqrt()


def _soft_slopes(u: Tensor, v: Tensor, clamp: float) -> Pair:
    least = torch.finfo(u.dtype).tiny
    p, q = functional.softplus(u).clamp_min(least), functional.softplus(v).clamp_min(least)
    by_u, by_v = (q / p).sqrt().clamp_max(clamp) * u.sigmoid(), (p / q).sqrt().clamp_max(clamp) * v.sigmoid()
    return 0.5 * by_u, 0.5 * by_v


GATES: dict[str, Gate] = {
    "mand": Gate(_product, _mand, _mand_slopes, 1, clamps=True),
    "product": Gate(_product, _product, _product_slopes, 2),
    "raw": Gate(lambda u, v: u * v, lambda u, v: u * v, lambda u, v, clamp: (v, u), 2),
    "min": Gate(_min, _min, _min_slopes, 1),
}

SOFT = Gate(_soft, _soft, _soft_slopes, 1)
"""mAND of softplus: positive for every pair, so that a gradient reaches both parents of a silent latent."""
