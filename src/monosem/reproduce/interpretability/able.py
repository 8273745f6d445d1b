"""I0: what the scores can tell at all: a trained autoencoder beside one that learned nothing, or half."""

from __future__ import annotations

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Evidence, Finding, Table
from monosem.reproduce.figure import ends_of, mean, signed, summary, worst
from monosem.reproduce.interpretability.arm import controls, kron_budgets, topk
from monosem.reproduce.interpretability.kind import Kind, claims, score
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import above, every, interval


def arms(scale: Scale) -> list[Arm]:
    """TopK at the last budget of KronSAE, and its controls."""
    return [_trained(scale), *controls(scale)]


def _trained(scale: Scale) -> Arm:
    return topk(kron_budgets(scale)[-1])


def judge(evidence: Evidence, kind: Kind) -> Finding:
    """Trained minus each control."""
    trained, others = _trained(evidence.scale), controls(evidence.scale)
    unit = str(trained.settings["k"])
    found = {
        (other.name, key): interval(evidence.paired(trained.name, other.name, score(unit, key)))
        for other in others
        for key in kind.keys
    }
    rows = [[f"trained − {name}", key, *signed(one), above(one.values)] for (name, key), one in found.items()]
    levels = [
        [one.name, key, f"{mean(evidence, one.name, score(unit, key)):.4f}"]
        for one in (trained, *others)
        for key in (*kind.keys, *_shuffled(kind))
    ]
    return Finding(
        every(above(one.values) for one in found.values()),
        ends_of(worst(list(found.values()))),
        {f"{name}, {key}": summary(one) for (name, key), one in found.items()},
        {f"{name}, {key}": float(level) for name, key, level in levels},
        [
            Table("Differences", ["", "score", "mean", "95 % interval", ""], rows),
            Table("Means over seeds; “shuffled” has the contexts of other units", ["arm", "score", ""], levels),
        ],
        note="Where this is not confirmed, the score does not know learned features from others, and the claims that "
        "rest on it say little.",
    )


def _shuffled(kind: Kind) -> list[str]:
    return [f"{key}_shuffled" for key in kind.keys if key != "bits_below_chance"]


CLAIMS = claims(
    "I0",
    "Latents that were learned score higher than those of controls",
    "A trained TopK minus an untrained one, and minus one whose decoder was held. Confirmed if higher than both.",
    judge,
    arms,
)
