"""The parents of a KronSAE's latents: where each belongs, who shares a parent with it, and which parents are dead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from monosem.sae import SAE, KronEncoder
from monosem.shapes import KronShape


class Factors(NamedTuple):
    """Where a latent stands: it joins a base and an extension of one head."""

    head: int
    base: int
    extension: int


class Sibling(NamedTuple):
    """Another latent of the same head, and the parent that both have: `base` or `extension`."""

    latent: int
    parent: str


class Dead(NamedTuple):
    """Shares of bases and of extensions all of whose latents are silent."""

    bases: float
    extensions: float


def shape_of(sae: SAE) -> KronShape | None:
    """Heads, bases and extensions of a KronSAE; None of any other."""
    return sae.encoder.shape if isinstance(sae.encoder, KronEncoder) else None


def dead_parents(shape: KronShape, alive: np.ndarray) -> Dead:
    """`alive` [F] says which latents fire; a parent none of whose latents does is dead."""
    by_parents = alive.reshape(shape)
    return Dead(1 - float(by_parents.any(2).mean()), 1 - float(by_parents.any(1).mean()))


def factors(sae: SAE, latent: int) -> Factors | None:
    """Where a latent of a KronSAE stands; None in any other autoencoder."""
    shape = shape_of(sae)
    return None if shape is None else Factors(*shape.factors(latent))


def siblings(sae: SAE, latent: int, others: Sequence[int]) -> list[Sibling]:
    """Those of `others` that share a parent with `latent`, each once, in their order."""
    own, found = factors(sae, latent), []
    for other in dict.fromkeys(others):
        its = factors(sae, other)
        if own is None or its is None or other == latent or own.head != its.head:
            continue
        shared = [name for name in ("base", "extension") if getattr(own, name) == getattr(its, name)]
        found += [Sibling(other, name) for name in shared]
    return found
