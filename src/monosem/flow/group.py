"""The eight groups: at which of its possible origins a feature's match is active (arXiv 2502.03032, section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from monosem.evaluation.by_window import Terms
from monosem.evaluation.paired import Interval
from monosem.flow.match import Match
from monosem.flow.outcome import ratio
from monosem.flow.suite import PARENTS
from monosem.shapes import InputError, Site

BITS = {kind: 1 << place for place, kind in enumerate(PARENTS)}
"""code = 1[R] + 2·1[M] + 4·1[A]."""
SHORT = {"resid": "RES", "mlp": "MLP", "attn": "ATT"}
NOWHERE = 0


def group_name(code: int) -> str:
    """`From nowhere`, `From RES`, …, `From RES & MLP & ATT`."""
    return f"From {members(code) or 'nowhere'}"


def members(code: int) -> str:
    """The origins of a code: `RES & MLP`; empty for 0."""
    return " & ".join(SHORT[kind] for kind, bit in BITS.items() if code & bit)


def codes_possible(available: tuple[str, ...]) -> list[int]:
    """The groups that there can be where only some origins have an autoencoder: 4 with two of them, 8 with all."""
    every = reduce(or_, (BITS[kind] for kind in available), 0)
    return [code for code in range(1 << len(BITS)) if not code & ~every]


def group_of(
    matches: Mapping[str, Match], active: Mapping[str, Bool[Tensor, "N G"]], rows: Int64[Tensor, " E"], latents: Tensor
) -> Int64[Tensor, " E"]:
    """The code of each occurrence: latent `latents[e]` active on token `rows[e]`.

    An origin counts where any of the k matches there is active on the token; no match counts as inactive. `matches`
    are those of every latent of the site, by origin; `active` has a row for each token.
    """
    codes = torch.zeros_like(rows)
    for kind, match in matches.items():
        found = match.indices[latents]
        hit = active[kind][rows[:, None], found.clamp_min(0)] & (found >= 0)
        codes += hit.any(1) * BITS[kind]
    return codes


@dataclass(frozen=True)
class Groups:
    """How often each latent of a residual site was active in each group.

    `counts` [F, 8] by latent, `by_window` [N, 8] by window of text. An origin without an autoencoder is not in
    `available` and not the same as an inactive one.
    """

    site: Site
    matcher: str
    available: tuple[str, ...]
    counts: Int64[Tensor, "F 8"]
    by_window: Int64[Tensor, "N 8"]

    @property
    def occurrences(self) -> Int64[Tensor, " F"]:
        """Tokens on which each latent was active."""
        return self.counts.sum(1)

    @property
    def mode(self) -> Int64[Tensor, " F"]:
        """The group a latent is most often in, the one of lowest code of several; −1 for one that was never active."""
        return torch.where(self.occurrences > 0, self.counts.argmax(1), -1)

    @property
    def stability(self) -> float:
        """The share of occurrences in their latent's own mode: 1 where no latent ever changes its group."""
        total = int(self.counts.sum())
        return float(self.counts.max(1).values.sum()) / total if total else float("nan")

    def share(self, code: int) -> Interval:
        """The share of occurrences in a group, with 95 % bounds over windows."""
        counts = self.by_window.double().numpy()
        return ratio(Terms(counts[:, code], counts.sum(1)))

    def shares(self) -> dict[str, Interval]:
        """`share` of every group that there can be, by name."""
        return {group_name(code): self.share(code) for code in codes_possible(self.available)}

    def active(self, kind: str) -> Int64[Tensor, " F"]:
        """Occurrences with this origin active. Raises `InputError` for one that is not available."""
        if kind not in self.available:
            raise InputError(f"no autoencoder at the {kind} origin of {self.site}: it has {', '.join(self.available)}")
        return self.counts[:, [code for code in range(self.counts.shape[1]) if code & BITS[kind]]].sum(1)

    def to_json(self) -> dict[str, Any]:
        """JSON-able: shares with bounds, occurrences, and latents by the group they are most often in."""
        modes = torch.bincount(self.mode + 1, minlength=self.counts.shape[1] + 1)[1:].tolist()
        return {
            "site": str(self.site),
            "matcher": self.matcher,
            "not_available": [kind for kind in PARENTS if kind not in self.available],
            "occurrences": int(self.counts.sum()),
            "stability": self.stability,
            "shares": {name: share._asdict() for name, share in self.shares().items()},
            "latents_by_mode": {group_name(code): modes[code] for code in codes_possible(self.available)},
        }


def counted(latents: Int[Tensor, " E"], codes: Int64[Tensor, " E"], n_latents: int) -> Int64[Tensor, "F 8"]:
    """Occurrences by latent and group."""
    width = 1 << len(BITS)
    return torch.bincount(latents * width + codes, minlength=n_latents * width).reshape(n_latents, width)
