"""The value that travels between all parts: which latents are active on each token, and how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.shapes import card
from monosem.shapes.frame import frame

_SHOWN = 20
"""Tokens that a notebook shows."""


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

    @classmethod
    def beside(cls, parts: Sequence[Codes]) -> Codes:
        """The same tokens over the latents of the first part, then of the second, …; ragged, in this order.

        Stored zeros of fixed and ragged parts stay; differentiable in the values.
        """
        rows, indices, values, first = [], [], [], 0
        for part in parts:
            row, index, value = part._stored()
            rows.append(row)
            indices.append(index + first)
            values.append(value)
            first += part.n_latents
        row = torch.cat(rows)
        order = row.argsort(stable=True)
        counts = torch.bincount(row, minlength=parts[0].rows)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(torch.cat(values)[order], torch.cat(indices)[order], first, offsets, parts[0].leading)

    def _stored(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, latent and value of every stored entry; of dense codes, of every active one."""
        if self.indices is None:
            rows, latents = self.values.detach().nonzero(as_tuple=True)
            return rows, latents, self.values[rows, latents]
        return self.entry_rows(), self.indices.flatten(), self.values.flatten()

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, latent and value of every active entry, in row order; detached."""
        values = self.values.detach()
        if self.indices is None:
            rows, latents = values.nonzero(as_tuple=True)
            return rows, latents, values[rows, latents]
        keep = (values != 0).flatten()
        return self.entry_rows()[keep], self.indices.flatten()[keep], values.flatten()[keep]

    def frame(self) -> Any:
        """A data frame of every active entry: token (of the flattened ones), latent, value. Needs pandas."""
        rows, latents, values = (part.cpu() for part in self.entries())
        return frame({"token": rows.tolist(), "latent": latents.tolist(), "value": values.float().tolist()})

    def described(self, count: int, strongest: int = 6) -> list[tuple[str, str]]:
        """For each of the first `count` tokens how many latents are active, and the strongest with their values."""
        rows, latents, values = (part.cpu() for part in self.entries())
        found = []
        for row in range(min(count, self.rows)):
            own = rows == row
            order = values[own].argsort(descending=True, stable=True)[:strongest]
            pairs = zip(latents[own][order].tolist(), values[own][order].tolist())
            found.append((str(int(own.sum())), ", ".join(f"{latent}: {value:.3g}" for latent, value in pairs)))
        return found

    def _repr_html_(self) -> str:
        layout = "dense" if self.indices is None else "fixed" if self.offsets is None else "ragged"
        tokens = " × ".join(map(str, self.batch_shape)) or "1"
        lines = [[str(row), *described] for row, described in enumerate(self.described(_SHOWN))]
        mean = float(self.l0().float().mean()) if self.rows else 0.0
        more = f"the first {_SHOWN} of {self.rows:,} tokens" if self.rows > _SHOWN else ""
        return card.card(
            f"codes of {tokens} tokens over {self.n_latents:,} latents",
            {"active": f"{mean:.4g} latents a token in the mean", "layout": layout},
            card.table(["token", "L0", "strongest (latent: value)"], lines, more),
        )
