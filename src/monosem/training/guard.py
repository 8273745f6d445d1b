"""Watching general text while something is trained beside a core on a domain (arXiv 2507.12990)."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.shapes import InputError
from monosem.training.config import TrainConfig
from monosem.training.core import Core, unexplained
from monosem.training.job import Job
from monosem.training.recipe import role_of

_log = logging.getLogger("monosem")


class HarmError(InputError):
    """More of general text was lost than settings allow, and they say to stop."""


class Guard:
    """Explained variance of general activations as if training ended now: with thresholds, not by batch."""

    def __init__(self, core: Core, x: Float[Tensor, "N D"], target: Float[Tensor, "N E"], config: TrainConfig) -> None:
        device = core.sae.W_dec.device
        self._config, self._x, self._y = config, x.to(device).float(), target.to(device).float()
        self._left = unexplained(core.sae, self._x, self._y)
        self._variation = float((self._y - self._y.mean(0)).square().sum())
        self.core = self._explained(self._left)
        self._warned: set[str] = set()

    def look(self, job: Job) -> dict[str, float]:
        """What the log says of general text; warns once for each autoencoder that harms it.

        Raises `HarmError` if settings say that harm ends the run.
        """
        found = self._explained(self._left_by(job))
        drop = (self.core - found) / abs(self.core)
        if drop > self._config.harm:
            self._say(job, found, drop)
        return {"general_explained_variance": found, "general_drop": drop}

    @torch.no_grad()
    def _left_by(self, job: Job) -> Tensor:
        role = role_of(job.config.sae[0], job.config)
        target = self._left if role is not None and role.residual else self._y
        was = job.sae.training
        left = target - job.sae.eval()(self._x)
        job.sae.train(was)
        return left

    def _explained(self, left: Tensor) -> float:
        return 1 - float(left.square().sum()) / self._variation

    def _say(self, job: Job, found: float, drop: float) -> None:
        line = (
            f"{job.name} explains {found:.4f} of general text's variance, the core alone {self.core:.4f}: "
            f"{drop:.1%} less, harm = {self._config.harm:.1%} is allowed"
        )
        if self._config.on_harm == "stop":
            raise HarmError(
                f"{line}; stopped after a checkpoint: use more text of the domain, lower lr or k, or go on "
                "with on_harm = warn"
            )
        if job.name not in self._warned:
            self._warned.add(job.name)
            _log.warning("%s; it may recover, see general_drop in metrics.jsonl", line)
