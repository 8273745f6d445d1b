"""The sparse operations for the CPU: numba loops that release the GIL, run by as many threads as torch uses.

Each output row has one owner and a fixed order of additions, so results do not depend on the number of threads. The
one exception is `nested_gradients` of several cuts: it splits columns, so slopes of values are sums of as many parts
as threads. All loops stand in one file because numba's cache notices a change of a function's own file alone: a loop
kept with another file's older one inside would compute what the code no longer says.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from monosem.kernels.reference import Nested, NestedGradients, Selected
from monosem.shapes.kron import KronShape

_ROWS, _PRODUCTS = 512, 1 << 25
"""Fewest tokens of a part of a batch (fewer make the product slow), and products in one, 128 MiB."""
_GATES = {"mand": 0, "product": 1, "raw": 2, "min": 3}

_jit = numba.njit(nogil=True, cache=True)
_fast = numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz", "reassoc", "contract"})


def topk(pre: Tensor, k: int, bias: Tensor | None = None) -> Selected:
    values = torch.empty(len(pre), k, dtype=pre.dtype)
    indices = torch.empty(len(pre), k, dtype=torch.int64)
    added = (torch.zeros(pre.shape[1], dtype=pre.dtype) if bias is None else bias).numpy()
    _over(len(pre), _topk_rows, pre.numpy(), added, k, _block(pre.shape[1], k), values.numpy(), indices.numpy())
    return Selected(values, indices, None)


def linear_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int, low: bool = False) -> Selected:
    """In parts of the batch, so that products are read while they are in cache and never exist all at once."""
    rows, columns = (x.bfloat16(), weight.bfloat16().T) if low else (x, weight.T)
    values = torch.empty(len(x), k, dtype=x.dtype)
    indices = torch.empty(len(x), k, dtype=torch.int64)
    size = max(_ROWS, _PRODUCTS // len(weight))
    product = _empty(min(size, len(x)), len(weight), dtype=rows.dtype)
    for low_row in range(0, len(x), size):
        part = slice(low_row, min(low_row + size, len(x)))
        found = product[: part.stop - part.start]
        torch.mm(rows[part], columns, out=found)
        array = found.view(torch.int16).numpy().view(np.uint16) if low else found.numpy()
        arguments = (bias.numpy(), k, _block(len(weight), k), values[part].numpy(), indices[part].numpy())
        _over(len(found), _topk_rows, array, *arguments)
    chosen = Selected(values, indices, None)
    return _exact(chosen, x, weight, bias) if low else chosen


def _exact(chosen: Selected, x: Tensor, weight: Tensor, bias: Tensor) -> Selected:
    assert chosen.indices is not None
    dots = row_dots(chosen.indices, None, weight, x)
    _over(len(x), _sort_exact, dots.numpy(), bias.numpy(), chosen.values.numpy(), chosen.indices.numpy())
    return chosen


def kron_topk(pre: Tensor, shape: KronShape, gate: str, k: int) -> Selected:
    values = torch.empty(len(pre), k, dtype=pre.dtype)
    indices = torch.empty(len(pre), k, dtype=torch.int64)
    sizes = (shape.heads, shape.base, shape.extension)
    _over(len(pre), _kron_rows, pre.numpy(), *sizes, _GATES[gate], k, values.numpy(), indices.numpy())
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
    out = _empty(n_latents, rows.shape[1], dtype=rows.dtype)
    workers = torch.get_num_threads()
    cuts = np.searchsorted(starts[:-1], np.linspace(0, starts[-1], workers + 1)[1:-1])
    edges = [0, *cuts.tolist(), n_latents]
    parts = list(pairwise(edges))
    _each(
        parts,
        lambda _, start, stop: _sum_latents(starts, tokens, weights, rows.numpy(), out.numpy(), start, stop),
    )
    return out


def nested(
    values: Tensor, indices: Tensor, offsets: Tensor | None, cuts: Tensor, weight: Tensor, target: Tensor
) -> Nested:
    entries = _entries(values, indices, offsets, cuts, weight)
    errors = np.empty((len(target), cuts.shape[1]))
    residual = torch.empty_like(target)
    _over(len(target), _nested_rows, *entries, weight.numpy(), target.numpy(), errors, residual.numpy())
    return Nested(torch.from_numpy(errors.sum(0)), residual)


def nested_gradients(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor | None,
    cuts: Tensor,
    weight: Tensor,
    target: Tensor,
    weights: Tensor,
) -> NestedGradients:
    if cuts.shape[1] == 1:
        return _whole_gradients(values, indices, offsets, cuts, weight, target, weights)
    entries = _entries(values, indices, offsets, cuts, weight)
    tiles = _tiles(weight.shape[1])
    errors = np.zeros((len(tiles), cuts.shape[1]))
    slopes = np.zeros((len(tiles), values.numel()), weight.numpy().dtype)
    grad_weight = _empty(*weight.shape, dtype=weight.dtype).zero_()
    grad_target, residual = torch.empty_like(target), torch.empty_like(target)
    inputs = (*entries, *(tensor.numpy() for tensor in (weight, target, weights.to(weight.dtype))))
    outputs = (grad_weight.numpy(), grad_target.numpy(), residual.numpy())

    def tile(number: int, low: int, high: int) -> None:
        arguments: Any = (*inputs, errors[number], slopes[number], *outputs, low, high)
        _nested_tile(*arguments)

    _each(tiles, tile)
    grad_values = torch.from_numpy(slopes.sum(0)).view(values.shape)
    return NestedGradients(torch.from_numpy(errors.sum(0)), residual, grad_values, grad_weight, grad_target)


def _whole_gradients(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor | None,
    cuts: Tensor,
    weight: Tensor,
    target: Tensor,
    weights: Tensor,
) -> NestedGradients:
    """One prefix: a token reads its rows from memory once, and the gradient of the weight is a scatter."""
    inputs = (*_entries(values, indices, offsets, cuts, weight), weight.numpy(), target.numpy())
    errors, residual, grad_target = np.empty(len(target)), torch.empty_like(target), torch.empty_like(target)
    slopes, taken = (torch.zeros(values.shape, dtype=weight.dtype) for _ in range(2))
    outputs = (errors, residual.numpy(), grad_target.numpy(), slopes.view(-1).numpy(), taken.view(-1).numpy())
    _over(len(target), _whole_rows, *inputs, (2 * weights).to(weight.dtype).numpy(), *outputs)
    grad_weight = scatter(taken, indices, offsets, grad_target, len(weight))
    return NestedGradients(torch.from_numpy(errors.sum(keepdims=True)), residual, slopes, grad_weight, grad_target)


def _entries(values: Tensor, indices: Tensor, offsets: Tensor | None, cuts: Tensor, weight: Tensor) -> tuple:
    """Flat values and indices, starts of rows, and cuts: one row of them where all tokens share it."""
    shared = cuts[:1] if cuts.stride(0) == 0 else cuts
    flat = values.to(weight.dtype).reshape(-1).numpy()
    return flat, indices.reshape(-1).numpy(), _ends(indices, offsets), shared.contiguous().numpy()


def _tiles(width: int) -> list[tuple[int, int]]:
    """Columns that one worker owns: as many parts as threads, cut at cache lines, at least 64 wide."""
    lines = -(-width // 16)
    edges = 16 * np.linspace(0, lines, max(1, min(torch.get_num_threads(), width // 64)) + 1).astype(int)
    return list(pairwise([*edges[:-1].tolist(), width]))


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """Memory of numpy's, which asks for huge pages: a step that touches it anew spends less in page faults."""
    count = math.prod(shape)
    memory = np.empty(max(count, 1) * dtype.itemsize, np.uint8)  # torch has no view of an empty array as another type
    return torch.from_numpy(memory).view(dtype)[:count].view(shape)


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


