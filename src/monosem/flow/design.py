"""How the deactivation experiment is made: what is drawn, removed, searched and measured."""

from __future__ import annotations

from dataclasses import dataclass

from monosem.shapes import InputError


@dataclass(frozen=True)
class Design:
    """How predecessors are deactivated.

    `r`: activations are multiplied by it; 1 changes nothing, 0 removes. `tokens` of every window and up to `features`
    active on each are drawn with `seed`. `exhaustive`: also remove every active latent one at a time, beside a control
    with latents of other tokens. `losses`: targets of a token whose trials also go through the rest of the model.
    `controls`: random active latents and random directions in place of the first matcher's. `recompute`: attention
    and MLP read what was changed; otherwise they keep what they gave and only sums change. `rows` go through the
    model at once; rounding depends on it.
    """

    r: tuple[float, ...] = (0.0,)
    tokens: int = 5
    features: int = 25
    exhaustive: bool = True
    controls: bool = True
    losses: int = 0
    recompute: bool = True
    rows: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `InputError` for sizes below 1."""
        for name in ("tokens", "features", "rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: give at least 1")
        if not self.r or len(set(self.r)) < len(self.r):
            raise InputError(f"r = {self.r}: give at least one number, each once")
