"""What is trained beside a frozen core, and how it starts. One row of `ROLES` each.

The residual is SAE Boost (arXiv 2507.12990); the others are what it is compared with. Initialisations are our choice:
the paper does not give them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.sae import SAE, BatchTopK, DenseEncoder, GroupedEncoder, JumpReLU, ReLU, stitch
from monosem.sae.dense import unit_rows
from monosem.shapes import InputError
from monosem.training.config import TrainConfig
from monosem.training.core import active_latents, needed
from monosem.training.draw import generator

NOISE = 0.02
"""Relative size of what tells a copied latent's decoder row from the row it was copied from."""
UNIT = 1e-3
"""How far a core's decoder rows may be from unit norm to be kept at it."""


class Role:
    """What every role offers.

    `residual`: it explains what the core leaves, has no decoder bias, and is added to it. `extends`: its first latents
    are the core's.
    """

    residual, extends = False, False

    def settings(self, config: TrainConfig) -> TrainConfig:
        """The settings with the sizes of this role; `n_latents` and `k` of `config` are those of new latents."""
        return config

    def skips(self, config: TrainConfig) -> bool:
        """Whether it has a skip connection."""
        return config.skip

    def thresholds(self, config: TrainConfig) -> Float[Tensor, " C"] | None:
        """Those that its first latents start with; None where all have to be found."""
        return None

    def start(
        self, sae: SAE, config: TrainConfig, x: Float[Tensor, "B D"], target: Float[Tensor, "B E"] | None
    ) -> None:
        """Initialise from a first batch of raw activations."""
        raise NotImplementedError


class Residual(Role):
    """Random decoder rows v; encoder rows c·v with c = rms(e)/rms(x − μ), and biases that take μ, the mean of x, off.

    So the encoder sees centred activations and first codes have the size of what is left, e; both are affine in x, so
    that the sum can be one autoencoder. Targets are multiplied by a constant that makes mean‖e − mean(e)‖² equal d_out.
    """

    residual = True

    def skips(self, config: TrainConfig) -> bool:
        """The sum has the core's."""
        return False

    @torch.no_grad()
    def start(self, sae: SAE, config: TrainConfig, x: Tensor, target: Tensor | None) -> None:
        assert target is not None
        sae.initialise(x, generator(config), target)
        sae.set_out_scale(target - target.mean(0))
        mean = x.mean(0) * sae.scale
        spread = (x * sae.scale - mean).square().mean().sqrt()
        assert not isinstance(sae.encoder, GroupedEncoder)
        sae.encoder.rescale(1.0, float((target * sae.out_scale).square().mean().sqrt() / spread))
        sae.encoder.bias.sub_(sae.encoder.weight @ mean)
        sae.b_dec.zero_()


class Whole(Role):
    """One autoencoder that has to explain the activations themselves, with as many latents as core and residual."""

    def settings(self, config: TrainConfig) -> TrainConfig:
        new = needed(config).sae.n_latents + config.n_latents
        return replace(config, n_latents=new, k=active_latents(config) + config.k)


class Scratch(Whole):
    """All latents new, the core not used: what the domain's own text alone gives."""

    def start(self, sae: SAE, config: TrainConfig, x: Tensor, target: Tensor | None) -> None:
        sae.initialise(x, generator(config), target)


class Extended(Whole):
    """The core's latents and new ones, under one joint rule."""

    extends = True

    def __init__(self, active: bool) -> None:
        self.active = active

    def settings(self, config: TrainConfig) -> TrainConfig:
        return _with_rows_as_they_are(super().settings(config))

    def skips(self, config: TrainConfig) -> bool:
        return needed(config).sae.W_skip is not None

    def thresholds(self, config: TrainConfig) -> Tensor | None:
        """The core's, where its rule has such."""
        return _thresholds(plain_core(config))

    @torch.no_grad()
    def start(self, sae: SAE, config: TrainConfig, x: Tensor, target: Tensor | None) -> None:
        """New latents are random as a residual's, or copies of those that fire on most tokens of the batch."""
        core, encoder = plain_core(config), _dense(sae)
        x, target = x.to(core.W_dec.device), None if target is None else target.to(core.W_dec.device)
        new = sae.n_latents - core.n_latents
        if self.active:
            weight, bias, rows = _copies(core, new, x, generator(config))
        else:
            weight, bias, rows = _random(core, new, x, x if target is None else target, generator(config))
        sae.adopt_spaces(core)
        encoder.weight.copy_(torch.cat([_dense(core).weight, weight]))
        encoder.bias.copy_(torch.cat([_dense(core).bias, bias]))
        sae.W_dec.copy_(torch.cat([core.W_dec, rows]))
        sae.b_dec.copy_(core.b_dec)
        if sae.W_skip is not None and core.W_skip is not None:
            sae.W_skip.copy_(core.W_skip)


