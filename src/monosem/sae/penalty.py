"""What keeps thresholded autoencoders sparse. One row of `PENALTIES` each."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.sae.function import count_active
from monosem.sae.rule import Rule
from monosem.shapes import InputError
from monosem.shapes.codes import Codes


class Penalty(nn.Module):
    """What every penalty offers: its value for some tokens, and a step after each batch."""

    def forward(self, codes: Codes, rule: Rule, d_out: int) -> Float[Tensor, ""]:
        """A term of the loss; a mean over the tokens of `codes`."""
        raise NotImplementedError

    def advance(self, l0: Float[Tensor, ""]) -> None:
        """Called once a step with the mean L0 of its batch."""


class NoPenalty(Penalty):
    """Rules with a fixed number of active latents need none."""

    def forward(self, codes: Codes, rule: Rule, d_out: int) -> Float[Tensor, ""]:
        return codes.values.new_zeros(())


class L1(Penalty):
    """coefficient · mean_t Σ|f| / d_out: the weight is that of a loss summed over dimensions."""

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(self, codes: Codes, rule: Rule, d_out: int) -> Float[Tensor, ""]:
        return self.coefficient / (d_out * codes.rows) * codes.values.abs().sum()


class TargetL0(Penalty):
    """A penalty on L0 whose weight a proportional-integral controller sets so that L0 meets its target.

    The weight is (integral + gain·excess)·unit with excess = L0/target − 1 of the step before; the integral grows by
    rate·excess a step and may become negative, which lowers thresholds. `unit` is θ²/d_out at the start: about what
    one latent at its threshold removes from the loss.
    """

    def __init__(self, target: float, gain: float = 5.0, rate: float = 0.1) -> None:
        super().__init__()
        self.target, self.gain, self.rate = target, gain, rate
        self.integral: Tensor
        self.excess: Tensor
        self.unit: Tensor
        for name in ("integral", "excess", "unit"):
            self.register_buffer(name, torch.zeros(()))

    def initialise(self, threshold: Float[Tensor, " F"], d_out: int) -> None:
        """Set the unit of the weight from the first thresholds."""
        self.unit.copy_(threshold.detach().square().mean() / d_out)

    def forward(self, codes: Codes, rule: Rule, d_out: int) -> Float[Tensor, ""]:
        learned = rule.learned()
        if learned is None:
            raise InputError("target_l0 needs a rule with thresholds, such as jumprelu")
        return (self.integral + self.gain * self.excess) * self.unit * count_active(codes, *learned)

    def advance(self, l0: Float[Tensor, ""]) -> None:
        """One step of the controller, from the mean L0 of the whole batch."""
        self.excess.copy_(l0 / self.target - 1)
        self.integral.add_(self.rate * self.excess)


PENALTIES = {"none": NoPenalty, "l1": L1, "target_l0": TargetL0}