# Rows -------------------------------------------------------------------------------------------------------------


@_fast
def _copy(row, out):
    for d in range(len(out)):
        out[d] = row[d]


@_fast
def _add_multiple(value, row, out):
    for d in range(len(out)):
        out[d] += value * row[d]


@_fast
def _dot(one, other):
    total = one.dtype.type(0)
    for d in range(len(one)):
        total += one[d] * other[d]
    return total


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


@_fast
def _add(row, bias, out):
    for i in range(len(row)):
        out[i] = row[i] + bias[i]


@_fast
def _add_bits(row, bias, bits, out):
    """The same for bfloat16 bits, which are the upper half of a float32; `bits` is `out` as integers."""
    for i in range(len(row)):
        bits[i] = np.uint32(row[i]) << np.uint32(16)
    for i in range(len(row)):
        out[i] += bias[i]


@_jit
def _sort_exact(dots, bias, values, indices, start, stop):
    """Exact values of the latents chosen, in descending order; entries that were empty stay so."""
    for b in range(start, stop):
        for j in range(values.shape[1]):
            values[b, j] = max(dots[b, j] + bias[indices[b, j]], values.dtype.type(0)) if values[b, j] > 0 else 0
        order = np.argsort(-values[b], kind="mergesort")
        values[b] = values[b][order]
        indices[b] = indices[b][order]


