"""Several autoencoders in one pass of the model against as many runs of their own, as `monosem train` runs them.

Eight by default: two values of k at four sites. Every run starts without recordings, except that runs of their own
share those of their site. Seconds hold all that a run does: loading the model, recording or running it, training,
checkpoints and the finished autoencoders; the text is packed before. Memory: by how much the peak of a process that
trains all of them for four steps is above that of one that trains the first alone, beside what a run says before it
starts (Linux).

    python bench/together.py --tokens 100000 --n-latents 2048 --json
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import paired
from monosem.lm import LanguageModel
from monosem.lm.pattern import routes
from monosem.training import Grid, TrainConfig, memory, train
from monosem.training.model import load_model
from monosem.training.run import run_windows

STATUS = Path("/proc/self/status")


def arguments() -> argparse.Namespace:
    parser = paired.arguments(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", default="news")
    parser.add_argument("--sites", default="resid_post.{6,12,18,24}")
    parser.add_argument("--sae", default="topk")
    parser.add_argument("--k", default="16,32")
    parser.add_argument("--n-latents", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--dtype", default="auto")
    parser.set_defaults(repeats=1)
    return parser.parse_args()


def peak(described: dict[str, Any], threads: int) -> float:
    """MiB that this process took at most, after four steps of a run; nan where Linux does not say."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        train(Grid.from_dict(described), Path(folder))
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), math.nan)


def memory_of(grid: Grid, arms: dict[str, TrainConfig], lm: LanguageModel, threads: int) -> dict[str, object]:
    """Of all beyond the first: what is said, and what a process takes. In float32, where one model is enough."""
    shared = grid.shared
    short = {"tokens": 4 * shared.batch, "distinct_tokens": shared.block * (shared.window - 1)}
    short |= {"dtype": "float32", "activations": "live"}
    first, one = next(iter(arms.items()))
    said = memory.needed(arms, lm).total - memory.needed({first: one}, lm).total
    found = []
    for described in (grid.describe() | short, one.describe() | short):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found.append(pool.submit(peak, described, threads).result())
    return {"said_MiB": round(said / 2**20), "took_MiB": round(found[0] - found[1])}


def seconds(grid: Grid, folder: Path) -> float:
    start = time.perf_counter()
    train(grid, folder)
    return time.perf_counter() - start


def in_one_pass(grid: Grid, folder: Path) -> float:
    return seconds(_with_store(grid, folder / "store"), folder / "run")


def alone(arms: dict[str, TrainConfig], folder: Path) -> float:
    total = 0.0
    for name, arm in arms.items():
        total += seconds(_with_store(Grid(arm), folder / "stores" / arm.site), folder / name)
    return total


def _with_store(grid: Grid, folder: Path) -> Grid:
    return grid if grid.shared.activations == "live" else grid.replace(store=str(folder))


def measured(grid: Grid, arms: dict[str, TrainConfig], repeats: int) -> dict[str, object]:
    times: dict[str, list[float]] = {"together": [], "alone": []}
    for _ in range(repeats):
        for name in times:
            with tempfile.TemporaryDirectory() as folder:
                run = in_one_pass(grid, Path(folder)) if name == "together" else alone(arms, Path(folder))
                times[name].append(run)
    tokens = len(arms) * (grid.shared.tokens // grid.shared.batch) * grid.shared.batch
    found: dict[str, object] = {f"{name}_s": round(min(values), 2) for name, values in times.items()}
    found |= {f"{name}_sae_tokens_per_s": round(tokens / min(values)) for name, values in times.items()}
    return found | {"alone_over_together": round(paired.ratio(times, "alone", "together"), 3)}


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    shared = TrainConfig(
        model=options.model, text=options.text, site=options.sites, sae=tuple(options.sae.split(",")),
        n_latents=options.n_latents, tokens=options.tokens, batch=options.batch, block=options.block,
        window=options.window, dtype=options.dtype,
    )  # fmt: skip
    grid = Grid(shared, k=[int(k) for k in options.k.split(",")])
    lm = load_model(shared)
    run_windows(shared, lm, "train")
    arms = grid.arms(routes(shared.site, None, lm))
    about = {"model": lm.name, "dtype": str(lm.dtype), "saes": len(arms), "sites": options.sites, "k": options.k}
    about |= {key: getattr(options, key) for key in ("n_latents", "tokens", "batch", "block", "threads", "repeats")}
    result: dict[str, object] = about | memory_of(grid, arms, load_model(shared, "float32"), options.threads)
    for activations in ("store", "live"):
        chosen = grid.replace(activations=activations)
        one = {name: replace(arm, activations=activations) for name, arm in arms.items()}
        with tempfile.TemporaryDirectory() as folder:
            in_one_pass(chosen, Path(folder))  # warm: kernels are compiled, files are in memory
        result |= {f"{activations}_{key}": value for key, value in measured(chosen, one, options.repeats).items()}
    paired.show(result, options.json)


if __name__ == "__main__":
    main()
