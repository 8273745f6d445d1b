"""The start of an autoencoder: from a first batch, before any step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monosem.activations import Stream
from monosem.sae import SAE, build
from monosem.training.config import TrainConfig
from monosem.training.grid import route_of
from monosem.training.job import Job
from monosem.training.recipe import budgeted, make, make_control, make_objective, role_of


def first_batch(stream: Stream) -> Mapping[Any, Tensor]:
    """The first batch of a new stream, which will come again."""
    start = stream.state()
    acts = next(stream).acts
    stream.resume(start)
    return acts


def new_job(name: str, config: TrainConfig, first: Mapping[Any, Tensor], device: torch.device) -> Job:
    """The one autoencoder that `config` names, initialised from a first batch of raw activations."""
    (kind,), route = config.sae, route_of(config)
    x = first[route.site].float()
    y = None if route.target is None else first[route.target].float()
    sae, objective = make(kind, config, x, y)
    settings = budgeted(kind, config, x.shape[1])
    return Job(name, _held(sae, kind, config), objective, settings, device, make_control(kind))


def known_job(name: str, config: TrainConfig, described: dict[str, Any], device: torch.device) -> Job:
    """The autoencoder of a checkpoint, whose weights and counters come with `Job.resume`."""
    (kind,), sae = config.sae, build(described)
    settings = budgeted(kind, config, sae.d_in)
    objective = make_objective(kind, config)
    return Job(name, _held(sae, kind, config), objective, settings, device, make_control(kind))


def _held(sae: SAE, kind: str, config: TrainConfig) -> SAE:
    """A residual has no decoder bias: it stays zero."""
    role = role_of(kind, config)
    if role is not None and role.residual:
        sae.b_dec.requires_grad_(False)
    return sae
