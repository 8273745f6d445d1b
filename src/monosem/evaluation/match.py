"""Which latents of two dictionaries point the same way: matched cosines of decoder rows, beside chance.

For each latent the nearest of the other dictionary, the pairs that are nearest to each other, and the one-to-one
assignment with the greatest sum of cosines (Hungarian). Only latents alive on the text take part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from monosem.sae import SAE
from monosem.shapes import InputError

THRESHOLDS = (0.7, 0.9)
"""Cosines above which two latents are called the same, loosely and strictly."""
LIMIT = 16_384
"""Alive latents up to which a one-to-one assignment is made: it takes minutes and gigabytes at this size."""
_BLOCK = 1 << 25


class Pairs(NamedTuple):
    """P pairs of a latent of `a` and a latent of `b`, with the cosine of their decoder rows."""

    a: Int64[Tensor, " P"]
    b: Int64[Tensor, " P"]
    cosine: Float32[Tensor, " P"]

    def at(self, places: Int64[Tensor, " S"]) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.a[places], self.b[places], self.cosine[places])

    def shares(self, of: int) -> dict[str, float]:
        """Mean and median cosine of the pairs, and how many exceed each threshold as a share of `of` latents."""
        above = {f"above_{at:g}": int((self.cosine > at).sum()) / of for at in THRESHOLDS}
        return {"mean": float(self.cosine.mean()), "median": float(self.cosine.quantile(0.5)), **above}


class Nearest(NamedTuple):
    """Each latent of `a` with the nearest of `b`, and the reverse."""

    a_to_b: Pairs
    b_to_a: Pairs


@dataclass(frozen=True)
class Match:
    """How two dictionaries `a` and `b` correspond; `alive` counts the latents of each that take part.

    `chance` is `nearest` with, in place of the other dictionary, as many random directions of its mean and covariance.
    `one_to_one` is None where it was not made. `same_start`: both began from the same random numbers (one seed
    and site), so that what they share is not what training finds from any start; None where that was not stored.
    """

    a: str
    b: str
    alive: tuple[int, int]
    nearest: Nearest
    chance: Nearest
    mutual: Pairs
    one_to_one: Pairs | None
    same_start: bool | None

    @property
    def smaller(self) -> int:
        """Alive latents of the smaller dictionary: at most so many pairs can exist."""
        return min(self.alive)

    def to_json(self) -> dict[str, Any]:
        """JSON-able: shares of the pairs, not the pairs. Of nearest ones of each dictionary, else of the smaller."""
        return {
            "a": self.a,
            "b": self.b,
            "alive": dict(zip("ab", self.alive)),
            "same_start": self.same_start,
            "nearest": _both(self.nearest, self.alive),
            "chance": _both(self.chance, self.alive),
            "mutual": {"pairs": len(self.mutual.cosine)} | self.mutual.shares(self.smaller),
            "one_to_one": self.one_to_one.shares(self.smaller) if self.one_to_one else None,
        }


@torch.no_grad()
def match(
    a: tuple[str, SAE, Bool[Tensor, " A"]],
    b: tuple[str, SAE, Bool[Tensor, " B"]],
    *,
    one_to_one: bool | None = None,
    seed: int = 0,
) -> Match:
    """Match two autoencoders, each given with its name and which of its latents are alive.

    `one_to_one`: None makes the assignment for up to `LIMIT` alive latents, True for any number. `seed` draws the
    chance directions. Raises `InputError` when none is alive or decoder rows are of different widths.
    """
    rows, latents = zip(*(_alive_rows(*one) for one in (a, b)))
    if rows[0].shape[1] != rows[1].shape[1]:
        raise InputError(
            f"{a[0]} writes vectors of width {rows[0].shape[1]} and {b[0]} of {rows[1].shape[1]}: "
            "match autoencoders of one site"
        )
    found = nearest(*rows)
    most = max(map(len, rows))
    others = [random_like(one, seed) for one in rows]
    chance = Nearest(nearest(rows[0], others[1]).a_to_b, nearest(others[0], rows[1]).b_to_a)
    assigned = one_to_one_pairs(*rows) if one_to_one or (one_to_one is None and most <= LIMIT) else None
    return Match(
        a[0],
        b[0],
        (len(rows[0]), len(rows[1])),
        Nearest(*(_named(pairs, *latents) for pairs in found)),
        chance,
        _named(mutual(found), *latents),
        assigned and _named(assigned, *latents),
        same_start(a[1], b[1]),
    )


def nearest(a: Float[Tensor, "A D"], b: Float[Tensor, "B D"]) -> Nearest:
    """The row of greatest cosine in the other matrix, for the rows of both; a block of products exists at a time."""
    a, b = _unit(a), _unit(b)
    best = [torch.empty(len(a)), torch.full((len(b),), -torch.inf)]
    where = [torch.empty(len(a), dtype=torch.int64), torch.zeros(len(b), dtype=torch.int64)]
    for part, cosines in products(a, b):
        best[0][part], where[0][part] = cosines.max(1)
        value, row = cosines.max(0)
        better = value > best[1]
        best[1] = torch.where(better, value, best[1])
        where[1] = torch.where(better, row + part.start, where[1])
    return Nearest(
        Pairs(torch.arange(len(a)), where[0], best[0]),
        Pairs(where[1], torch.arange(len(b)), best[1]),
    )


def mutual(found: Nearest) -> Pairs:
    """The pairs in which each is the other's nearest."""
    back = found.b_to_a.a[found.a_to_b.b] == found.a_to_b.a
    return Pairs(*(column[back] for column in found.a_to_b))


