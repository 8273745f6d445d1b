"""The sparse operations in plain torch: the definition every faster kernel is tested against.

`offsets` is None for fixed codes ([B, K] arrays) and [B + 1] for ragged ones ([N] arrays).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


class Selected(NamedTuple):
    """Positive pre-activations that a rule keeps; no indices: all of them, dense."""

    values: Float[Tensor, "*stored"]
    indices: Int[Tensor, "*stored"] | None
    offsets: Int[Tensor, " rows"] | None


def topk(pre: Float[Tensor, "B F"], k: int) -> Selected:
    """The k largest positive entries of each row, descending, ties by lowest index; missing ones are 0."""
    values, indices = pre.relu().sort(dim=1, descending=True, stable=True)
    return Selected(values[:, :k].contiguous(), indices[:, :k].contiguous(), None)


def batch_topk(pre: Float[Tensor, "B F"], k: int) -> Selected:
    """The B·k largest positive entries of the batch (arXiv 2412.06410), ties by lowest flat index."""
    flat = pre.relu().flatten()
    values, where = flat.sort(descending=True, stable=True)
    where = where[: pre.shape[0] * k]
    where = where[values[: len(where)] > 0].sort().values
    return _ragged(flat, where, pre.shape)


def above(pre: Float[Tensor, "B F"], low: Float[Tensor, " F"]) -> Selected:
    """Every entry greater than its latent's bound."""
    where = (pre > low).flatten().nonzero().squeeze(1)
    return _ragged(pre.flatten(), where, pre.shape)


def _ragged(flat: Tensor, where: Tensor, shape: torch.Size) -> Selected:
    rows, indices = where // shape[1], where % shape[1]
    ends = torch.bincount(rows, minlength=shape[0]).cumsum(0)
    return Selected(flat[where], indices, functional.pad(ends, (1, 0)))


def count_above(pre: Float[Tensor, "B F"], low: Float[Tensor, " F"]) -> int:
    """How many entries `above` would return."""
    return int((pre > low).sum())


def decode(
    values: Float[Tensor, "*stored"],
    indices: Int[Tensor, "*stored"],
    offsets: Int[Tensor, " rows"] | None,
    weight: Float[Tensor, "F D"],
) -> Float[Tensor, "B D"]:
    """out[b] = Σ_j values[b, j] · weight[indices[b, j]]."""
    values = values.to(weight.dtype)
    if offsets is None:
        return functional.embedding_bag(indices, weight, per_sample_weights=values, mode="sum")
    starts = offsets[:-1]
    return functional.embedding_bag(indices, weight, starts, per_sample_weights=values, mode="sum")


def row_dots(
    indices: Int[Tensor, "*stored"],
    offsets: Int[Tensor, " rows"] | None,
    weight: Float[Tensor, "F D"],
    rows: Float[Tensor, "B D"],
) -> Float[Tensor, "*stored"]:
    """out[b, j] = <weight[indices[b, j]], rows[b]>: the gradient of `decode` for its values."""
    if offsets is None:
        return torch.einsum("bkd,bd->bk", weight[indices], rows)
    token = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), offsets.diff())
    return (weight[indices] * rows[token]).sum(1)


def scatter(
    values: Float[Tensor, "*stored"],
    indices: Int[Tensor, "*stored"],
    offsets: Int[Tensor, " rows"] | None,
    rows: Float[Tensor, "B D"],
    n_latents: int,
) -> Float[Tensor, "F D"]:
    """out[i] = Σ over entries (b, j) of latent i of values[b, j] · rows[b]: the gradient of `decode` for its weight.

    Entries are grouped by latent in token order, so the sum has one order however it is run.
    """
    order = indices.flatten().sort(stable=True)
    token = (
        order.indices // indices.shape[1]
        if offsets is None
        else torch.searchsorted(offsets, order.indices, right=True) - 1
    )
    starts = torch.searchsorted(order.values, torch.arange(n_latents, device=indices.device))
    weights = values.flatten()[order.indices].to(rows.dtype)
    return functional.embedding_bag(token, rows, starts, per_sample_weights=weights, mode="sum")
