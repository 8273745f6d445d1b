"""C9: a core and its residuals as one plain autoencoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.boost import kept, price
from monosem.reproduce.boost.arm import BOOST
from monosem.reproduce.boost.experiment import experiment
from monosem.reproduce.boost.ground import DRAWN
from monosem.reproduce.boost.threshold import last
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Verdict
from monosem.sae import SAE, BatchTopK, DenseEncoder, KronEncoder, boosted, groups, stitch

LIMITS = {"float64": 1e-10, "float32": 1e-5}
VISIBLE = 1e-3
TOKENS, RANDOM_D, RANDOM_F, RANDOM_M = 4096, 64, 256, 64


def run(scale: Scale, seed: int | None) -> Measured:
    """Relative differences of the stitched autoencoder from its parts, by precision; and those of a joint rule."""
    core, residual, x = random_parts(0) if scale.data == DRAWN else _trained(scale)
    return {"latents": core.n_latents + residual.n_latents, "tokens": len(x), **differences(core, residual, x)}


def _trained(scale: Scale) -> tuple[SAE, SAE, Float[Tensor, "N D"]]:
    one = experiment(scale, scale.seeds[0], scale.extra["domains"][0])
    residual = alone(one.load(one.residual()))
    return one.core, residual, one.text.held_out.acts[:TOKENS].to(one.here.device)


@torch.no_grad()
def alone(both: SAE) -> SAE:
    """A copy of the last residual of a sum as an autoencoder of its own, without a decoder bias."""
    new = copy.deepcopy(last(both))
    assert isinstance(new.encoder, (DenseEncoder, KronEncoder))
    if new.centre is not None:
        new.encoder.bias.sub_(new.encoder.weight @ new.centre)
    new.subtract_b_dec = False
    new.W_dec.copy_(both.W_dec[groups(both)[-1].latents])
    new.b_dec.zero_()
    return new.requires_grad_(False)


def random_parts(seed: int) -> tuple[SAE, SAE, Float[Tensor, "N D"]]:
    """A core whose encoder centres and a residual of another scale, their weights random; and activations."""
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(TOKENS, RANDOM_D, generator=generator) + torch.randn(RANDOM_D, generator=generator)
    parts = []
    for latents, k, size in ((RANDOM_F, 20, 1.0), (RANDOM_M, 5, 0.3)):
        sae = SAE(DenseEncoder(RANDOM_D, latents), BatchTopK(latents, k), subtract_b_dec=size == 1)
        sae.initialise(size * x, generator)
        with torch.no_grad():
            sae.codes(x)  # sets the threshold
        parts.append(sae.eval().requires_grad_(False))
    core, residual = parts
    residual.b_dec.zero_()
    return core, residual, x


@torch.no_grad()
def differences(core: SAE, residual: SAE, x: Float[Tensor, "N D"]) -> dict[str, float]:
    """‖one(x) − both(x)‖ / ‖both(x)‖ of the stitched autoencoder, and of one BatchTopK over all latents of a batch.

    In float64 `both` is core(x) + residual(x); in float32, where a change of units rounds weights, their sum.
    """
    exact = [part.to(torch.float64) for part in copy.deepcopy((core, residual))]
    one, acts = stitch(boosted(exact[0], {"residual": exact[1]})), x.double()
    found = {"float64": _relative(one(acts), exact[0](acts) + exact[1](acts))}
    both = boosted(core, {"residual": residual})
    found["float32"] = _relative(stitch(both)(x), both(x))
    joint = stitch(both)
    joint.rule = BatchTopK(both.n_latents, sum(rule.k for rule in both.rules if isinstance(rule, BatchTopK)))
    return {**found, "joint": _relative(joint.train()(x), both(x))}


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def verdict(found: Mapping[str, float]) -> Verdict:
    """Every precision within its limit, and a joint rule outside of any."""
    if any(found[precision] > limit for precision, limit in LIMITS.items()):
        return "contradicted"
    return "confirmed" if found["joint"] > VISIBLE else "undecided"


def judge(evidence: Evidence) -> Finding:
    """C9."""
    found = evidence.measured("stitch")
    rows = [[f"stitched, {precision}", f"{found[precision]:.1e}", f"{limit:g}"] for precision, limit in LIMITS.items()]
    rows.append(["one BatchTopK over all latents", f"{found['joint']:.1e}", f"above {VISIBLE:g}"])
    weights = "random" if evidence.scale.data == DRAWN else "trained"
    title = (
        f"{weights.capitalize()} weights, {found['latents']:,} latents, {found['tokens']:,} tokens: relative difference"
    )
    return Finding(
        verdict(found),
        None,
        {precision: found[precision] for precision in LIMITS},
        {"joint": found["joint"]},
        [Table(title, ["", "difference", "limit"], rows)],
    )


def predict(scale: Scale) -> float:
    """Seconds: training counts where the weights are trained."""
    return 1.0 if scale.data == DRAWN else price.trial(scale, [BOOST], read=1)


def settings(scale: Scale) -> dict[str, Any]:
    """What decides it."""
    own = {} if scale.data == DRAWN else {**kept.shared(scale), "seed_of_core": scale.seeds[0]}
    return {"trial": "stitch", "tokens_compared": TOKENS, "with": "parts", "ground": scale.data, **own}


CLAIM = Claim(
    "C9",
    "Core and residuals are one plain autoencoder",
    "Relative difference of the stitched autoencoder's outputs from those of core and residual added up; beside it, "
    f"one BatchTopK over all latents with the sum of both k. Confirmed if within {LIMITS['float64']:g} in float64 and "
    f"{LIMITS['float32']:g} in float32 while the joint rule differs by more than {VISIBLE:g}, contradicted otherwise.",
    judge,
    kind="identity",
    trials=lambda scale: [Trial("stitch", run, predict, settings, seeded=False)],
)
