"""C6: whether latents of one head fire together more than latents of different heads, before and after training."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.reproduce.arm import Arm, Measured
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.data import Data
from monosem.reproduce.figure import Read, ends_of, mean, signed, summary, worst
from monosem.reproduce.kronsae.arm import COARSE, FINE, is_one, kron
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import above, every, interval
from monosem.sae import SAE, KronEncoder
from monosem.training import TrainConfig
from monosem.training.recipe import make

TOKENS = 4_096
ARMS = (kron(*FINE), kron(*COARSE))
KINDS = {"selected": "after TopK", "products": "before TopK"}


@torch.no_grad()
def correlation(sae: SAE, data: Data, scale: Scale) -> Measured:
    """`correlation`: mean Pearson correlation of a latent with its head and with the others, before and after."""
    if not is_one(sae, scale, ARMS):
        return {}
    config = TrainConfig.from_dict(sae.info["training"]["config"])
    x = data.held_out[:TOKENS]
    fresh, _ = make(config.sae[0], config, x)
    both = {"before": fresh.to(x.device).eval(), "after": sae}
    return {"correlation": {when: _kinds(one, x) for when, one in both.items()}}


def _kinds(sae: SAE, x: Float[Tensor, "N D"]) -> dict[str, dict[str, float]]:
    assert isinstance(sae.encoder, KronEncoder)
    heads = sae.encoder.shape.heads
    return {
        "selected": within_and_between(sae.encode(x), heads),
        "products": within_and_between(sae.pre_acts(x), heads),
    }


def within_and_between(latents: Float[Tensor, "N F"], heads: int) -> dict[str, float]:
    """Mean correlation over ordered pairs i ≠ j of one head, and of two; latents that do not vary are left out.

    With z standardised, the sum over all pairs of a set is E(Σ z)² − its size: no F × F matrix is made.
    """
    z = latents.double() - latents.double().mean(0)
    deviation = z.square().mean(0).sqrt()
    varies = deviation > 0
    z = torch.where(varies, z / torch.where(varies, deviation, 1.0), 0.0)
    counts = varies.reshape(heads, -1).sum(1).double()
    sums = z.reshape(len(z), heads, -1).sum(2)
    inside = float((sums.square().mean(0) - counts).sum())
    overall = float(sums.sum(1).square().mean() - counts.sum())
    pairs = float((counts * (counts - 1)).sum())
    others = float(counts.sum() ** 2 - counts.square().sum())
    return {
        "within": round(inside / max(pairs, 1.0), 8),
        "between": round((overall - inside) / max(others, 1.0), 8),
    }


def gap(when: str, kind: str) -> Read:
    """Within-head minus between-head correlation."""
    return lambda found: found["correlation"][when][kind]["within"] - found["correlation"][when][kind]["between"]


def growth(kind: str) -> Read:
    """How much that difference is larger after training than before."""
    return lambda found: gap("after", kind)(found) - gap("before", kind)(found)


def judge(evidence: Evidence) -> Finding:
    """After TopK decides; before it is the control."""
    kinds = {
        kind: {
            f"{arm.name}: {word}": interval(evidence.values(arm.name, read))
            for arm in ARMS
            for word, read in (("within − between", gap("after", kind)), ("growth", growth(kind)))
        }
        for kind in KINDS
    }
    verdicts = {kind: every(above(one.values) for one in found.values()) for kind, found in kinds.items()}
    return Finding(
        verdicts["selected"],
        ends_of(worst(list(kinds["selected"].values()))),
        {label: summary(one) for label, one in kinds["selected"].items()},
        {"products": {label: summary(one) for label, one in kinds["products"].items()}} | {"verdicts": verdicts},
        [_means(evidence), *(_gaps(KINDS[kind], found) for kind, found in kinds.items())],
        note=f"On {min(TOKENS, evidence.scale.held_out):,} held-out tokens. Before TopK latents of a head share their "
        "parents, so they are correlated whatever was learned.",
    )


def _means(evidence: Evidence) -> Table:
    rows = []
    for arm in ARMS:
        for when in ("before", "after"):
            for kind, words in KINDS.items():
                values = [
                    mean(evidence, arm.name, lambda found, key=key: found["correlation"][when][kind][key])  # noqa: B023
                    for key in ("within", "between")
                ]
                rows.append([arm.name, f"{when} training", words, *(f"{value:+.5f}" for value in values)])
    return Table("Mean correlation of latents, means over seeds", ["arm", "", "", "one head", "two heads"], rows)


def _gaps(words: str, found: dict) -> Table:
    rows = [[label, *signed(one), above(one.values)] for label, one in found.items()]
    return Table(f"Differences of these, {words}", ["arm", "mean", "95 % interval", ""], rows)


def arms(scale: Scale) -> list[Arm]:
    """Kron in both shapes."""
    return list(ARMS)


CLAIM = Claim(
    "C6",
    "Latents of one head are correlated more than latents of different heads, and training makes it more so",
    "Mean Pearson correlation, over held-out tokens, of a latent's activations after TopK with those of its own head "
    "and of all others. Confirmed if within minus between is positive after training and larger than before it "
    "(the same start, untrained), contradicted if either is negative. Before TopK: control.",
    judge,
    arms=arms,
)
