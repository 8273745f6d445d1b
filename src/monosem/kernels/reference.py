"""The sparse operations in plain torch: the definition every faster kernel is tested against.

`offsets` is None for fixed codes ([B, K] arrays) and [B + 1] for ragged ones ([N] arrays).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional

from monosem.kernels.gate import GATES
from monosem.shapes.kron import KronShape


class Selected(NamedTuple):
    """Positive pre-activations that a rule keeps; no indices: all of them, dense."""

    values: Float[Tensor, "*stored"]
    indices: Int[Tensor, "*stored"] | None
    offsets: Int[Tensor, " rows"] | None


class Nested(NamedTuple):
    """What is left of the targets when nested prefixes of a token's entries are decoded."""

    errors: Float64[Tensor, " n"]
    """Σ_b ‖r_s‖² at every cut s."""
    residual: Float[Tensor, "B D"]
    """After the last cut."""


class NestedGradients(NamedTuple):
    """`Nested`, and the gradients of Σ_s weights[s] · errors[s] for values, weight and target."""

    errors: Float64[Tensor, " n"]
    residual: Float[Tensor, "B D"]
    values: Float[Tensor, "*stored"]
    weight: Float[Tensor, "F D"]
    target: Float[Tensor, "B D"]


def topk(pre: Float[Tensor, "B F"], k: int, bias: Float[Tensor, " F"] | None = None) -> Selected:
    """The k largest positive entries of each row of pre + bias, descending, ties by lowest index; the rest 0."""
    values, indices = (pre if bias is None else pre + bias).relu().sort(dim=1, descending=True, stable=True)
    return Selected(values[:, :k].contiguous(), indices[:, :k].contiguous(), None)


def linear_topk(
    x: Float[Tensor, "B D"],
    weight: Float[Tensor, "F D"],
    bias: Float[Tensor, " F"],
    k: int,
    low: bool = False,
) -> Selected:
    """`topk` of x weightᵀ + bias. `low`: bfloat16 products decide which latents, their values are then exact."""
    if not low:
        return topk(functional.linear(x, weight), k, bias)
    rough = functional.linear(x.bfloat16(), weight.bfloat16()).to(x.dtype)
    return exact(topk(rough, k, bias), x, weight, bias)


def exact(
    chosen: Selected, x: Float[Tensor, "B D"], weight: Float[Tensor, "F D"], bias: Float[Tensor, " F"]
) -> Selected:
    """The same latents with values computed again, sorted by them."""
    assert chosen.indices is not None
    with torch.autocast(x.device.type, enabled=False):
        values = (row_dots(chosen.indices, None, weight, x) + bias[chosen.indices]).relu()
    values, order = torch.where(chosen.values > 0, values, 0.0).sort(dim=1, descending=True, stable=True)
    return Selected(values, chosen.indices.gather(1, order), None)


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


def kron_products(pre: Float[Tensor, "B R"], shape: KronShape) -> tuple[Tensor, Tensor]:
    """Pre-latents of both parents of every latent, [B, h, m, 1] and [B, h, 1, n]: they broadcast to all products."""
    heads = pre.view(len(pre), shape.heads, shape.base + shape.extension)
    return heads[:, :, : shape.base, None], heads[:, :, None, shape.base :]


def kron_topk(pre: Float[Tensor, "B R"], shape: KronShape, gate: str, k: int) -> Selected:
    """The k latents of each row whose two pre-latents have the largest gate score (arXiv 2505.22255).

    Positive scores only, descending, ties by lowest latent; missing ones are 0. Values are those of the gate.
    """
    chosen = topk(GATES[gate].score(*kron_products(pre, shape)).flatten(1), k)
    assert chosen.indices is not None
    u, v = (pre.gather(1, rows) for rows in shape.parents(chosen.indices))
    values = torch.where(chosen.values > 0, GATES[gate].value(u, v), 0.0)
    return Selected(values, chosen.indices, None)


