"""Data from a language model: training activations as `monosem train` reads them, held-out ones recorded once."""

from __future__ import annotations

import functools
import math
import time

import numpy as np
import torch
from torch import Tensor

from monosem.activations import Store, record, store_folder, store_identity
from monosem.lm import LanguageModel
from monosem.reproduce.data import Data, Dataset, Text
from monosem.reproduce.scale import Scale
from monosem.shapes import InputError, Site
from monosem.text import Windows
from monosem.training.config import TrainConfig
from monosem.training.run import Prepared, first_windows, prepare, run_windows

PROBE_WINDOWS = 8


def settings(scale: Scale) -> TrainConfig:
    """The settings that decide activations; those of the autoencoder are left at their defaults."""
    keys = ("model", "dtype", "device", "text", "column", "window", "bos", "separator", "held_out", "site")
    keys += ("activations", "distinct_tokens", "tokens", "batch")
    return TrainConfig.from_dict({key: scale.settings[key] for key in keys if key in scale.settings})


def recorded(scale: Scale, seed: int) -> Data:
    """Open the model's activations, recording what is missing. Raises `InputError` when the text is too short."""
    config = settings(scale)
    _model.cache_clear()
    prepared = prepare(config)
    half = scale.held_out
    held_out, text = _held_out(config, prepared, 2 * half, half)
    identity = {"model": prepared.lm.identity(), "text": prepared.windows.identity, "site": str(prepared.site)}
    tokens = text.windows[text.keep].long()
    return Data(prepared.source, prepared.site, held_out[:half], held_out[half:], identity, tokens, text=text)


def _held_out(config: TrainConfig, prepared: Prepared, count: int, first: int) -> tuple[Tensor, Text]:
    """Exactly `count` kept activations of held-out documents, and where the `first` of them stand."""
    lm, site = prepared.lm, prepared.site
    text = _held_out_windows(config, lm, count)
    store = record(lm, text, [site], n_windows=len(text.tokens))
    rows = Store(store.folder, len(text.tokens), prepared.exclusion).rows(np.arange(len(text.tokens)))
    if len(rows.windows) < count:
        raise InputError(
            f"{config.text} has {len(rows.windows):,} held-out tokens after exclusion, {count:,} are needed: "
            "give more text"
        )
    keep = torch.zeros(int(rows.windows[first - 1]) + 1, config.window, dtype=torch.bool)
    keep[rows.windows[:first], rows.positions[:first]] = True
    info = {"text": text.identity, "exclusion": prepared.exclusion.describe()}
    return rows.acts[site][:count].float().to(lm.device), Text(text.tokens[: len(keep)], keep, lm.tokenizer, info)


def _held_out_windows(config: TrainConfig, lm: LanguageModel, count: int) -> Windows:
    """A few more windows than needed: exclusion takes the first position of each and a few tokens."""
    return first_windows(run_windows(config, lm, "held_out"), math.ceil(1.02 * count / (config.window - 1)))


def predicted(scale: Scale) -> float:
    """Seconds to record what is not in the cache yet, from the rate of one real pass."""
    config, lm = settings(scale), model(scale)
    site = lm.site(config.site)
    train, held_out = run_windows(config, lm, "train"), _held_out_windows(config, lm, 2 * scale.held_out)
    wanted = -(-(config.distinct_tokens or config.tokens) // (config.window - 1))
    count = missing(lm, held_out, site, len(held_out.tokens))
    count += missing(lm, train, site, wanted) if config.activations == "store" else wanted
    return count * window_seconds(lm, train, site) if count else 0.0


def missing(lm: LanguageModel, text: Windows, site: Site, wanted: int) -> int:
    """Windows that a store in the cache does not hold yet."""
    wanted = min(wanted, len(text.tokens))
    folder = store_folder(store_identity(lm, text, [site], str(lm.dtype).removeprefix("torch.")))
    return max(wanted - Store(folder).n_windows, 0) if (folder / "exclusion.json").exists() else wanted


def window_seconds(lm: LanguageModel, text: Windows, site: Site) -> float:
    """Seconds a window, from the second of two passes."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        lm.capture(text.tokens[:PROBE_WINDOWS], [site])
        seconds = time.perf_counter() - start
    return seconds / len(text.tokens[:PROBE_WINDOWS])


@functools.cache
def _model(name: str, dtype: str, device: str) -> LanguageModel:
    return LanguageModel.load(name, dtype=dtype, device=device)


def model(scale: Scale) -> LanguageModel:
    """The language model of a scale; a second call gives the same one."""
    config = settings(scale)
    return _model(config.model, config.dtype, config.device)


def _width(scale: Scale) -> int:
    lm = model(scale)
    return lm.width(lm.site(settings(scale).site))


MODEL = Dataset(open=recorded, width=_width, predict=predicted, seeded=False)
