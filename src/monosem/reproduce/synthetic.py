"""Activations that are drawn instead of recorded, with known atoms underneath."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.activations import Rows
from monosem.reproduce.data import Data, Dataset
from monosem.reproduce.scale import Scale
from monosem.shapes import Site

Draw = Callable[[torch.Generator, int], Float[Tensor, "T D"]]
"""So many tokens from a generator."""

SITE = Site("resid_post", 0)
WINDOW = 256
WIDTH, ATOMS = 64, 512
STRONGEST, OFFSET, SHARED = 0.3, 8.0, 0.5


class Synthetic:
    """A source of which window w of a seed is always the same tokens."""

    def __init__(self, draw: Draw, n_windows: int, seed: int, first: int = 0) -> None:
        self.sites: tuple[Site, ...] = (SITE,)
        self.n_windows, self.first = n_windows, first
        self._draw, self._seed = draw, seed

    def rows(self, windows: Int[np.ndarray, " W"]) -> Rows:
        acts = torch.cat([self._draw(self._generator(int(window)), WINDOW) for window in windows])
        tokens = torch.from_numpy(windows).repeat_interleave(WINDOW)
        return Rows({SITE: acts}, tokens, torch.arange(WINDOW).repeat(len(windows)))

    def _generator(self, window: int) -> torch.Generator:
        mixed = np.random.SeedSequence((self._seed, self.first + window)).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(mixed >> 1))


def drawn(draw: Draw, scale: Scale, seed: int, truth: dict[str, Tensor], identity: dict[str, Any]) -> Data:
    """Training, held-out and validation tokens of one distribution; no two of them share a window."""
    counts = [-(-count // WINDOW) for count in (scale.tokens, scale.held_out, scale.held_out)]
    starts = np.cumsum([0, *counts])
    source, held_out, validation = (
        Synthetic(draw, count, seed, int(start)) for count, start in zip(counts, starts, strict=False)
    )
    parts = [part.rows(np.arange(part.n_windows)).acts[SITE][: scale.held_out] for part in (held_out, validation)]
    return Data(source, SITE, *parts, identity={**identity, "seed": seed}, truth=truth)


def sparse_codes(scale: Scale, seed: int) -> Data:
    """x = Σ_i s_i·atom_i over 512 random unit atoms in 64 dimensions.

    Atom i is present with probability 0.3 · 8 / (8 + i), 10.0 atoms on average, independently; its strength is 0.5
    plus an exponential of mean 0.5, so that a token has few strong and many weak parts.
    """
    generator = torch.Generator().manual_seed(1_000_003 + seed)
    atoms = torch.randn(ATOMS, WIDTH, generator=generator)
    atoms /= atoms.norm(dim=1, keepdim=True)
    present = STRONGEST * OFFSET / (OFFSET + torch.arange(ATOMS))

    def draw(generator: torch.Generator, tokens: int) -> Tensor:
        where = torch.rand(tokens, ATOMS, generator=generator) < present
        strength = torch.zeros(tokens, ATOMS)
        strength[where] = 0.5 - 0.5 * torch.log1p(-torch.rand(int(where.sum()), generator=generator))
        return strength @ atoms

    identity = {"data": "sparse codes", "atoms": ATOMS, "width": WIDTH, "mean_active": float(present.sum())}
    return drawn(draw, scale, seed, {"atoms": atoms}, identity)


SPARSE = Dataset(open=sparse_codes, width=lambda scale: WIDTH, predict=lambda scale: 2.0, seeded=True)
