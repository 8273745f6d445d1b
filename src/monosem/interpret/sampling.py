"""How many contexts of a feature are drawn, of which kinds and lengths."""

from __future__ import annotations

from dataclasses import dataclass

from monosem.shapes import InputError


@dataclass(frozen=True)
class Sampling:
    """How contexts of a feature are drawn; the sizes are those of arXiv 2505.22255, sec. 5.

    `width`: tokens on either side. `shown`: contexts above the median that an explainer sees, half of them the
    strongest; `positives`: others, from `groups` equal shares by strength, that it is judged by; `negatives`: contexts
    in which it is silent, of which a share `hard` are such that a similar feature fires. A feature with fewer than
    `least` positives or negatives is skipped. `seed` draws the contexts of a feature, whichever features are drawn.
    """

    width: int = 15
    groups: int = 10
    shown: int = 16
    positives: int = 64
    negatives: int = 64
    hard: float = 0.5
    least: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "groups", "shown", "least"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: give at least 1")
        if not 0 <= self.hard <= 1:
            raise InputError(f"a share of hard contexts of {self.hard}: give one from 0 to 1")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: give 0 or more")
        if min(self.positives, self.negatives) < self.least:
            raise InputError(
                f"{self.positives} positives and {self.negatives} negatives: give at least {self.least} of each, "
                "or ask for fewer with least"
            )
