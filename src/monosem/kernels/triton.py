"""The sparse operations for GPUs: Triton kernels, and plain torch where that is already the right tool.

Sums run in float32 (float64 for float64 inputs) whatever the inputs' precision. While
`torch.are_deterministic_algorithms_enabled()`, every sum has one owner and one order; else gradients of weights are
atomic sums. Selection always breaks ties by lowest index: candidates are ordered by one integer, the bits of the
(positive) value above the complement of the index, so no two are equal and torch.topk can choose in one way only.
Float64 does not fit in such a key: there the plain definition selects.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from monosem.kernels import reference
from monosem.kernels.reference import Nested, NestedGradients, Selected
from monosem.shapes.kron import KronShape

above, count_above = reference.above, reference.count_above
project_rows, normalise_rows = reference.project_rows, reference.normalise_rows

ENTRIES = 8
"""Entries of a token, or of a latent, whose rows are in flight at once."""
TOKENS = 8
"""Tokens whose residuals one program walks along."""
COLUMNS = 128
"""Columns of a row that one program owns, at most."""
LOW_BITS = 0xFFFFFFFF
"""The half of a key that holds the complement of a place."""


def _launch(kernel: Any, grid: tuple[int, ...], first: Tensor, *rest: Any) -> None:
    """Run a kernel on the device of its first argument."""
    with torch.cuda.device_of(first):
        kernel[grid](first, *rest)


def _parts(size: int, part: int) -> int:
    return -(-size // part)


def _power(size: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (size - 1).bit_length()


# Selection ---------------------------------------------------------------------------------------------------------
#
# Candidates are pruned in levels. A level cuts the latents into spans of neighbours and knows the largest value of
# each span. The k spans that come first (by value, then by place) hold the k entries that come first: each of them has
# an entry that comes before every entry of the others.


def topk(pre: Tensor, k: int, bias: Tensor | None = None) -> Selected:
    """See `reference.topk`: blocks of latents are pruned by their maxima, so a row is read once.

    A bias is added in float32, whatever the precision of both.
    """
    dtype = pre.dtype if bias is None else torch.result_type(pre, bias)
    if dtype == torch.float64:
        return _selected(*reference.topk(pre, k, bias)[:2])
    n_latents = pre.shape[1]
    k, width = min(k, n_latents), _block(n_latents, k)
    blocks = _whole_row(pre)
    if k * width < n_latents:
        n_blocks = _parts(n_latents, width)
        blocks = _strongest(_block_keys(pre, bias, blocks, n_blocks, width), k)[1]
    else:
        width = n_latents
    values, indices = _strongest(_block_keys(pre, bias, blocks, width, 1), k)
    return _selected(values.to(dtype), indices)


def linear_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int, low: bool = False) -> Selected:
    """See `reference.linear_topk`."""
    if not low:
        return topk(functional.linear(x, weight), k, bias)
    chosen = topk(functional.linear(x.bfloat16(), weight.bfloat16()), k, bias)
    assert chosen.indices is not None
    values = (row_dots(chosen.indices, None, weight, x) + bias[chosen.indices]).relu()
    values, order = torch.where(chosen.values > 0, values, 0.0).sort(dim=1, descending=True, stable=True)
    return _selected(values, chosen.indices.gather(1, order))


def batch_topk(pre: Tensor, k: int) -> Selected:
    """See `reference.batch_topk`: torch.topk gives the bound, what reaches it is kept in flat order."""
    flat, wanted = pre.flatten(), min(k * len(pre), pre.numel())
    bound = flat.topk(wanted, sorted=False).values.min()
    where = ((flat >= bound) & (flat > 0)).nonzero().squeeze(1)
    over = flat[where] > bound
    tied = (~over).cumsum(0) <= wanted - over.sum()
    where = where[over | tied]
    ends = torch.bincount(where // pre.shape[1], minlength=len(pre)).cumsum(0)
    return Selected(flat[where], where % pre.shape[1], functional.pad(ends, (1, 0)))


def kron_topk(pre: Tensor, shape: KronShape, gate: str, k: int) -> Selected:
    """See `reference.kron_topk`: heads are pruned by their best pair, then bases, then pairs are scored."""
    if pre.dtype == torch.float64:
        return _selected(*reference.kron_topk(pre, shape, gate, k)[:2])
    spans = _whole_row(pre)
    scores = spans
    levels = ((shape.heads, shape.base, shape.extension), (shape.base, 1, shape.extension), (shape.extension, 1, 1))
    for width, bases, extensions in levels:
        keys = _pair_keys(pre, shape, gate, spans, width, bases, extensions)
        scores, spans = _strongest(keys, min(k, keys.shape[1]))
    values = _roots(pre, shape, spans, scores) if gate == "mand" else scores
    return _selected(values.to(pre.dtype), spans)


def _roots(pre: Tensor, shape: KronShape, latents: Tensor, scores: Tensor) -> Tensor:
    """√u·√v: the product of the roots, which does not underflow where the root of the product does."""
    u, v = (pre.gather(1, rows).float() for rows in shape.parents(latents))
    return torch.where(scores > 0, u.sqrt() * v.sqrt(), 0)


def _block(n_latents: int, k: int) -> int:
    """A width that makes as many blocks as the k chosen ones have entries."""
    return min(64, _power(round((n_latents / k) ** 0.5)))


def _whole_row(pre: Tensor) -> Tensor:
    return torch.zeros(len(pre), 1, dtype=torch.int64, device=pre.device)


def _strongest(keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and places of the k largest keys of each row, descending."""
    keys = keys.topk(k).values
    return (keys >> 32).to(torch.int32).view(torch.float32), LOW_BITS - (keys & LOW_BITS)


