"""I3, I4: whether KronSAE's latents are easier to read than TopK's, and than the rows that they are made of."""

from __future__ import annotations

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Evidence, Finding, Table
from monosem.reproduce.figure import Read, ends_of, mean, signed, summary, worst
from monosem.reproduce.interpretability.arm import kron_budgets, krons, topk
from monosem.reproduce.interpretability.kind import Kind, claims, score
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Interval, above, every, interval


def arms(scale: Scale) -> list[Arm]:
    """KronSAE in every shape at every budget, and TopK at these."""
    return [*krons(scale), *(topk(k) for k in kron_budgets(scale))]


def against_topk(evidence: Evidence, kind: Kind) -> Finding:
    """Post-latents minus TopK's latents at equal k."""
    found = {
        (arm.name, key): interval(evidence.paired(arm.name, f"topk_{_k(arm)}", score(_k(arm), key)))
        for arm in krons(evidence.scale)
        for key in kind.keys
    }
    control = {
        f"topk_{k}, {key}": mean(evidence, f"topk_{k}", score(str(k), key))
        for k in kron_budgets(evidence.scale)
        for key in kind.keys
    }
    return _finding(evidence, kind, found, control, arms(evidence.scale))


def against_parents(evidence: Evidence, kind: Kind) -> Finding:
    """Post-latents minus pre-latents of the same autoencoder."""
    found = {
        (arm.name, key): interval(evidence.values(arm.name, _over_parents(arm, key)))
        for arm in krons(evidence.scale)
        for key in kind.keys
    }
    control = {f"{name}, pre, {key}": mean(evidence, name, score("pre", key)) for name, key in found}
    return _finding(evidence, kind, found, control, krons(evidence.scale))


def _over_parents(arm: Arm, key: str) -> Read:
    return lambda found: score(_k(arm), key)(found) - score("pre", key)(found)


def _k(arm: Arm) -> str:
    return str(arm.settings["k"])


def _finding(
    evidence: Evidence,
    kind: Kind,
    found: dict[tuple[str, str], Interval],
    control: dict[str, float],
    shown: list[Arm],
) -> Finding:
    rows = [[name, key, *signed(one), above(one.values)] for (name, key), one in found.items()]
    return Finding(
        every(above(one.values) for one in found.values()),
        ends_of(worst(list(found.values()))),
        {f"{name}, {key}": summary(one) for (name, key), one in found.items()},
        control,
        [
            Table("Differences", ["arm", "score", "mean", "95 % interval", ""], rows),
            *(_levels(evidence, key, shown) for key in kind.keys),
        ],
        note="The interval is that of the comparison that reaches lowest.",
    )


def _levels(evidence: Evidence, key: str, shown: list[Arm]) -> Table:
    rows = []
    for arm in shown:
        for unit in (_k(arm), "pre")[: 1 if arm.sae == "topk" else 2]:
            kept = [score(unit, one) for one in (key, "features", "alive")]
            level, *counts = (mean(evidence, arm.name, one) for one in kept)
            name = {"pre": "pre-latents"}.get(unit, "latents")
            rows.append([arm.name, name, f"{level:.4f}", *(f"{one:,.0f}" for one in counts)])
    return Table(f"{key}, means over seeds", ["arm", "units", key, "units drawn", "units that fire"], rows)


CLAIMS = (
    *claims(
        "I3",
        "KronSAE's post-latents are more interpretable than TopK's latents",
        "Post-latents minus a TopK's latents at equal k. Confirmed if higher for every shape and k.",
        against_topk,
        arms,
    ),
    *claims(
        "I4",
        "KronSAE's post-latents are more interpretable than its pre-latents",
        "Post-latents minus the pre-latents of the same autoencoder (units p and q, active where a "
        "latent that is selected is made of them). Confirmed if higher for every shape and k.",
        against_parents,
        krons,
    ),
)
