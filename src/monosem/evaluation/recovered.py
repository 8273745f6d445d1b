"""How much of the model's behaviour a reconstruction keeps. One row of `RECOVERED` per quotient of sums."""

from __future__ import annotations

from collections.abc import Callable

from monosem.evaluation.loss import Loss
from monosem.evaluation.ratio import Figure, Ratio, Sums
from monosem.evaluation.replacement import Losses, Variant

RECOVERED: dict[str, Callable[[Losses, Loss], Sums]] = {
    "ce_loss_clean": lambda all, sae: Sums(all.clean, all.tokens),
    "ce_loss_sae": lambda all, sae: Sums(sae.ce, all.tokens),
    "ce_loss_zero": lambda all, sae: Sums(all.zero.ce, all.tokens),
    "ce_loss_mean": lambda all, sae: Sums(all.mean.ce, all.tokens),
    "ce_loss_score": lambda all, sae: Sums(all.zero.ce - sae.ce, all.zero.ce - all.clean),
    "ce_loss_score_mean": lambda all, sae: Sums(all.mean.ce - sae.ce, all.mean.ce - all.clean),
    "kl_div": lambda all, sae: Sums(sae.kl, all.tokens),
    "kl_div_zero": lambda all, sae: Sums(all.zero.kl, all.tokens),
    "kl_div_mean": lambda all, sae: Sums(all.mean.kl, all.tokens),
    "kl_div_score": lambda all, sae: Sums(all.zero.kl - sae.kl, all.zero.kl),
    "kl_div_score_mean": lambda all, sae: Sums(all.mean.kl - sae.kl, all.mean.kl),
}
"""Losses are means over source tokens in nats; a score is 1 for the unchanged model and 0 at its floor.

The floor of `ce_loss_score` and `kl_div_score` is the site set to zero, of the `…_mean` ones set to its mean.
"""


class Recovered:
    """Running sums of the losses of one reconstruction."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._ratios = {key: Ratio() for key in RECOVERED}

    def update(self, losses: Losses) -> None:
        for key, ratio in self._ratios.items():
            ratio.update(RECOVERED[key](losses, losses.variants[self._variant]))

    def figures(self) -> dict[str, Figure]:
        return {key: ratio.compute() for key, ratio in self._ratios.items()}
