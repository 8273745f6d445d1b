"""What one forward and backward pass costs: TopK, the nested loss, and its plain form with every prefix in memory.

Encoder, selection, loss and all gradients, without optimiser; interleaved, so that a busy machine slows all alike.
`python -m monosem.reproduce.hierarchical.step SHAPE KIND K` prints the peak memory of one of them in a fresh process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.reproduce.arm import Measured
from monosem.reproduce.scale import Scale
from monosem.sae import SAE
from monosem.training import TrainConfig
from monosem.training.recipe import make

KINDS = ("topk", "hierarchical", "prefixes")
"""TopK's loss, the nested loss over all budgets, and the same by a cumulative sum over [B, K, D] under autograd."""

Step = Callable[[], None]


def settings(scale: Scale) -> dict[str, Any]:
    """Sizes of the trial."""
    return {"trial": "step", **scale.extra["step"]}


def run(scale: Scale, seed: int | None) -> Measured:
    """Milliseconds and paired ratios by K; peak memory in MiB at the first, middle and last K."""
    shape = settings(scale)
    times = {str(k): _times({kind: step(kind, k, shape) for kind in KINDS}, shape["repeats"]) for k in shape["ks"]}
    ks = shape["ks"]
    memory = {str(k): {kind: peak(kind, k, shape) for kind in KINDS} for k in (ks[0], ks[len(ks) // 2], ks[-1])}
    where = {"device": _device(), "threads": torch.get_num_threads()}
    return {**shape, **where, "times": times, "memory": memory}


def predict(scale: Scale) -> float:
    """Seconds, from one round at the largest K and one fresh process."""
    shape = settings(scale)
    start = time.perf_counter()
    _times({kind: step(kind, shape["ks"][-1], shape) for kind in KINDS}, 1)
    one_round = (time.perf_counter() - start) / 2
    start = time.perf_counter()
    peak(KINDS[0], shape["ks"][0], shape)
    return one_round * (shape["repeats"] + 1) * len(shape["ks"]) + 9 * (time.perf_counter() - start)


def step(kind: str, k: int, shape: dict[str, Any]) -> Step:
    """A forward and backward pass on the same noise, from the same weights."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape["batch"], shape["d_model"], generator=generator)
    sae_name = "hierarchical" if kind == "hierarchical" else "topk"
    config = TrainConfig(sae=(sae_name,), n_latents=shape["n_latents"], k=k, batch=len(x), tokens=len(x))
    sae, objective = make(sae_name, config, x)
    sae, objective, scaled = sae.to(_device()).train(), objective.to(_device()), (x * sae.scale).to(_device())

    def one() -> None:
        loss = prefixes(sae, scaled) if kind == "prefixes" else objective(sae, scaled).total
        loss.backward()
        sae.zero_grad()

    return one


def prefixes(sae: SAE, x: Tensor) -> Tensor:
    """mean over tokens, prefixes and dimensions of (x̂_k − x)², with all prefixes side by side."""
    codes = sae.encoder.select(x, sae.rule, sae.centre)
    parts = codes.values.unsqueeze(2) * sae.W_dec[codes.indices]
    return (parts.cumsum(1) + sae.b_dec - x.unsqueeze(1)).square().mean()


def _times(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Median milliseconds of each and the median of its paired ratios over the first; one more round does not count."""
    taken: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(repeats + 1):
        for kind, one in steps.items():
            start = time.perf_counter()
            one()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                taken[kind].append(1e3 * (time.perf_counter() - start))
    found = {f"{kind}_ms": round(statistics.median(taken[kind]), 3) for kind in taken}
    for kind in KINDS[1:]:
        ratios = [a / b for a, b in zip(taken[kind], taken[KINDS[0]], strict=True)]
        found[f"{kind}_ratio"] = round(statistics.median(ratios), 4)
    return found


def peak(kind: str, k: int, shape: dict[str, Any]) -> float:
    """MiB that two passes need beyond imports, in a process of its own."""
    words = [sys.executable, "-m", "monosem.reproduce.hierarchical.step", json.dumps(shape), kind, str(k)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def _peak_here(kind: str, k: int, shape: dict[str, Any]) -> float:
    """After a pass on a tiny autoencoder, so that compiling kernels does not count."""
    step(kind, 2, {"batch": 4, "d_model": 8, "n_latents": 16})()
    before = _status("VmRSS")
    one = step(kind, k, shape)
    one()
    one()
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else _status("VmHWM") - before


def _status(key: str) -> float:
    """MiB of this process, now (VmRSS) or at most so far (VmHWM), as Linux keeps them."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.stdout.write(str(_peak_here(sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[1]))))
