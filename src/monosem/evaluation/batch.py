"""What a metric sees: the kept tokens of one batch, their reconstruction and their codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from monosem.sae import SAE
from monosem.shapes.codes import Codes


@dataclass(frozen=True)
class Batch:
    """Raw activations `x` and reconstructions `recon` [B, D] in float64, and the codes between them.

    Of a transcoder `x` is the target it predicts, and `skipped` what its skip connection adds to `recon`.
    """

    x: Float64[Tensor, "B D"]
    recon: Float64[Tensor, "B D"]
    codes: Codes
    skipped: Float[Tensor, "B D"] | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, sae: SAE, acts: Float[Tensor, "B C"], target: Float[Tensor, "B D"] | None = None) -> Batch:
        """Run `sae` on raw activations, to explain `target` (None: the activations themselves)."""
        acts = acts.to(sae.W_dec.device)
        x = acts if target is None else target.to(sae.W_dec.device)
        codes = sae.codes(acts)
        return cls(x.double(), sae.decode(codes, acts).double(), codes, sae.skipped(acts))

    @property
    def rows(self) -> int:
        return len(self.x)

    @cached_property
    def residual(self) -> Float64[Tensor, "B D"]:
        """e = x − x̂."""
        return self.x - self.recon

    @cached_property
    def squared_error(self) -> Float64[Tensor, " B"]:
        """‖e‖² of each token."""
        return self.residual.square().sum(1)

    @cached_property
    def squared_distance(self) -> Float64[Tensor, " B"]:
        """‖x − mean of this batch‖² of each token."""
        return (self.x - self.x.mean(0)).square().sum(1)
