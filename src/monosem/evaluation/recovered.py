"""How much of the model's behaviour a reconstruction keeps. One row of `RECOVERED` per quotient of sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from monosem.evaluation.by_window import Terms
from monosem.evaluation.loss import Loss
from monosem.evaluation.ratio import Figure, Ratio, Sums
from monosem.evaluation.replacement import Losses, Variant


class Quotient(NamedTuple):
    """What each window [W] adds to numerator and denominator."""

    num: Float64[Tensor, " W"]
    den: Float64[Tensor, " W"]


RECOVERED: dict[str, Callable[[Losses, Loss], Quotient]] = {
    "ce_loss_clean": lambda all, sae: Quotient(all.clean, all.tokens),
    "ce_loss_sae": lambda all, sae: Quotient(sae.ce, all.tokens),
    "ce_loss_zero": lambda all, sae: Quotient(all.zero.ce, all.tokens),
    "ce_loss_mean": lambda all, sae: Quotient(all.mean.ce, all.tokens),
    "ce_loss_score": lambda all, sae: Quotient(all.zero.ce - sae.ce, all.zero.ce - all.clean),
    "ce_loss_score_mean": lambda all, sae: Quotient(all.mean.ce - sae.ce, all.mean.ce - all.clean),
    "kl_div": lambda all, sae: Quotient(sae.kl, all.tokens),
    "kl_div_zero": lambda all, sae: Quotient(all.zero.kl, all.tokens),
    "kl_div_mean": lambda all, sae: Quotient(all.mean.kl, all.tokens),
    "kl_div_score": lambda all, sae: Quotient(all.zero.kl - sae.kl, all.zero.kl),
    "kl_div_score_mean": lambda all, sae: Quotient(all.mean.kl - sae.kl, all.mean.kl),
}
"""Losses are means over source tokens in nats; a score is 1 for the unchanged model and 0 at its floor.

The floor of `ce_loss_score` and `kl_div_score` is the site set to zero, of the `…_mean` ones set to its mean.
"""


class Recovered:
    """Running sums of the losses of one reconstruction."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._ratios = {key: Ratio() for key in RECOVERED}
        self._windows: dict[str, list[Quotient]] = {key: [] for key in RECOVERED}

    def update(self, losses: Losses) -> None:
        for key, ratio in self._ratios.items():
            added = RECOVERED[key](losses, losses.variants[self._variant])
            ratio.update(Sums(added.num.sum(), added.den.sum()))
            self._windows[key].append(added)

    def figures(self) -> dict[str, Figure]:
        return {key: ratio.compute() for key, ratio in self._ratios.items()}

    def terms(self) -> dict[str, Terms]:
        """The same, window by window."""
        return {
            key: Terms(*(torch.cat(column).numpy() for column in zip(*parts)))
            for key, parts in self._windows.items()
            if parts
        }
