"""Work that several experiments share, in the cache under a digest of its settings: made once, found again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monosem.disk import cache_folder, digest, read_json, write_json
from monosem.reproduce.scale import Scale
from monosem.sae import SAE, save

REVISION = 1
"""Raised when the same settings come to mean other autoencoders."""
SHARED = ("core", "calibration", "window")


def shared(scale: Scale) -> dict[str, Any]:
    """The settings that decide everything of this study, JSON-able."""
    extra = {key: scale.extra[key] for key in SHARED}
    rates = {"rates": list(scale.rates), "seed": scale.tuning_seed, "domain": scale.extra["domains"][0]}
    return {**scale.settings, **extra, "ground": scale.data, "tuning": rates, "kept": REVISION}


def place(scale: Scale, what: Mapping[str, Any]) -> Path:
    """Where something is kept."""
    return cache_folder() / "reproduce" / digest([shared(scale), scale.held_out, dict(what)])


def autoencoder(scale: Scale, what: Mapping[str, Any], make: Callable[[], SAE]) -> Path:
    """The folder of an autoencoder."""
    folder = place(scale, what)
    if not (folder / "config.json").is_file():
        save(make(), folder)
    return folder


def figures(scale: Scale, what: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A JSON object."""
    path = place(scale, what).with_suffix(".json")
    if not path.is_file():
        write_json(path, make())
    return read_json(path)
