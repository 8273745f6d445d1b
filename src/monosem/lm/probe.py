"""The width of a place that no table describes, found by a forward pass over two tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monosem.lm.family import Norm, Point
from monosem.lm.hook import install
from monosem.shapes import InputError, Site

_TOKENS = (1, 2)


def probe(model: Any, site: Site, point: Point, norm: Norm, device: torch.device) -> int:
    """Size of the activation at `site`. Raises `InputError` unless a pass goes there exactly once, with [B, T, D]."""
    widths: list[int] = []

    def see(act: Tensor) -> None:
        if act.shape[:2] != _TOKENS:
            raise InputError(
                f"{site} has shape {tuple(act.shape)} for {_TOKENS[0]} window of {_TOKENS[1]} tokens: "
                "name a module with activations [B, T, D]"
            )
        widths.append(act.shape[-1])

    handle = install(model.get_submodule(point.path), site, point, norm, see)
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(_TOKENS, dtype=torch.long, device=device), use_cache=False)
    finally:
        handle.remove()
    if len(widths) != 1:
        raise InputError(
            f"a forward pass goes {len(widths)} times through {site}: name a module that runs exactly once"
        )
    return widths[0]
