"""C7 and its proxies: whether a latent says one thing. A judge is needed to know; token entropy is measured instead."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.interpret.entropy import chance_entropy, unit_entropy
from monosem.reproduce.arm import Arm, Measured
from monosem.reproduce.claim import Claim, Evidence, Finding, Table, only
from monosem.reproduce.data import Data
from monosem.reproduce.figure import Read, ends_of, mean, signed, summary
from monosem.reproduce.kronsae.arm import COARSE, FINE, TOPK, is_one, kron
from monosem.reproduce.measure import BATCH
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import above, below, every, interval
from monosem.sae import SAE, KronEncoder

LEAST = 16
"""Units active on fewer tokens are left out: their entropy is small whatever they mean."""
ARMS = (kron(*FINE), kron(*COARSE))

Activations = Callable[[Float[Tensor, "B D"]], Float[Tensor, "B U"]]


@torch.no_grad()
def entropy(sae: SAE, data: Data, scale: Scale) -> Measured:
    """`token_entropy` of post-latents and of pre-latents: mean over units, in bits, and how far below chance."""
    if data.tokens is None or not is_one(sae, scale, (TOPK, *ARMS)):
        return {}
    types = data.tokens.to(data.held_out.device).unique(return_inverse=True)[1]
    units: dict[str, Activations] = {"post": sae.encode}
    if isinstance(sae.encoder, KronEncoder):
        units["pre"] = lambda x: torch.cat([part.flatten(1) for part in sae.pre_latents(x)], dim=1)
    chance = chance_entropy(types)
    return {
        "token_entropy": {name: specificity(counts(of, data.held_out, types), chance) for name, of in units.items()}
    }


def counts(of: Activations, x: Float[Tensor, "N D"], types: Int[Tensor, " N"]) -> Float[Tensor, "V U"]:
    """On how many tokens of each type each unit is active."""
    total = None
    for part, kinds in zip(x.split(BATCH), types.split(BATCH), strict=True):
        active = (of(part) > 0).float()
        if total is None:
            total = active.new_zeros(int(types.max()) + 1, active.shape[1])
        total.index_add_(0, kinds, active)
    assert total is not None
    return total


def specificity(counted: Float[Tensor, "V U"], chance: tuple[np.ndarray, np.ndarray]) -> Measured:
    """Means over units active on at least 16 tokens: `entropy`; `below_chance`, the same against random tokens."""
    bits, total = unit_entropy(counted), counted.sum(0)
    kept = total >= LEAST
    if not bool(kept.any()):
        return {"entropy": 0.0, "below_chance": 0.0, "units": 0, "active": 0.0}
    expected = np.interp(total[kept].log2().cpu().numpy(), *chance)
    own = bits[kept].cpu().numpy()
    return {
        "entropy": round(float(own.mean()), 6),
        "below_chance": round(float((expected - own).mean()), 6),
        "units": int(kept.sum()),
        "active": round(float(total[kept].double().mean()), 3),
    }


def of(kind: str, figure: str = "entropy") -> Read:
    """A figure of post- or pre-latents."""
    return lambda found: found["token_entropy"][kind][figure]


def own_parents(evidence: Evidence, name: str, figure: str) -> list[float]:
    """Post-latents minus pre-latents of the same autoencoder, by seed."""
    return evidence.values(name, lambda found: of("post", figure)(found) - of("pre", figure)(found))


def against_topk(evidence: Evidence, name: str, figure: str) -> list[float]:
    """Post-latents minus TopK's latents, by seed."""
    return evidence.paired(name, TOPK.name, of("post", figure))


def judge(differences: Callable[[Evidence, str, str], list[float]]) -> Callable[[Evidence], Finding]:
    """Lower entropy in both shapes; the control compares units with as many random tokens."""

    def judged(evidence: Evidence) -> Finding:
        found = {arm.name: interval(differences(evidence, arm.name, "entropy")) for arm in ARMS}
        control = {arm.name: interval(differences(evidence, arm.name, "below_chance")) for arm in ARMS}
        rows = [[name, *signed(one), below(one.values)] for name, one in found.items()]
        rows += [[f"{name}, below chance", *signed(one), above(one.values)] for name, one in control.items()]
        return Finding(
            every(below(one.values) for one in found.values()),
            ends_of(max(found.values(), key=lambda one: one.high)),
            {name: summary(one) for name, one in found.items()},
            {
                "below_chance": {name: summary(one) for name, one in control.items()},
                "verdict_below_chance": every(above(one.values) for one in control.values()),
            },
            [_table(evidence), Table("Differences, bits", ["arm", "mean", "95 % interval", ""], rows)],
            note="A proxy, not interpretability. A unit that fires often has a high entropy whatever it means: "
            "“below chance” is the entropy of as many random tokens minus its own.",
        )

    return judged


def _table(evidence: Evidence) -> Table:
    rows = []
    for arm in (TOPK, *ARMS):
        for kind in ("post", "pre")[: 1 if arm is TOPK else 2]:
            figures = [mean(evidence, arm.name, of(kind, figure)) for figure in ("entropy", "below_chance", "active")]
            rows.append([arm.name, f"{kind}-latents", *(f"{value:.3f}" for value in figures)])
    title = f"Units active on at least {LEAST} of {evidence.scale.held_out:,} held-out tokens, means"
    return Table(title, ["arm", "", "token entropy, bits", "below chance, bits", "active on tokens"], rows)


def arms(scale: Scale) -> list[Arm]:
    """TopK, and Kron in both shapes."""
    return [TOPK, *ARMS]


_WORDS = (
    "Token entropy: −Σ p log₂ p over token types, p a type's share of the tokens a unit is active on, by counts; mean "
)
_WORDS += "over units active on at least 16 held-out tokens. "

CLAIMS = (
    Claim(
        "C7",
        "Post-latents are easier to interpret than pre-latents and than TopK's latents",
        "Detection and fuzzing scores by a judge model.",
        judge(against_topk),
        untestable=lambda scale: "needs a judge model; proxies stand under their own names",
    ),
    Claim(
        "C7.pre",
        "A proxy for C7: post-latents are more token-specific than pre-latents",
        _WORDS + "Confirmed if lower for post-latents than for the pre-latents of the same autoencoder (positive where "
        "p or q is), in both shapes.",
        judge(own_parents),
        arms=arms,
        untestable=only("model", "synthetic data have no tokens"),
    ),
    Claim(
        "C7.topk",
        "A proxy for C7: post-latents are more token-specific than TopK's latents",
        _WORDS + "Confirmed if lower for Kron's post-latents than for the latents of a dense TopK, in both shapes.",
        judge(against_topk),
        arms=arms,
        untestable=only("model", "synthetic data have no tokens"),
    ),
)