class FineTuned(Role):
    """A copy of the core, all of it trained on, with the core's own rule and number of latents."""

    def settings(self, config: TrainConfig) -> TrainConfig:
        sizes = {"n_latents": needed(config).sae.n_latents, "k": active_latents(config)}
        return _with_rows_as_they_are(replace(config, **sizes))

    def skips(self, config: TrainConfig) -> bool:
        return needed(config).sae.W_skip is not None

    def thresholds(self, config: TrainConfig) -> Tensor | None:
        return _thresholds(plain_core(config))

    def start(self, sae: SAE, config: TrainConfig, x: Tensor, target: Tensor | None) -> None:
        core = plain_core(config)
        sae.adopt_spaces(core)
        sae.load_state_dict(core.state_dict())


ROLES: dict[str, Role] = {
    "residual": Residual(),
    "scratch": Scratch(),
    "extended_random": Extended(active=False),
    "extended_active": Extended(active=True),
    "finetuned": FineTuned(),
}
"""By the word that names them beside a core; a residual is meant where none is named."""


def plain_core(config: TrainConfig) -> SAE:
    """The core as one group of latents. Raises `InputError` for a composition that cannot be one."""
    core = needed(config).sae
    with core.W_dec.device:  # its weights are read, whatever device new tensors are made on
        return stitch(core) if len(core.rules) > 1 else core


def _with_rows_as_they_are(config: TrainConfig) -> TrainConfig:
    """Decoder rows are kept at unit norm only where the core's are: its codes are in units of them."""
    norms = needed(config).sae.W_dec.norm(dim=1)
    return replace(config, unit_decoder=config.unit_decoder and bool(((norms - 1).abs() < UNIT).all()))


@torch.no_grad()
def _thresholds(core: SAE) -> Float[Tensor, " C"] | None:
    if isinstance(core.rule, JumpReLU):
        return core.rule.threshold
    if isinstance(core.rule, BatchTopK) and not core.rule.cut.isnan():
        return core.rule.cut.clamp_min(0).expand(core.n_latents)
    return torch.zeros_like(core.W_dec[:, 0]) if isinstance(core.rule, ReLU) else None


def _dense(sae: SAE) -> DenseEncoder:
    if not isinstance(sae.encoder, DenseEncoder):
        raise InputError("only a core with a row for each latent can be extended: leave the extended ones out")
    return sae.encoder


def _random(
    core: SAE, new: int, x: Float[Tensor, "B D"], target: Float[Tensor, "B E"], drawn: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder rows, biases and unit decoder rows as a residual's, in the core's space."""
    left = (target - core(x)) * core.out_scale
    mean = x.mean(0) * core.scale
    rows = unit_rows(new, core.d_out, drawn).to(x)
    base = rows if core.d_in == core.d_out else unit_rows(new, core.d_in, drawn).to(x)
    weight = base * (left.square().mean() / (x * core.scale - mean).square().mean()).sqrt()
    centre = mean if core.centre is None else mean - core.centre
    return weight, -(weight @ centre), rows


def _copies(core: SAE, new: int, x: Float[Tensor, "B D"], drawn: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder rows, biases and decoder rows, with a little noise, of the latents that fire on most tokens of x.

    Raises `InputError` for more copies than there are latents.
    """
    if new > core.n_latents:
        raise InputError(f"{new} latents cannot be copied from a core of {core.n_latents}: lower n_latents")
    fired = (core.encode(x) != 0).sum(0)
    chosen = fired.sort(descending=True, stable=True).indices[:new]
    rows = core.W_dec[chosen]
    noise = torch.randn(rows.shape, generator=drawn).to(rows)
    rows = rows + NOISE * noise * rows.norm(dim=1, keepdim=True) / rows.shape[1] ** 0.5
    encoder = _dense(core)
    return encoder.weight[chosen], encoder.bias[chosen], rows
