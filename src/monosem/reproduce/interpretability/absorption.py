"""I5, I6: first-letter absorption of KronSAE against TopK, at equal L0 and at equal explained variance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from monosem.reproduce.arm import Arm, Measured
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import ends_of, mean, own_ev, signed, summary
from monosem.reproduce.interpretability.arm import krons, topk, topks
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Interval, below, every, interval

KEYS = ("fraction", "full")


def arms(scale: Scale) -> list[Arm]:
    """KronSAE, and TopK at every budget."""
    return [*krons(scale), *topks(scale)]


def fraction(found: Measured) -> float:
    """Mean absorption fraction over letters."""
    return found["absorption"]["fraction"]


def at_equal_l0(evidence: Evidence, arm: Arm) -> list[float]:
    """Minus TopK's at the same k, by seed."""
    return evidence.paired(arm.name, topk(arm.settings["k"]).name, fraction)


def at_equal_ev(evidence: Evidence, arm: Arm) -> list[float]:
    """Minus TopK's at the same EV, by seed, on straight lines between TopK's budgets, the nearest outside them."""
    differences = []
    for seed in evidence.scale.seeds:
        ours = evidence.measured(arm.name, seed)
        theirs = sorted((evidence.measured(one.name, seed) for one in topks(evidence.scale)), key=own_ev)
        read = np.interp(own_ev(ours), [own_ev(one) for one in theirs], [fraction(one) for one in theirs])
        differences.append(fraction(ours) - float(read))
    return differences


def judged(differences: Callable[[Evidence, Arm], list[float]]) -> Callable[[Evidence], Finding]:
    """Lower in every shape and budget; undecided where the probes do not pass their gate."""

    def judge(evidence: Evidence) -> Finding:
        gates = {found["absorption"].get("gate", "") for found in evidence.found.values()} - {""}
        if gates:
            return Finding("undecided", None, {}, {}, note=gates.pop())
        found = {arm.name: interval(differences(evidence, arm)) for arm in krons(evidence.scale)}
        return Finding(
            every(below(one.values) for one in found.values()),
            ends_of(max(found.values(), key=lambda one: one.high)),
            {name: {"verdict": below(one.values), **summary(one)} for name, one in found.items()},
            {one.name: mean(evidence, one.name, fraction) for one in topks(evidence.scale)},
            [_differences(found), _levels(evidence)],
            note="The interval is that of the worst comparison. An autoencoder that has learned nothing is low too.",
        )

    return judge


def _differences(found: dict[str, Interval]) -> Table:
    rows = [[name, *signed(one), below(one.values)] for name, one in found.items()]
    return Table("Absorption fraction minus TopK's", ["arm", "mean", "95 % interval", ""], rows)


def _levels(evidence: Evidence) -> Table:
    rows = []
    for arm in arms(evidence.scale):
        figures = [
            mean(evidence, arm.name, lambda found, key=key: found["absorption"][key]) for key in (*KEYS, "splits")
        ]
        rows.append([arm.name, f"{mean(evidence, arm.name, own_ev):.4f}", *(f"{one:.4f}" for one in figures)])
    return Table("Means over letters and seeds", ["arm", "EV", "absorption", "full", "main latents"], rows)


def wordless(scale: Scale) -> str | None:
    """Nothing is tested where no words are read."""
    return None if scale.extra["words"] else "reading thousands of words is left to larger scales"


_DEFINITION = (
    "First letters of words of one token, definitions of SAEBench 0.6 (arXiv 2409.14507, 2503.09532): how much of a "
    "letter's direction other latents take over from the latents of the letter; mean over letters whose linear probe "
    "has F1 > 0.6, at least 20. "
)
CLAIMS = (
    Claim(
        "I5",
        "KronSAE absorbs less than TopK at equal L0",
        f"{_DEFINITION}Kron minus TopK at equal k. Confirmed if lower for every shape and k.",
        judged(at_equal_l0),
        arms=arms,
        untestable=wordless,
    ),
    Claim(
        "I6",
        "KronSAE absorbs less than TopK at equal explained variance",
        f"{_DEFINITION}Kron minus what TopK has at the same EV, read off between its budgets. Confirmed if lower for "
        "every shape and k.",
        judged(at_equal_ev),
        arms=arms,
        untestable=wordless,
    ),
)
