"""Checkpoints: one folder each, whole or absent, with a checksum for every file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from monosem.disk import read_sealed, save_tensors, sealed, sha256, whole_folder, write_json
from monosem.shapes import InputError
from monosem.training.divergence import Divergence

FORMAT, VERSION = "monosem.checkpoint", 1


class Checkpoint(NamedTuple):
    """Where a run stands: counters and stream as JSON, every autoencoder's tensors, the random state.

    Autoencoders that have diverged have no tensors here.
    """

    step: int
    tokens: int
    stream: dict[str, int]
    saes: dict[str, dict[str, Any]]
    tensors: dict[str, dict[str, Tensor]]
    seconds: dict[str, float]
    rng: Tensor
    diverged: Mapping[str, Divergence]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Write `folder/STEP`, then delete all but the newest `keep`. One of the same step is the same and is kept."""
    if checkpoint.step in steps(folder):
        return
    with whole_folder(folder / f"{checkpoint.step:09}") as temporary:
        parts = {**checkpoint.tensors, "rng": {"torch": checkpoint.rng}}
        checksums = {}
        for name, tensors in parts.items():
            path = temporary / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(tensors, path)
            checksums[str(path.relative_to(temporary))] = sha256(path)
        counters = {"step": checkpoint.step, "tokens": checkpoint.tokens, "seconds": checkpoint.seconds}
        diverged = {name: one._asdict() for name, one in checkpoint.diverged.items()}
        contents = {"stream": checkpoint.stream, "saes": checkpoint.saes, "sha256": checksums, "diverged": diverged}
        write_json(
            temporary / "checkpoint.json", sealed({"format": FORMAT, "version": VERSION, **counters, **contents})
        )
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"{old:09}")


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending; unfinished ones have other names and do not count."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if (path / "checkpoint.json").exists())


def load(folder: Path, step: int | None = None) -> Checkpoint | None:
    """The newest checkpoint, or that of a step; None if there is none. Raises `InputError` if a file was altered."""
    known = steps(folder)
    if not known:
        return None
    path = folder / f"{known[-1] if step is None else step:09}"
    head = read_sealed(path / "checkpoint.json")
    if (head["format"], head["version"]) != (FORMAT, VERSION):
        raise InputError(f"{path} is not a checkpoint of {FORMAT} version {VERSION}")
    for name, expected in head["sha256"].items():
        if not (path / name).is_file() or sha256(path / name) != expected:
            raise InputError(
                f"{path / name} is missing, truncated or altered: delete {path} to continue from an earlier checkpoint"
            )
    tensors = {name: load_file(path / f"{name}.safetensors") for name in head["saes"]}
    rng = load_file(path / "rng.safetensors")["torch"]
    # What was written before one could go on without another has no such key.
    diverged = {name: Divergence(**one) for name, one in head.get("diverged", {}).items()}
    return Checkpoint(
        head["step"], head["tokens"], head["stream"], head["saes"], tensors, head["seconds"], rng, diverged
    )


def random_state() -> Tensor:
    """The state of torch's global generator: nothing here draws from it, a caller's own hooks may."""
    return torch.get_rng_state()
