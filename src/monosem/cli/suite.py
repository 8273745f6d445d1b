"""What commands about many sites work on: a suite of autoencoders, and the model it was trained on."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.cli.output import say
from monosem.shapes import InputError
from monosem.training.config import PLAIN, TrainConfig

if TYPE_CHECKING:
    from monosem.flow import Suite
    from monosem.lm import LanguageModel


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", type=Path, nargs="+", metavar="SUITE", help="runs, or autoencoders of many sites")
    parser.add_argument("--sae", metavar="NAME", help="which autoencoders, where a run has several a site: topk-k16")
    parser.add_argument("--text", help="other text, read as plain text (its held-out part)")
    parser.add_argument("--model", help="another copy of the model: hub name or local folder (default: as in training)")
    parser.add_argument("--dtype", help="precision of the model (default: as in training)")
    parser.add_argument("--device", help="device of the model (default: as in training)")


def load(parsed: argparse.Namespace) -> Suite:
    """The suite of the flags. Raises `InputError`."""
    from monosem.flow import Suite

    return Suite.load(parsed.suite, parsed.sae)


def model(parsed: argparse.Namespace, suite: Suite) -> tuple[LanguageModel, TrainConfig]:
    """The model that a suite belongs to, on the device asked for, and the settings of training with what was asked.

    Raises `InputError` for autoencoders that do not say how they were trained.
    """
    from monosem.training.model import load_model

    training = suite.info(next(iter(suite))).get("training")
    if training is None:
        raise InputError("the autoencoders do not say how they were trained: use monosem.flow from Python with a model")
    asked = {name: getattr(parsed, name) for name in ("model", "text", "dtype", "device") if getattr(parsed, name)}
    config = replace(TrainConfig.from_dict(training["config"]), **(PLAIN if parsed.text else {}) | asked)
    config = replace(config, device_map=None) if parsed.device else config
    lm = load_model(config)
    known = suite.model.get("fingerprint")
    if known and lm.fingerprint() != known:
        say(f"note: the suite was trained on other weights than {lm.name}'s; figures describe the pair")
    return lm, config
