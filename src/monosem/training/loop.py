"""The training loop: one stream, many autoencoders, every one the same as if trained alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.activations import Stream
from monosem.progress import Bar, progress, remark
from monosem.sae import describe
from monosem.shapes import InputError
from monosem.shapes.route import Route
from monosem.training import checkpoint
from monosem.training.checkpoint import Checkpoint
from monosem.training.config import TrainConfig
from monosem.training.divergence import SHOWN, Divergence, divergence, summed_up
from monosem.training.guard import Guard, stopped
from monosem.training.interruption import Interrupted, Interruption
from monosem.training.job import Job
from monosem.training.log import Log
from monosem.training.schedule import learning_rate


class Loop:
    """Owns the counters of a run. Waits for the device only where a log line or a checkpoint is due."""

    def __init__(
        self,
        jobs: Mapping[Route, list[Job]],
        stream: Stream,
        config: TrainConfig,
        folder: Path,
        guard: Guard | None = None,
    ) -> None:
        """`config`: what all jobs share; each has its own settings. `guard` looks at each where the log is due."""
        self._guard = guard
        self.by_route, self.stream, self.config, self.folder = jobs, stream, config, folder
        self.jobs = [job for group in jobs.values() for job in group]
        self.diverged: dict[str, Divergence] = {}
        self.step, self.tokens = 0, 0
        self._last = (0, time.perf_counter())

    @property
    def steps(self) -> int:
        """Those of the job that has most: with equal FLOPs their numbers differ."""
        return max(job.config.steps for job in self.jobs)

    def resume(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint, which has no job that had diverged."""
        self.step, self.tokens, self.diverged = saved.step, saved.tokens, dict(saved.diverged)
        self.stream.resume(saved.stream)
        for job in self.jobs:
            job.resume(saved.tensors[job.name])
            job.seconds = saved.seconds[job.name]
        torch.set_rng_state(saved.rng)

    def run(self) -> None:
        """Train to the end. A job that diverges is left behind, in `diverged`, and others go on.

        Raises `Interrupted` after a checkpoint when asked to stop, `HarmError` after one when the guard stops it, and
        `InputError` when all have diverged.
        """
        log = Log(self.folder / "metrics.jsonl", self.step)
        total = self.steps * self.config.batch
        self._last = (self.tokens, time.perf_counter())
        try:
            with Interruption() as asked, progress(f"training {self._title()}", total, "tok", self.tokens) as bar:
                while self.step < self.steps:
                    self._advance(log, bar)
                    if asked.signal is not None:
                        self.save(log)
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
        due = [job for job in active if self.step % self.config.log_every == 0 or self.step == job.config.steps]
        harm = self._log(log, bar, due) if due else []
        if harm or self.step % self.config.checkpoint_every == 0 or self.step >= self.steps:
            self.save(log)
        if harm:
            raise stopped(harm)

    def _log(self, log: Log, bar: Bar, jobs: list[Job]) -> list[str]:
        """A line for each job; why the guard ends the run, if it does."""
        tokens, since = self._last
        self._last = (self.tokens, time.perf_counter())
        rate = (self.tokens - tokens) / max(self._last[1] - since, 1e-9)
        self._leave_behind(log, {job.name: divergence(job, self.step, self.tokens) for job in jobs})
        explained, harm = {}, []
        for job in (job for job in jobs if job.name not in self.diverged):
            job.refresh_dead(self.tokens)
            summary = job.summary()
            if self._guard is not None:
                look = self._guard.look(job)
                summary |= look.figures
                harm += [look.stop] if look.stop else []
            seconds = {"tokens_per_s": rate, "step_seconds": job.seconds}
            log.write(
                {**self._position(job.name), **summary, "lr": learning_rate(self.step - 1, job.config), **seconds}
            )
            explained[job.name] = summary["explained_variance"]
        bar.advance(0, **_noted(explained))
        return harm

    def _position(self, name: str) -> dict[str, Any]:
        return {"step": self.step, "tokens": self.tokens, "epoch": self.stream.epoch, "sae": name}

    def _leave_behind(self, log: Log, found: Mapping[str, Divergence | None]) -> None:
        """Step no further those jobs that have diverged. Raises `InputError` if no other is left."""
        for name, one in found.items():
            if one is not None:
                self.diverged[name] = one
                log.write({**self._position(name), "diverged": one.message})
        self.by_route = {
            route: [job for job in group if job.name not in self.diverged] for route, group in self.by_route.items()
        }
        self.jobs = [job for group in self.by_route.values() for job in group]
        if not self.jobs:
            folder = self.folder / "checkpoints"
            kept = f"; the last good checkpoint is kept in {folder}" if checkpoint.steps(folder) else ""
            raise InputError(summed_up(self.diverged) + kept)
        for one in filter(None, found.values()):
            remark(f"{one.message}; {len(self.jobs)} autoencoders go on")

    def save(self, log: Log) -> None:
        """Write a checkpoint of the jobs whose weights are finite; others are left behind, and said in the log."""
        self._leave_behind(log, {job.name: divergence(job, self.step, self.tokens, weights=True) for job in self.jobs})
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
                self.diverged,
            ),
            self.config.keep,
        )


def step_all(
    jobs: Mapping[Route, list[Job]], acts: Mapping[Any, Float[Tensor, "B _"]], step: int, tokens: int
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
