"""What a run will need of memory, said before it starts, and refused where it cannot fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from monosem.lm import LanguageModel
from monosem.progress import remark
from monosem.shapes import InputError
from monosem.shapes.route import sites_of
from monosem.training.config import TrainConfig
from monosem.training.grid import route_of
from monosem.training.recipe import blank

GIB = 2**30
FLOAT = 4
MOMENTS = 2
"""Numbers that Adam keeps for every weight."""
PRODUCTS = {"kron": 3.5, "relu": 5.5, "batch_topk": 2.0, "jumprelu": 2.0, "topk": 1.5}
"""Arrays [B, F] of float32 that a step holds at once at most, by the first of these words in a name.

Measured on a CPU with half of the latents dead, as the growth of the process beyond weights, moments and gradients.
"""


class Need(NamedTuple):
    """Bytes beside the language model."""

    saes: dict[str, int]
    """Weights and moments of each autoencoder, which are there all the time."""
    step: int
    """Gradients and products of the dearest one: autoencoders step one after the other."""
    stream: int
    """A shuffle block at all sites, while it is read."""

    @property
    def total(self) -> int:
        return sum(self.saes.values()) + self.step + self.stream

    def __str__(self) -> str:
        parts = {
            f"{len(self.saes)} autoencoders with their moments": sum(self.saes.values()),
            "a step": self.step,
            "the stream": self.stream,
        }
        return " + ".join(f"{size(part)} for {name}" for name, part in parts.items())


def needed(arms: Mapping[str, TrainConfig], lm: LanguageModel) -> Need:
    """What training these autoencoders together takes at most, from their settings alone."""
    weights = {name: _weights(config, lm) for name, config in arms.items()}
    config = next(iter(arms.values()))
    width = sum(lm.width(site) for site in sites_of(map(route_of, arms.values())))
    # The windows of a block and their kept rows exist together while the rows are taken out.
    block = 2 * config.block * config.window * width * lm.dtype.itemsize
    return Need(
        {name: (1 + MOMENTS) * size for name, size in weights.items()},
        max(weights[name] + _products(config) for name, config in arms.items()),
        block,
    )


def check(arms: Mapping[str, TrainConfig], lm: LanguageModel) -> None:
    """Say what the run needs beside the model. Raises `InputError` with what to drop when that is not free."""
    need, free = needed(arms, lm), available(lm.device)
    has = "" if free is None else f", {size(free)} are free"
    remark(f"memory beside the model: {size(need.total)} ({need}){has}")
    if free is None or need.total <= free:
        return
    ways = [f"drop {drop} of {len(arms)} autoencoders"] if (drop := _to_drop(need, free)) else []
    ways += ["lower block"] if need.stream > need.total / 3 else []
    ways += ["lower n_latents"]
    ways += ["raise accumulate"] if _products(next(iter(arms.values()))) > need.total / 3 else []
    wanted = f"needs {size(need.total)} of memory beside the model ({need}), {size(free)} are free"
    raise InputError(f"the run {wanted}: {', or '.join(ways)}")


def available(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where the system does not say."""
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    if device.type != "cpu":
        return None
    found = [part for part in (_of_machine(), _of_group()) if part is not None]
    return min(found, default=None)


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / 2**20:,.1f} MiB"


def _weights(config: TrainConfig, lm: LanguageModel) -> int:
    site, target = route_of(config)
    with torch.device("meta"):
        sae = blank(config.sae[0], config, lm.width(site), None if target is None else lm.width(target))
    return sum(part.numel() * part.element_size() for part in sae.state_dict().values())


def _products(config: TrainConfig) -> int:
    rows = config.batch // config.accumulate
    words = (*config.sae[0].split("+"), "topk")
    arrays = next(count for word, count in PRODUCTS.items() if word in words)
    return round(arrays * rows * config.n_latents * FLOAT)


def _to_drop(need: Need, free: int) -> int:
    """How many autoencoders, dearest first, have to go until the rest fits; 0 if none but one does not either."""
    sizes = sorted(need.saes.values())
    left = free - need.step - need.stream
    fitting = sum(1 for number in range(1, len(sizes) + 1) if sum(sizes[:number]) <= left)
    return len(sizes) - fitting if fitting else 0


def _of_machine() -> int | None:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _of_group() -> int | None:
    """What a container's limit leaves; files that the system keeps in memory are given back when needed."""
    folder = Path("/sys/fs/cgroup")
    paths = [folder / name for name in ("memory.max", "memory.current", "memory.stat")]
    if not all(path.exists() for path in paths):
        return None
    limit, current, stat = (path.read_text() for path in paths)
    if not limit.strip().isdecimal():
        return None
    kept = sum(
        int(line.split()[1]) for line in stat.splitlines() if line.startswith(("inactive_file ", "active_file "))
    )
    return int(limit) - int(current) + kept
