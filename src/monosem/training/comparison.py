"""Several settings on one stream, in memory: what comparisons of seeds, budgets and gates need."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from monosem.activations import Source, Stream
from monosem.progress import progress
from monosem.sae import SAE
from monosem.shapes import InputError, Site
from monosem.training.config import TrainConfig
from monosem.training.job import Job
from monosem.training.loop import step_all
from monosem.training.recipe import budgeted, check, make
from monosem.training.run import axes


def together(
    source: Source,
    site: Site,
    arms: Mapping[str, TrainConfig],
    *,
    device: str | torch.device = "cpu",
    label: str = "training",
) -> dict[str, SAE]:
    """Train every arm on the same batches; each is what it would be alone. Nothing is written.

    Every configuration names one autoencoder; all share seed, batch and block. Raises `InputError` otherwise, and for
    losses that are not finite.
    """
    first = _check(arms)
    stream = Stream(source, batch=first.batch, block=first.block, seed=first.seed)
    x = next(stream).acts[site].float()
    stream.resume({"seed": first.seed, "block": 0, "cursor": 0})
    jobs = [_job(name, config, x, torch.device(device)) for name, config in arms.items()]
    steps = max(job.config.steps for job in jobs)
    with progress(label, steps * first.batch, "tok") as bar:
        for step in range(steps):
            x = next(stream).acts[site].to(jobs[0].last_fired.device).float()
            active = step_all(jobs, x, step, (step + 1) * first.batch)
            bar.advance(len(x))
            for job in active:
                if (step + 1) % job.config.log_every == 0 or step + 1 == job.config.steps:
                    _settle(job, (step + 1) * first.batch)
    return {job.name: _finished(job, arms[job.name], site) for job in jobs}


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
        for key in ("seed", "batch", "block"):
            if getattr(config, key) != getattr(first, key):
                raise InputError(
                    f"arm {name} has {key} = {getattr(config, key)}, others {getattr(first, key)}: share it"
                )
    return first


def _job(name: str, config: TrainConfig, first: torch.Tensor, device: torch.device) -> Job:
    (kind,) = config.sae
    return Job(name, *make(kind, config, first), budgeted(kind, config, first.shape[1]), device)


def _settle(job: Job, tokens: int) -> None:
    if not bool(job.sums.isfinite().all()):
        raise InputError(
            f"{job.name} diverged within {tokens:,} tokens (loss not finite): lower lr from {job.config.lr:g}"
        )
    job.refresh_dead(tokens)
    job.summary()


def _finished(job: Job, config: TrainConfig, site: Site) -> SAE:
    tokens = job.config.steps * job.config.batch
    training = {"config": config.describe(), "tokens": tokens, "clamped_share": job.clamped_share}
    job.sae.info = {"site": str(site), "name": job.name, "training": training} | axes(job)
    return job.sae.eval()
