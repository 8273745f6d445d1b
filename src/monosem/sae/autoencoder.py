"""The sparse autoencoder or transcoder: an encoder, a rule and a decoder, in spaces that are written down."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.sae.card import sae_card
from monosem.sae.dense import DenseEncoder
from monosem.sae.encoder import Encoder
from monosem.sae.function import decode
from monosem.sae.grouped import GroupedEncoder, GroupRule
from monosem.sae.kron import KronEncoder
from monosem.sae.rule import Rule, TopK
from monosem.shapes import InputError
from monosem.shapes.codes import Codes


class SAE(nn.Module):
    """x̂ = decode(codes(x)); inputs and outputs are raw activations [..., D], codes are in units of code_scale·x.

    Inside, activations are multiplied by `scale`, and codes and thresholds are in those units (`code_scale` equals
    `scale`) until `fold` moves the scale into the weights. With `subtract_b_dec` the encoder sees scale·x − b_dec.
    `info` says where the autoencoder belongs: model, sites, excluded positions, training.

    A transcoder predicts activations y of another site, whose scale is `out_scale` (None: that of the input), and
    with `skip` has a linear connection beside its latents (arXiv 2501.18823):
    out_scale·ŷ = Σ f_i W_dec[i] + scale·x W_skip + b_dec. Its codes are in units of code_scale·y.
    """

    def __init__(
        self,
        encoder: Encoder,
        rule: Rule,
        *,
        d_out: int | None = None,
        scale: float = 1.0,
        code_scale: float | None = None,
        out_scale: float | None = None,
        skip: bool = False,
        subtract_b_dec: bool = True,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.rule = encoder, rule
        self.d_in, self.d_out = encoder.d_in, d_out or encoder.d_in
        if subtract_b_dec and self.d_out != self.d_in:
            raise InputError(
                f"subtract_b_dec needs equal widths, d_in is {self.d_in} and d_out {self.d_out}: switch it off"
            )
        self.scale, self.subtract_b_dec, self.info = float(scale), subtract_b_dec, info or {}
        self._out_scale = None if out_scale is None else float(out_scale)
        self.code_scale = self.out_scale if code_scale is None else float(code_scale)
        self.W_dec = nn.Parameter(torch.zeros(encoder.n_latents, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.W_skip: nn.Parameter | None = nn.Parameter(torch.zeros(self.d_in, self.d_out)) if skip else None

    @property
    def n_latents(self) -> int:
        return self.encoder.n_latents

    @property
    def out_scale(self) -> float:
        """What outputs are multiplied by inside: `scale`, or that of a transcoder's target."""
        return self.scale if self._out_scale is None else self._out_scale

    @property
    def d_sae(self) -> int:
        """The field's other name for `n_latents`."""
        return self.n_latents

    @property
    def W_enc(self) -> Float[Tensor, "D F"]:
        """The dense encoder's rows as columns: a view, of a composition a copy. Raises `InputError` for other kinds."""
        rows: list[Tensor] = [encoder.weight for encoder in self._dense()]
        return rows[0].T if len(rows) == 1 else torch.cat(rows).T

    @property
    def b_enc(self) -> Float[Tensor, " F"]:
        """The dense encoder's bias. Raises `InputError` for an encoder of another kind."""
        biases: list[Tensor] = [encoder.bias for encoder in self._dense()]
        return biases[0] if len(biases) == 1 else torch.cat(biases)

    def _dense(self) -> list[DenseEncoder]:
        encoders = list(self.encoder) if isinstance(self.encoder, GroupedEncoder) else [self.encoder]
        dense = [encoder for encoder in encoders if isinstance(encoder, DenseEncoder)]
        if len(dense) < len(encoders):
            raise InputError("this encoder has no row for each latent: see sae.encoder.weight and sae.encoder.parents")
        return dense

    @property
    def K(self) -> int:
        """The largest budget: k of a TopK rule. Raises `InputError` for other rules."""
        if not isinstance(self.rule, TopK):
            raise InputError(f"{type(self.rule).__name__} has no fixed budget: only TopK autoencoders can be cut at k")
        return self.rule.k

    def at(self, k: int) -> SAE:
        """The same weights, shared, with a budget of k latents a token: its codes are the first k of a larger one's.

        Beyond the largest trained budget this is extrapolation, and `info["budget"]` says so. Raises `InputError`
        for rules other than TopK and for k outside 1..n_latents.
        """
        budgets = self.info.get("budgets", {}).get("J", [self.K])
        trained = self.info.get("budget", {}).get("trained", max(budgets))
        cut = SAE(
            self.encoder,
            TopK(self.n_latents, k),
            d_out=self.d_out,
            scale=self.scale,
            code_scale=self.code_scale,
            out_scale=self._out_scale,
            subtract_b_dec=self.subtract_b_dec,
            info=self.info | {"budget": {"k": k, "trained": trained, "extrapolated": k > trained}},
        )
        cut.W_dec, cut.b_dec, cut.W_skip = self.W_dec, self.b_dec, self.W_skip
        return cut.train(self.training)

    def pre_latents(self, x: Float[Tensor, "*B D"]) -> tuple[Float[Tensor, "*B h m"], Float[Tensor, "*B h n"]]:
        """Base and extension pre-latents of a KronSAE. Raises `InputError` for other encoders."""
        if not isinstance(self.encoder, KronEncoder):
            raise InputError("only a Kronecker encoder has pre-latents")
        p, q = self.encoder.pre_latents(self._flat(x), self.centre)
        return p.reshape(*x.shape[:-1], *p.shape[1:]), q.reshape(*x.shape[:-1], *q.shape[1:])

    @property
    def space(self) -> str:
        """The units of codes and thresholds: `raw`, or `scaled` when they are those of code_scale·x."""
        return "raw" if self.code_scale == 1 else "scaled"

    @property
    def rules(self) -> list[Rule]:
        """The rule, or of a composition that of each group."""
        return list(self.rule) if isinstance(self.rule, GroupRule) else [self.rule]

    @property
    def centre(self) -> Tensor | None:
        """What the encoder subtracts from its scaled input."""
        return self.b_dec if self.subtract_b_dec else None

    def pre_acts(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        """Dense pre-activations: the oracle that selection agrees with."""
        return self.encoder.pre_acts(self._flat(x), self.centre).reshape(*x.shape[:-1], self.n_latents)

    def codes(self, x: Float[Tensor, "*B D"]) -> Codes:
        """Sparse activations; token b is the b-th of x flattened to [B, D]."""
        codes = self.encoder.select(self._flat(x), self.rule, self.centre)
        return Codes(codes.values, codes.indices, codes.n_latents, codes.offsets, tuple(x.shape[:-1]))

    def encode(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        """Dense activations."""
        return self.codes(x).dense()

    def decode(
        self, codes: Codes | Float[Tensor, "*B F"], x: Float[Tensor, "*B D"] | None = None
    ) -> Float[Tensor, "*B E"]:
        """Raw reconstruction from sparse or dense activations; x is what a skip connection reads.

        Raises `InputError` without x where there is a skip connection.
        """
        if isinstance(codes, Codes):
            out, leading = decode(codes, self.W_dec), codes.batch_shape
        else:
            out, leading = codes.reshape(-1, self.n_latents) @ self.W_dec, codes.shape[:-1]
        out = out + self.b_dec
        if self.W_skip is not None:
            if x is None:
                raise InputError("this transcoder has a skip connection, which reads the input: use decode(codes, x)")
            out = out + self._flat(x) @ self.W_skip
        return (out / self.out_scale).reshape(*leading, self.d_out)

    def skipped(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"] | None:
        """What the skip connection adds to the output, raw; None without one."""
        if self.W_skip is None:
            return None
        return (self._flat(x) @ self.W_skip / self.out_scale).reshape(*x.shape[:-1], self.d_out)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        """The reconstruction of x, or a transcoder's prediction of its target; raw."""
        return self.decode(self.codes(x), x)

    def _flat(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise InputError(
                f"activations of width {x.shape[-1]} were given to an autoencoder of d_in {self.d_in}: "
                f"use those of {self.info.get('site', 'the site it was trained on')}"
            )
        return x.reshape(-1, self.d_in).to(self.W_dec.dtype) * self.scale

    @torch.no_grad()
    def initialise(
        self, x: Float[Tensor, "B D"], generator: torch.Generator, target: Float[Tensor, "B E"] | None = None
    ) -> None:
        """Scale so that E‖scale·x‖² = d_in; b_dec at the mean; encoder and decoder rows as the encoder has them.

        With a transcoder's target y, E‖out_scale·y‖² = d_out and b_dec is at the mean of y; W_skip starts at zero.
        """
        x = x.float()
        y = x if target is None else target.float()
        self.scale = _unit_scale(x)
        self._out_scale = None if target is None else _unit_scale(y)
        self.code_scale = self.out_scale
        self.b_dec.copy_(y.mean(0) * self.out_scale)
        self.W_dec.copy_(self.encoder.initialise(self.d_out, generator))
        if self.W_skip is not None:
            self.W_skip.zero_()

    def set_out_scale(self, target: Float[Tensor, "B E"]) -> None:
        """Multiply outputs inside so that E‖out_scale·target‖² = d_out; codes are in these units."""
        self._out_scale = self.code_scale = _unit_scale(target)

    def adopt_spaces(self, other: SAE) -> None:
        """Use the scales and the centring of another autoencoder; weights stay."""
        self.scale, self._out_scale, self.code_scale = other.scale, other._out_scale, other.code_scale
        self.subtract_b_dec = other.subtract_b_dec

    @torch.no_grad()
    def expressed(self, scale: float, out_scale: float | None = None, code_scale: float | None = None) -> SAE:
        """A copy with other units inside, the same function to rounding.

        Inputs are multiplied by `scale`, outputs by `out_scale` (None: by `scale`), and codes are in units of
        `code_scale`·y (None: those they are in).
        """
        new = copy.deepcopy(self)
        new.scale, new._out_scale = scale, out_scale
        new.code_scale = self.code_scale if code_scale is None else code_scale
        inputs, outputs, codes = (
            self.scale / new.scale,
            new.out_scale / self.out_scale,
            new.code_scale / self.code_scale,
        )
        new.encoder.rescale(inputs, codes)
        new.b_dec.mul_(outputs)
        new.W_dec.mul_(outputs / codes)
        if new.W_skip is not None:
            new.W_skip.mul_(inputs * outputs)
        for rule in new.rules:
            rule.rescale(codes)
        return new

    def fold(self, units: Literal["scaled", "raw"] = "scaled") -> SAE:
        """The same function with both scales 1, equal to rounding.

        `scaled` keeps every code as it is and gives decoder rows the norm 1/out_scale; `raw` divides codes by
        out_scale and keeps decoder rows at unit norm.
        """
        return self.expressed(1.0, None, None if units == "scaled" else 1.0)

    def _repr_html_(self) -> str:
        return sae_card(self)

    def extra_repr(self) -> str:
        where = f"d_in={self.d_in}, n_latents={self.n_latents}, scale={self.scale:.4g}, site={self.info.get('site')}"
        return f"{where}, target={self.info['target']}" if "target" in self.info else where


def _unit_scale(x: Float[Tensor, "B D"]) -> float:
    """What makes the mean squared norm D."""
    return math.sqrt(x.shape[1] / x.square().sum(1).mean().item())
