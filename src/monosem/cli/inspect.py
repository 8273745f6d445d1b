"""Say what a folder or file is: a run, an autoencoder, a store of activations, or feature statistics.

  monosem inspect runs/first
  monosem inspect runs/first/saes/topk --json

Reads descriptions only; no model is loaded and nothing a file says is run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monosem.cli import flag
from monosem.cli.output import show
from monosem.disk import read_json
from monosem.shapes import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="a folder or file that monosem wrote")
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    found = describe(parsed.path)
    show(parsed, found, "\n".join(_lines(found)))


def describe(path: Path) -> dict[str, Any]:
    """What `path` is, JSON-able. Raises `InputError` if it is nothing known."""
    if (path / "run.json").is_file():
        return _run(path)
    if (path / "config.json").is_file():
        return _autoencoder(path)
    if (path / "identity.json").is_file():
        return _store(path)
    if path.suffix == ".safetensors" and path.is_file():
        from monosem.evaluation import FeatureStatistics

        statistics = FeatureStatistics.load(path)
        return {"kind": "feature statistics", **statistics.metadata}
    from monosem.sae import find

    if not path.exists():
        raise InputError(f"{path} does not exist")
    find(path)  # refuses pickles and says what is missing
    raise InputError(f"{path} is nothing monosem wrote: give a run, an autoencoder, a store or features.safetensors")


def _run(path: Path) -> dict[str, Any]:
    from monosem.training import checkpoint, log

    head = read_json(path / "run.json")
    lines = log.read(path / "metrics.jsonl")
    last = {line["sae"]: line for line in lines}
    return {
        "kind": "run",
        "status": head["status"],
        "checkpoints": checkpoint.steps(path / "checkpoints"),
        "last": last,
        "config": head["config"],
    }


def _autoencoder(path: Path) -> dict[str, Any]:
    from monosem.sae import load

    sae = load(path)
    parameters = sum(weight.numel() for weight in sae.parameters())
    return {
        "kind": "autoencoder",
        "checksum": "verified",
        "parameters": parameters,
        **read_json(path / "config.json"),
    }


def _store(path: Path) -> dict[str, Any]:
    from monosem.activations import Store

    store = Store(path)
    size = sum(file.stat().st_size for file in path.glob("*.bin"))
    return {
        "kind": "store of activations",
        "windows": store.n_windows,
        "MiB": round(size / 2**20, 1),
        "rule": str(store.exclusion),
        "rounding": store.rounding,
        **store.identity,
    }


def _lines(value: dict[str, Any], depth: int = 0) -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{'  ' * depth}{key}", *_lines(item, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}{key}: {item}")
    return lines
