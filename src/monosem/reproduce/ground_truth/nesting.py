"""G5: what nested objectives do to recovery."""

from __future__ import annotations

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import Read, ends_of, own_ev, signed, summary
from monosem.reproduce.ground_truth.arm import NESTED, hard
from monosem.reproduce.ground_truth.overview import figure, recovered
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import LEAST_SEEDS, Interval, Verdict, every, interval

SAME = 0.01
READS: dict[str, Read] = {"recovered": recovered, "EV": own_ev, "F1": figure("f1")}


def arms(scale: Scale) -> list[Arm]:
    """Nested objectives and the plain one, equal otherwise."""
    return [hard(name, scale) for name in dict.fromkeys([*NESTED, *NESTED.values()])]


def changed(found: Interval) -> Verdict:
    """The claim, in either direction, that a difference exceeds 0.01: contradicted if it lies within."""
    if len(found.values) < LEAST_SEEDS:
        return "undecided"
    if found.low > SAME or found.high < -SAME:
        return "confirmed"
    return "contradicted" if found.low > -SAME and found.high < SAME else "undecided"


def judge(evidence: Evidence) -> Finding:
    """Every nested objective against its plain one."""
    pairs = {
        label: {name: interval(evidence.paired(name, plain, read)) for name, plain in NESTED.items()}
        for label, read in READS.items()
    }
    found = pairs["recovered"]
    rows = [
        [f"{name} − {plain}", *(" ".join(signed(several[name])) for several in pairs.values()), changed(found[name])]
        for name, plain in NESTED.items()
    ]
    return Finding(
        every(changed(one) for one in found.values()),
        ends_of(min(found.values(), key=lambda one: abs(one.mean))),
        {name: {"verdict": changed(one), **summary(one)} for name, one in found.items()},
        {name: summary(one) for name, one in pairs["EV"].items()},
        [Table("Nested minus plain: mean and 95 % interval", ["", *READS, ""], rows)],
        note="The interval is that of the difference nearest to zero.",
    )


CLAIM = Claim(
    "G5",
    "Nested objectives change which features are recovered, at equal k",
    "Share of all features recovered with the hierarchical and the Matryoshka loss minus that with plain "
    "reconstruction, for the same encoder and rule. Either direction: confirmed if every difference is beyond ±0.01, "
    "contradicted if any lies within.",
    judge,
    arms=arms,
)
