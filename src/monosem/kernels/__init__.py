"""Sparse operations: one signature each, a plain torch definition and a fast form, chosen at call time."""

from monosem.kernels.dispatch import above, backend, batch_topk, count_above, decode, row_dots, scatter, topk
from monosem.kernels.reference import Selected

__all__ = [
    "Selected",
    "above",
    "backend",
    "batch_topk",
    "count_above",
    "decode",
    "row_dots",
    "scatter",
    "topk",
]
