"""Activations of general text and of two domains, with known directions underneath: the ground without a model.

A token is x = μ + Σ_i s_i·v_i + ε over the directions present in it, each independently and with a rate of its own:

* 160 general directions, rate proportional to rank^−0.7, 6 of them in a token of general text, 4 in one of a domain;
* 40 directions of each of two domains, rate proportional to rank^−0.5, 3 in a token of that domain, none elsewhere.

Directions are random unit vectors in 64 dimensions, strengths |N(1, 0.3)|, noise N(0, 0.02) in each dimension, and μ is
a random vector of norm 2. Norms of μ and the counts are choices of this study: the paper has no such world.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional

from monosem.reproduce.boost.text import Ground, Part, Text
from monosem.reproduce.scale import Scale
from monosem.reproduce.synthetic import SITE, WINDOW, Synthetic
from monosem.shapes.exclusion import Exclusion

WIDTH, GENERAL, DOMAIN = 64, 160, 40
DOMAINS = ("first", "second")
IN_GENERAL, IN_DOMAIN, OWN = 6.0, 4.0, 3.0
STRENGTH, SPREAD, NOISE, OFFSET = 1.0, 0.3, 0.02, 2.0
TEXTS = ("general", *DOMAINS)


class World(NamedTuple):
    """Unit directions, those of general text first, then those of each domain; and μ."""

    directions: Float[Tensor, "G D"]
    offset: Float[Tensor, " D"]


def rates(text: str) -> Float64[Tensor, " G"]:
    """How often each direction is present in a token of a text."""
    general = _zipf(GENERAL, 0.7, IN_GENERAL if text == "general" else IN_DOMAIN)
    return torch.cat([general, *(_zipf(DOMAIN, 0.5, OWN if text == name else 0.0) for name in DOMAINS)])


def _zipf(count: int, exponent: float, total: float) -> Float64[Tensor, " n"]:
    falling = torch.arange(1, count + 1, dtype=torch.float64) ** -exponent
    return falling * (total / falling.sum())


def world(seed: int) -> World:
    """Other directions for every seed."""
    generator = torch.Generator().manual_seed(5_000_011 + seed)
    count = GENERAL + DOMAIN * len(DOMAINS)
    directions = functional.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
    return World(directions, OFFSET * functional.normalize(torch.randn(WIDTH, generator=generator), dim=0))


def present(text: str, generator: torch.Generator, tokens: int) -> Bool[Tensor, "T G"]:
    """What is in each token."""
    chances = rates(text)
    return torch.rand(tokens, len(chances), generator=generator, dtype=torch.float64) < chances


def drawing(of: World, text: str) -> Callable[[torch.Generator, int], Float[Tensor, "T D"]]:
    """Tokens of a text."""

    def draw(generator: torch.Generator, tokens: int) -> Tensor:
        token, direction = present(text, generator, tokens).nonzero(as_tuple=True)
        strength = (STRENGTH + SPREAD * torch.randn(len(token), generator=generator)).abs()
        x = of.offset + NOISE * torch.randn(tokens, WIDTH, generator=generator)
        return x.index_add_(0, token, strength.unsqueeze(1) * of.directions[direction])

    return draw


def ground(scale: Scale, seed: int) -> Ground:
    """The world of a seed."""
    known = world(seed)

    def text(name: str) -> Text:
        tokens = scale.extra["core"]["tokens"] if name == "general" else scale.tokens
        counts = [-(-count // WINDOW) for count in (tokens, scale.held_out, scale.held_out)]
        starts = np.cumsum([0, *counts])
        # Streams of different texts share no random numbers.
        train, held_out, validation = (
            Synthetic(drawing(known, name), count, seed * len(TEXTS) + TEXTS.index(name), int(start))
            for count, start in zip(counts, starts, strict=False)
        )
        return Text(name, train, _part(held_out), _part(validation))

    return Ground(SITE, text("general"), text, Exclusion(0, special=False))


def _part(source: Synthetic) -> Part:
    rows = source.rows(np.arange(source.n_windows))
    return Part.of(rows, SITE, 0, (source.n_windows, WINDOW))
