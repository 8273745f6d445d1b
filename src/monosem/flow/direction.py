"""The directions a dictionary writes into the residual stream: decoder rows in raw units, and their lengths."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn import functional

from monosem.sae import SAE

DEAD = 1e-8
"""Rows shorter than this, in raw units, have no direction."""
_ROWS = 4096


@dataclass(frozen=True)
class Direction:
    """`unit` rows (zero where dead), their `norm` for one unit of code·y in raw units, and which are `dead`.

    Latent i adds codes_i · norm_i · unit_i to the raw activation, with codes as the autoencoder gives them.
    """

    unit: Float32[Tensor, "F D"]
    norm: Float32[Tensor, " F"]
    dead: Bool[Tensor, " F"]

    @classmethod
    @torch.no_grad()
    def of(cls, sae: SAE) -> Direction:
        """Decoder rows of any autoencoder, divided by `out_scale` so that they are in the stream's units."""
        return cls.rows(sae.W_dec.detach(), sae.out_scale)

    @classmethod
    def rows(cls, W_dec: Float[Tensor, "F D"], out_scale: float = 1.0) -> Direction:
        """Rows need not have unit norm; they are divided by their norm in float64, part by part."""
        unit = torch.empty(W_dec.shape, dtype=torch.float32, device=W_dec.device)
        norm = torch.empty(len(W_dec), dtype=torch.float32, device=W_dec.device)
        for start in range(0, len(W_dec), _ROWS):
            part = slice(start, start + _ROWS)
            exact = W_dec[part].double() / out_scale
            norm[part] = exact.norm(dim=1)
            unit[part] = functional.normalize(exact, dim=1, eps=DEAD).float()
        dead = norm < DEAD
        unit[dead] = 0
        return cls(unit, norm, dead)

    def __len__(self) -> int:
        return len(self.unit)