def _selected(values: Tensor, indices: Tensor | None) -> Selected:
    assert indices is not None
    return Selected(values, torch.where(values > 0, indices, 0), None)


def _block_keys(pre: Tensor, bias: Tensor | None, parents: Tensor, width: int, span: int) -> Tensor:
    """Keys of the `width` spans of every parent, by the largest of a span's entries."""
    rows, n_keys = len(pre), parents.shape[1] * width
    keys = torch.empty(rows, n_keys, dtype=torch.int64, device=pre.device)
    grid = (rows, _parts(n_keys, _candidates(span)))
    sizes = pre.shape[1], n_keys, parents.shape[1], width
    _launch(_write_block_keys, grid, pre, bias, parents, keys, *sizes, span, _candidates(span))
    return keys


def _pair_keys(
    pre: Tensor, shape: KronShape, gate: str, parents: Tensor, width: int, bases: int, extensions: int
) -> Tensor:
    """Keys of the `width` spans of every parent, by the best pair of a span of bases × extensions."""
    rows, n_keys = len(pre), parents.shape[1] * width
    keys = torch.empty(rows, n_keys, dtype=torch.int64, device=pre.device)
    constants = _power(bases), _power(extensions), _candidates(_power(max(bases, extensions))), gate
    grid = (rows, _parts(n_keys, constants[2]))
    sizes = pre.shape[1], n_keys, parents.shape[1], width, shape.base, shape.extension, bases, extensions
    _launch(_write_pair_keys, grid, pre, parents, keys, *sizes, *constants)
    return keys