def one_to_one_pairs(a: Float[Tensor, "A D"], b: Float[Tensor, "B D"]) -> Pairs:
    """The assignment of min(A, B) pairs with the greatest sum of cosines; 8 bytes for each of the A·B pairs."""
    return assignment(_unit(a), _unit(b))


def assignment(a: Float[Tensor, "A D"], b: Float[Tensor, "B D"]) -> Pairs:
    """The same of inner products, in whatever units the rows have; in the place of the cosine."""
    # In the precision and sign that scipy works with, so that it makes no copy.
    costs = torch.empty(len(a), len(b), dtype=torch.float64)
    for part, product in products(a, b):
        costs[part] = -product
    rows, columns = (torch.from_numpy(index) for index in linear_sum_assignment(costs.numpy()))
    return Pairs(rows, columns, -costs[rows, columns].float())


def products(a: Float[Tensor, "A D"], b: Float[Tensor, "B D"]) -> Iterator[tuple[slice, Float[Tensor, "P B"]]]:
    """Rows of a bᵀ, part by part: which they are, and the block, which the caller may change."""
    for part in _blocks(len(a), len(b)):
        yield part, a[part] @ b.T


def random_like(rows: Float[Tensor, "F D"], seed: int) -> Float32[Tensor, "F D"]:
    """As many normal vectors, of the mean and covariance of these unit rows: random, but where features are."""
    rows = _unit(rows).double()
    mean = rows.mean(0)
    centred = rows - mean
    covariance = centred.T @ centred / len(rows)
    # A covariance of fewer rows than dimensions has no Cholesky factor without a little of the identity.
    covariance += torch.eye(len(mean)) * (1e-6 * covariance.trace() / len(mean) + 1e-12)
    normal = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mean + normal @ torch.linalg.cholesky(covariance).T).float()


def same_start(a: SAE, b: SAE) -> bool | None:
    """Whether both drew their initial weights from the same random numbers; None where that was not stored.

    Training draws them by seed and site. Encoders of other sizes and kinds count too: they take the same numbers, in
    the same order, for their rows.
    """
    starts = [sae.info.get("start") for sae in (a, b)]
    return None if None in starts else starts[0] == starts[1]


def _alive_rows(name: str, sae: SAE, alive: Bool[Tensor, " F"]) -> tuple[Float32[Tensor, "A D"], Int64[Tensor, " A"]]:
    latents = alive.nonzero().flatten().cpu()
    if not len(latents):
        raise InputError(f"{name} has no latent that is active on this text: give more windows")
    return sae.W_dec.detach().float().cpu()[latents], latents


def _named(pairs: Pairs, a: Int64[Tensor, " A"], b: Int64[Tensor, " B"]) -> Pairs:
    """The same pairs by number of latent instead of by place among the alive ones."""
    return Pairs(a[pairs.a], b[pairs.b], pairs.cosine)


def _unit(rows: Float[Tensor, "F D"]) -> Float32[Tensor, "F D"]:
    return functional.normalize(rows.float(), dim=1)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK // columns)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _both(found: Nearest, alive: tuple[int, int]) -> dict[str, dict[str, float]]:
    return {"a_to_b": found.a_to_b.shares(alive[0]), "b_to_a": found.b_to_a.shares(alive[1])}
