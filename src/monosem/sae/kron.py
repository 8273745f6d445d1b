"""KronSAE's encoder: h heads of m × n latents from h·(m + n) rows (arXiv 2505.22255)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from monosem import kernels
from monosem.kernels import Selected
from monosem.kernels.gate import GATES, SOFT, Gate
from monosem.kernels.reference import kron_products
from monosem.sae.function import KronSelect
from monosem.sae.rule import ReLU, Rule, TopK
from monosem.shapes import InputError, KronShape
from monosem.shapes.codes import Codes

Revival = Literal["soft", "post"]
_CHUNK = 1 << 26
"""Products made at once where all of them are needed: 256 MiB in float32."""


class KronEncoder(nn.Module):
    """u = P x + b_P, v = Q x + b_Q per head; latent (k, i, j) = gate(u_ki, v_kj), with mAND √u·√v or exactly 0.

    Row layout and numbering of latents: `KronShape`. `clamp` bounds √(v/u) in the gradient. `revival`: in the
    auxiliary loss dead latents are √softplus(u)·√softplus(v) (`soft`: both parents get a gradient even if they are
    off) or the gate itself (`post`: only pairs whose parents both fire). Raises `InputError` for a wrong shape.
    """

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        *,
        heads: int,
        base: int,
        extension: int,
        gate: str = "mand",
        clamp: float = 100.0,
        revival: Revival = "soft",
    ) -> None:
        super().__init__()
        self.shape = KronShape(heads, base, extension).check(n_latents)
        _check_word("gate", gate, GATES)
        _check_word("revival", revival, get_args(Revival))
        if not clamp > 0:
            raise InputError(f"clamp = {clamp}: expected a positive bound of the ratio of roots, such as 100")
        self.d_in, self.n_latents = d_in, n_latents
        self.gate, self.clamp, self.revival = gate, clamp, revival
        self.weight = nn.Parameter(torch.zeros(self.shape.n_rows, d_in))
        self.bias = nn.Parameter(torch.zeros(self.shape.n_rows))
        self._clamped = torch.zeros(2, dtype=torch.float64)

    def config(self) -> dict[str, Any]:
        return {**self.shape._asdict(), "gate": self.gate, "clamp": self.clamp, "revival": self.revival}

    @torch.no_grad()
    def initialise(self, d_out: int, generator: torch.Generator) -> Float[Tensor, "F D"]:
        """Rows normal / √(2F), biases 0; the decoder row of (k, i, j), returned, is P_ki + Q_kj at unit norm.

        Between different widths decoder rows are random unit rows of the same structure.
        """
        self.weight.copy_(torch.randn(self.weight.shape, generator=generator) / math.sqrt(2 * self.n_latents))
        rows = self.weight if d_out == self.d_in else torch.randn(self.shape.n_rows, d_out, generator=generator)
        sums = sum(rows.to(self.weight)[parent] for parent in self.parents(torch.arange(self.n_latents)))
        assert isinstance(sums, Tensor)
        return functional.normalize(sums, dim=1)

    @torch.no_grad()
    def rescale(self, inputs: float, codes: float) -> None:
        """Change the function to codes · f(inputs · x)."""
        both = codes ** (1 / GATES[self.gate].degree)
        self.weight.mul_(inputs * both)
        self.bias.mul_(both)

    def parents(self, latents: Int[Tensor, "*S"]) -> tuple[Int[Tensor, "*S"], Int[Tensor, "*S"]]:
        """The rows of `weight` that a latent is made of: its base's and its extension's."""
        return self.shape.parents(latents)

    def pre_latents(
        self, x: Float[Tensor, "B D"], centre: Float[Tensor, " D"] | None
    ) -> tuple[Float[Tensor, "B h m"], Float[Tensor, "B h n"]]:
        """p = ReLU(u) and q = ReLU(v) (u and v themselves for the gate `raw`)."""
        p, q = kron_products(self._rows(x, centre), self.shape)
        p, q = p.squeeze(3), q.squeeze(2)
        return (p, q) if self.gate == "raw" else (p.relu(), q.relu())

    def pre_acts(self, x: Float[Tensor, "B D"], centre: Float[Tensor, " D"] | None) -> Float[Tensor, "B F"]:
        """All products: the oracle, costs [B, F]."""
        return self._products(self._rows(x, centre))

    def select(self, x: Float[Tensor, "B D"], rule: Rule, centre: Float[Tensor, " D"] | None) -> Codes:
        """With TopK only products that can be among the k largest are made. Raises `InputError` for ReLU."""
        if isinstance(rule, ReLU):
            raise InputError("a Kronecker encoder fires on a quarter of all pairs under relu: use topk or batch_topk")
        if rule.learned() is not None:
            raise InputError("a Kronecker encoder has no learned thresholds: train it with topk or batch_topk")
        if isinstance(rule, TopK):
            return self._selected(x, centre, lambda pre: kernels.kron_topk(pre, self.shape, self.gate, rule.k))
        return self._selected(x, centre, lambda pre: rule.choose(self._products(pre)))

    def select_among(
        self, latents: Int[Tensor, " S"], x: Float[Tensor, "B D"], k: int, centre: Float[Tensor, " D"] | None
    ) -> Codes:
        """The k largest of some latents alone, from their parents' rows alone, with the gate of `revival`."""
        rows, place = torch.cat(self.parents(latents)).unique(return_inverse=True)
        base, extension = place.chunk(2)
        gate = SOFT if self.revival == "soft" else GATES[self.gate]

        def some(pre: Tensor) -> Selected:
            step = max(1, _CHUNK // len(latents))
            parts = [kernels.topk(gate.value(part[:, base], part[:, extension]), k) for part in pre.split(step)]
            chosen = torch.cat([_indices(part) for part in parts])
            return Selected(torch.cat([part.values for part in parts]), chosen, None)

        def parents(chosen: Tensor) -> tuple[Tensor, Tensor]:
            return base[chosen], extension[chosen]

        values, chosen, _ = KronSelect.apply(
            x, centre, self.weight[rows], self.bias[rows], some, gate, parents, self.clamp, self._counts()
        )
        return Codes(values, latents[chosen], self.n_latents)

    def take_clamped(self) -> Float[Tensor, " two"]:
        """How many gradients were clamped since the last call, and of how many."""
        counts = self._clamped.clone()
        self._clamped.zero_()
        return counts

    def _counts(self) -> Tensor:
        self._clamped = self._clamped.to(self.weight.device)
        return self._clamped

    def _selected(self, x: Tensor, centre: Tensor | None, choose: Any) -> Codes:
        gate: Gate = GATES[self.gate]
        values, indices, offsets = KronSelect.apply(
            x, centre, self.weight, self.bias, choose, gate, self.parents, self.clamp, self._counts()
        )
        return Codes(values, indices, self.n_latents, offsets)

    def _rows(self, x: Tensor, centre: Tensor | None) -> Float[Tensor, "B R"]:
        return functional.linear(x if centre is None else x - centre, self.weight, self.bias)

    def _products(self, pre: Tensor) -> Float[Tensor, "B F"]:
        return GATES[self.gate].value(*kron_products(pre, self.shape)).flatten(1)


def _check_word(name: str, word: str, known: Iterable[str]) -> None:
    if word not in known:
        raise InputError(f"{name} = {word!r}: choose one of {', '.join(known)}")


def _indices(selected: Selected) -> Tensor:
    assert selected.indices is not None
    return selected.indices
