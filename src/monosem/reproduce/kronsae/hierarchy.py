"""C9: the Kronecker encoder with the loss over all budgets (unpublished)."""

from __future__ import annotations

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding, Plot, Table
from monosem.reproduce.figure import band, ends_of, ev, mean, signed, summary, worst
from monosem.reproduce.kronsae.arm import COARSE, FINE, HIERARCHICAL, TOPK, hierarchical, kron, on_tree
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Interval, above, every, interval

SHAPES = (FINE, COARSE)
CLASH = -0.005
TREE_K = 6
ARMS = (TOPK, HIERARCHICAL, *(make(*shape) for shape in SHAPES for make in (kron, hierarchical)))
"""{TopK, Kron} × {TopK loss, loss over all budgets}, Kron in two shapes."""
TREES = tuple(on_tree(arm, TREE_K) for arm in ARMS)


def arms(scale: Scale) -> list[Arm]:
    """The 2 × 2 on the data of the scale, and on features with children."""
    return [*ARMS, *TREES]


def interaction(evidence: Evidence, shape: tuple[int, int], k: int) -> Interval:
    """What Kron gains from the loss minus what TopK gains from it, in EV at k."""
    ours = evidence.paired(hierarchical(*shape).name, kron(*shape).name, ev(k))
    theirs = evidence.paired(HIERARCHICAL.name, TOPK.name, ev(k))
    return interval([a - b for a, b in zip(ours, theirs, strict=True)])


def judge(evidence: Evidence) -> Finding:
    """The interaction at every k."""
    ks = range(1, evidence.scale.k + 1)
    found = {shape: [interaction(evidence, shape, k) for k in ks] for shape in SHAPES}
    verdicts = {shape: every(above(one.values, CLASH) for one in several) for shape, several in found.items()}
    lowest = {shape: worst(several) for shape, several in found.items()}
    return Finding(
        every(verdicts.values()),
        ends_of(worst(list(lowest.values()))),
        {
            f"m{m} n{n}": {
                "verdict": verdicts[m, n],
                "lowest": summary(lowest[m, n]),
                "by_k": [round(one.mean, 6) for one in found[m, n]],
            }
            for m, n in SHAPES
        },
        {"absorption": {arm.name: mean(evidence, arm.name, lambda one: one["absorption"]) for arm in TREES}},
        [_table(evidence, found), _absorption(evidence)],
        [_plot(evidence), _interaction_plot(found)],
        "Equal tokens. The interval is that of the lowest interaction over k and shapes.",
    )


def _table(evidence: Evidence, found: dict[tuple[int, int], list[Interval]]) -> Table:
    names = [arm.name for arm in ARMS]
    rows = []
    for k in range(1, evidence.scale.k + 1):
        values = [f"{mean(evidence, name, ev(k)):.4f}" for name in names]
        rows.append([str(k), *values, *(" ".join(signed(found[shape][k - 1])) for shape in SHAPES)])
    header = ["k", *names, *(f"interaction m{m} n{n}" for m, n in SHAPES)]
    return Table("EV(k) at every k, means over seeds", header, rows, folded=True)


def _absorption(evidence: Evidence) -> Table:
    rows = [[arm.name, f"{mean(evidence, arm.name, lambda one: one['absorption']):.4f}"] for arm in TREES]
    return Table("Absorption on synthetic features with children, as in C4", ["arm", "silent"], rows)


def _plot(evidence: Evidence) -> Plot:
    ks = [float(k) for k in range(1, evidence.scale.k + 1)]
    lines = [
        band(
            arm.name,
            ks,
            [interval(evidence.values(arm.name, ev(int(k)))) for k in ks],
            dashed=arm in (TOPK, *(kron(*shape) for shape in SHAPES)),
        )
        for arm in ARMS
    ]
    caption = "Mean over seeds and 95 % interval; dashed: trained at the largest k alone."
    return Plot("hierarchy", "Kron with the loss over all budgets", caption, "k", "EV", lines, log_x=True)


def _interaction_plot(found: dict[tuple[int, int], list[Interval]]) -> Plot:
    lines = [
        band(f"m{m} n{n}", [float(k) for k in range(1, len(several) + 1)], several) for (m, n), several in found.items()
    ]
    caption = "What Kron gains from the loss minus what TopK gains, in EV; below −0.005 they clash."
    return Plot("interaction", "Interaction", caption, "k", "EV", lines, log_x=True)


CLAIM = Claim(
    "C9",
    "Kron and the hierarchical loss compose (unpublished)",
    "{TopK, Kron} × {TopK loss, loss over all budgets} at equal tokens. Interaction at k: what Kron gains in EV(k) "
    "from the loss minus what TopK gains. Confirmed if at least −0.005 at every k for both shapes, contradicted if "
    "below at any.",
    judge,
    arms=arms,
)
