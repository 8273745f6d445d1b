"""What a matcher finds: for latents of one site, the latents of another site that correspond to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from monosem.flow.suite import Suite
from monosem.shapes import InputError, Site


@dataclass(frozen=True)
class Match:
    """S latents of `source`, which are asked about, with up to k latents of `target` each, best first.

    Matching is backward by default (arXiv 2502.03032, section 3.2): `source` is the later site, such as
    `resid_post.12`, and `target` is where its predecessors are sought. Where there is none, `indices` is −1 and the
    score 0.
    """

    source: Site
    target: Site
    matcher: str
    latents: Int64[Tensor, " S"]
    indices: Int64[Tensor, "S k"]
    scores: Float32[Tensor, "S k"]
    n_targets: int
    """Latents of the target's dictionary, matched or not."""

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def best(self) -> Int64[Tensor, " S"]:
        """The first match of each latent, −1 for none."""
        return self.indices[:, 0]

    @property
    def score(self) -> Float32[Tensor, " S"]:
        """Its score, 0 where there is none."""
        return self.scores[:, 0]

    @property
    def matched(self) -> Bool[Tensor, " S"]:
        """Which latents have a match at all."""
        return self.best >= 0

    @property
    def distinct(self) -> int:
        """How many different latents are a first match; several latents may share one unless the matcher forbids it."""
        return len(self.best[self.matched].unique())

    def of(self, latents: Int64[Tensor, " R"]) -> Match:
        """The rows of some of the latents, in the order given. Raises `InputError` for one that was not asked about."""
        where = dict(zip(self.latents.tolist(), range(len(self))))
        rows = torch.tensor([where.get(latent, -1) for latent in latents.tolist()], dtype=torch.int64)
        if (rows < 0).any():
            missing = int(latents[rows < 0][0])
            raise InputError(f"latent {missing} of {self.source} is not among the {len(self)} that were matched")
        return Match(
            self.source, self.target, self.matcher, latents, self.indices[rows], self.scores[rows], self.n_targets
        )

    def composed(self, further: Match) -> Match:
        """First matches of first matches: π_AC(i) = π_BC(π_AB(i)) (arXiv 2410.07656, eq. 6).

        `further` must have matched every latent of this target. Scores are the smaller of the two on the way.
        """
        if further.source != self.target:
            raise InputError(f"a match to {self.target} cannot be followed by one from {further.source}")
        found, on = self.matched, further.of(self.best.clamp_min(0))
        indices = torch.where(found, on.best, -1)
        scores = torch.where(indices >= 0, torch.minimum(self.score, on.score), 0.0)
        name = f"{self.matcher} through {self.target}"
        return Match(
            self.source, further.target, name, self.latents, indices[:, None], scores[:, None], further.n_targets
        )


@runtime_checkable
class Matcher(Protocol):
    """Finds matches between the dictionaries of two sites of a suite."""

    @property
    def name(self) -> str:
        """What results call it, with the settings that change it."""
        ...

    def match(self, suite: Suite, source: Site, target: Site, latents: Int64[Tensor, " S"] | None = None) -> Match:
        """Matches in `target` of these latents of `source`, or of all of them."""
        ...
