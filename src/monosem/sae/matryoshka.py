"""Matryoshka: every prefix of the dictionary reconstructs the token (arXiv 2503.17547)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from monosem.sae.fit import Fit
from monosem.sae.function import nested_loss
from monosem.shapes.codes import Codes


class Matryoshka:
    """L = 1/(n·B·D) Σ_b Σ_{M in widths} ‖x − x̂_M‖², x̂_M from those selected latents whose number is below M.

    The mean over the n widths, where the paper has their sum: the auxiliary loss then keeps its share.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        self.widths = widths

    def fit(self, codes: Codes, W_dec: Tensor, target: Tensor) -> Fit:
        codes = _by_latent(codes)
        cuts = _cuts(codes, torch.tensor(self.widths, device=target.device))
        n = len(self.widths)
        wide = torch.promote_types(target.dtype, torch.float32)
        weights = torch.full((n,), 1 / (n * target.numel()), dtype=wide, device=target.device)
        loss, errors, residual = nested_loss(codes, cuts, W_dec, target, weights)
        errors = errors / target.numel()
        return Fit(loss, errors[-1].to(loss.dtype), residual, errors)

    def describe(self) -> dict[str, Any]:
        return {"widths": list(self.widths)}


def _by_latent(codes: Codes) -> Codes:
    """The same codes with each token's entries in the order of the dictionary; differentiable."""
    if codes.indices is None:
        every = torch.arange(codes.n_latents, device=codes.values.device).expand(codes.values.shape)
        return replace(codes, indices=every)
    if codes.offsets is not None:
        return codes
    indices, order = codes.indices.sort(dim=1, stable=True)
    return replace(codes, values=codes.values.gather(1, order), indices=indices)


def _cuts(codes: Codes, widths: Int[Tensor, " n"]) -> Int[Tensor, "B n"]:
    """How many entries of each token lie below each width."""
    assert codes.indices is not None
    if codes.offsets is None:
        return torch.searchsorted(codes.indices.contiguous(), widths.repeat(len(codes.indices), 1))
    below = torch.nn.functional.pad((codes.indices[:, None] < widths).cumsum(0), (0, 0, 1, 0))
    return below[codes.offsets].diff(dim=0)
