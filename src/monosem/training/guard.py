"""Watching general text while something is trained beside a core on a domain (arXiv 2507.12990)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.shapes import InputError
from monosem.training.config import TrainConfig
from monosem.training.core import Core, unexplained
from monosem.training.job import Job
from monosem.training.recipe import recipe, role_of

_log = logging.getLogger("monosem")


SMALL_EV = 0.05
"""Below this a share of the core's explained variance means nothing, and its absolute loss is looked at."""


class HarmError(InputError):
    """More of general text was lost than settings allow, and they say to stop."""


class Look(NamedTuple):
    """What the log says of general text, and, if the run has to end for it, why."""

    figures: dict[str, float]
    stop: str | None


class Guard:
    """Explained variance of general activations as if training ended now: with thresholds, not by batch."""

    def __init__(self, core: Core, x: Float[Tensor, "N D"], target: Float[Tensor, "N E"], config: TrainConfig) -> None:
        device = core.sae.W_dec.device
        self._config, self._x, self._y = config, x.to(device).float(), target.to(device).float()
        pieces = zip(self._x.split(config.batch), self._y.split(config.batch), strict=True)
        self._left = torch.cat([unexplained(core.sae, x, y) for x, y in pieces])
        self._variation = float((self._y - self._y.mean(0)).square().sum())
        self.core = 1 - float(self._left.square().sum()) / self._variation
        self._warned: set[str] = set()

    def look(self, job: Job) -> Look:
        """Measure; of a residual that harms general text say so once, or why the run has to end.

        What residuals are compared with is measured and never a harm: baselines and controls.
        """
        found = self._explained_by(job)
        drop = (self.core - found) / (abs(self.core) if self._relative else 1.0)
        figures = {"general_explained_variance": found, "general_drop": drop}
        if not drop > self._config.harm or not _watched(job):
            return Look(figures, None)
        line = self._line(job.name, found, drop)
        if self._config.on_harm == "stop":
            return Look(figures, line)
        if job.name not in self._warned:
            self._warned.add(job.name)
            _log.warning("%s; it may recover, see general_drop in metrics.jsonl", line)
        return Look(figures, None)

    @property
    def _relative(self) -> bool:
        return abs(self.core) >= SMALL_EV

    @torch.no_grad()
    def _explained_by(self, job: Job) -> float:
        """Of the job's autoencoder, or of the core's sum with it; in batches of training's size."""
        role = role_of(job.config.sae[0], job.config)
        target = self._left if role is not None and role.residual else self._y
        was, sse = job.sae.training, 0.0
        job.sae.eval()
        for x, y in zip(self._x.split(self._config.batch), target.split(self._config.batch), strict=True):
            sse += float((y - job.sae(x)).square().sum())
        job.sae.train(was)
        return 1 - sse / self._variation

    def _line(self, name: str, found: float, drop: float) -> str:
        shown = "{:.1%}" if self._relative else "{:.4f}"
        less, allowed = shown.format(drop), shown.format(self._config.harm)
        return (
            f"{name} explains {found:.4f} of general text's variance, the core alone {self.core:.4f}: "
            f"{less} less, harm = {allowed} is allowed"
        )


def stopped(lines: Sequence[str]) -> HarmError:
    """What ends a run, from why each of its autoencoders does."""
    return HarmError(
        f"{'; '.join(lines)}; stopped after a checkpoint: use more text of the domain, lower lr or k, or go on "
        "with on_harm = warn"
    )


def _watched(job: Job) -> bool:
    (name,) = job.config.sae
    role = role_of(name, job.config)
    return role is not None and role.residual and recipe(name).control == "trained"
