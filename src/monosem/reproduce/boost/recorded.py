"""General text and domains as a language model sees them: the ground of the larger scales."""

from __future__ import annotations

import math

import numpy as np

from monosem.activations import Live, Source, Store, calibrate, record, recorded
from monosem.lm import LanguageModel
from monosem.reproduce.boost.text import Ground, Part, Text
from monosem.reproduce.recording import model, settings
from monosem.reproduce.scale import Scale
from monosem.shapes import InputError, Site
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows
from monosem.text.request import enough
from monosem.training.config import TrainConfig
from monosem.training.run import run_windows


def ground(scale: Scale, seed: int) -> Ground:
    """Activations of the scale's model; what the general text's rule leaves out is left out of every text.

    Seeds share them: they differ in the order of tokens and in initial weights. Raises `InputError` for short texts.
    """
    lm, general = model(scale), scale.settings["text"]
    site = lm.site(settings(scale).site)
    excluded = _exclusion(scale, general, lm, site)

    def text(name: str) -> Text:
        return _text(scale, name, lm, site, excluded)

    return Ground(site, text(general), text, excluded, lm)


def config_of(scale: Scale, text: str) -> TrainConfig:
    """The settings that decide the activations of a text."""
    config = settings(scale).with_text(text)
    if text != scale.settings["text"]:
        return config
    core = {key: value for key, value in scale.extra["core"].items() if key in ("tokens", "distinct_tokens")}
    return TrainConfig.from_dict({**config.describe(), **core})


def training(scale: Scale, text: str, lm: LanguageModel) -> tuple[Windows, int]:
    """The training windows of a text, and how many of them are read."""
    config = config_of(scale, text)
    windows = run_windows(config, lm, "train")
    return windows, enough(windows, config.distinct_tokens or config.tokens)


def held_out(scale: Scale, text: str, lm: LanguageModel) -> Windows:
    """Windows to report on, then half as many to choose learning rates on."""
    count = _windows(scale)
    wanted, found = count + count // 2, run_windows(config_of(scale, text), lm, "held_out")
    if len(found.tokens) < wanted:
        raise InputError(f"{text} has {len(found.tokens)} held-out windows, {wanted} are needed: give more text")
    return found.first(wanted)


def _windows(scale: Scale) -> int:
    return math.ceil(scale.held_out / settings(scale).window)


def _exclusion(scale: Scale, text: str, lm: LanguageModel, site: Site) -> Exclusion:
    """The rule with the norm limits of a text."""
    windows, count = training(scale, text, lm)
    if settings(scale).activations == "live":
        return calibrate(lm, windows, [site], Exclusion())
    return recorded(lm, windows, [site], n_windows=count).exclusion


def _source(scale: Scale, text: str, lm: LanguageModel, site: Site, exclusion: Exclusion) -> Source:
    windows, count = training(scale, text, lm)
    if settings(scale).activations == "live":
        return Live(lm, windows.first(count), [site], exclusion)
    store = recorded(lm, windows, [site], n_windows=count)
    return Store(store.folder, store.n_windows, exclusion, [site])


def _text(scale: Scale, name: str, lm: LanguageModel, site: Site, exclusion: Exclusion) -> Text:
    windows, count = held_out(scale, name, lm), _windows(scale)
    store = record(lm, windows, [site], n_windows=len(windows.tokens))
    rest = Store(store.folder, len(windows.tokens), exclusion, [site])
    report, choose = _part(rest, site, 0, count), _part(rest, site, count, len(windows.tokens))
    return Text(name, _source(scale, name, lm, site, exclusion), report, choose, windows.first(count))


def _part(store: Store, site: Site, start: int, stop: int) -> Part:
    rows = store.rows(np.arange(start, stop))
    return Part.of(rows, site, start, (stop - start, store.windows.tokens.shape[1]))
