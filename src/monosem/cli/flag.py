"""Flags that commands share, and flags generated from settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from monosem.training.config import NAMES, TrainConfig, settings
from monosem.training.grid import SWEPT, WORDS, Grid, grid_from_toml


def shared(parser: argparse.ArgumentParser) -> None:
    """`--json` and `--threads`."""
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else")
    parser.add_argument("--threads", type=int, metavar="N", help="processor threads (default: as torch decides)")


def use_threads(parsed: argparse.Namespace) -> None:
    """Results on a CPU depend on the number of threads, so it is set before anything runs."""
    if parsed.threads:
        import torch

        torch.set_num_threads(parsed.threads)


def training(
    parser: argparse.ArgumentParser, only: set[str] | None = None, usual: Mapping[str, Any] | None = None
) -> None:
    """One flag for every setting of `TrainConfig`; those not given stay out of the namespace.

    `usual` has the defaults of this command where they differ, as `--help` shows them.
    """
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="settings from a TOML file, the same names; flags win",
    )
    for name, hint, default, text in settings():
        if only is None or name in only:
            shown = (usual or {}).get(name, default)
            _add(parser, name, hint, shown, text.partition(" (default:")[0] if shown is not default else text)


def _add(parser: argparse.ArgumentParser, name: str, hint: Any, default: Any, text: str) -> None:
    flag = "--" + name.replace("_", "-")
    shown = ",".join(default) if isinstance(default, (tuple, list)) else default
    text = text if default is None else f"{text} (default: {shown})"
    if bool in (get_args(hint) or (hint,)):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        return
    choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind in (int, float)]
    kind = integer if kinds == [int] else kinds[0] if kinds else str
    if name in NAMES:
        metavar = f"{name.upper()}[,{name.upper()}]"
        parser.add_argument(flag, action="append", default=argparse.SUPPRESS, metavar=metavar, help=text)
        return
    if name in SWEPT:
        word = "{" + ",".join(choices) + "}" if choices else name.upper()
        metavar, kind = (word, _one(kind)) if name in WORDS else (f"{word}[,…]", _several(kind))
        parser.add_argument(flag, type=kind, action="append", default=argparse.SUPPRESS, metavar=metavar, help=text)
        return
    # Several values of a number that a run has once are refused by the settings, which say why.
    kind, metavar = _several(kind) if kinds else kind, None if choices else name.upper()
    parser.add_argument(flag, type=kind, choices=choices or None, default=argparse.SUPPRESS, metavar=metavar, help=text)


def _one(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """A value in which commas may stand; the flag is repeated for several."""
    return lambda text: (kind(text),)


def _several(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """Values with commas between them."""

    def parse(text: str) -> tuple[Any, ...]:
        return tuple(kind(part.strip()) for part in text.split(","))

    parse.__name__ = kind.__name__  # argparse names it when a value does not fit
    return parse


def integer(text: str) -> int:
    """Integers as people write them: 1000000, 1_000_000, 1e6, 2M, 200k."""
    unit = {"k": 1_000, "m": 1_000_000, "b": 1_000_000_000}.get(text[-1:].lower(), 1)
    value = float(text[:-1] if unit > 1 else text) * unit
    if value != int(value):
        raise ValueError(f"{text} is not a whole number")
    return int(value)


def given(parsed: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as flags; one that was given several values is a list."""
    names = {name for name, *_ in settings()}
    found = {key: value for key, value in vars(parsed).items() if key in names}
    for key, value in found.items():
        if key in NAMES:
            found[key] = ",".join(value)
        elif isinstance(value, (list, tuple)):
            values = [one for part in value for one in part] if isinstance(value, list) else list(value)
            found[key] = values if len(values) > 1 else values[0]
    return found


def grid(parsed: argparse.Namespace, usual: Mapping[str, Any] | None = None) -> Grid:
    """The settings: defaults (or `usual` ones), then the TOML file, then flags, each a value or several.

    Raises `InputError`.
    """
    values = grid_from_toml(parsed.config) if parsed.config else {}
    return Grid.from_dict({**(usual or {}), **values, **given(parsed)})


def config(parsed: argparse.Namespace) -> TrainConfig:
    """The same for a command that trains nothing."""
    return grid(parsed).shared
