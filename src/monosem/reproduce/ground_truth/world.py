"""Activations made of known features: heavy-tailed rates, common causes, children that need their parent.

A token is x = Σ_i s_i·atom_i over the features present in it. Roots come by a Gaussian copula: root r is present where
√(1 − ρ)·ε_r + √ρ·⟨λ_r, u⟩ exceeds the normal quantile of its rate, with a few factors u that all roots of a token share
and unit loadings λ_r, so that rates are exact whatever ρ is. A child is present, by a chance of its own, only where its
root is. Rates of roots fall by Zipf's law; strengths are log-normal of mean 1; atoms are random unit vectors.

That features are many, unequal, correlated and nested is what arXiv 2602.14111 and 2602.14687 ask of such data; every
number here is a choice of this study.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional

from monosem.reproduce.data import Data, Dataset
from monosem.reproduce.scale import Scale
from monosem.reproduce.synthetic import drawn

PROBE = 8_192
"""Tokens of which it is known what is in them."""
SPREAD = 0.5
"""Standard deviation of the logarithm of a strength."""


class World(NamedTuple):
    """`active` features a token in the mean; `children` are the chances of a root's children where it is present.

    The rate of root r is proportional to (offset + r)^−exponent; `shared` is ρ, what `factors` explain of a root's
    latent variable.
    """

    width: int
    roots: int
    active: float
    children: tuple[float, ...] = ()
    exponent: float = 0.0
    offset: float = 1.0
    factors: int = 1
    shared: float = 0.0

    @property
    def features(self) -> int:
        """Roots and children; feature r·(1 + C) is root r, the C after it are its children."""
        return self.roots * (1 + len(self.children))


HARD = World(96, 512, 8.0, (0.5, 0.25, 0.125), 1.0, 8.0, 8, 0.5)
"""2,048 features in 96 dimensions: rates from 0.126 to 0.00024, factors behind the roots, three children each."""
EASY = World(64, 128, 4.0)
"""128 independent features of one rate, in 64 dimensions."""


def rates(world: World) -> Float64[Tensor, " F"]:
    """How often each feature is present; they sum to `active`."""
    roots = (world.offset + torch.arange(world.roots, dtype=torch.float64)) ** -world.exponent
    found = torch.outer(roots, torch.tensor([1.0, *world.children], dtype=torch.float64)).flatten()
    return found * (world.active / found.sum())


def loadings(world: World, generator: torch.Generator) -> Float[Tensor, "R U"]:
    """Unit rows: how the factors of a token bear on each root."""
    return functional.normalize(torch.randn(world.roots, world.factors, generator=generator), dim=1)


def present(
    world: World, loading: Float[Tensor, "R U"], generator: torch.Generator, tokens: int
) -> Bool[Tensor, "N F"]:
    """What is in each token."""
    own = torch.randn(tokens, world.roots, generator=generator)
    factors = torch.randn(tokens, world.factors, generator=generator)
    latent = (1 - world.shared) ** 0.5 * own + world.shared**0.5 * factors @ loading.T
    found = torch.zeros(tokens, world.roots, 1 + len(world.children), dtype=torch.bool)
    found[:, :, 0] = latent > torch.special.ndtri(1 - rates(world)[:: 1 + len(world.children)]).float()
    token, root = found[:, :, 0].nonzero(as_tuple=True)
    chances = torch.tensor(world.children)
    found[token, root, 1:] = torch.rand(len(root), len(chances), generator=generator) < chances
    return found.flatten(1)


def activations(
    presence: Bool[Tensor, "N F"], atoms: Float[Tensor, "F D"], generator: torch.Generator
) -> Float[Tensor, "N D"]:
    """Σ strength · atom over what is present; strengths are exp(σ·normal − σ²/2)."""
    token, feature = presence.nonzero(as_tuple=True)
    strength = (SPREAD * torch.randn(len(token), generator=generator) - SPREAD**2 / 2).exp()
    x = atoms.new_zeros(len(presence), atoms.shape[1])
    return x.index_add_(0, token, strength.unsqueeze(1) * atoms[feature])


def opened(world: World, scale: Scale, seed: int) -> Data:
    """Other atoms and loadings for every seed; `truth` has atoms, rates, and tokens of which the features are known."""
    generator = torch.Generator().manual_seed(3_000_017 + seed)
    atoms = functional.normalize(torch.randn(world.features, world.width, generator=generator), dim=1)
    loading = loadings(world, generator)

    def draw(generator: torch.Generator, tokens: int) -> Tensor:
        return activations(present(world, loading, generator, tokens), atoms, generator)

    presence = present(world, loading, generator, PROBE)
    truth = {
        "features": atoms,
        "rates": rates(world),
        "probe": activations(presence, atoms, generator),
        "present": presence,
    }
    return drawn(draw, scale, seed, truth, {"data": "known features", **world._asdict()})


def dataset(world: World) -> Dataset:
    """The world as data of a study."""
    return Dataset(
        open=functools.partial(opened, world), width=lambda scale: world.width, predict=lambda scale: 3.0, seeded=True
    )
