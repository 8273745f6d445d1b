"""Logistic regression: one problem at its optimum, or many at once by the published schedule of Adam."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, linear

_FIRST_RATE, _LAST_RATE, _STEPS, _WEIGHT_DECAY = 1e-2, 1e-5, 300, 1e-6


class Probe(NamedTuple):
    """A token is positive where x · weight + bias > 0; C problems at once have rows."""

    weight: Float[Tensor, "*C D"]
    bias: Float[Tensor, "*C"]

    def scores(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N ..."]:
        """Log-odds."""
        return linear(x.to(self.weight), self.weight) + self.bias


def fit(x: Float[Tensor, "N D"], y: Bool[Tensor, " N"], *, balanced: bool = False) -> Probe:
    """min ‖w‖²/2 + Σ c_n log(1 + exp(−y_n (w · x_n + b))), in float64: scikit-learn's default, C = 1.

    `balanced`: c_n = N / (2 · size of the class) instead of 1. Raises `ValueError` unless both classes are there.
    """
    inputs, positive = x.detach().cpu().double().numpy(), y.cpu().numpy()
    count = positive.sum()
    if not 0 < count < len(positive):
        raise ValueError("a logistic regression needs examples of both classes")
    costs = np.ones(len(positive))
    if balanced:
        costs = np.where(positive, len(positive) / (2 * count), len(positive) / (2 * (len(positive) - count)))
    signs = np.where(positive, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (inputs @ parameters[:-1] + parameters[-1])
        slopes = -costs * signs * expit(-margins)
        value = parameters[:-1] @ parameters[:-1] / 2 + (costs * np.logaddexp(0, -margins)).sum()
        return float(value), np.append(parameters[:-1] + slopes @ inputs, slopes.sum())

    found = minimize(loss, np.zeros(inputs.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    return Probe(torch.from_numpy(found[:-1].copy()), torch.tensor(found[-1]))


def fit_all(x: Float[Tensor, "N D"], y: Bool[Tensor, "N C"], *, l1: float = 0.0) -> Probe:
    """C one-against-rest problems at once, as in the first-letter task: cross-entropy whose positives weigh
    negatives/positives, Adam with a rate that falls from 1e-2 to 1e-5, and `l1` · mean over problems of ‖w‖₁.

    300 steps on all examples instead of epochs of batches, from 0: the result is the same every time.
    """
    with torch.enable_grad():
        x, wanted = x.float(), y.float()
        count = wanted.sum(0)
        more = (len(wanted) - count) / count.clamp_min(1)
        weight = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
        bias = torch.zeros(y.shape[1], requires_grad=True)
        adam = torch.optim.Adam([weight, bias], lr=_FIRST_RATE, weight_decay=_WEIGHT_DECAY)
        falling = torch.optim.lr_scheduler.ExponentialLR(adam, (_LAST_RATE / _FIRST_RATE) ** (1 / _STEPS))
        for _ in range(_STEPS):
            adam.zero_grad()
            loss = binary_cross_entropy_with_logits(linear(x, weight, bias), wanted, pos_weight=more)
            loss = loss + l1 * weight.abs().sum(1).mean()
            loss.backward()
            adam.step()
            falling.step()
    return Probe(weight.detach(), bias.detach())
