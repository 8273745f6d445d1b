"""What one autoencoder does at every budget k from 1 to K, from one pass (arXiv 2505.24473)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float64
from torch import Tensor

from monosem import kernels
from monosem.evaluation.batch import Batch
from monosem.evaluation.ratio import Figure
from monosem.sae import SAE, TopK

LOSSES = ("ce_loss_score", "ce_loss_score_mean", "kl_div")
"""What a row has beside explained variance and L0 where the model was run at its budget."""

Row = dict[str, int | float | None]
"""One budget: `k`, `explained_variance`, `l0`, and the keys of `LOSSES` where they were measured."""


def most(sae: SAE) -> int | None:
    """The K of an autoencoder whose codes are fixed, so that each latent has a rank; else None."""
    return sae.rule.k if isinstance(sae.rule, TopK) else None


def powers(most: int) -> list[int]:
    """Powers of two below `most`."""
    return [1 << power for power in range((most - 1).bit_length())]


class PerK:
    """Squared error and L0 when only the k strongest latents of each token are kept, for every k.

    In the scaled space r_k = s·x − b_dec − Σ_{j≤k} v_j · W_dec[index_j]; ‖x − x̂_k‖² = ‖r_k‖² / s². What a skip
    connection adds is there at every k.
    Needs fixed codes, which are sorted by value. Memory is that of r: B·D.
    """

    def __init__(self, sae: SAE) -> None:
        self._sae = sae
        self._errors = self._active = torch.zeros(0, dtype=torch.float64)
        self._tokens = 0

    def update(self, batch: Batch) -> None:
        """Ragged and dense codes have no ranks and are passed over."""
        if batch.codes.indices is None or batch.codes.offsets is not None:
            return
        if not self._tokens:
            self._errors = self._active = torch.zeros(batch.codes.values.shape[1], dtype=torch.float64)
        self._errors = self._errors + squared_errors(self._sae, batch)
        self._active = self._active + batch.codes.active.sum(0).cumsum(0).cpu()
        self._tokens += batch.rows

    def compute(self, variation: float) -> list[Row]:
        """One row a budget; `variation` is Σ‖x − mean‖² over the same tokens. Empty without ranks."""
        explained = (1 - self._errors / variation).tolist()
        l0 = (self._active / max(self._tokens, 1)).tolist()
        return [{"k": k, "explained_variance": ev, "l0": mean} for k, (ev, mean) in enumerate(zip(explained, l0), 1)]


@torch.no_grad()
def squared_errors(sae: SAE, batch: Batch) -> Float64[Tensor, " K"]:
    """Σ_t ‖x − x̂_k‖² for k = 1, …, K."""
    codes = batch.codes
    assert codes.indices is not None
    left = batch.x if batch.skipped is None else batch.x - batch.skipped
    target = left.to(sae.W_dec.dtype) * sae.out_scale - sae.b_dec
    cuts = torch.arange(1, codes.values.shape[1] + 1, device=target.device).expand(codes.values.shape)
    errors = kernels.nested(codes.values, codes.indices, None, cuts, sae.W_dec, target).errors
    return errors.cpu() / sae.out_scale**2


def with_losses(rows: list[Row], figures: Mapping[int, Mapping[str, Figure]]) -> list[Row]:
    """`rows` with what was measured at some of their budgets by running the model; null where it is not defined."""
    return [row | _losses(figures[k]) if (k := row["k"]) in figures else row for row in rows]


def _losses(figures: Mapping[str, Figure]) -> Row:
    values = {key: figures[key].value for key in LOSSES}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
