"""Which floating-point type this machine is fast in: measured once and kept."""

from __future__ import annotations

import logging
import platform
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch

from monosem.disk import cache_folder, read_json, write_json
from monosem.shapes import InputError

_log = logging.getLogger("monosem")
_REPEATS = 9
_GAIN = 1.3  # bf16 loses precision: it has to be clearly faster to be worth it


class Precision(NamedTuple):
    """The chosen `dtype` (`float32` or `bfloat16`) and the seconds one matrix product took in each."""

    dtype: str
    fp32_s: float
    bf16_s: float


def fastest_dtype(device: str | torch.device = "cpu") -> Precision:
    """bfloat16 where a product of a small model's MLP is at least 1.3 × as fast in it, else float32.

    The measurement is kept in the cache per processor, torch version and thread count, so that the choice
    stays the same from run to run. Delete `precision.json` there to measure again.
    """
    device = torch.device(device)
    path, key = cache_folder() / "precision.json", _key(device)
    known = _known(path)
    choice = known.get(key)
    if choice is None:
        fp32_s, bf16_s = _measure(device)
        choice = Precision(_choose(device, fp32_s, bf16_s), fp32_s, bf16_s)
        write_json(path, {name: row._asdict() for name, row in (known | {key: choice}).items()})
    _log.info(
        "%s: product %.2f ms in fp32, %.2f ms in bf16: %s",
        key,
        choice.fp32_s * 1e3,
        choice.bf16_s * 1e3,
        choice.dtype,
    )
    return choice


def _choose(device: torch.device, fp32_s: float, bf16_s: float) -> str:
    supported = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if supported and fp32_s >= _GAIN * bf16_s else "float32"


def _known(path: Path) -> dict[str, Precision]:
    """What was measured before; a damaged file only costs a new measurement."""
    try:
        return {name: Precision(**row) for name, row in read_json(path).items()}
    except (InputError, TypeError):
        return {}


def _measure(device: torch.device) -> tuple[float, float]:
    """Median seconds of a [2048, 576] × [576, 1536] product in fp32 and bf16, interleaved."""
    pairs = []
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        x, W = torch.randn(2048, 576, generator=generator), torch.randn(576, 1536, generator=generator)
        pairs.append((x.to(device, dtype), W.to(device, dtype)))
    times = [[_seconds(x, W) for x, W in pairs] for _ in range(_REPEATS + 2)][2:]
    fp32, bf16 = zip(*times)
    return statistics.median(fp32), statistics.median(bf16)


def _seconds(x: torch.Tensor, W: torch.Tensor) -> float:
    _wait(x.device)
    start = time.perf_counter()
    x @ W
    _wait(x.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _key(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} · torch {torch.__version__}"
    return f"{_processor()} · torch {torch.__version__} · {torch.get_num_threads()} threads"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
