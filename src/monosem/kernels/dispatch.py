"""Which kernel runs: `cpu` (numba) for float32 and float64 tensors on the CPU, `triton` on CUDA, else `reference`.

`with backend("reference"):` asks for one by name; one that cannot run says why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from monosem.kernels import reference
from monosem.kernels.reference import Nested, NestedGradients, Selected
from monosem.shapes import InputError, KronShape

BACKENDS = ("auto", "reference", "cpu", "triton")
_asked: ContextVar[str] = ContextVar("backend", default="auto")
_checking: ContextVar[bool] = ContextVar("debug", default=os.environ.get("MONOSEM_DEBUG", "0") != "0")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Use one backend inside the block. Raises `InputError` if it is unknown or cannot run here."""
    if name not in BACKENDS:
        raise InputError(f"unknown kernel backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if name in _PACKAGES and not _has(_PACKAGES[name]):
        package = _PACKAGES[name]
        raise InputError(
            f"the {name} kernels need {package}, which is not installed: pip install {package}, or use auto"
        )
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


@contextmanager
def debug() -> Iterator[None]:
    """Check what fast code takes for granted: order of ranked values, and that walks return to their start."""
    token = _checking.set(True)
    try:
        yield
    finally:
        _checking.reset(token)


def debugging() -> bool:
    """Inside `debug()`, or with MONOSEM_DEBUG=1 in the environment."""
    return _checking.get()


@cache
def _has(package: str) -> bool:
    return find_spec(package) is not None


def _kernel(*tensors: Tensor | None) -> ModuleType:
    given = [tensor for tensor in tensors if tensor is not None]
    asked = _asked.get()
    if asked in _WHY_NOT and (reason := _WHY_NOT[asked](given)):
        raise InputError(f"the {asked} kernels cannot run on {reason}: use backend auto or reference")
    if asked == "auto":
        asked = _fastest(given)
    if asked == "cpu":
        from monosem.kernels import cpu

        return cpu
    if asked == "triton":
        from monosem.kernels import triton

        return triton
    return reference


def _fastest(tensors: list[Tensor]) -> str:
    if _why_not_cpu(tensors) is None:
        return "cpu"
    on_gpu = all(tensor.device.type == "cuda" for tensor in tensors)
    return "triton" if on_gpu and _why_not_triton(tensors) is None else "reference"


def _why_not_cpu(tensors: list[Tensor]) -> str | None:
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"device {tensor.device}"
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            return str(tensor.dtype)
    return None if _has("numba") else "a machine without numba"


def _why_not_triton(tensors: list[Tensor]) -> str | None:
    """Triton compiles for GPUs; with TRITON_INTERPRET=1 set before it is imported, it runs slowly on the CPU."""
    if not _has("triton"):
        return "a machine without triton"
    for tensor in tensors:
        if tensor.device.type != "cuda" and os.environ.get("TRITON_INTERPRET", "0") != "1":
            return f"device {tensor.device} (TRITON_INTERPRET=1 runs them on the CPU, for tests)"
    return None


_WHY_NOT = {"cpu": _why_not_cpu, "triton": _why_not_triton}
_PACKAGES = {"cpu": "numba", "triton": "triton"}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()


def topk(pre: Tensor, k: int, bias: Tensor | None = None) -> Selected:
    return _kernel(pre, bias).topk(_plain(pre), k, None if bias is None else _plain(bias))


def linear_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int, low: bool = False) -> Selected:
    return _kernel(x, weight, bias).linear_topk(_plain(x), _plain(weight), _plain(bias), k, low)


def project_rows(grad: Tensor, weight: Tensor) -> None:
    _in_place(grad, weight).project_rows(grad, weight.detach())


def normalise_rows(weight: Tensor) -> None:
    _in_place(weight).normalise_rows(weight.detach())


def _in_place(*tensors: Tensor) -> ModuleType:
    return _kernel(*tensors) if all(tensor.is_contiguous() for tensor in tensors) else reference


def kron_topk(pre: Tensor, shape: KronShape, gate: str, k: int) -> Selected:
    return _kernel(pre).kron_topk(_plain(pre), shape, gate, k)


def batch_topk(pre: Tensor, k: int) -> Selected:
    return _kernel(pre).batch_topk(_plain(pre), k)


def above(pre: Tensor, low: Tensor) -> Selected:
    return _kernel(pre, low).above(_plain(pre), _plain(low))


def count_above(pre: Tensor, low: Tensor) -> int:
    return _kernel(pre, low).count_above(_plain(pre), _plain(low))


def decode(values: Tensor, indices: Tensor, offsets: Tensor | None, weight: Tensor) -> Tensor:
    return _kernel(values, weight).decode(_plain(values), _plain(indices), offsets, _plain(weight))


def row_dots(indices: Tensor, offsets: Tensor | None, weight: Tensor, rows: Tensor) -> Tensor:
    return _kernel(weight, rows).row_dots(_plain(indices), offsets, _plain(weight), _plain(rows))


def scatter(values: Tensor, indices: Tensor, offsets: Tensor | None, rows: Tensor, n_latents: int) -> Tensor:
    return _kernel(values, rows).scatter(_plain(values), _plain(indices), offsets, _plain(rows), n_latents)


def nested(
    values: Tensor, indices: Tensor, offsets: Tensor | None, cuts: Tensor, weight: Tensor, target: Tensor
) -> Nested:
    kernel = _kernel(values, weight, target)
    return kernel.nested(_plain(values), _plain(indices), offsets, cuts, _plain(weight), _plain(target))


def nested_gradients(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor | None,
    cuts: Tensor,
    weight: Tensor,
    target: Tensor,
    weights: Tensor,
) -> NestedGradients:
    kernel = _kernel(values, weight, target)
    entries = (_plain(values), _plain(indices), offsets, cuts)
    found = kernel.nested_gradients(*entries, _plain(weight), _plain(target), _plain(weights))
    if debugging():
        _check_walk(found, entries, weight, target)
    return found


def _check_walk(found: NestedGradients, entries: tuple, weight: Tensor, target: Tensor) -> None:
    """The residual and what was decoded make the target again, or a row of the weight changed on the way."""
    values, indices, offsets, cuts = entries
    used = reference.stages(values, offsets, cuts) < cuts.shape[1]
    wide = found.residual.dtype
    back = found.residual + decode(torch.where(used, values, 0.0).to(wide), indices, offsets, weight.to(wide))
    worst = float((back - target).norm() / target.norm().clamp_min(1e-30))
    if not worst < 1e-4:
        raise InputError(f"nested decoding does not return to its target (relative error {worst:.1e}): report this")


OPERATIONS = (
    "topk",
    "linear_topk",
    "kron_topk",
    "batch_topk",
    "above",
    "count_above",
    "decode",
    "row_dots",
    "scatter",
    "nested",
    "nested_gradients",
    "project_rows",
    "normalise_rows",
)
for _name in OPERATIONS:
    _operation: Any = globals()[_name]
    _operation.__doc__ = getattr(reference, _name).__doc__
