"""C1: the gates against each other."""

from __future__ import annotations

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import Read, ends_of, mean, own_ev, signed, summary, worst
from monosem.reproduce.kronsae.arm import COARSE, FINE, kron
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import above, every, interval

GATES = ("mand", "product", "raw", "min")
SHAPES = (FINE, COARSE)
ORDER = (("mand", "product"), ("product", "raw"))
READ: Read = own_ev


def arms(scale: Scale) -> list[Arm]:
    """Every gate in both shapes."""
    return [kron(*shape, gate) for shape in SHAPES for gate in GATES]


def judge(evidence: Evidence) -> Finding:
    """Both gaps in both shapes."""

    def gap(shape: tuple[int, int], better: str, worse: str) -> list[float]:
        return evidence.paired(kron(*shape, better).name, kron(*shape, worse).name, READ)

    found = {
        f"m{m} n{n}: {better} − {worse}": interval(gap((m, n), better, worse))
        for m, n in SHAPES
        for better, worse in ORDER
    }
    least = {f"m{m} n{n}: mand − min": interval(gap((m, n), "mand", "min")) for m, n in SHAPES}
    rows = [[arm.name, f"{mean(evidence, arm.name, READ):.4f}"] for arm in arms(evidence.scale)]
    gaps = [[label, *signed(one), above(one.values)] for label, one in (found | least).items()]
    return Finding(
        every(above(one.values) for one in found.values()),
        ends_of(worst(list(found.values()))),
        {label: summary(one) for label, one in found.items()},
        {label: summary(one) for label, one in least.items()},
        [
            Table("EV by gate, means over seeds", ["arm", "EV"], rows),
            Table("Gaps", ["", "mean", "95 % interval", ""], gaps),
        ],
        note="The interval is that of the smallest gap. Every gate has a learning rate of its own from the same grid.",
    )


CLAIM = Claim(
    "C1",
    "mAND explains more than a product of ReLUs, and that more than a raw product",
    "EV of Kron × TopK with the gates √u·√v, relu(u)·relu(v) and u·v at equal tokens, for (m, n) = (2, 4) and "
    "(4, 8). Confirmed if both gaps are positive for both shapes, contradicted if any is negative. Control: "
    "min(relu u, relu v).",
    judge,
    arms=arms,
)
