"""Sparse operations: one signature each, a plain torch definition and fast forms, chosen at call time."""

from monosem.kernels.dispatch import (
    above,
    backend,
    batch_topk,
    count_above,
    debug,
    debugging,
    decode,
    kron_topk,
    linear_topk,
    nested,
    nested_gradients,
    normalise_rows,
    project_rows,
    row_dots,
    scatter,
    topk,
)
from monosem.kernels.reference import Nested, NestedGradients, Selected

__all__ = [
    "Nested",
    "NestedGradients",
    "Selected",
    "above",
    "backend",
    "batch_topk",
    "count_above",
    "debug",
    "debugging",
    "decode",
    "kron_topk",
    "linear_topk",
    "nested",
    "nested_gradients",
    "normalise_rows",
    "project_rows",
    "row_dots",
    "scatter",
    "topk",
]
