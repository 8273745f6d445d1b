"""C4: absorption, where a child's latent takes over what its parent's should say."""

from __future__ import annotations

import numpy as np

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import ends_of, mean, own_ev, signed, summary
from monosem.reproduce.kronsae.arm import COARSE, FINE, TOPK, kron, on_tree
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Interval, below, every, interval

BUDGETS = (4, 6)
"""Below and above the mean number of features in a token, 4.8."""
CONTROLS = (3, 4, 5, 6, 8, 10)
"""Budgets of TopK, between which its absorption at another EV is read off."""
KRONS = (kron(*FINE), kron(*COARSE))


def arms(scale: Scale) -> list[Arm]:
    """TopK at every control budget, Kron at those of the claim."""
    return [on_tree(TOPK, k) for k in CONTROLS] + [on_tree(arm, k) for arm in KRONS for k in BUDGETS]


def silent(found: dict) -> float:
    """Absorption as measured on labelled tokens."""
    return found["absorption"]


def at_equal_ev(evidence: Evidence, arm: Arm) -> list[float]:
    """Absorption minus that of TopK at the same EV, by seed, on straight lines between TopK's budgets."""
    differences = []
    for seed in evidence.scale.seeds:
        ours = evidence.measured(arm.name, seed)
        controls = [evidence.measured(on_tree(TOPK, k).name, seed) for k in CONTROLS]
        controls.sort(key=own_ev)
        theirs = float(np.interp(own_ev(ours), [own_ev(one) for one in controls], [silent(one) for one in controls]))
        differences.append(silent(ours) - theirs)
    return differences


def judge(evidence: Evidence) -> Finding:
    """Every shape and budget, at equal L0 and at equal EV."""
    found: dict[str, Interval] = {}
    for kind in KRONS:
        for k in BUDGETS:
            arm = on_tree(kind, k)
            label = f"{kind.name}, k = {k}"
            found[f"{label}, equal L0"] = interval(evidence.paired(arm.name, on_tree(TOPK, k).name, silent))
            found[f"{label}, equal EV"] = interval(at_equal_ev(evidence, arm))
    return Finding(
        every(below(one.values) for one in found.values()),
        ends_of(max(found.values(), key=lambda one: one.high)),
        {label: {"verdict": below(one.values), **summary(one)} for label, one in found.items()},
        {f"topk, k = {k}": mean(evidence, on_tree(TOPK, k).name, silent) for k in CONTROLS},
        [_shares(evidence), _differences(found)],
        note="The interval is that of the worst comparison. Synthetic features, not the first-letter task.",
    )


def _shares(evidence: Evidence) -> Table:
    keys = ("absorption", "missed", "spurious", "matched")
    rows = []
    for arm in arms(evidence.scale):
        figures = [mean(evidence, arm.name, lambda found, key=key: found[key]) for key in keys]
        rows.append([arm.name, f"{mean(evidence, arm.name, own_ev):.4f}", *(f"{value:.4f}" for value in figures)])
    title = "Share of tokens on which a parent's latent is silent though a child is present (absorption), though the "
    title += "parent is present alone (missed), or active without the parent (spurious); cosine of its decoder row"
    return Table(title, ["arm", "EV", *keys], rows)


def _differences(found: dict[str, Interval]) -> Table:
    rows = [[label, *signed(one), below(one.values)] for label, one in found.items()]
    return Table("Absorption minus TopK's", ["arm", "mean", "95 % interval", ""], rows)


CLAIM = Claim(
    "C4",
    "Less feature absorption than TopK",
    "On synthetic features with children: share of the tokens with a child on which the parent's latent (largest "
    "cosine with its atom) is silent. Kron minus TopK at equal k, and at equal EV (TopK's read off between its "
    "budgets, at the nearest one outside them). Confirmed if lower in all of them, contradicted if higher in any.",
    judge,
    arms=arms,
    untestable=lambda scale: (
        "needs the first-letter task and its probes; small and medium have synthetic features instead"
        if scale.name == "large"
        else None
    ),
)
