"""The value that travels between all parts: which latents are active on each token, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Codes:
    """Sparse activations of `rows` tokens over `n_latents` latents, in one of three layouts.

    * fixed: `values` and `indices` are [B, K], each row sorted by descending value;
    * ragged: `values` and `indices` are [N], row b is `offsets[b]:offsets[b + 1]`;
    * dense: `values` is [B, F] and `indices` is None (what ReLU is early in training).

    Stored zeros are allowed, never count as active, and carry gradient only where a rule says so.
    """

    values: Float[Tensor, "*stored"]
    indices: Int[Tensor, "*stored"] | None
    n_latents: int
    offsets: Int[Tensor, " rows"] | None = None
    leading: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `dense()`."""
        return (*self.batch_shape, self.n_latents)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the tokens: `leading`, () for a single one, or (B,) if it was not said."""
        return (self.rows,) if self.leading is None else self.leading

    @property
    def active(self) -> Tensor:
        """Which stored entries are active."""
        return self.values != 0

    def entry_rows(self) -> Int[Tensor, " N"]:
        """The token of each stored entry, flattened as `values`."""
        if self.offsets is not None:
            counts = self.offsets.diff()
            return torch.repeat_interleave(torch.arange(self.rows, device=counts.device), counts)
        width = self.values.shape[1]
        return torch.arange(self.rows, device=self.values.device).repeat_interleave(width)

    def l0(self) -> Int[Tensor, " B"]:
        """Active latents per token."""
        if self.offsets is None:
            return self.active.sum(1)
        zeros = torch.zeros(self.rows, dtype=torch.int64, device=self.values.device)
        return zeros.index_add_(0, self.entry_rows(), self.active.long())

    def dense(self) -> Float[Tensor, "*shape"]:
        """Every latent of every token; differentiable."""
        if self.indices is None:
            return self.values.reshape(self.shape)
        flat = torch.zeros(self.rows * self.n_latents, dtype=self.values.dtype, device=self.values.device)
        where = self.entry_rows() * self.n_latents + self.indices.flatten()
        return flat.index_add(0, where, self.values.flatten()).reshape(self.shape)

    def at(self, k: int) -> Codes:
        """The `k` strongest of each token; only fixed codes are sorted."""
        if self.indices is None or self.offsets is not None:
            raise TypeError("at(k) needs fixed codes, such as those of a TopK autoencoder")
        return replace(self, values=self.values[:, :k], indices=self.indices[:, :k])

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, latent and value of every active entry, in row order; detached."""
        values = self.values.detach()
        if self.indices is None:
            rows, latents = values.nonzero(as_tuple=True)
            return rows, latents, values[rows, latents]
        keep = (values != 0).flatten()
        return self.entry_rows()[keep], self.indices.flatten()[keep], values.flatten()[keep]
