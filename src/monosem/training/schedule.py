"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from monosem.training.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear rise over the warm-up, then `lr`, then a linear or cosine fall to 0 over the last `decay` of the run."""
    warmup, decay = config.warmup * config.steps, config.decay * config.steps
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    left = (config.steps - step) / decay if decay else 1.0
    if left >= 1:
        return config.lr
    return config.lr * (left if config.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)
