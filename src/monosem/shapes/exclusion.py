"""Which tokens are left out of training, evaluation and splicing: one rule, stored with every autoencoder.

The first position of a window and a few others carry norms hundreds of times the usual one; a single such token
outweighs all others in any variance, so figures that include them mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.shapes.error import InputError
from monosem.shapes.site import Site


@dataclass(frozen=True)
class Exclusion:
    """Leave out the first positions of a window, special tokens, and norms above a site's limit."""

    first: int = 1
    special: bool = True
    ratio: float = 10.0
    max_norm: Mapping[str, float] = field(default_factory=dict)

    def mask(
        self,
        special: Bool[Tensor, "W T"],
        acts: Mapping[Site, Float[Tensor, "W T D"]],
        positions: Int[Tensor, "W T"] | None = None,
    ) -> Bool[Tensor, "W T"]:
        """True where a token is left out: by position, by kind, or by its norm at any of the sites.

        `positions` counts from the first token of a window (None: a whole window is given).
        """
        out = special.clone() if self.special else torch.zeros_like(special)
        if positions is None:
            out[:, : self.first] = True
        else:
            out |= positions < self.first
        for site, act in acts.items():
            limit = self.max_norm.get(str(site))
            if limit is not None:
                norm = act.float().norm(dim=-1)
                # What is not finite is kept here, so that whoever reads it stops and says where.
                out = out | ((norm > limit) & norm.isfinite()).to(out.device)
        return out

    def calibrated(self, special: Bool[Tensor, "W T"], acts: Mapping[Site, Float[Tensor, "W T D"]]) -> Exclusion:
        """The same rule with each site's limit: `ratio` times the median norm of the tokens kept so far."""
        keep = ~Exclusion(self.first, self.special).mask(special, {})
        if not keep.any():
            raise InputError(f"no token is left of {keep.numel()}: windows need more than {self.first} ordinary tokens")
        limits = {}
        for site, act in acts.items():
            median = float(act.float().norm(dim=-1)[keep].median())
            if not math.isfinite(median):
                raise InputError(f"activations at {site} are not finite in the first windows: use another dtype")
            limits[str(site)] = self.ratio * median
        return Exclusion(self.first, self.special, self.ratio, {**self.max_norm, **limits})

    @classmethod
    def of(cls, info: Mapping[str, Any], name: str = "the autoencoder") -> Exclusion:
        """The rule an autoencoder's `info` stores, or one that leaves nothing out. Raises `InputError`."""
        stored = info.get("exclusion", {"first": 0, "special": False})
        try:
            return cls(**stored)
        except TypeError:
            known = ", ".join(cls().describe())
            raise InputError(f"{name} stores the exclusion rule {stored!r}: expected the keys {known}") from None

    def describe(self) -> dict[str, Any]:
        """JSON-able; `Exclusion(**describe())` gives the rule back."""
        return asdict(self) | {"max_norm": dict(self.max_norm)}

    def __str__(self) -> str:
        parts = [f"the first {self.first} position(s) of a window"] * bool(self.first)
        parts += ["special tokens"] * self.special
        parts += [
            f"norms above {limit:,.0f} at {site} ({self.ratio:g} × the median)" for site, limit in self.max_norm.items()
        ]
        return "excluded: " + ", ".join(parts)
