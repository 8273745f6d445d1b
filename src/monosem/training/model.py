"""The language model that settings name."""

from __future__ import annotations

from monosem.lm import LanguageModel
from monosem.training.config import TrainConfig


def load_model(config: TrainConfig, dtype: str | None = None) -> LanguageModel:
    """The model of a run, in another precision if asked for. Raises `InputError`."""
    return LanguageModel.load(
        config.model,
        dtype=dtype or config.dtype,
        device=config.device,
        device_map=config.device_map,
        reinit=config.reinit,
    )
