"""Autoencoders whose training has diverged: found, described, and left behind while others go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from monosem.training.job import Job

SHOWN = 4
"""Autoencoders that one line names one by one."""


class Divergence(NamedTuple):
    """Where a loss or weights that are not finite were found, and what to try."""

    step: int
    tokens: int
    message: str


def divergence(job: Job, step: int, tokens: int, *, weights: bool = False) -> Divergence | None:
    """That of a job, if there is one since its last line of the log; waits for the device.

    With `weights` they are looked at too: the last step of all may have spoilt them.
    """
    if not bool(job.sums.isfinite().all()):
        what = "loss"
    elif weights and not all(bool(weight.sum().isfinite()) for weight in job.sae.state_dict().values()):
        what = "weights"
    else:
        return None
    first = max(tokens - job.config.log_every * job.config.batch, 0)
    place = f"between training tokens {first:,} and {tokens:,} (step {step}, {what} not finite)"
    return Divergence(step, tokens, f"{job.name} diverged {place}: lower lr from {job.config.lr:g}")


def summed_up(found: Mapping[str, Divergence]) -> str:
    """One line about all of them: the first few, and how many more."""
    lines = [one.message for one in found.values()]
    more = [f"{len(lines) - SHOWN} others diverged as well"] if len(lines) > SHOWN else []
    return "; ".join(lines[:SHOWN] + more)
