"""Reading and replacing an activation at a point of a running model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from monosem.lm.family import Norm, Point
from monosem.shapes import InputError, Site

Hook = Callable[[Float[Tensor, "B T D"]], Float[Tensor, "B T D"] | None]
"""Sees an activation; a tensor it returns replaces the activation."""


def install(module: nn.Module, site: Site, point: Point, norm: Norm, fn: Hook) -> RemovableHandle:
    """Call `fn` at `point` of `module` in every forward pass until the handle is removed.

    The pass raises `InputError` where the module has no tensor [B, T, D] there, or `fn` returns another shape.
    """

    def call(act: Any) -> Float[Tensor, "B T D"] | None:
        if not isinstance(act, Tensor) or act.ndim != 3:
            raise InputError(f"{site} is {_shown(act)}, not a tensor [B, T, D]: name another module")
        return _checked(fn(act), act, site)

    match point.where:
        case "in":
            return module.register_forward_pre_hook(_input_hook(call), with_kwargs=True)
        case "stream":
            return module.register_forward_pre_hook(_stream_hook(call), with_kwargs=True)
        case "out":
            return module.register_forward_hook(_output_hook(call))
        case "normed":
            return module.register_forward_hook(_normed_hook(call, norm))


def _shown(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _checked(new: Any, act: Tensor, site: Site) -> Tensor | None:
    if new is None:
        return None
    if not isinstance(new, Tensor) or new.shape != act.shape:
        given = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
        raise InputError(f"the hook at {site} returned {given}: return a tensor of shape {tuple(act.shape)}, or None")
    return new.to(act)


def _input_hook(call: Hook) -> Callable[..., Any]:
    """The input may be positional or the keyword `hidden_states`."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        new = call(_input(args, kwargs))
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

    return hook


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("hidden_states")


def _stream_hook(call: Hook) -> Callable[..., Any]:
    """The block holds the same tensor as its residual stream, so it is overwritten in place.

    `call` gets a copy: what it keeps stays as it was, and autograd never sees a saved value change.
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = _input(args, kwargs)
        new = call(stream.clone())
        if new is not None:
            stream.copy_(new)

    return hook


def _output_hook(call: Hook) -> Callable[..., Any]:
    """The output is a tensor, or a tuple that starts with it."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, tuple):
            return call(output)
        new = call(output[0])
        return None if new is None else (new, *output[1:])

    return hook


def _normed_hook(call: Hook, norm: Norm) -> Callable[..., Any]:
    """Recompute the norm without its gain; a replacement gets gain and bias as the model would apply them."""

    def hook(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        new = call(normalised(args[0], getattr(module, norm.eps), norm.centred).to(output))
        if new is None:
            return None
        scaled = new.float() * (module.weight.float() + norm.offset)
        bias = getattr(module, "bias", None)
        return (scaled if bias is None else scaled + bias.float()).to(output)

    return hook


def normalised(x: Float[Tensor, "*B D"], eps: float, centred: bool) -> Float[Tensor, "*B D"]:
    """(x - mean) / sqrt(var + eps) in float32; without `centred` the mean is taken as 0."""
    x = x.float()
    if centred:
        x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
