"""Drawing tokens: temperature, then nucleus, then Gumbel noise that a text's seed alone decides.

The largest of log p + Gumbel noise is a draw from p. The noise of step t is the same in every setting, so that two
settings of one seed differ only where their probabilities do: paired comparisons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from monosem.shapes import InputError


@dataclass(frozen=True)
class Sampling:
    """At most `new_tokens` of each text; temperature 0 takes the likeliest token. Defaults of arXiv 2502.03032."""

    new_tokens: int = 96
    temperature: float = 1.27
    top_p: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers outside their range."""
        if self.new_tokens < 1:
            raise InputError(f"{self.new_tokens} new tokens: give at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature {self.temperature}: give 0 (the likeliest token) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p {self.top_p}: give more than 0, and at most 1 (no nucleus)")

    def generator(self, prompt: int, sample: int) -> torch.Generator:
        """The source of noise of one text: sample `sample` of prompt `prompt`."""
        state = np.random.SeedSequence([self.seed, prompt, sample]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(state >> 1))


def draw(logits: Float[Tensor, "B V"], sampling: Sampling, generators: list[torch.Generator]) -> Int64[Tensor, " B"]:
    """One token of each row; every generator advances by one draw of V numbers."""
    if sampling.temperature == 0:
        return logits.argmax(1)
    scores = (logits.float() / sampling.temperature).log_softmax(1)
    scores = scores.masked_fill(~nucleus(scores.exp(), sampling.top_p), -torch.inf)
    uniform = torch.stack([torch.rand(logits.shape[1], generator=one) for one in generators]).to(scores.device)
    return (scores - (-uniform.clamp_min(1e-20).log()).log()).argmax(1)


def nucleus(probabilities: Float32[Tensor, "B V"], top_p: float) -> Bool[Tensor, "B V"]:
    """The fewest likeliest tokens that have a probability of `top_p` together; always one."""
    if top_p == 1:
        return torch.ones_like(probabilities, dtype=torch.bool)
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    before = ordered.double().cumsum(1) - ordered
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter(1, order, before < top_p)
