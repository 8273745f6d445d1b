"""Rescaling chosen latents at one token: h_t ← h_t + (r − 1) · a_t V (arXiv 2502.03032, section 4.2, appendix A.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor

from monosem.flow.suite import Suite
from monosem.shapes import Site


class Part(NamedTuple):
    """One latent at one origin (`resid`, `mlp`, `attn`) with the activation a_t that is rescaled."""

    origin: str
    latent: int
    value: float


class Removal(NamedTuple):
    """Latents rescaled together by r: 1 changes nothing, 0 removes them, below 0 reverses them.

    The autoencoder's error is kept, since only differences are added. `turned`: a control in which the change at each
    origin keeps its norm and gets a random direction, drawn with this seed.
    """

    r: float
    parts: tuple[Part, ...]
    turned: int | None = None


@torch.no_grad()
def changes(
    suite: Suite, origins: Mapping[str, Site], removals: Sequence[Removal]
) -> dict[Site, Float32[Tensor, "E D"]]:
    """What each removal adds to the raw activation of every origin it touches; zeros for the others.

    Latents of one origin are removed jointly, from one reading of the state.
    """
    found: dict[Site, Tensor] = {}
    for place, (origin, site) in enumerate(origins.items()):
        parts = [(row, part, one.r) for row, one in enumerate(removals) for part in one.parts if part.origin == origin]
        if not parts:
            continue
        sae = suite[site]
        device = sae.W_dec.device
        rows = torch.tensor([row for row, _, _ in parts], device=device)
        latents = torch.tensor([part.latent for _, part, _ in parts], device=device)
        factors = torch.tensor([(r - 1) * part.value for _, part, r in parts], device=device, dtype=torch.float32)
        added = factors[:, None] * sae.W_dec[latents].float() / sae.out_scale
        total = torch.zeros(len(removals), added.shape[1], device=device).index_add_(0, rows, added)
        found[site] = _turned(total, removals, place)
    return found


def _turned(total: Float32[Tensor, "E D"], removals: Sequence[Removal], place: int) -> Float32[Tensor, "E D"]:
    for row, one in enumerate(removals):
        if one.turned is not None:
            generator = torch.Generator().manual_seed(one.turned + place)
            direction = torch.randn(total.shape[1], generator=generator).to(total)
            total[row] = direction / direction.norm() * total[row].norm()
    return total