def nested(
    values: Float[Tensor, "*stored"],
    indices: Int[Tensor, "*stored"],
    offsets: Int[Tensor, " rows"] | None,
    cuts: Int[Tensor, "B n"],
    weight: Float[Tensor, "F D"],
    target: Float[Tensor, "B D"],
) -> Nested:
    """r_s = target − Σ over the first cuts[b, s] entries of token b of value · weight[index]; memory O(B·D).

    Cuts ascend along s. HierarchicalTopK cuts rankings (arXiv 2505.24473), Matryoshka cuts dictionaries.
    """
    wide = torch.promote_types(target.dtype, torch.float32)
    residual, errors = target.to(wide), []
    for part in _between(values, offsets, cuts):
        residual = residual - _decoded(part, indices, offsets, weight, wide)
        errors.append(residual.square().sum(dtype=torch.float64))
    return Nested(torch.stack(errors), residual)


def nested_gradients(
    values: Float[Tensor, "*stored"],
    indices: Int[Tensor, "*stored"],
    offsets: Int[Tensor, " rows"] | None,
    cuts: Int[Tensor, "B n"],
    weight: Float[Tensor, "F D"],
    target: Float[Tensor, "B D"],
    weights: Float[Tensor, " n"],
) -> NestedGradients:
    """Errors as `nested`, and the gradients of Σ_s weights[s] · Σ_b ‖r_s‖², walking the cuts back.

    Memory is that of the rows between two cuts, [B, K, D] where there is one cut.

    With S_j = Σ over prefixes s that hold entry j of 2 · weights[s] · r_s: −<weight[index_j], S_j> for value j,
    −value_j · S_j added to row index_j of the weight; for the target the sum over all s.
    """
    errors, residual = nested(values, indices, offsets, cuts, weight, target)
    wide = residual.dtype
    total, left = torch.zeros_like(residual), residual
    grad_values = torch.zeros_like(values, dtype=wide)
    grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device)
    inside, token = stages(values, offsets, cuts), _tokens(values, offsets, cuts)
    parts = _between(values, offsets, cuts)
    for stage in reversed(range(len(parts))):
        total = total + 2 * weights[stage] * left
        entries = (inside == stage).nonzero(as_tuple=True)
        rows = weight[indices[entries]].to(wide)
        grad_values[entries] = -(rows * total[token.expand(values.shape)[entries]]).sum(-1)
        grad_weight -= scatter(parts[stage], indices, offsets, total, len(weight))
        left = left + _decoded(parts[stage], indices, offsets, weight, wide)
    return NestedGradients(errors, residual, grad_values, grad_weight, total)


def stages(values: Tensor, offsets: Tensor | None, cuts: Tensor) -> Tensor:
    """The first prefix that holds each entry; n for entries after the last cut."""
    if offsets is None:
        place = torch.arange(values.shape[1], device=values.device).expand(values.shape)
        return torch.searchsorted(cuts.contiguous(), place.contiguous(), right=True)
    token = _tokens(values, offsets, cuts)
    place = torch.arange(len(values), device=values.device) - offsets[token]
    return (cuts[token] <= place[:, None]).sum(1)


def _tokens(values: Tensor, offsets: Tensor | None, cuts: Tensor) -> Tensor:
    """The token of each entry: [B, 1] for fixed codes, [N] for ragged ones."""
    token = torch.arange(len(cuts), device=values.device)
    return token[:, None] if offsets is None else torch.repeat_interleave(token, offsets.diff())


def _between(values: Tensor, offsets: Tensor | None, cuts: Tensor) -> list[Tensor]:
    """Values with all entries set to 0 that do not lie between two cuts, for each pair of them."""
    inside = stages(values, offsets, cuts)
    return [torch.where(inside == stage, values, 0.0) for stage in range(cuts.shape[1])]


def _decoded(values: Tensor, indices: Tensor, offsets: Tensor | None, weight: Tensor, dtype: torch.dtype) -> Tensor:
    return decode(values.to(dtype), indices, offsets, weight.to(dtype))


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


def project_rows(grad: Float[Tensor, "F D"], weight: Float[Tensor, "F D"]) -> None:
    """Remove from each row of `grad` what is parallel to the unit row of `weight`, in place."""
    grad.addcmul_(torch.linalg.vecdot(grad, weight).unsqueeze(1), weight, value=-1)


def normalise_rows(weight: Float[Tensor, "F D"]) -> None:
    """Rows to unit norm, in place."""
    weight.div_(torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_min_(1e-12))
