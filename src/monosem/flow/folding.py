"""The parameters of a latent in units of the stream, folded by its threshold or not (arXiv 2410.07656, section 3.1)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor

from monosem.sae import SAE, DenseEncoder, GroupedEncoder
from monosem.shapes import InputError

Weights = Literal["all", "dec", "enc"]


class Parameters(NamedTuple):
    """pre = x · encᵀ + bias and x̂ = Σ z dec + b_dec on raw activations, with one row a latent.

    Unfolded z is in units of x. Folded by θ, encoder row and bias are divided by it and the decoder row multiplied:
    activations become z/θ, every threshold 1, and outputs stay. The decoder's own bias is no latent's.
    """

    enc: Float32[Tensor, "F D"] | None
    bias: Float32[Tensor, " F"] | None
    dec: Float32[Tensor, "F D"]

    def rows(self, weights: Weights = "all") -> Float32[Tensor, "F W"]:
        """w_i = [encoder row, bias, decoder row], or parts of it: what SAE Match compares."""
        if weights == "dec":
            return self.dec
        assert self.enc is not None
        assert self.bias is not None
        parts = [self.enc, self.bias[:, None]]
        return torch.cat(parts if weights == "enc" else [*parts, self.dec], 1)


@torch.no_grad()
def parameters(sae: SAE, theta: Float32[Tensor, " F"] | None = None, encoder: bool = True) -> Parameters:
    """Scales and the encoder's centring taken into the weights; folded by `theta`, in units of codes, if given.

    Raises `InputError` for encoders without a row for each latent, unless `encoder` is False.
    """
    unit = torch.full((sae.n_latents,), sae.code_scale, device=sae.W_dec.device) if theta is None else theta
    dec = sae.W_dec.detach().float() * (unit / sae.out_scale)[:, None]
    if not encoder:
        return Parameters(None, None, dec)
    _check_dense(sae)
    W_enc, bias = sae.W_enc.detach().T.float(), sae.b_enc.detach().float()
    if sae.subtract_b_dec:
        bias = bias - W_enc @ sae.b_dec.detach().float()
    return Parameters(W_enc * (sae.scale / unit)[:, None], bias / unit, dec)


def _check_dense(sae: SAE) -> None:
    encoders = list(sae.encoder) if isinstance(sae.encoder, GroupedEncoder) else [sae.encoder]
    if not all(isinstance(encoder, DenseEncoder) for encoder in encoders):
        raise InputError(
            f"the autoencoder at {sae.info.get('site')} has no encoder row for each latent (Kronecker encoder): "
            "match by decoder weights"
        )
