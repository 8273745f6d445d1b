"""The two differentiable sparse operations: select latents from inputs, and decode them.

Both compute their gradients from the stored entries alone; neither can be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from monosem import kernels
from monosem.kernels import Selected
from monosem.shapes.codes import Codes

Choose = Callable[[Tensor], Selected]
"""Pre-activations [B, F] to the entries kept; `indices` None means all of them, dense."""


class Select(Function):
    """values = choose((x − centre) weightᵀ + bias); the selection itself has no gradient.

    Stored zeros pass no gradient to the encoder. With a threshold and a bandwidth ε, entries within ε/2 of their
    threshold θ pass −(θ/ε)·g to it: the rectangle-kernel estimator of arXiv 2407.14435, eq. 11.
    """

    @staticmethod
    def forward(ctx: Any, x, centre, weight, bias, threshold, choose, bandwidth, latents):
        centred = x if centre is None else x - centre
        rows, offset = (weight, bias) if latents is None else (weight[latents], bias[latents])
        values, indices, offsets = choose(functional.linear(centred, rows, offset).to(centred.dtype))
        if latents is not None:
            indices = latents[indices]
        ctx.save_for_backward(centred, weight, threshold, values, indices, offsets)
        ctx.centred, ctx.bandwidth = centre is not None, bandwidth
        ctx.mark_non_differentiable(*[tensor for tensor in (indices, offsets) if tensor is not None])
        return values, indices, offsets

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        grad_values = grad_outputs[0]
        centred, weight, threshold, values, indices, offsets = ctx.saved_tensors
        grad = grad_values * (values != 0)
        if indices is None:
            grad_weight, grad_bias = grad.T @ centred, grad.sum(0)
        else:
            grad_weight = kernels.scatter(grad, indices, offsets, centred, len(weight))
            grad_bias = _per_latent(grad, indices, len(weight))
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight if indices is None else kernels.decode(grad, indices, offsets, weight)
        grad_centre = -(grad_bias @ weight) if ctx.centred else None
        grad_threshold = None
        if threshold is not None:
            slope = -threshold[indices] / ctx.bandwidth * near(values, indices, threshold, ctx.bandwidth)
            grad_threshold = _per_latent(grad_values * slope, indices, len(weight))
        return grad_x, grad_centre, grad_weight, grad_bias, grad_threshold, None, None, None


class Decode(Function):
    """out[b] = Σ_j values[b, j] · weight[indices[b, j]]."""

    @staticmethod
    def forward(ctx: Any, values, indices, offsets, weight):
        ctx.save_for_backward(values, indices, offsets, weight)
        return kernels.decode(values, indices, offsets, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        (grad,) = grad_outputs
        values, indices, offsets, weight = ctx.saved_tensors
        grad_values = kernels.row_dots(indices, offsets, weight, grad) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[3]:
            grad_weight = kernels.scatter(values, indices, offsets, grad, len(weight))
        return grad_values, None, None, grad_weight


class CountActive(Function):
    """Mean number of active latents per token; its gradient reaches thresholds alone, −1/ε within ε/2 of each."""

    @staticmethod
    def forward(ctx: Any, values, indices, threshold, bandwidth, rows):
        ctx.save_for_backward(values, indices, threshold)
        ctx.bandwidth, ctx.rows = bandwidth, rows
        return (values != 0).sum().to(threshold.dtype) / rows

    @staticmethod
    @once_differentiable
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


def decode(codes: Codes, weight: Float[Tensor, "F D"]) -> Float[Tensor, "B D"]:
    """Σ of decoder rows weighted by the codes, without bias; differentiable in both."""
    if codes.indices is None:
        return codes.values @ weight
    return Decode.apply(codes.values, codes.indices, codes.offsets, weight)


def count_active(codes: Codes, threshold: Float[Tensor, " F"], bandwidth: float) -> Float[Tensor, ""]:
    """Mean L0 of codes whose rule has thresholds, differentiable in the thresholds."""
    return CountActive.apply(codes.values.detach(), codes.indices, threshold, bandwidth, codes.rows)
