"""Which kernel runs: `cpu` for float32 and float64 tensors on the CPU when numba is there, else `reference`.

`with backend("reference"):` asks for one by name; one that cannot run says why.
"""

from __future__ import annotations

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
from monosem.kernels.reference import Selected
from monosem.shapes import InputError

BACKENDS = ("auto", "reference", "cpu")
_asked: ContextVar[str] = ContextVar("backend", default="auto")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Use one backend inside the block. Raises `InputError` if it is unknown or cannot run here."""
    if name not in BACKENDS:
        raise InputError(f"unknown kernel backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if name == "cpu" and not _has_numba():
        raise InputError("the cpu kernels need numba, which is not installed: pip install numba, or use auto")
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


@cache
def _has_numba() -> bool:
    return find_spec("numba") is not None


def _kernel(*tensors: Tensor | None) -> ModuleType:
    asked = _asked.get()
    reason = _why_not_cpu([tensor for tensor in tensors if tensor is not None])
    if asked == "cpu" and reason:
        raise InputError(f"the cpu kernels cannot run on {reason}: use backend auto or reference")
    if asked == "reference" or reason:
        return reference
    from monosem.kernels import cpu

    return cpu


def _why_not_cpu(tensors: list[Tensor]) -> str | None:
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"device {tensor.device}"
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            return str(tensor.dtype)
    return None if _has_numba() else "a machine without numba"


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()


def topk(pre: Tensor, k: int) -> Selected:
    return _kernel(pre).topk(_plain(pre), k)


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


for _name in ("topk", "batch_topk", "above", "count_above", "decode", "row_dots", "scatter"):
    _operation: Any = globals()[_name]
    _operation.__doc__ = getattr(reference, _name).__doc__
