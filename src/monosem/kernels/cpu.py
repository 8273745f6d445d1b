"""The sparse operations for the CPU: numba loops that release the GIL, run by as many threads as torch uses.

Each output row has one owner and a fixed order of additions, so results do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numba
import numpy as np
import torch
from torch import Tensor

from monosem.kernels.reference import Selected

_jit = numba.njit(nogil=True, cache=True)
_fast = numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz", "reassoc", "contract"})


def topk(pre: Tensor, k: int) -> Selected:
    values = torch.empty(len(pre), k, dtype=pre.dtype)
    indices = torch.empty(len(pre), k, dtype=torch.int64)
    _over(len(pre), _topk_rows, pre.numpy(), k, _block(pre.shape[1], k), values.numpy(), indices.numpy())
    return Selected(values, indices, None)


def batch_topk(pre: Tensor, k: int) -> Selected:
    array, wanted = pre.numpy(), min(k * len(pre), pre.numel())
    width = _block(pre.shape[1], k)
    maxima = np.empty((len(pre), -(-pre.shape[1] // width)), array.dtype)
    _over(len(pre), _row_maxima, array, width, maxima)
    bound = max(_largest(maxima.ravel(), wanted), np.finfo(array.dtype).tiny)
    counts = np.zeros(len(pre), np.int64)
    _over(len(pre), _count_blocks, array, width, maxima, bound, counts)
    offsets = np.concatenate([[0], counts.cumsum()])
    values, indices = np.empty(offsets[-1], array.dtype), np.empty(offsets[-1], np.int64)
    _over(len(pre), _fill_blocks, array, width, maxima, bound, offsets, values, indices)
    keep = _largest_mask(values, wanted)
    offsets = np.concatenate([[0], keep.cumsum()])[offsets]
    return Selected(torch.from_numpy(values[keep]), torch.from_numpy(indices[keep]), torch.from_numpy(offsets))


def above(pre: Tensor, low: Tensor) -> Selected:
    counts = np.zeros(len(pre), np.int64)
    _over(len(pre), _count_above, pre.numpy(), low.numpy(), counts)
    offsets = torch.from_numpy(np.concatenate([[0], counts.cumsum()]))
    values = torch.empty(int(offsets[-1]), dtype=pre.dtype)
    indices = torch.empty(len(values), dtype=torch.int64)
    _over(len(pre), _fill_above, pre.numpy(), low.numpy(), offsets.numpy(), values.numpy(), indices.numpy())
    return Selected(values, indices, offsets)


def count_above(pre: Tensor, low: Tensor) -> int:
    counts = np.zeros(len(pre), np.int64)
    _over(len(pre), _count_above, pre.numpy(), low.numpy(), counts)
    return int(counts.sum())


def decode(values: Tensor, indices: Tensor, offsets: Tensor | None, weight: Tensor) -> Tensor:
    ends = _ends(indices, offsets)
    out = torch.empty(len(ends) - 1, weight.shape[1], dtype=weight.dtype)
    flat = values.to(weight.dtype).reshape(-1).numpy()
    _over(len(out), _decode_rows, flat, indices.reshape(-1).numpy(), ends, weight.numpy(), out.numpy())
    return out


def row_dots(indices: Tensor, offsets: Tensor | None, weight: Tensor, rows: Tensor) -> Tensor:
    ends = _ends(indices, offsets)
    out = torch.empty(indices.shape, dtype=weight.dtype)
    _over(
        len(rows),
        _dot_rows,
        indices.reshape(-1).numpy(),
        ends,
        weight.numpy(),
        rows.numpy(),
        out.view(-1).numpy(),
    )
    return out


def scatter(values: Tensor, indices: Tensor, offsets: Tensor | None, rows: Tensor, n_latents: int) -> Tensor:
    ends = _ends(indices, offsets)
    flat = values.to(rows.dtype).reshape(-1).numpy()
    starts, tokens, weights = _transpose(flat, indices.reshape(-1).numpy(), ends, n_latents)
    out = torch.empty(n_latents, rows.shape[1], dtype=rows.dtype)
    workers = torch.get_num_threads()
    cuts = np.searchsorted(starts[:-1], np.linspace(0, starts[-1], workers + 1)[1:-1])
    edges = [0, *cuts.tolist(), n_latents]
    parts = list(pairwise(edges))
    _each(
        parts,
        lambda _, start, stop: _sum_latents(starts, tokens, weights, rows.numpy(), out.numpy(), start, stop),
    )
    return out


def _ends(indices: Tensor, offsets: Tensor | None) -> np.ndarray:
    if offsets is not None:
        return offsets.numpy()
    return np.arange(0, indices.numel() + 1, indices.shape[1], dtype=np.int64)


# Threads -----------------------------------------------------------------------------------------------------------


@cache
def _pool(workers: int, _process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="monosem-kernel")


def _parts(n: int) -> list[tuple[int, int]]:
    workers = min(torch.get_num_threads(), max(n, 1))
    edges = np.linspace(0, n, workers + 1).astype(int).tolist()
    return list(pairwise(edges))


def _each(parts: list[tuple[int, int]], work: Callable[[int, int, int], None]) -> None:
    if len(parts) == 1:
        work(0, *parts[0])
        return
    pool = _pool(torch.get_num_threads(), os.getpid())
    for future in [pool.submit(work, number, *part) for number, part in enumerate(parts)]:
        future.result()


def _over(n: int, kernel: Callable[..., None], *arguments: object) -> None:
    """Run `kernel(*arguments, start, stop)` on contiguous ranges of rows."""
    _each(_parts(n), lambda _, start, stop: kernel(*arguments, start, stop))


# Selection ---------------------------------------------------------------------------------------------------------


def _block(n_latents: int, k: int) -> int:
    """Width of the blocks whose maxima bound the k-th largest from below: several blocks for each of the k."""
    return int(min(64, max(8, n_latents // (4 * k))))


@_fast
def _block_maxima(row, width, maxima):
    for block in range(len(maxima)):
        best = row[block * width]
        for i in range(block * width, min(len(row), (block + 1) * width)):
            best = max(best, row[i])
        maxima[block] = best


@_jit
def _topk_rows(pre, k, width, values, indices, start, stop):
    n = pre.shape[1]
    n_blocks = (n + width - 1) // width
    maxima = np.empty(n_blocks, pre.dtype)
    kept = np.empty(n, pre.dtype)
    where = np.empty(n, np.int64)
    for b in range(start, stop):
        row = pre[b]
        _block_maxima(row, width, maxima)
        bound = pre.dtype.type(0)
        if n_blocks >= k:
            bound = max(bound, np.partition(maxima, n_blocks - k)[n_blocks - k])
        count = 0
        for block in range(n_blocks):
            if maxima[block] >= bound:
                for i in range(block * width, min(n, (block + 1) * width)):
                    if row[i] >= bound and row[i] > 0:
                        kept[count] = row[i]
                        where[count] = i
                        count += 1
        order = np.argsort(-kept[:count], kind="mergesort")
        for j in range(k):
            values[b, j] = kept[order[j]] if j < count else 0
            indices[b, j] = where[order[j]] if j < count else 0


@_jit
def _count_above(pre, low, counts, start, stop):
    for b in range(start, stop):
        count = 0
        for i in range(pre.shape[1]):
            count += pre[b, i] > low[i]
        counts[b] = count


@_jit
def _fill_above(pre, low, offsets, values, indices, start, stop):
    for b in range(start, stop):
        at = offsets[b]
        for i in range(pre.shape[1]):
            if pre[b, i] > low[i]:
                values[at] = pre[b, i]
                indices[at] = i
                at += 1


# The B·k largest of a batch: as many block maxima bound the cut from below, so few entries remain to be ordered.


def _largest(values: np.ndarray, rank: int) -> float:
    """The `rank`-th largest value; 0 if there are fewer."""
    return np.partition(values, len(values) - rank)[len(values) - rank] if 0 < rank <= len(values) else 0.0


def _largest_mask(values: np.ndarray, wanted: int) -> np.ndarray:
    """The `wanted` largest entries, ties by position."""
    if len(values) <= wanted:
        return np.ones(len(values), bool)
    cut = _largest(values, wanted)
    over, tied = values > cut, values == cut
    return over | (tied & (tied.cumsum() <= wanted - over.sum()))


@_jit
def _row_maxima(pre, width, maxima, start, stop):
    for b in range(start, stop):
        _block_maxima(pre[b], width, maxima[b])


@_jit
def _count_blocks(pre, width, maxima, bound, counts, start, stop):
    for b in range(start, stop):
        for block in range(maxima.shape[1]):
            if maxima[b, block] >= bound:
                for i in range(block * width, min(pre.shape[1], (block + 1) * width)):
                    counts[b] += pre[b, i] >= bound


@_jit
def _fill_blocks(pre, width, maxima, bound, offsets, values, indices, start, stop):
    for b in range(start, stop):
        at = offsets[b]
        for block in range(maxima.shape[1]):
            if maxima[b, block] >= bound:
                for i in range(block * width, min(pre.shape[1], (block + 1) * width)):
                    if pre[b, i] >= bound:
                        values[at] = pre[b, i]
                        indices[at] = i
                        at += 1


# Rows of a weight --------------------------------------------------------------------------------------------------


@_fast
def _decode_rows(values, indices, ends, weight, out, start, stop):
    for b in range(start, stop):
        out[b] = 0
        for j in range(ends[b], ends[b + 1]):
            value, row = values[j], weight[indices[j]]
            if value != 0:
                for d in range(weight.shape[1]):
                    out[b, d] += value * row[d]


@_fast
def _dot_rows(indices, ends, weight, rows, out, start, stop):
    for b in range(start, stop):
        for j in range(ends[b], ends[b + 1]):
            row, total = weight[indices[j]], weight.dtype.type(0)
            for d in range(weight.shape[1]):
                total += row[d] * rows[b, d]
            out[j] = total


@_jit
def _transpose(values, indices, ends, n_latents):
    """Group entries by latent in token order (a counting sort); zeros are left out."""
    starts = np.zeros(n_latents + 1, np.int64)
    for j in range(len(indices)):
        if values[j] != 0:
            starts[indices[j] + 1] += 1
    for i in range(n_latents):
        starts[i + 1] += starts[i]
    at = starts[:-1].copy()
    tokens = np.empty(starts[-1], np.int64)
    weights = np.empty(starts[-1], values.dtype)
    for b in range(len(ends) - 1):
        for j in range(ends[b], ends[b + 1]):
            if values[j] != 0:
                place = at[indices[j]]
                tokens[place] = b
                weights[place] = values[j]
                at[indices[j]] = place + 1
    return starts, tokens, weights


@_fast
def _sum_latents(starts, tokens, weights, rows, out, start, stop):
    for i in range(start, stop):
        out[i] = 0
        for j in range(starts[i], starts[i + 1]):
            value, row = weights[j], rows[tokens[j]]
            for d in range(rows.shape[1]):
                out[i, d] += value * row[d]
