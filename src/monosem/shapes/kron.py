"""How the latents of a Kronecker encoder are numbered (arXiv 2505.22255)."""

from __future__ import annotations

from typing import Any, NamedTuple

from monosem.shapes.error import InputError

Number = Any
"""An integer, or a tensor or array of them."""


class KronShape(NamedTuple):
    """h heads of m base and n extension rows; latent (k, i, j) is number (k·m + i)·n + j.

    Row k·(m + n) + i is base i of head k, row k·(m + n) + m + j its extension j.
    """

    heads: int
    base: int
    extension: int

    @property
    def n_latents(self) -> int:
        return self.heads * self.base * self.extension

    @property
    def n_rows(self) -> int:
        """Encoder rows: h·(m + n)."""
        return self.heads * (self.base + self.extension)

    def factors(self, latent: Number) -> tuple[Number, Number, Number]:
        """Head, base and extension of a latent."""
        head, pair = latent // (self.base * self.extension), latent % (self.base * self.extension)
        return head, pair // self.extension, pair % self.extension

    def latent(self, head: Number, base: Number, extension: Number) -> Number:
        """The inverse of `factors`."""
        return (head * self.base + base) * self.extension + extension

    def parents(self, latent: Number) -> tuple[Number, Number]:
        """The encoder rows of a latent: its base's and its extension's."""
        head, base, extension = self.factors(latent)
        first = head * (self.base + self.extension)
        return first + base, first + self.base + extension

    def check(self, n_latents: int) -> KronShape:
        """Raises `InputError` unless h·m·n is the number of latents."""
        if min(self) < 1 or self.n_latents != n_latents:
            raise InputError(
                f"heads {self.heads} × base {self.base} × extension {self.extension} = {self.n_latents} latents, "
                f"n_latents is {n_latents}: make the product equal to it"
            )
        return self
