"""The sparse autoencoder: an encoder, a rule and a decoder, in an activation space that is written down."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.sae.dense import DenseEncoder
from monosem.sae.encoder import Encoder
from monosem.sae.function import decode
from monosem.sae.kron import KronEncoder
from monosem.sae.rule import JumpReLU, Rule, TopK
from monosem.shapes import InputError
from monosem.shapes.codes import Codes


class SAE(nn.Module):
    """x̂ = decode(codes(x)); inputs and outputs are raw activations [..., D], codes are in units of code_scale·x.

    Inside, activations are multiplied by `scale`, and codes and thresholds are in those units (`code_scale` equals
    `scale`) until `fold` moves the scale into the weights. With `subtract_b_dec` the encoder sees scale·x − b_dec.
    `info` says where the autoencoder belongs: model, sites, excluded positions, training.
    """

    def __init__(
        self,
        encoder: Encoder,
        rule: Rule,
        *,
        d_out: int | None = None,
        scale: float = 1.0,
        code_scale: float | None = None,
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
        self.code_scale = self.scale if code_scale is None else float(code_scale)
        self.W_dec = nn.Parameter(torch.zeros(encoder.n_latents, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))

    @property
    def n_latents(self) -> int:
        return self.encoder.n_latents

    @property
    def d_sae(self) -> int:
        """The field's other name for `n_latents`."""
        return self.n_latents

    @property
    def W_enc(self) -> Float[Tensor, "D F"]:
        """A view of the dense encoder's rows as columns. Raises `InputError` for an encoder of another kind."""
        return self._dense().weight.T

    @property
    def b_enc(self) -> Float[Tensor, " F"]:
        """The dense encoder's bias. Raises `InputError` for an encoder of another kind."""
        return self._dense().bias

    def _dense(self) -> DenseEncoder:
        if not isinstance(self.encoder, DenseEncoder):
            raise InputError("this encoder has no row for each latent: see sae.encoder.weight and sae.encoder.parents")
        return self.encoder

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
            subtract_b_dec=self.subtract_b_dec,
            info=self.info | {"budget": {"k": k, "trained": trained, "extrapolated": k > trained}},
        )
        cut.W_dec, cut.b_dec = self.W_dec, self.b_dec
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

    def decode(self, codes: Codes | Float[Tensor, "*B F"]) -> Float[Tensor, "*B D"]:
        """Raw reconstruction from sparse or dense activations."""
        if isinstance(codes, Codes):
            out, leading = decode(codes, self.W_dec), codes.batch_shape
        else:
            out, leading = codes.reshape(-1, self.n_latents) @ self.W_dec, codes.shape[:-1]
        return ((out + self.b_dec) / self.scale).reshape(*leading, self.d_out)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.decode(self.codes(x))

    def _flat(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise InputError(
                f"activations of width {x.shape[-1]} were given to an autoencoder of d_in {self.d_in}: "
                f"use those of {self.info.get('site', 'the site it was trained on')}"
            )
        return x.reshape(-1, self.d_in).to(self.W_dec.dtype) * self.scale

    @torch.no_grad()
    def initialise(self, x: Float[Tensor, "B D"], generator: torch.Generator) -> None:
        """Scale so that E‖scale·x‖² = d_in; b_dec at the mean; encoder and decoder rows as the encoder starts them."""
        x = x.float()
        self.scale = self.code_scale = math.sqrt(self.d_in / x.square().sum(1).mean().item())
        self.b_dec.copy_(x.mean(0) * self.scale)
        self.W_dec.copy_(self.encoder.initialise(self.d_out, generator))

    @torch.no_grad()
    def fold(self, units: Literal["scaled", "raw"] = "scaled") -> SAE:
        """The same function with scale 1, equal to rounding.

        `scaled` keeps every code as it is and gives decoder rows the norm 1/scale; `raw` divides codes by the scale
        and keeps decoder rows at unit norm.
        """
        folded, s = copy.deepcopy(self), self.scale
        folded.scale = 1.0
        folded.b_dec.div_(s)
        if units == "scaled":
            folded.encoder.rescale(s, 1.0)
            folded.W_dec.div_(s)
            return folded
        folded.code_scale = 1.0
        folded.encoder.rescale(s, 1 / s)
        if isinstance(folded.rule, JumpReLU):
            folded.rule.bandwidth /= s
        for units_of_codes in (getattr(folded.rule, "threshold", None), getattr(folded.rule, "cut", None)):
            if units_of_codes is not None:
                units_of_codes.div_(s)
        return folded

    def extra_repr(self) -> str:
        return f"d_in={self.d_in}, n_latents={self.n_latents}, scale={self.scale:.4g}, site={self.info.get('site')}"