@_jit
def _bound(maxima, k):
    """The k-th largest of the maxima of disjoint blocks, which the k-th largest entry reaches; 0 if there are fewer."""
    zero = maxima.dtype.type(0)
    if len(maxima) < k:
        return zero
    return max(zero, np.partition(maxima, len(maxima) - k)[len(maxima) - k])


@_jit
def _write_largest(kept, where, count, k, values, indices):
    """The k largest of `count` candidates in descending order, ties in the order they came."""
    order = np.argsort(-kept[:count], kind="mergesort")
    for j in range(k):
        values[j] = kept[order[j]] if j < count else 0
        indices[j] = where[order[j]] if j < count else 0


@_jit
def _topk_rows(pre, bias, k, width, values, indices, start, stop):
    n = pre.shape[1]
    maxima = np.empty((n + width - 1) // width, values.dtype)
    row = np.empty(n, values.dtype)
    bits = row.view(np.uint32)
    kept = np.empty(n, values.dtype)
    where = np.empty(n, np.int64)
    for b in range(start, stop):
        if pre.itemsize == 2:
            _add_bits(pre[b], bias, bits, row)
        else:
            _add(pre[b], bias, row)
        _block_maxima(row, width, maxima)
        bound = _bound(maxima, k)
        count = 0
        for block in range(len(maxima)):
            if maxima[block] >= bound:
                for i in range(block * width, min(n, (block + 1) * width)):
                    if row[i] >= bound and row[i] > 0:
                        kept[count] = row[i]
                        where[count] = i
                        count += 1
        _write_largest(kept, where, count, k, values[b], indices[b])


# Products of a Kronecker encoder: the extreme factors of a head bound its m·n products, a base with the extreme
# extensions bounds n of them.


@_jit
def _score(gate, u, v):
    return min(u, v) if gate == 3 else u * v


@_jit
def _extremes(factors, first, stop):
    low = high = factors[first]
    for i in range(first + 1, stop):
        low, high = min(low, factors[i]), max(high, factors[i])
    return low, high


@_jit
def _head_maxima(factors, base, rows, gate, lows, highs, maxima):
    """Extreme extensions of each head and the largest score it can have."""
    for h in range(len(maxima)):
        low, high = _extremes(factors, h * rows, h * rows + base)
        lows[h], highs[h] = _extremes(factors, h * rows + base, (h + 1) * rows)
        maxima[h] = _score(gate, high, highs[h]) if gate != 2 else max(low * lows[h], high * highs[h])


@_jit
def _base_maxima(factors, base, rows, gate, lows, highs, maxima):
    for h in range(len(lows)):
        for i in range(base):
            u = factors[h * rows + i]
            maxima[h * base + i] = max(_score(gate, u, lows[h]), _score(gate, u, highs[h]))


@_jit
def _kron_rows(pre, heads, base, extension, gate, k, values, indices, start, stop):
    rows, zero = base + extension, pre.dtype.type(0)
    factors = np.empty(pre.shape[1], pre.dtype)
    lows, highs, of_head = np.empty(heads, pre.dtype), np.empty(heads, pre.dtype), np.empty(heads, pre.dtype)
    of_base = np.empty(heads * base, pre.dtype)
    kept = np.empty(heads * base * extension, pre.dtype)
    where = np.empty(heads * base * extension, np.int64)
    for b in range(start, stop):
        for i in range(pre.shape[1]):
            factors[i] = pre[b, i] if gate == 2 else max(pre[b, i], zero)
        _head_maxima(factors, base, rows, gate, lows, highs, of_head)
        if heads >= 4 * k:
            bound = _bound(of_head, k)
        else:
            _base_maxima(factors, base, rows, gate, lows, highs, of_base)
            bound = _bound(of_base, k)
        count = 0
        for h in range(heads):
            if of_head[h] >= bound and of_head[h] > 0:
                for i in range(base):
                    u = factors[h * rows + i]
                    for j in range(extension):
                        score = _score(gate, u, factors[h * rows + base + j])
                        if score >= bound and score > 0:
                            kept[count] = score
                            where[count] = (h * base + i) * extension + j
                            count += 1
        _write_largest(kept, where, count, k, values[b], indices[b])
        if gate == 0:
            _take_roots(factors, base, extension, values[b], indices[b])


@_jit
def _take_roots(factors, base, extension, values, indices):
    """√u·√v instead of the score u·v."""
    for j in range(len(values)):
        if values[j] > 0:
            head, pair = indices[j] // (base * extension), indices[j] % (base * extension)
            first = head * (base + extension)
            u, v = factors[first + pair // extension], factors[first + base + pair % extension]
            values[j] = np.sqrt(u) * np.sqrt(v)


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


# A decoder's rows --------------------------------------------------------------------------------------------------


def project_rows(grad: Tensor, weight: Tensor) -> None:
    _over(len(grad), _project_rows, grad.numpy(), weight.numpy())


def normalise_rows(weight: Tensor) -> None:
    _over(len(weight), _normalise_rows, weight.numpy())


@_fast
def _project_rows(grad, weight, start, stop):
    for i in range(start, stop):
        _add_multiple(-_dot(grad[i], weight[i]), weight[i], grad[i])


@_fast
def _normalise_rows(weight, start, stop):
    for i in range(start, stop):
        scale = 1 / max(np.sqrt(_dot(weight[i], weight[i])), weight.dtype.type(1e-12))
        for d in range(weight.shape[1]):
            weight[i, d] *= scale


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


# Nested prefixes: the residual of one token after each cut, then the same walk back.


@_fast
def _between(first, cut, stage):
    """Entries that prefix `stage` has and the one before it has not."""
    return range(first + (cut[stage - 1] if stage else 0), first + cut[stage])


@_fast
def _nested_rows(values, indices, ends, cuts, weight, target, errors, residual, start, stop):
    for b in range(start, stop):
        left, cut = residual[b], cuts[b % len(cuts)]
        _copy(target[b], left)
        for stage in range(len(cut)):
            for j in _between(ends[b], cut, stage):
                _add_multiple(-values[j], weight[indices[j]], left)
            errors[b, stage] = _dot(left, left)


@_fast
def _whole_rows(
    values, indices, ends, cuts, weight, target, factor, errors, residual, pull, slopes, taken, start, stop
):
    for b in range(start, stop):
        left, entries = residual[b], _between(ends[b], cuts[b % len(cuts)], 0)
        _copy(target[b], left)
        for j in entries:
            _add_multiple(-values[j], weight[indices[j]], left)
        errors[b] = _dot(left, left)
        for d in range(len(left)):
            pull[b, d] = factor[0] * left[d]
        for j in entries:
            slopes[j] = -_dot(weight[indices[j]], pull[b])
            taken[j] = -values[j]


@_fast
def _nested_tile(
    values,
    indices,
    ends,
    cuts,
    weight,
    target,
    weights,
    errors,
    grad_values,
    grad_weight,
    grad_target,
    residual,
    low,
    high,
):
    """All tokens on the columns low:high, which no other worker writes."""
    left = np.empty(high - low, weight.dtype)
    pull = np.empty(high - low, weight.dtype)
    for b in range(len(target)):
        cut = cuts[b % len(cuts)]
        _copy(target[b, low:high], left)
        for stage in range(len(cut)):
            for j in _between(ends[b], cut, stage):
                _add_multiple(-values[j], weight[indices[j], low:high], left)
            errors[stage] += _dot(left, left)
        _copy(left, residual[b, low:high])
        pull[:] = 0
        for stage in range(len(cut) - 1, -1, -1):
            _add_multiple(2 * weights[stage], left, pull)
            for j in _between(ends[b], cut, stage):
                row = weight[indices[j], low:high]
                grad_values[j] = -_dot(row, pull)
                _add_multiple(-values[j], pull, grad_weight[indices[j], low:high])
                _add_multiple(values[j], row, left)
        _copy(pull, grad_target[b, low:high])
