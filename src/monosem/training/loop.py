"""The training loop: one stream, many autoencoders, every one the same as if trained alone."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.activations import Stream
from monosem.progress import Bar, progress
from monosem.sae import describe
from monosem.shapes import InputError, Site
from monosem.shapes.route import Route
from monosem.training import checkpoint
from monosem.training.checkpoint import Checkpoint
from monosem.training.config import TrainConfig
from monosem.training.interruption import Interrupted, Interruption
from monosem.training.job import Job
from monosem.training.log import Log
from monosem.training.schedule import learning_rate

SHOWN = 4
"""Autoencoders that the progress line names one by one."""


class Loop:
    """Owns the counters of a run. Waits for the device only where a log line or a checkpoint is due."""

    def __init__(self, jobs: Mapping[Route, list[Job]], stream: Stream, config: TrainConfig, folder: Path) -> None:
        """`config`: what all jobs share; each has its own settings."""
        self.by_route, self.stream, self.config, self.folder = jobs, stream, config, folder
        self.jobs = [job for group in jobs.values() for job in group]
        self.step, self.tokens = 0, 0
        self._last = (0, time.perf_counter())

    @property
    def steps(self) -> int:
        """Those of the job that has most: with equal FLOPs their numbers differ."""
        return max(job.config.steps for job in self.jobs)

    def resume(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint."""
        self.step, self.tokens = saved.step, saved.tokens
        self.stream.resume(saved.stream)
        for job in self.jobs:
            job.resume(saved.tensors[job.name])
            job.seconds = saved.seconds[job.name]
        torch.set_rng_state(saved.rng)

    def run(self) -> None:
        """Train to the end. Raises `Interrupted` after a checkpoint when asked to stop, `InputError` on divergence."""
        log = Log(self.folder / "metrics.jsonl", self.step)
        total = self.steps * self.config.batch
        self._last = (self.tokens, time.perf_counter())
        try:
            with Interruption() as asked, progress(f"training {self._title()}", total, "tok", self.tokens) as bar:
                while self.step < self.steps:
                    self._advance(log, bar)
                    if asked.signal is not None:
                        self.save()
                        raise Interrupted(asked.signal, f"stopped after step {self.step} of {self.steps}")
        finally:
            log.close()

    def _title(self) -> str:
        if len(self.jobs) <= SHOWN:
            return ", ".join(job.name for job in self.jobs)
        sites = f" at {len(self.by_route)} sites" if len(self.by_route) > 1 else ""
        return f"{len(self.jobs)} autoencoders{sites}"

    def _advance(self, log: Log, bar: Bar) -> None:
        acts = next(self.stream).acts
        self.tokens += self.stream.batch
        active = step_all(self.by_route, acts, self.step, self.tokens)
        self.step += 1
        bar.advance(self.stream.batch)
        last = self.step == self.steps
        due = [job for job in active if self.step % self.config.log_every == 0 or self.step == job.config.steps]
        if due:
            self._log(log, bar, due)
        if self.step % self.config.checkpoint_every == 0 or last:
            self.save()

    def _log(self, log: Log, bar: Bar, jobs: list[Job]) -> None:
        tokens, since = self._last
        self._last = (self.tokens, time.perf_counter())
        rate = (self.tokens - tokens) / max(self._last[1] - since, 1e-9)
        explained = {}
        for job in jobs:
            job.refresh_dead(self.tokens)
            self._check_finite(job)
            summary = job.summary()
            position = {"step": self.step, "tokens": self.tokens, "epoch": self.stream.epoch, "sae": job.name}
            seconds = {"tokens_per_s": rate, "step_seconds": job.seconds}
            log.write({**position, **summary, "lr": learning_rate(self.step - 1, job.config), **seconds})
            explained[job.name] = summary["explained_variance"]
        bar.advance(0, **_noted(explained))

    def _check_finite(self, job: Job) -> None:
        if bool(job.sums.isfinite().all()):
            return
        first = self.tokens - self.config.log_every * self.config.batch
        raise InputError(
            f"{job.name} diverged between training tokens {max(first, 0):,} and {self.tokens:,} (loss not finite): "
            f"lower lr from {job.config.lr:g}; the last good checkpoint is kept in {self.folder / 'checkpoints'}"
        )

    def save(self) -> None:
        """Write a checkpoint; weights that are not finite are never written over good ones."""
        for job in self.jobs:
            self._check_finite(job)
            if not all(math.isfinite(float(weight.sum())) for weight in job.sae.state_dict().values()):
                raise InputError(
                    f"the weights of {job.name} are not finite at step {self.step}: lower lr from {job.config.lr:g}"
                )
        checkpoint.save(
            self.folder / "checkpoints",
            Checkpoint(
                self.step,
                self.tokens,
                self.stream.state(),
                {job.name: describe(job.sae) for job in self.jobs},
                {job.name: job.state() for job in self.jobs},
                {job.name: job.seconds for job in self.jobs},
                checkpoint.random_state(),
            ),
            self.config.keep,
        )


def step_all(
    jobs: Mapping[Route, list[Job]], acts: Mapping[Site, Float[Tensor, "B _"]], step: int, tokens: int
) -> list[Job]:
    """Step `step` of every job that still has one, on the same batch; `tokens`: seen after it.

    One job after the other, so gradients of one alone exist at a time.
    """
    stepped = []
    for route, group in jobs.items():
        active = [job for job in group if step < job.config.steps]
        if not active:
            continue
        device = active[0].last_fired.device
        x = acts[route.site].to(device).float()
        target = None if route.target is None else acts[route.target].to(device).float()
        sst = _centred_energy(x if target is None else target)
        for job in active:
            job.step(x, learning_rate(step, job.config), tokens, sst, target)
        stepped += active
    return stepped


def _noted(explained: dict[str, float]) -> dict[str, float | str]:
    """What the progress line says of explained variance: each, or of many their mean and the least."""
    if len(explained) <= SHOWN:
        return {f"{name} EV": value for name, value in explained.items()}
    worst = min(explained, key=lambda name: explained[name])
    return {"mean EV": sum(explained.values()) / len(explained), "least EV": f"{explained[worst]:.4g} ({worst})"}


def _centred_energy(x: Tensor) -> Tensor:
    return (x - x.mean(0)).square().sum()
