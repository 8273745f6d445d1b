"""The start of an autoencoder: from a first batch, before any step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monosem.activations import Stream
from monosem.sae import build
from monosem.shapes import Site
from monosem.training.config import TrainConfig
from monosem.training.grid import route_of
from monosem.training.job import Job
from monosem.training.recipe import budgeted, make, make_control, make_objective


def first_batch(stream: Stream) -> Mapping[Site, Tensor]:
    """The first batch of a new stream, which will come again."""
    start = stream.state()
    acts = next(stream).acts
    stream.resume(start)
    return acts


def new_job(name: str, config: TrainConfig, first: Mapping[Site, Tensor], device: torch.device) -> Job:
    """The one autoencoder that `config` names, initialised from a first batch of raw activations."""
    (kind,), route = config.sae, route_of(config)
    x = first[route.site].float()
    y = None if route.target is None else first[route.target].float()
    return Job(name, *make(kind, config, x, y), budgeted(kind, config, x.shape[1]), device, make_control(kind))


def known_job(name: str, config: TrainConfig, described: dict[str, Any], device: torch.device) -> Job:
    """The autoencoder of a checkpoint, whose weights and counters come with `Job.resume`."""
    (kind,), sae = config.sae, build(described)
    settings = budgeted(kind, config, sae.d_in)
    return Job(name, sae, make_objective(kind, config), settings, device, make_control(kind))
