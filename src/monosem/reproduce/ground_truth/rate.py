"""G4: frequent features are recovered first."""

from __future__ import annotations

from monosem.reproduce.arm import Arm, Measured
from monosem.reproduce.claim import Claim, Evidence, Finding, Plot, Table
from monosem.reproduce.figure import Read, band, ends_of, mean, summary, worst
from monosem.reproduce.ground_truth.arm import KINDS, RULES, control, hard
from monosem.reproduce.ground_truth.recovery import GROUPS
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import above, every, interval

SHOWN = ("topk", "batch_topk", "jumprelu", "matryoshka", "kron", control("topk", "soft_frozen_decoder"))


def arms(scale: Scale) -> list[Arm]:
    """Every kind, and the control that is drawn beside them."""
    return [hard(name, scale) for name in (*KINDS, SHOWN[-1])]


def fall(found: Measured) -> float:
    """Share recovered of the most frequent half of the features minus that of the other half."""
    shares = found["by_rate"]
    return (sum(shares[: GROUPS // 2]) - sum(shares[GROUPS // 2 :])) / (GROUPS // 2)


def judge(evidence: Evidence) -> Finding:
    """The four rules decide."""
    found = {name: interval(evidence.values(name, fall)) for name in KINDS}
    deciding = [found[name] for name in RULES]
    return Finding(
        every(above(one.values) for one in deciding),
        ends_of(worst(deciding)),
        {name: summary(one) for name, one in found.items()},
        {SHOWN[-1]: mean(evidence, SHOWN[-1], fall)},
        [_table(evidence)],
        [_plot(evidence)],
        "The interval is that of the rule with the smallest difference.",
    )


def _tenth(place: int) -> Read:
    return lambda found: found["by_rate"][place]


def _table(evidence: Evidence) -> Table:
    names = (*KINDS, SHOWN[-1])
    rows = [[name, *(f"{mean(evidence, name, _tenth(place)):.3f}" for place in range(GROUPS))] for name in names]
    title = "Share recovered of each tenth of the features, the most frequent tenth first; means over seeds"
    return Table(title, ["arm", *map(str, range(1, GROUPS + 1))], rows)


def _plot(evidence: Evidence) -> Plot:
    tenths = [float(place + 1) for place in range(GROUPS)]
    lines = [
        band(
            name,
            tenths,
            [interval(evidence.values(name, _tenth(place))) for place in range(GROUPS)],
            dashed=name == SHOWN[-1],
        )
        for name in SHOWN
    ]
    caption = "Tenths of the features by rate, the most frequent first. Mean over seeds and 95 % interval."
    return Plot("rate", "Recovery by rate", caption, "tenth of the features by rate", "share recovered", lines)


CLAIM = Claim(
    "G4",
    "Frequent features are recovered first",
    "Share recovered of the more frequent half of the features minus that of the other half, on the hard world. "
    "Confirmed if positive for TopK, BatchTopK, JumpReLU and ReLU, contradicted if negative for one.",
    judge,
    arms=arms,
)