def _candidates(span: int) -> int:
    """Keys that one program computes: their spans have to fit in registers."""
    return max(1, min(128, 2048 // span))


@triton.jit
def _key(value, place):
    """One integer that orders by value, then by lowest place; values below zero count as zero."""
    bits = tl.where(value > 0, value, 0.0).to(tl.int32, bitcast=True).to(tl.int64)
    return (bits << 32) | (0xFFFFFFFF - place)


@triton.jit
def _span(parents, n_keys, n_parents, width, CANDIDATES: tl.constexpr):
    """This program's token, and for its candidates: column among the keys, whether it exists, span number."""
    b = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * CANDIDATES + tl.arange(0, CANDIDATES)
    exists = column < n_keys
    parent = tl.load(parents + b * n_parents + column // width, mask=exists, other=0)
    return b, column, exists, parent * width + column % width


@triton.jit
def _write_block_keys(
    pre,
    bias,
    parents,
    keys,
    n_latents,
    n_keys,
    n_parents,
    width,
    SPAN: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    b, column, exists, number = _span(parents, n_keys, n_parents, width, CANDIDATES)
    latent = number[:, None] * SPAN + tl.arange(0, SPAN)[None, :]
    inside = exists[:, None] & (latent < n_latents)
    value = tl.load(pre + b * n_latents + latent, mask=inside, other=0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + latent, mask=inside, other=0).to(tl.float32)
    best = tl.max(value, 1)
    tl.store(keys + b * n_keys + column, _key(best, number), mask=exists)


@triton.jit
def _extremes(row, first, count, exists, SPAN: tl.constexpr):
    """Largest and smallest of `count` neighbouring entries of a row."""
    place = tl.arange(0, SPAN)[None, :]
    inside = exists[:, None] & (place < count)
    value = tl.load(row + first[:, None] + place, mask=inside, other=0).to(tl.float32)
    return tl.max(tl.where(inside, value, -float("inf")), 1), tl.min(tl.where(inside, value, float("inf")), 1)


@triton.jit
def _write_pair_keys(
    pre,
    parents,
    keys,
    n_rows,
    n_keys,
    n_parents,
    width,
    base,
    extension,
    bases,
    extensions,
    BASES: tl.constexpr,
    EXTENSIONS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    GATE: tl.constexpr,
):
    b, column, exists, number = _span(parents, n_keys, n_parents, width, CANDIDATES)
    # Spans of all extensions are numbered without an extension, spans of all bases by head alone.
    per_pair, per_head = extension // extensions, base // bases
    pair, j = number // per_pair, number % per_pair
    head, i = pair // per_head, pair % per_head
    first = head * (base + extension)
    high_u, low_u = _extremes(pre + b * n_rows, first + i, bases, exists, BASES)
    high_v, low_v = _extremes(pre + b * n_rows, first + base + j, extensions, exists, EXTENSIONS)
    positive = tl.maximum(high_u, 0.0) * tl.maximum(high_v, 0.0)
    if GATE == "min":
        score = tl.minimum(high_u, high_v)
    elif GATE == "raw":
        score = tl.maximum(positive, tl.minimum(low_u, 0.0) * tl.minimum(low_v, 0.0))
    else:
        score = positive
    tl.store(keys + b * n_keys + column, _key(score, number), mask=exists)


# Rows of a weight --------------------------------------------------------------------------------------------------


def decode(values: Tensor, indices: Tensor, offsets: Tensor | None, weight: Tensor) -> Tensor:
    """See `reference.decode`."""
    ends = _ends(indices, offsets)
    out = torch.empty(len(ends) - 1, weight.shape[1], dtype=weight.dtype, device=weight.device)
    _sum_rows(values, indices, ends, weight, out)
    return out


def row_dots(indices: Tensor, offsets: Tensor | None, weight: Tensor, rows: Tensor) -> Tensor:
    """See `reference.row_dots`."""
    ends, width = _ends(indices, offsets), rows.shape[1]
    out = torch.empty(indices.shape, dtype=weight.dtype, device=weight.device)
    grid = (len(rows), max(1, _parts(indices.numel(), ENTRIES * max(1, len(rows)))))
    _launch(_dot_rows, grid, indices, ends, weight, rows, out, width, ENTRIES, _columns(width), _sum_type(weight))
    return out


def scatter(values: Tensor, indices: Tensor, offsets: Tensor | None, rows: Tensor, n_latents: int) -> Tensor:
    """See `reference.scatter`; entries of a latent are added in token order in deterministic mode."""
    ends, width = _ends(indices, offsets), rows.shape[1]
    if torch.are_deterministic_algorithms_enabled():
        order, starts = _by_latent(values, indices, n_latents)
        tokens = torch.searchsorted(ends, order, right=True) - 1
        out = torch.empty(n_latents, width, dtype=rows.dtype, device=rows.device)
        _sum_rows(values.flatten()[order], tokens, starts, rows, out)
        return out
    out = torch.zeros(n_latents, width, dtype=_wide(rows), device=rows.device)
    grid = (len(rows), _parts(width, _columns(width)))
    _launch(_add_rows, grid, values, indices, ends, rows, out, width, ENTRIES, _columns(width), _sum_type(rows))
    return out.to(rows.dtype)


def _sum_rows(values: Tensor, indices: Tensor, ends: Tensor, weight: Tensor, out: Tensor) -> None:
    """out[b] = Σ of the weight's rows at entries ends[b]:ends[b + 1]; both may be columns of something wider."""
    columns = _columns(out.shape[1])
    grid = (len(out), _parts(out.shape[1], columns))
    sizes = out.shape[1], weight.stride(0), out.stride(0)
    _launch(_sum_row, grid, values, indices, ends, weight, out, *sizes, ENTRIES, columns, _sum_type(weight))


def _by_latent(values: Tensor, indices: Tensor, n_latents: int) -> tuple[Tensor, Tensor]:
    """Entries grouped by latent, in token order, and where each latent's begin; zeros come last, in no group."""
    # Padding zeros all have latent 0, whose program would otherwise walk over them.
    latents = torch.where(values != 0, indices, n_latents).flatten().to(torch.int32)
    latents, order = latents.sort(stable=True)
    bounds = torch.arange(n_latents + 1, dtype=torch.int32, device=latents.device)
    return order, torch.searchsorted(latents, bounds)


def _ends(indices: Tensor, offsets: Tensor | None) -> Tensor:
    if offsets is not None:
        return offsets
    rows, width = indices.shape
    return torch.arange(rows + 1, device=indices.device) * width


def _columns(width: int) -> int:
    return min(COLUMNS, _power(width))


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _sum_type(tensor: Tensor) -> tl.dtype:
    return tl.float64 if tensor.dtype == torch.float64 else tl.float32


@triton.jit
def _sum_row(
    values,
    indices,
    ends,
    weight,
    out,
    width,
    weight_stride,
    out_stride,
    ENTRIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    stop = tl.load(ends + b + 1)
    total = tl.zeros([COLUMNS], SUM)
    for at in range(tl.load(ends + b), stop, ENTRIES):
        entry = at + tl.arange(0, ENTRIES)
        value = tl.load(values + entry, mask=entry < stop, other=0).to(SUM)
        place = tl.load(indices + entry, mask=entry < stop, other=0) * weight_stride
        used = (value != 0)[:, None] & inside[None, :]
        row = tl.load(weight + place[:, None] + column[None, :], mask=used, other=0).to(SUM)
        total += tl.sum(value[:, None] * row, 0)
    tl.store(out + b * out_stride + column, total, mask=inside)


@triton.jit
def _dot_rows(
    indices,
    ends,
    weight,
    rows,
    out,
    width,
    ENTRIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    stop = tl.load(ends + b + 1)
    for at in range(tl.load(ends + b) + tl.program_id(1) * ENTRIES, stop, ENTRIES * tl.num_programs(1)):
        entry = at + tl.arange(0, ENTRIES)
        place = tl.load(indices + entry, mask=entry < stop, other=0) * width
        total = tl.zeros([ENTRIES, COLUMNS], SUM)
        for first in range(0, width, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            inside = column < width
            row = tl.load(rows + b * width + column, mask=inside, other=0).to(SUM)
            used = (entry < stop)[:, None] & inside[None, :]
            total += row[None, :] * tl.load(weight + place[:, None] + column[None, :], mask=used, other=0).to(SUM)
        tl.store(out + entry, tl.sum(total, 1), mask=entry < stop)


@triton.jit
def _add_rows(
    values,
    indices,
    ends,
    rows,
    out,
    width,
    ENTRIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    stop = tl.load(ends + b + 1)
    row = tl.load(rows + b * width + column, mask=inside, other=0).to(SUM)
    for at in range(tl.load(ends + b), stop, ENTRIES):
        entry = at + tl.arange(0, ENTRIES)
        value = tl.load(values + entry, mask=entry < stop, other=0).to(SUM)
        place = tl.load(indices + entry, mask=entry < stop, other=0) * width
        used = (value != 0)[:, None] & inside[None, :]
        tl.atomic_add(out + place[:, None] + column[None, :], value[:, None] * row[None, :], mask=used, sem="relaxed")


# Nested prefixes ---------------------------------------------------------------------------------------------------
#
# A program owns some columns of some tokens and walks their entries forward over the cuts, or backward rebuilding the
# residual. Columns go one launch after the other: the weight's columns then stay in the cache, and the gradient of a
# value, a sum over columns, has one order of additions.


def nested(
    values: Tensor, indices: Tensor, offsets: Tensor | None, cuts: Tensor, weight: Tensor, target: Tensor
) -> Nested:
    """See `reference.nested`."""
    ends, columns = _ends(indices, offsets), _columns(target.shape[1])
    residual = torch.empty_like(target, dtype=_wide(target))
    size = _parts(target.shape[1], columns), _parts(len(target), TOKENS), cuts.shape[1]
    errors = torch.empty(size, dtype=_wide(target), device=target.device)
    for tile, part in enumerate(errors):
        arrays = values, indices, ends, cuts, weight, target, residual, part
        sizes = *target.shape, cuts.shape[1], *cuts.stride(), tile
        _launch(_walk_forward, (len(part),), *arrays, *sizes, TOKENS, columns, _sum_type(target))
    return Nested(errors.sum((0, 1), dtype=torch.float64), residual)


def nested_gradients(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor | None,
    cuts: Tensor,
    weight: Tensor,
    target: Tensor,
    weights: Tensor,
) -> NestedGradients:
    """See `reference.nested_gradients`; in deterministic mode with a scratch of about [B, D]."""
    errors, residual = nested(values, indices, offsets, cuts, weight, target)
    grad_values, grad_weight = (torch.zeros_like(tensor, dtype=residual.dtype) for tensor in (values, weight))
    grad_target, columns, group = torch.empty_like(residual), _columns(target.shape[1]), None
    if torch.are_deterministic_algorithms_enabled():
        columns = min(columns, _scratch_columns(values, target))
        group = _Group(values, indices, grad_weight, columns)
    arrays = values, indices, _ends(indices, offsets), cuts, weight, residual, weights, grad_values, grad_target
    grid = (_parts(len(target), TOKENS),)
    for tile in range(_parts(target.shape[1], columns)):
        sizes = *target.shape, cuts.shape[1], *cuts.stride(), tile, TOKENS, columns, _sum_type(target)
        if group is None:
            _launch(_walk_back, grid, *arrays, grad_weight, None, *sizes)
        else:
            _launch(_walk_back, grid, *arrays, group.scratch, group.places, *sizes)
            group.sum_into(grad_weight[:, tile * columns : (tile + 1) * columns])
    return NestedGradients(errors, residual, grad_values, grad_weight, grad_target)


class _Group:
    """Entries grouped by latent, and a scratch with a row for each of them: some columns of its −S."""

    def __init__(self, values: Tensor, indices: Tensor, grad_weight: Tensor, columns: int) -> None:
        order, self.starts = _by_latent(values, indices, len(grad_weight))
        self.entries = torch.arange(len(order), device=order.device)
        self.places = torch.empty_like(order).scatter_(0, order, self.entries)
        self.values = values.flatten()[order]
        # Rows of entries after the last cut are never written.
        self.scratch = grad_weight.new_zeros(len(order), columns)

    def sum_into(self, out: Tensor) -> None:
        """out[i] = −Σ over entries of latent i of value · S."""
        _sum_rows(self.values, self.entries, self.starts, self.scratch, out)


def _scratch_columns(values: Tensor, target: Tensor) -> int:
    """The largest power of two of columns whose scratch is no larger than the target; never fewer than 16."""
    return max(16, _power(target.numel() // max(1, values.numel()) + 1) // 2)


@triton.jit
def _place(ends, tokens, n_tokens, width, tile, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, SUM: tl.constexpr):
    """This program's tokens, which exist, their first entries; columns; its part of [B, D]: mask, place, values."""
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    alive = token < n_tokens
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    inside = alive[:, None] & (column < width)[None, :]
    where = token[:, None] * width + column[None, :]
    start = tl.load(ends + token, mask=alive, other=0)
    return token, alive, start, column, inside, where, tl.load(tokens + where, mask=inside, other=0).to(SUM)


@triton.jit
def _entry(values, indices, weight, start, begin, stop, j, column, width, SUM: tl.constexpr):
    """Entry j of every token's slice begin:stop: where it is stored, whether it exists, value, latent, weight row."""
    entry, exists = start + begin + j, begin + j < stop
    value = tl.load(values + entry, mask=exists, other=0).to(SUM)[:, None]
    latent = tl.load(indices + entry, mask=exists, other=0)
    used = exists[:, None] & (column < width)[None, :]
    row = tl.load(weight + latent[:, None] * width + column[None, :], mask=used, other=0).to(SUM)
    return entry, exists, value, latent, row


@triton.jit(do_not_specialize=["n_tokens", "tile"])
def _walk_forward(
    values,
    indices,
    ends,
    cuts,
    weight,
    target,
    residual,
    errors,
    n_tokens,
    width,
    n_cuts,
    token_stride,
    cut_stride,
    tile,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    token, alive, start, column, inside, where, left = _place(ends, target, n_tokens, width, tile, TOKENS, COLUMNS, SUM)
    begin = tl.zeros_like(start)
    for s in range(0, n_cuts):
        stop = tl.load(cuts + token * token_stride + s * cut_stride, mask=alive, other=0)
        for j in range(0, tl.max(stop - begin, 0)):
            _, _, value, _, row = _entry(values, indices, weight, start, begin, stop, j, column, width, SUM)
            left -= value * row
        tl.store(errors + tl.program_id(0) * n_cuts + s, tl.sum(tl.sum(left * left, 1), 0))
        begin = stop
    tl.store(residual + where, left, mask=inside)


@triton.jit(do_not_specialize=["n_tokens", "tile"])
def _walk_back(
    values,
    indices,
    ends,
    cuts,
    weight,
    residual,
    weights,
    grad_values,
    grad_target,
    grad_weight,
    places,
    n_tokens,
    width,
    n_cuts,
    token_stride,
    cut_stride,
    tile,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    token, alive, start, column, inside, where, left = _place(
        ends, residual, n_tokens, width, tile, TOKENS, COLUMNS, SUM
    )
    total = tl.zeros_like(left)
    for back in range(1, n_cuts + 1):
        cut = cuts + token * token_stride + (n_cuts - back) * cut_stride
        stop = tl.load(cut, mask=alive, other=0)
        begin = tl.load(cut - cut_stride, mask=alive & (back < n_cuts), other=0)
        total += 2 * tl.load(weights + n_cuts - back).to(SUM) * left
        for j in range(0, tl.max(stop - begin, 0)):
            entry, exists, value, latent, row = _entry(
                values, indices, weight, start, begin, stop, j, column, width, SUM
            )
            slope = tl.load(grad_values + entry, mask=exists, other=0)
            tl.store(grad_values + entry, slope - tl.sum(row * total, 1), mask=exists)
            left += value * row
            used = (value != 0) & inside
            if places is None:
                out = grad_weight + latent[:, None] * width + column[None, :]
                tl.atomic_add(out, -value * total, mask=used, sem="relaxed")
            else:
                place = tl.load(places + entry, mask=exists, other=0)
                out = grad_weight + place[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
                tl.store(out, -total, mask=used)
    tl.store(grad_target + where, total, mask=inside)
