"""Say what a folder or file is: a run, an autoencoder, a store of activations, or feature statistics.

  monosem inspect runs/first
  monosem inspect runs/first/saes/topk --json

Reads descriptions only; no model is loaded and nothing a file says is run.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.cli import flag
from monosem.cli.output import show
from monosem.disk import read_json
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.sae import SAE


_LABELS = 10


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
    return {
        "kind": "autoencoder",
        "checksum": "verified",
        **_cost(sae),
        **_dead(path, sae),
        **_labelled(path),
        **_probed(path),
        **read_json(path / "config.json"),
    }


def _cost(sae: SAE) -> dict[str, Any]:
    """Parameters and multiply-adds; an encoder that is dearer than a dense one is said."""
    from monosem.sae import flops

    cost, share = flops.cost(sae), flops.encoder_share(sae)
    facts = {
        "parameters": flops.parameters(sae),
        "multiply-adds a token": {**cost._asdict(), "total": cost.total, "with active latents": flops.active(sae)},
        "encoder ÷ dense": share,
        "dense ÷ all": flops.multiplier(sae),
    }
    return facts | ({"remark": "this encoder is dearer than a dense one of as many latents"} if share > 1 else {})


def _dead(path: Path, sae: SAE) -> dict[str, Any]:
    """Shares of latents, and of a KronSAE's bases and extensions, that never fire in the statistics beside it."""
    from monosem.evaluation import FeatureStatistics
    from monosem.report.parent import dead_parents, shape_of

    file = path / "features.safetensors"
    if not file.is_file():
        return {}
    statistics, shape = FeatureStatistics.load(file), shape_of(sae)
    alive = statistics.densities > 0
    parents = {} if shape is None else dead_parents(shape, alive)._asdict()
    return {f"dead on {statistics.n_tokens:,} tokens": {"latents": 1 - float(alive.mean()), **parents}}


def _labelled(path: Path) -> dict[str, Any]:
    """How many latents have a label by each judge, and the first few."""
    from monosem.interpret import labels
    from monosem.interpret.caption import captions

    judges = Counter(one.judge for found in labels(path).values() for one in found)
    known = sorted(captions(path).items())
    shown = {str(latent): text for latent, text in known[:_LABELS]}
    more = {"further": len(known) - _LABELS} if len(known) > _LABELS else {}
    return {"labels by": dict(judges), "labels": shown | more} if known else {}


def _probed(path: Path) -> dict[str, Any]:
    """What monosem probe stored: the gate where nothing could be measured, else means of this autoencoder."""
    from monosem.interpret.probing_file import probings

    found = {task: one["probing"] for task, one in probings(path).items() if "probing" in one}
    return {"probed": {task: _accuracies(one) for task, one in found.items()}} if found else {}


def _accuracies(found: dict[str, Any]) -> Any:
    rows = [row for row in found["rows"] if row["kind"] == "latents"]
    return found["gate"] or {f"accuracy of {row['subject']}, k = {row['k']}": row["accuracy"]["value"] for row in rows}


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
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines += [line for one in item for line in (f"{'  ' * depth}{key}", *_lines(one, depth + 1))]
        else:
            lines.append(f"{'  ' * depth}{key}: {item}")
    return lines
