"""Several settings on one stream, in memory: what comparisons of seeds, budgets and gates need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from monosem.activations import Source
from monosem.progress import progress
from monosem.sae import SAE
from monosem.shapes import InputError, Site
from monosem.shapes.route import Route
from monosem.training.config import TrainConfig
from monosem.training.core import Core, core_of, stream_beside
from monosem.training.grid import route_of
from monosem.training.job import Job
from monosem.training.loop import step_all
from monosem.training.recipe import check
from monosem.training.run import axes, summed
from monosem.training.start import first_batch, new_job


def together(
    source: Source,
    site: Site,
    arms: Mapping[str, TrainConfig],
    *,
    device: str | torch.device = "cpu",
    label: str = "training",
) -> dict[str, SAE]:
    """Train every arm on the same batches; each is what it would be alone. Nothing is written.

    Every configuration names one autoencoder, which reads `site`; all share batch, block and the order of tokens.
    Beside a core residuals come back as its sums with them. Raises `InputError` otherwise, and for losses that are not
    finite.
    """
    first = _check(arms)
    core = core_of(first)
    if core is not None:
        core.sae.to(device)
    stream = stream_beside(source, core, first)
    acts = first_batch(stream)
    here = {name: replace(config, site=str(site)) for name, config in arms.items()}
    jobs = [new_job(name, config, acts, torch.device(device)) for name, config in here.items()]
    by_route: dict[Route, list[Job]] = {}
    for job in jobs:
        by_route.setdefault(route_of(here[job.name]), []).append(job)
    steps = max(job.config.steps for job in jobs)
    with progress(label, steps * first.batch, "tok") as bar:
        for step in range(steps):
            active = step_all(by_route, next(stream).acts, step, (step + 1) * first.batch)
            bar.advance(first.batch)
            for job in active:
                if (step + 1) % job.config.log_every == 0 or step + 1 == job.config.steps:
                    _settle(job, (step + 1) * first.batch)
    return {job.name: _finished(job, here[job.name], core) for job in jobs}


def _check(arms: Mapping[str, TrainConfig]) -> TrainConfig:
    if not arms:
        raise InputError("no arm was given to train: name at least one")
    first = next(iter(arms.values()))
    for name, config in arms.items():
        if len(config.sae) != 1:
            raise InputError(f"arm {name} names {len(config.sae)} autoencoders: give one to each arm")
        if config.calibrate:
            raise InputError(f"arm {name} asks for calibration, which a run does at its end: leave calibrate off")
        check(config.sae[0], config)
        if config.transcodes:
            raise InputError(f"arm {name} predicts {config.target}: leave target out, or train it in a run")
        if config.order != first.order:
            raise InputError(
                f"arm {name} has its tokens in order {config.order}, others {first.order}: share order_seed"
            )
        for key in ("batch", "block", "core"):
            if getattr(config, key) != getattr(first, key):
                raise InputError(
                    f"arm {name} has {key} = {getattr(config, key)}, others {getattr(first, key)}: share it"
                )
    return first


def _settle(job: Job, tokens: int) -> None:
    if not bool(job.sums.isfinite().all()):
        raise InputError(
            f"{job.name} diverged within {tokens:,} tokens (loss not finite): lower lr from {job.config.lr:g}"
        )
    job.refresh_dead(tokens)
    job.summary()


def _finished(job: Job, config: TrainConfig, core: Core | None) -> SAE:
    tokens = job.config.steps * job.config.batch
    training = {"config": config.describe(), "tokens": tokens, "clamped_share": job.clamped_share}
    job.sae.info = {"site": config.site, "name": job.name, "training": training} | axes(job)
    return summed(job.sae.eval(), config, core)
