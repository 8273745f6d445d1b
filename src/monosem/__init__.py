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
    from monosem.evaluation import compare, evaluate, feature_statistics, read_prompt, search_features
    from monosem.lm import LanguageModel
    from monosem.report import read_feature
    from monosem.sae import SAE, load, save
    from monosem.shapes import InputError, Site
    from monosem.training import Grid, TrainConfig, train

__version__ = "0.1.0"

__all__ = [
    "SAE",
    "Grid",
    "InputError",
    "LanguageModel",
    "Site",
    "TrainConfig",
    "__version__",
    "compare",
    "evaluate",
    "feature_statistics",
    "load",
    "read_feature",
    "read_prompt",
    "save",
    "search_features",
    "train",
]

__getattr__ = lazy(
    __name__,
    {
        "Grid": "monosem.training",
        "InputError": "monosem.shapes",
        "LanguageModel": "monosem.lm",
        "SAE": "monosem.sae",
        "Site": "monosem.shapes",
        "TrainConfig": "monosem.training",
        "compare": "monosem.evaluation",
        "evaluate": "monosem.evaluation",
        "feature_statistics": "monosem.evaluation",
        "load": "monosem.sae",
        "read_feature": "monosem.report",
        "read_prompt": "monosem.evaluation",
        "save": "monosem.sae",
        "search_features": "monosem.evaluation",
        "train": "monosem.training",
    },
)
