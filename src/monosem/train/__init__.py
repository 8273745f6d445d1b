"""Training: one loop for many autoencoders on one stream, with checkpoints that continue bitwise."""

from monosem.train.config import TrainConfig
from monosem.train.interruption import Interrupted
from monosem.train.job import Job
from monosem.train.loop import Loop
from monosem.train.recipe import RECIPES
from monosem.train.run import open_run, train

__all__ = ["RECIPES", "Interrupted", "Job", "Loop", "TrainConfig", "open_run", "train"]
