"""What evaluating commands work on: autoencoders of a folder with the model and held-out text they belong to."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from monosem.cli.output import say
from monosem.shapes import InputError
from monosem.training.config import TrainConfig

if TYPE_CHECKING:
    from monosem.lm import LanguageModel
    from monosem.sae import SAE
    from monosem.text import Windows


class Subject(NamedTuple):
    """Autoencoders by name, where each lives, and what they are read with."""

    saes: dict[str, SAE]
    folders: dict[str, Path]
    lm: LanguageModel
    windows: Windows
    config: TrainConfig
    own: bool
    """Whether model, text and precision are those of training: only then are results stored."""


def arguments(parser: argparse.ArgumentParser, windows: int) -> None:
    parser.add_argument("folder", type=Path, help="a run, or one autoencoder")
    parser.add_argument(
        "--windows",
        type=int,
        default=windows,
        metavar="N",
        help=f"held-out windows to read (default: {windows})",
    )
    parser.add_argument("--model", help="another copy of the model: hub name or local folder (default: as in training)")
    parser.add_argument("--text", help="other text (its held-out part)")
    parser.add_argument("--dtype", help="precision of the model (default: as in training)")
    parser.epilog = "Results with another model, text, precision or device are printed, not stored."
    parser.add_argument("--device", help="device of the model (default: as in training)")


def open_subject(parsed: argparse.Namespace) -> Subject:
    """Load everything a command asks for; raises `InputError`."""
    from monosem.lm import LanguageModel
    from monosem.sae import find, load
    from monosem.training.run import first_windows, run_windows

    folders = find(parsed.folder)
    saes = {name: load(folder) for name, folder in folders.items()}
    config = _config(saes)
    asked = {name: getattr(parsed, name) for name in ("model", "text", "dtype", "device") if getattr(parsed, name)}
    config = replace(config, **asked)
    lm = LanguageModel.load(config.model, dtype=config.dtype, device=config.device)
    _check_model(saes, lm)
    text = run_windows(config, lm, "held_out")
    if parsed.windows < 1:
        raise InputError(f"--windows {parsed.windows}: give at least 1")
    for sae in saes.values():
        sae.to(lm.device)
    ordered = {name: saes[name] for name in sorted(saes, key=lambda name: _place(name, config))}
    return Subject(ordered, folders, lm, first_windows(text, parsed.windows), config, own=not asked)


def _place(name: str, config: TrainConfig) -> int:
    """Autoencoders of a run stand in the order in which they were asked for."""
    return config.sae.index(name) if name in config.sae else len(config.sae)


def _config(saes: dict[str, SAE]) -> TrainConfig:
    for name, sae in saes.items():
        if "training" not in sae.info:
            raise InputError(
                f"{name} does not say how it was trained: use monosem.evaluate from Python with a model and windows"
            )
        return TrainConfig.from_dict(sae.info["training"]["config"])
    raise InputError("no autoencoder was given")


def _check_model(saes: dict[str, SAE], lm: LanguageModel) -> None:
    """Another width is refused when evaluating; other weights of the same width are said."""
    found = lm.identity()
    for name, sae in saes.items():
        trained = sae.info.get("model", {})
        same_shape = trained.get("d_model") == found["d_model"]
        if same_shape and trained["fingerprint"] != found["fingerprint"]:
            say(
                f"note: {name} was trained on other weights ({trained.get('name')}) than {lm.name}'s; "
                "figures describe the pair"
            )


def command() -> str:
    """The command line as typed, for provenance."""
    return " ".join(["monosem", *sys.argv[1:]])
