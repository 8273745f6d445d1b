"""Features with children, where a child is only present with its parent, and how often the parent goes unsaid then.

20 parents in 64 dimensions, each present with probability 0.15; a parent that is present has, with probability 0.6,
one of its three children present too. Strengths lie in 0.75..1.25, atoms are random unit vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from monosem.reproduce.arm import Measured
from monosem.reproduce.data import Data, Dataset
from monosem.reproduce.scale import Scale
from monosem.reproduce.synthetic import drawn
from monosem.sae import SAE

WIDTH, PARENTS, CHILDREN = 64, 20, 3
PRESENT, WITH_CHILD = 0.15, 0.6
PROBE = 8_192
"""Tokens of which it is known what is in them."""


class Presence(NamedTuple):
    """What is in each token."""

    parents: Bool[Tensor, "N P"]
    children: Bool[Tensor, "N P C"]


def present(generator: torch.Generator, tokens: int) -> Presence:
    """Parents independently; children as their parent allows, one at most."""
    parents = torch.rand(tokens, PARENTS, generator=generator) < PRESENT
    having = parents & (torch.rand(tokens, PARENTS, generator=generator) < WITH_CHILD)
    which = torch.randint(CHILDREN, (tokens, PARENTS), generator=generator)
    return Presence(parents, functional.one_hot(which, CHILDREN).bool() & having.unsqueeze(2))


def activations(presence: Presence, atoms: Float[Tensor, "A D"], generator: torch.Generator) -> Float[Tensor, "N D"]:
    """Σ strength · atom over what is present; atoms are the parents' and then the children's."""
    where = torch.cat([presence.parents, presence.children.flatten(1)], dim=1)
    strength = 0.75 + 0.5 * torch.rand(where.shape, generator=generator)
    return (where * strength) @ atoms


def tree(scale: Scale, seed: int) -> Data:
    """Other atoms for every seed; `truth` has labelled tokens beside the parents' atoms."""
    generator = torch.Generator().manual_seed(2_000_003 + seed)
    atoms = functional.normalize(torch.randn(PARENTS * (1 + CHILDREN), WIDTH, generator=generator), dim=1)

    def draw(generator: torch.Generator, tokens: int) -> Tensor:
        return activations(present(generator, tokens), atoms, generator)

    presence = present(generator, PROBE)
    truth = {
        "parent_atoms": atoms[:PARENTS],
        "probe": activations(presence, atoms, generator),
        "parents": presence.parents,
        "with_child": presence.children.any(2),
    }
    identity = {"data": "features with children", "parents": PARENTS, "children": CHILDREN, "width": WIDTH}
    return drawn(draw, scale, seed, truth, identity)


TREE = Dataset(open=tree, width=lambda scale: WIDTH, predict=lambda scale: 2.0, seeded=True)


@torch.no_grad()
def absorption(sae: SAE, data: Data, scale: Scale) -> Measured:
    """Shares of labelled tokens: `absorption`, `missed` and `spurious`; and `matched`, the mean cosine.

    A parent's latent is the one whose decoder row has the largest cosine with its atom. `absorption`: of tokens with
    a child, those on which the parent's latent is silent; `missed`: the same where no child is; `spurious`: of tokens
    without the parent, those on which it is not.
    """
    if "parents" not in data.truth:
        return {}
    rows = functional.normalize(sae.W_dec.detach(), dim=1)
    best, latent = (data.truth["parent_atoms"].to(rows) @ rows.T).max(1)
    active = sae.encode(data.truth["probe"].to(rows))[:, latent] > 0
    parents, having = (data.truth[key].to(active.device) for key in ("parents", "with_child"))
    return {
        "absorption": _share(~active, having),
        "missed": _share(~active, parents & ~having),
        "spurious": _share(active, ~parents),
        "matched": round(float(best.double().mean()), 6),
    }


def _share(what: Bool[Tensor, "N P"], among: Bool[Tensor, "N P"]) -> float:
    """Mean over parents of the share of tokens."""
    shares = (what & among).sum(0).double() / among.sum(0)
    return round(float(shares.mean()), 6)
