"""The random numbers that initial weights are drawn from."""

from __future__ import annotations

import torch

from monosem.disk import digest
from monosem.training.config import TrainConfig


def draws(config: TrainConfig) -> int:
    """Which random numbers: those of the seed and the site, and of nothing else.

    Autoencoders of two sites that began from the same numbers would correspond latent by latent for that reason alone:
    matching their decoders would find the start again. At one site a seed means the same start whatever the encoder.
    """
    return int(digest([config.seed, config.site], 12), 16)


def generator(config: TrainConfig) -> torch.Generator:
    """Seeded with `draws`."""
    return torch.Generator().manual_seed(draws(config))
