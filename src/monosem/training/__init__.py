"""Training: one loop for many autoencoders on one stream, with checkpoints that continue bitwise."""

from typing import TYPE_CHECKING

from monosem.lazy import lazy
from monosem.training.config import TrainConfig
from monosem.training.grid import Grid

if TYPE_CHECKING:
    from monosem.training.comparison import together
    from monosem.training.interruption import Interrupted
    from monosem.training.job import Job
    from monosem.training.loop import Loop
    from monosem.training.run import diverged, open_run, train

__all__ = ["Grid", "Interrupted", "Job", "Loop", "TrainConfig", "diverged", "open_run", "together", "train"]

# The settings are needed for `--help`, where torch is not.
__getattr__ = lazy(
    __name__,
    {
        "Interrupted": "monosem.training.interruption",
        "Job": "monosem.training.job",
        "Loop": "monosem.training.loop",
        "diverged": "monosem.training.run",
        "open_run": "monosem.training.run",
        "together": "monosem.training.comparison",
        "train": "monosem.training.run",
    },
)
