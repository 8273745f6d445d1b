"""Training: one loop for many autoencoders on one stream, with checkpoints that continue bitwise."""

from typing import TYPE_CHECKING

from monosem.lazy import lazy
from monosem.train.config import TrainConfig

if TYPE_CHECKING:
    from monosem.train.interruption import Interrupted
    from monosem.train.job import Job
    from monosem.train.loop import Loop
    from monosem.train.recipe import RECIPES
    from monosem.train.run import open_run, train

__all__ = ["RECIPES", "Interrupted", "Job", "Loop", "TrainConfig", "open_run", "train"]

# The settings are needed for `--help`, where torch is not.
__getattr__ = lazy(
    __name__,
    {
        "RECIPES": "monosem.train.recipe",
        "Interrupted": "monosem.train.interruption",
        "Job": "monosem.train.job",
        "Loop": "monosem.train.loop",
        "open_run": "monosem.train.run",
        "train": "monosem.train.run",
    },
)
