"""Monosem: learn, measure and read the sparse features of language models.

import monosem
lm = monosem.LanguageModel.load("smollm2-135m")
sae = monosem.load("runs/first/saes/topk")
acts = lm.cache("The capital of France is", [sae.info["site"]])[sae.info["site"]]
sae.encode(acts)         # dense [T, n_latents]
sae.codes(acts)          # the same, sparse
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monosem.lazy import lazy

if TYPE_CHECKING:
    from monosem.evaluation import evaluate
    from monosem.lm import LanguageModel
    from monosem.sae import SAE, load, save
    from monosem.shapes import InputError, Site
    from monosem.training import TrainConfig, train

__version__ = "0.1.0"

__all__ = [
    "SAE",
    "InputError",
    "LanguageModel",
    "Site",
    "TrainConfig",
    "__version__",
    "evaluate",
    "load",
    "save",
    "train",
]

__getattr__ = lazy(
    __name__,
    {
        "InputError": "monosem.shapes",
        "LanguageModel": "monosem.lm",
        "SAE": "monosem.sae",
        "Site": "monosem.shapes",
        "TrainConfig": "monosem.training",
        "evaluate": "monosem.evaluation",
        "load": "monosem.sae",
        "save": "monosem.sae",
        "train": "monosem.training",
    },
)
