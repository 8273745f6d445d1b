"""A model with random weights: the control that tells what a model learned from what its architecture gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from monosem.lm.quiet import quiet

if TYPE_CHECKING:
    from monosem.lm.load import Loaded


def reinitialised(loaded: Loaded, seed: int) -> Loaded:
    """The same architecture, device and dtype with weights as transformers initialises them, by `seed`.

    They are drawn in float32, so that a model of low precision is that of float32, rounded. Name and source say so.
    """
    _randomise(loaded.model, seed)
    return loaded._replace(
        name=f"{loaded.name} (re-initialised, seed {seed})",
        source=f"{loaded.source} Its weights were replaced by those transformers initialises it with, seed {seed}.",
        quantisation=None,
    )


@torch.no_grad()
def _randomise(model: Any, seed: int) -> None:
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        fresh = type(model)(model.config).float()
    for weight, drawn in zip(model.parameters(), fresh.parameters(), strict=True):
        weight.copy_(drawn)
