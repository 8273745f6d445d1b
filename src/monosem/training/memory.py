"""What a run will need of memory, said before it starts, and refused where it cannot fit.

Counted from settings: weights, moments, gradients, what controls and counters keep, products of a step, the stream. Not
counted: what the model itself needs to run, and what libraries keep for themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from monosem.activations.live import PASS_WINDOWS
from monosem.lm import LanguageModel
from monosem.progress import remark
from monosem.sae import SAE
from monosem.shapes import InputError
from monosem.shapes.route import sites_of
from monosem.training.config import TrainConfig
from monosem.training.control import Control, Principal, SoftFrozenDecoder
from monosem.training.core import core_of
from monosem.training.grid import route_of
from monosem.training.recipe import blank, make_control, rule_word

GIB = 2**30
MOMENTS = 2
"""Numbers that Adam keeps for every weight."""
FLOAT, DOUBLE, COUNTER = 4, 8, 8
"""Bytes of a number."""
EIGEN = 7
"""Matrices [D, D] of float64 while a pca finds its components, LAPACK's own among them; measured."""
TURNED = 4
"""Arrays of the decoder's shape while soft-frozen rows are turned back."""
PRODUCTS = {"kron": 3.5, "relu": 5.5, "batch_topk": 2.0, "jumprelu": 2.0, "topk": 1.5}
"""Arrays [B, F] of float32 that a step holds at once at most, by the first of these words in a name.

Measured on a CPU with half of the latents dead, as the growth of the process beyond weights, moments and gradients.
"""


class Need(NamedTuple):
    """Bytes beside the language model."""

    saes: dict[str, int]
    """What each autoencoder has all the time: weights, moments of those that learn, its control's and its counters."""
    step: int
    """Gradients, products and the control's work of the dearest one: autoencoders step one after the other."""
    stream: int
    """A shuffle block at all sites, while it is read, and a pass of the model there that is not yet part of it."""

    core: int = 0
    """The frozen autoencoder that they are trained beside, and its pre-activations of a batch."""

    @property
    def total(self) -> int:
        return sum(self.saes.values()) + self.step + self.stream + self.core

    def __str__(self) -> str:
        parts = {
            f"{len(self.saes)} autoencoders with all they keep": sum(self.saes.values()),
            "a step": self.step,
            "the stream": self.stream,
        }
        parts |= {"the core": self.core} if self.core else {}
        return " + ".join(f"{size(part)} for {name}" for name, part in parts.items())


def needed(arms: Mapping[str, TrainConfig], lm: LanguageModel) -> Need:
    """What training these autoencoders together takes at most, from their settings alone."""
    parts = {name: _parts(config, lm) for name, config in arms.items()}
    config = next(iter(arms.values()))
    width = sum(lm.width(site) for site in sites_of(map(route_of, arms.values())))
    live = config.activations == "live"
    # The windows of a block and their kept rows exist together while the rows are taken out.
    windows = config.block + max(config.block, PASS_WINDOWS if live else 0)
    return Need(
        {name: part.kept for name, part in parts.items()},
        max(part.step for part in parts.values()),
        windows * config.window * width * lm.dtype.itemsize,
        _core(config),
    )


def _core(config: TrainConfig) -> int:
    core = core_of(config)
    if core is None:
        return 0
    return _bytes(core.sae.state_dict().values()) + round(PRODUCTS["topk"] * config.batch * core.sae.n_latents * FLOAT)


def check(arms: Mapping[str, TrainConfig], lm: LanguageModel) -> None:
    """Say what the run needs beside the model. Raises `InputError` with what to drop when that is not free."""
    need, free = needed(arms, lm), available(lm.device)
    has = "" if free is None else f", {size(free)} are free"
    first = next(iter(arms.values()))
    run = "runs while training" if first.activations == "live" else "records"
    left_out = f"not counted: what the model needs of its own when it {run}"
    remark(f"memory beside the model: {size(need.total)} ({need}){has}; {left_out}")
    if free is None or need.total <= free:
        return
    ways = [f"drop {drop} of {len(arms)} autoencoders"] if (drop := _to_drop(need, free)) else []
    ways += ["lower block"] if need.stream > need.total / 3 else []
    ways += ["lower n_latents"]
    ways += ["raise accumulate"] if _products(first, first.n_latents) > need.total / 3 else []
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


class _Parts(NamedTuple):
    """Bytes of one autoencoder: what is there all the time, and what a step adds."""

    kept: int
    step: int


def _parts(config: TrainConfig, lm: LanguageModel) -> _Parts:
    """Counted on an autoencoder without memory, held by its control as in training."""
    route = route_of(config)
    with torch.device("meta"):
        width = None if route.target is None else lm.width(route.explained)
        sae = blank(config.sae[0], config, lm.width(route.site), width)
        control = make_control(config.sae[0])
        control.hold(sae)
    learning = _bytes(weight for weight in sae.parameters() if weight.requires_grad)
    kept = _bytes([*_tensors(sae), *_tensors(control)]) + MOMENTS * learning + COUNTER * (sae.n_latents + 1)
    # If all latents are dead, the auxiliary loss reads a copy of their encoder rows and makes all gradients again.
    auxiliary = sae.n_latents * sae.d_in * FLOAT + learning if learning and config.aux else 0
    return _Parts(kept, learning + auxiliary + _products(config, sae.n_latents) + _controlling(control, config, sae))


def _controlling(control: Control, config: TrainConfig, sae: SAE) -> int:
    """What a control itself takes while it works."""
    if isinstance(control, SoftFrozenDecoder):
        return TURNED * sae.n_latents * sae.d_out * FLOAT
    if isinstance(control, Principal):
        return DOUBLE * sae.d_in * (config.batch + EIGEN * sae.d_in)
    return 0


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    return module.state_dict().values()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _products(config: TrainConfig, n_latents: int) -> int:
    rows = config.batch // config.accumulate
    words = (*config.sae[0].split("+"), rule_word(config.sae[0], config))
    arrays = next(count for word, count in PRODUCTS.items() if word in words)
    return round(arrays * rows * n_latents * FLOAT)


def _to_drop(need: Need, free: int) -> int:
    """How many autoencoders, dearest first, have to go until the rest fits; 0 if none but one does not either."""
    sizes = sorted(need.saes.values())
    left = free - need.step - need.stream - need.core
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
