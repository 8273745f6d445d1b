"""The differentiable sparse operations: select latents from inputs, decode them, decode nested prefixes of them.

All compute their gradients from the stored entries alone; none can be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from monosem import kernels
from monosem.kernels import Selected
from monosem.kernels.gate import Gate
from monosem.shapes.codes import Codes

Choose = Callable[[Tensor, Tensor, Tensor], Selected]
"""Inputs [B, D], weight [F, D] and bias [F] to the entries kept of x weightᵀ + bias; no indices: all, dense."""


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse second derivatives: what is saved is not a graph, and terms of theirs would be missing in silence."""

    @wraps(backward)
    def checked(ctx: Any, *grad_outputs: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("sparse operations can be differentiated once: create_graph=True asks for more")
        return backward(ctx, *grad_outputs)

    return checked


class Select(Function):
    """values = chosen of (x − centre) weightᵀ + bias; the selection itself has no gradient.

    Stored zeros pass no gradient to the encoder. With a threshold and a bandwidth ε, entries within ε/2 of their
    threshold θ pass −(θ/ε)·g to it: the rectangle-kernel estimator of arXiv 2407.14435, eq. 11.
    """

    @staticmethod
    def forward(ctx: Any, x, centre, weight, bias, threshold, choose, bandwidth, latents):
        centred = x if centre is None else x - centre
        rows, offset = (weight, bias) if latents is None else (weight[latents], bias[latents])
        values, indices, offsets = choose(centred, rows, offset)
        if latents is not None:
            indices = latents[indices]
        ctx.save_for_backward(centred, weight, threshold, values, indices, offsets)
        ctx.centred, ctx.bandwidth = centre is not None, bandwidth
        ctx.mark_non_differentiable(*[tensor for tensor in (indices, offsets) if tensor is not None])
        return values, indices, offsets

    @staticmethod
    @_once
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        grad_values = grad_outputs[0]
        centred, weight, threshold, values, indices, offsets = ctx.saved_tensors
        grad = grad_values * (values != 0)
        grads = _encoder_gradients(ctx, grad, indices, offsets, centred, weight)
        grad_threshold = None
        if threshold is not None:
            slope = -threshold[indices] / ctx.bandwidth * near(values, indices, threshold, ctx.bandwidth)
            grad_threshold = _per_latent(grad_values * slope, indices, len(weight))
        return *grads, grad_threshold, None, None, None


class KronSelect(Function):
    """values = choose of the products of pre-latents (x − centre) weightᵀ + bias (arXiv 2505.22255).

    `choose` sees the pre-latents [B, R] of all rows; with `latents`, those of their parents alone. Each selected
    latent passes its gradient to both parents by the slopes of `gate`, whose ratio of parents is clamped; `clamped`
    counts the slopes that were, and all.
    """

    @staticmethod
    def forward(ctx: Any, x, centre, weight, bias, choose, gate: Gate, parents, clamp, clamped):
        centred = x if centre is None else x - centre
        pre = functional.linear(centred, weight, bias)
        pre = pre.to(torch.promote_types(centred.dtype, torch.float32))
        values, indices, offsets = choose(pre)
        rows = torch.stack(parents(indices), -1)
        token = _tokens(indices, offsets).unsqueeze(-1)
        ctx.save_for_backward(centred, weight, values, rows, offsets, pre[token, rows])
        ctx.gate, ctx.clamp, ctx.clamped, ctx.centred = gate, clamp, clamped, centre is not None
        ctx.mark_non_differentiable(*[tensor for tensor in (indices, offsets) if tensor is not None])
        return values, indices, offsets

    @staticmethod
    @_once
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        centred, weight, values, rows, offsets, pair = ctx.saved_tensors
        grad = (grad_outputs[0] * (values != 0)).unsqueeze(-1)
        u, v = pair.unbind(-1)
        by_parent = grad * torch.stack(ctx.gate.slopes(u, v, ctx.clamp), -1)
        if ctx.gate.clamps:
            active = values != 0
            extreme = active & ((v > ctx.clamp**2 * u) | (u > ctx.clamp**2 * v))
            ctx.clamped.add_(torch.stack([extreme.sum(), active.sum()]).to(ctx.clamped))
        if offsets is None:
            by_parent, rows = by_parent.flatten(1), rows.flatten(1)
        else:
            by_parent, rows, offsets = by_parent.flatten(), rows.flatten(), 2 * offsets
        return *_encoder_gradients(ctx, by_parent, rows, offsets, centred, weight), *[None] * 5


def _encoder_gradients(ctx: Any, grad: Tensor, indices: Tensor | None, offsets, centred: Tensor, weight: Tensor):
    """Gradients of x, centre, weight and bias from those of stored (or all) rows of the encoder's product."""
    if indices is None:
        grad_weight, grad_bias = grad.T @ centred, grad.sum(0)
    else:
        grad_weight = kernels.scatter(grad, indices, offsets, centred, len(weight))
        grad_bias = _per_latent(grad, indices, len(weight))
    grad_x = None
    if ctx.needs_input_grad[0]:
        grad_x = grad @ weight if indices is None else kernels.decode(grad, indices, offsets, weight)
    grad_centre = -(grad_bias.to(weight.dtype) @ weight) if ctx.centred else None
    return grad_x, grad_centre, grad_weight, grad_bias


class Decode(Function):
    """out[b] = Σ_j values[b, j] · weight[indices[b, j]]."""

    @staticmethod
    def forward(ctx: Any, values, indices, offsets, weight):
        ctx.save_for_backward(values, indices, offsets, weight)
        return kernels.decode(values, indices, offsets, weight)

    @staticmethod
    @_once
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        (grad,) = grad_outputs
        values, indices, offsets, weight = ctx.saved_tensors
        grad_values = kernels.row_dots(indices, offsets, weight, grad) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[3]:
            grad_weight = kernels.scatter(values, indices, offsets, grad, len(weight))
        return grad_values, None, None, grad_weight


class NestedLoss(Function):
    """Σ_s weights[s] · Σ_b ‖r_s‖² with r_s what prefix s of each token's entries leaves of the target.

    One walk gives loss and gradients, so nothing of shape [B, K, D] exists and rows are read once; the backward pass
    multiplies what is there. Errors and the last residual come along, without a gradient.
    """

    @staticmethod
    def forward(ctx: Any, values, indices, offsets, cuts, weight, target, weights):
        ctx.needed = any(ctx.needs_input_grad)
        if ctx.needed:
            found = kernels.nested_gradients(values, indices, offsets, cuts, weight, target, weights)
            ctx.save_for_backward(found.values, found.weight, found.target)
        else:
            found = kernels.nested(values, indices, offsets, cuts, weight, target)
        loss = (found.errors * weights).sum().to(found.residual.dtype)
        ctx.mark_non_differentiable(found.errors, found.residual)
        return loss, found.errors, found.residual

    @staticmethod
    @_once
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        scale = grad_outputs[0]
        whole = scale.device.type == "cpu" and float(scale) == 1
        grads = [grad if whole else scale * grad for grad in ctx.saved_tensors]
        return grads[0], None, None, None, grads[1], grads[2], None


class CountActive(Function):
    """Mean number of active latents per token; its gradient reaches thresholds alone, −1/ε within ε/2 of each."""

    @staticmethod
    def forward(ctx: Any, values, indices, threshold, bandwidth, rows):
        ctx.save_for_backward(values, indices, threshold)
        ctx.bandwidth, ctx.rows = bandwidth, rows
        return (values != 0).sum().to(threshold.dtype) / rows

    @staticmethod
    @_once
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        (grad,) = grad_outputs
        values, indices, threshold = ctx.saved_tensors
        inside = near(values, indices, threshold, ctx.bandwidth).to(threshold.dtype)
        grad_threshold = _per_latent(inside, indices, len(threshold)) * (-grad / (ctx.bandwidth * ctx.rows))
        return None, None, grad_threshold, None, None


def near(values: Tensor, indices: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """Stored entries within half a bandwidth of their threshold: rules store inactive ones only if they are."""
    return values - threshold[indices] < bandwidth / 2


def _per_latent(values: Tensor, indices: Tensor, n_latents: int) -> Tensor:
    out = torch.zeros(n_latents, dtype=values.dtype, device=values.device)
    return out.index_add_(0, indices.flatten(), values.flatten())


def _tokens(indices: Tensor, offsets: Tensor | None) -> Tensor:
    """The token of each stored entry, broadcastable to the entries."""
    token = torch.arange(len(indices) if offsets is None else len(offsets) - 1, device=indices.device)
    return token[:, None] if offsets is None else torch.repeat_interleave(token, offsets.diff())


def decode(codes: Codes, weight: Float[Tensor, "F D"]) -> Float[Tensor, "B D"]:
    """Σ of decoder rows weighted by the codes, without bias; differentiable in both."""
    if codes.indices is None:
        return codes.values @ weight
    return Decode.apply(codes.values, codes.indices, codes.offsets, weight)


def nested_loss(
    codes: Codes,
    cuts: Int[Tensor, "B n"],
    weight: Float[Tensor, "F D"],
    target: Float[Tensor, "B D"],
    weights: Float[Tensor, " n"],
) -> tuple[Float[Tensor, ""], Float64[Tensor, " n"], Float[Tensor, "B D"]]:
    """Loss (see `NestedLoss`), Σ_b ‖r_s‖² at every cut, and the last residual; differentiable in codes and decoder."""
    return NestedLoss.apply(codes.values, codes.indices, codes.offsets, cuts, weight, target, weights)


def count_active(codes: Codes, threshold: Float[Tensor, " F"], bandwidth: float) -> Float[Tensor, ""]:
    """Mean L0 of codes whose rule has thresholds, differentiable in the thresholds."""
    return CountActive.apply(codes.values.detach(), codes.indices, threshold, bandwidth, codes.rows)
