"""The autoencoders that can be asked for by name: points on the axes, with their start from a first batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem import kernels
from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, ReLU, Rule, TopK
from monosem.sae.objective import Reconstruction
from monosem.sae.penalty import L1, NoPenalty, Penalty, TargetL0
from monosem.shapes import InputError
from monosem.training.config import TrainConfig


class Recipe(NamedTuple):
    """A rule and the penalty that goes with it."""

    rule: Callable[[TrainConfig], Rule]
    penalty: Callable[[TrainConfig], Penalty]


RECIPES: dict[str, Recipe] = {
    "topk": Recipe(lambda c: TopK(c.n_latents, c.k), lambda c: NoPenalty()),
    "batch_topk": Recipe(lambda c: BatchTopK(c.n_latents, c.k), lambda c: NoPenalty()),
    "jumprelu": Recipe(lambda c: JumpReLU(c.n_latents, c.bandwidth), lambda c: TargetL0(float(c.k))),
    "relu": Recipe(lambda c: ReLU(c.n_latents), lambda c: L1(c.l1)),
}


def make(name: str, config: TrainConfig, first: Float[Tensor, "B D"]) -> tuple[SAE, Reconstruction]:
    """A new autoencoder, initialised from a first batch of raw activations, and its objective."""
    recipe = _recipe(name)
    sae = SAE(DenseEncoder(first.shape[1], config.n_latents), recipe.rule(config))
    sae.initialise(first.cpu(), torch.Generator().manual_seed(config.seed))
    objective = make_objective(name, config)
    if isinstance(sae.rule, JumpReLU) and isinstance(objective.penalty, TargetL0):
        with torch.no_grad():
            pre = sae.pre_acts(first.cpu().float())
            # One threshold for all that makes the first batch's mean L0 the target.
            sae.rule.threshold.fill_(kernels.batch_topk(pre, config.k).values.min())
        objective.penalty.initialise(sae.rule.threshold, sae.d_in)
    return sae, objective


def make_objective(name: str, config: TrainConfig) -> Reconstruction:
    """The loss a recipe trains with."""
    penalty = _recipe(name).penalty(config)
    return Reconstruction(
        penalty, aux_coefficient=config.aux, k_aux=2 * config.k if config.k_aux is None else config.k_aux
    )


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise InputError(f"unknown autoencoder {name!r}: choose from {', '.join(RECIPES)}")
    return RECIPES[name]
