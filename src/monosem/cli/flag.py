"""Flags that commands share, and flags generated from settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from monosem.training.config import TrainConfig, settings


def shared(parser: argparse.ArgumentParser) -> None:
    """`--json` and `--threads`."""
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else")
    parser.add_argument("--threads", type=int, metavar="N", help="processor threads (default: as torch decides)")


def use_threads(parsed: argparse.Namespace) -> None:
    """Results on a CPU depend on the number of threads, so it is set before anything runs."""
    if parsed.threads:
        import torch

        torch.set_num_threads(parsed.threads)


def training(parser: argparse.ArgumentParser, only: set[str] | None = None) -> None:
    """One flag for every setting of `TrainConfig`; those not given stay out of the namespace."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="settings from a TOML file, the same names; flags win",
    )
    for name, hint, default, text in settings():
        if only is None or name in only:
            _add(parser, name, hint, default, text)


def _add(parser: argparse.ArgumentParser, name: str, hint: Any, default: Any, text: str) -> None:
    flag = "--" + name.replace("_", "-")
    shown = ",".join(default) if isinstance(default, tuple) else default
    text = text if default is None else f"{text} (default: {shown})"
    if bool in (get_args(hint) or (hint,)):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        return
    choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind in (int, float)]
    kind = integer if kinds == [int] else kinds[0] if kinds else str
    if name == "sae":
        parser.add_argument(flag, action="append", default=argparse.SUPPRESS, metavar="NAME[,NAME]", help=text)
        return
    metavar = None if choices else name.upper()
    parser.add_argument(flag, type=kind, choices=choices or None, default=argparse.SUPPRESS, metavar=metavar, help=text)


def integer(text: str) -> int:
    """Integers as people write them: 1000000, 1_000_000, 1e6, 2M, 200k."""
    unit = {"k": 1_000, "m": 1_000_000, "b": 1_000_000_000}.get(text[-1:].lower(), 1)
    value = float(text[:-1] if unit > 1 else text) * unit
    if value != int(value):
        raise ValueError(f"{text} is not a whole number")
    return int(value)


def given(parsed: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as flags."""
    names = {name for name, *_ in settings()}
    return {key: value for key, value in vars(parsed).items() if key in names}


def config(parsed: argparse.Namespace) -> TrainConfig:
    """The settings: defaults, then the TOML file, then flags. Raises `InputError`."""
    values = TrainConfig.from_toml(parsed.config) if parsed.config else {}
    flags = given(parsed)
    if "sae" in flags:
        flags["sae"] = ",".join(flags["sae"])
    return TrainConfig.from_dict(values | flags)
