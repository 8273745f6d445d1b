"""Controls: what an autoencoder is without some part of its learning. One row of `CONTROLS` each.

A figure that a control reaches as well says nothing about what was learned (arXiv 2602.14111).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.sae import SAE, DenseEncoder, GroupedEncoder
from monosem.shapes import InputError


class Control(nn.Module):
    """What every control offers; buffers are part of a checkpoint. Parts held have no gradient and no optimiser."""

    learns = True
    """Whether there is any gradient descent."""
    held: int = 0
    """How many latents, the first ones, stay as they are."""

    def hold(self, sae: SAE) -> None:
        """Called once, before there is an optimiser."""

    def see(self, sae: SAE, x: Float[Tensor, "B D"], last: bool) -> None:
        """Called with every batch of scaled inputs, before its step; `last`: no further one comes."""

    def still(self, sae: SAE) -> None:
        """Called when all gradients of a step are there, before their norm is taken."""

    def bound(self, sae: SAE) -> None:
        """Called after every step of the optimiser."""


class Trained(Control):
    """None: everything learns."""


class Untrained(Control):
    """Weights as they are initialised, scale and b_dec included. The running threshold of BatchTopK is measured."""

    learns = False

    def hold(self, sae: SAE) -> None:
        sae.requires_grad_(False)


class FrozenDecoder(Control):
    """Decoder rows stay at their random start; encoder, thresholds and b_dec learn."""

    def hold(self, sae: SAE) -> None:
        sae.W_dec.requires_grad_(False)


class SoftFrozenDecoder(Control):
    """A decoder row may turn while its cosine with its random start is at least 0.8 (our reading of 2602.14111).

    After each step a row w with cos(w, w₀) < τ goes to the nearest direction of the cone,
    ‖w‖·(τ·w₀ + √(1 − τ²)·u), u the unit vector of what w has beside w₀.
    """

    cosine = 0.8

    def __init__(self) -> None:
        super().__init__()
        self.start: Tensor
        self.register_buffer("start", torch.zeros(0))

    def hold(self, sae: SAE) -> None:
        self.start = nn.functional.normalize(sae.W_dec.detach(), dim=1)

    def bound(self, sae: SAE) -> None:
        _into_cone(sae.W_dec, self.start, self.cosine)


class FrozenEncoder(Control):
    """The encoder stays at its random start, so codes are those of random directions; decoder and b_dec learn.

    The encoder subtracts b_dec as it is at the start, by its bias: one that learned would move every code. Thresholds
    of JumpReLU learn, as otherwise its L0 would not be the target.
    """

    def hold(self, sae: SAE) -> None:
        sae.encoder.requires_grad_(False)
        if sae.subtract_b_dec:
            assert not isinstance(sae.encoder, GroupedEncoder)
            with torch.no_grad():
                sae.encoder.bias.sub_(sae.encoder.weight @ sae.b_dec)
            sae.subtract_b_dec = False


class HeldCore(Control):
    """Of an autoencoder that extends a core, all that is the core's stays as it is; new latents learn.

    That is b_dec, the skip connection, and of the first `held` latents encoder and decoder rows and thresholds, whose
    gradients are no part of the clipped norm.
    """

    def hold(self, sae: SAE) -> None:
        sae.b_dec.requires_grad_(False)
        if sae.W_skip is not None:
            sae.W_skip.requires_grad_(False)
        self.held = sae.info["held_latents"]
        for name, weight in _by_latent(sae).items():
            self.register_buffer(name, weight.detach()[: self.held].clone())

    def still(self, sae: SAE) -> None:
        for weight in _by_latent(sae).values():
            if weight.grad is not None:
                weight.grad[: self.held] = 0

    def bound(self, sae: SAE) -> None:
        for name, weight in _by_latent(sae).items():
            weight[: self.held] = self.get_buffer(name)


class Principal(Control):
    """The k leading principal components of the training activations: the best linear reconstruction of rank k.

    Component v is two latents, v and −v, of which one is active: k active latents a token of 2k. The covariance is
    summed over all batches in float64; weights follow it at batches 1, 2, 4, … and at the last.
    """

    learns = False

    def __init__(self) -> None:
        super().__init__()
        self.count: Tensor
        self.total: Tensor
        self.second: Tensor
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("total", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(0, dtype=torch.float64))

    def hold(self, sae: SAE) -> None:
        sae.requires_grad_(False)
        self.total = torch.zeros(sae.d_in, dtype=torch.float64, device=sae.b_dec.device)
        self.second = torch.zeros(sae.d_in, sae.d_in, dtype=torch.float64, device=sae.b_dec.device)

    @torch.no_grad()
    def see(self, sae: SAE, x: Tensor, last: bool) -> None:
        x = x.double()
        self.count += torch.tensor([len(x), 1], device=self.count.device)
        self.total += x.sum(0)
        self.second.addmm_(x.T, x)
        batches = int(self.count[1])
        if last or batches & (batches - 1) == 0:
            self._fit(sae)

    def _fit(self, sae: SAE) -> None:
        mean = self.total / self.count[0]
        covariance = self.second / self.count[0] - torch.outer(mean, mean)
        leading = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : sae.n_latents // 2].T
        rows = torch.cat([leading, -leading]).to(sae.W_dec)
        assert isinstance(sae.encoder, DenseEncoder)
        sae.encoder.weight.copy_(rows)
        sae.encoder.bias.zero_()
        sae.W_dec.copy_(rows)
        sae.b_dec.copy_(mean)


CONTROLS: dict[str, type[Control]] = {
    "trained": Trained,
    "untrained": Untrained,
    "frozen_decoder": FrozenDecoder,
    "soft_frozen_decoder": SoftFrozenDecoder,
    "frozen_encoder": FrozenEncoder,
    "held_core": HeldCore,
    "pca": Principal,
}
BESIDE = ("untrained", "frozen_decoder", "soft_frozen_decoder", "frozen_encoder")
"""The controls that `--controls` puts beside every autoencoder."""


def check_rank(k: int, width: int) -> None:
    """Raises `InputError` unless there are k principal components."""
    if k > width:
        raise InputError(f"pca: k = {k} components were asked for, activations have {width} dimensions: lower k")


def _by_latent(sae: SAE) -> dict[str, nn.Parameter]:
    """The parameters with a row for each latent."""
    assert isinstance(sae.encoder, DenseEncoder)
    learned = sae.rule.learned()
    thresholds = {} if learned is None else {"threshold": learned[0]}
    return {"weight": sae.encoder.weight, "bias": sae.encoder.bias, "rows": sae.W_dec, **thresholds}


@torch.no_grad()
def _into_cone(rows: Float[Tensor, "F D"], start: Float[Tensor, "F D"], cosine: float) -> None:
    """Turn every row, in place, until its cosine with its unit `start` is at least `cosine`; norms stay."""
    norms = rows.norm(dim=1, keepdim=True)
    along = (rows * start).sum(1, keepdim=True)
    outside = along < cosine * norms
    across = nn.functional.normalize(rows - along * start, dim=1)
    edge = norms * (cosine * start + math.sqrt(1 - cosine**2) * across)
    rows.copy_(torch.where(outside, edge, rows))
