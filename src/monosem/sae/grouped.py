"""Encoders side by side, each with the rule its latents were trained for: what a sum of autoencoders encodes with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem.sae.dense import DenseEncoder
from monosem.sae.kron import KronEncoder
from monosem.sae.rule import Rule
from monosem.shapes import InputError
from monosem.shapes.codes import Codes


class GroupRule(Rule):
    """A rule for each group. No latent competes with one of another group: a joint TopK would be another function."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        super().__init__()
        self.rules = nn.ModuleList(rules)

    def __iter__(self) -> Iterator[Rule]:
        return (rule for rule in self.rules if isinstance(rule, Rule))


class GroupedEncoder(nn.Module):
    """The latents of the first encoder, then those of the second, …; all read the same input."""

    def __init__(self, encoders: Sequence[DenseEncoder | KronEncoder]) -> None:
        super().__init__()
        self.groups = nn.ModuleList(encoders)
        self.d_in = encoders[0].d_in
        self.n_latents = sum(encoder.n_latents for encoder in encoders)

    def __iter__(self) -> Iterator[DenseEncoder | KronEncoder]:
        return (encoder for encoder in self.groups if isinstance(encoder, (DenseEncoder, KronEncoder)))

    def config(self) -> dict[str, Any]:
        return {}

    def initialise(self, d_out: int, generator: torch.Generator) -> NoReturn:
        """Raises `InputError`: groups are put together when they are trained."""
        raise InputError("a composition is made of trained autoencoders: train its parts, one after the other")

    def rescale(self, inputs: float, codes: float) -> None:
        """Change the function to codes · f(inputs · x)."""
        for encoder in self:
            encoder.rescale(inputs, codes)

    def pre_acts(self, x: Float[Tensor, "B D"], centre: Float[Tensor, " D"] | None) -> Float[Tensor, "B F"]:
        return torch.cat([encoder.pre_acts(x, centre) for encoder in self], 1)

    def select(self, x: Float[Tensor, "B D"], rule: Rule, centre: Float[Tensor, " D"] | None) -> Codes:
        assert isinstance(rule, GroupRule)
        return Codes.beside([encoder.select(x, own, centre) for encoder, own in zip(self, rule, strict=True)])

    def select_among(
        self, latents: Int[Tensor, " S"], x: Float[Tensor, "B D"], k: int, centre: Float[Tensor, " D"] | None
    ) -> NoReturn:
        """Raises `InputError`: see `initialise`."""
        raise InputError("a composition is not trained as one: train its parts, one after the other")
