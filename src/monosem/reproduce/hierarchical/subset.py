"""B6: fewer or unequal budgets."""

from __future__ import annotations

from collections.abc import Sequence

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding, Plot, Table
from monosem.reproduce.figure import band, ends_of, ev, mean, signed, worst
from monosem.reproduce.hierarchical.arm import HIERARCHICAL, subsets
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Interval, Verdict, above, every, interval

NEARLY = -0.005
"""EV that fewer budgets may cost."""


def subset_arms(scale: Scale) -> list[Arm]:
    """All budgets, and each choice of fewer or unequal ones."""
    return [HIERARCHICAL, *subsets(scale).values()]


def subset(evidence: Evidence) -> Finding:
    """Differences to all budgets, at every k."""
    every_k = range(1, evidence.scale.k + 1)
    found = {
        label: [interval(evidence.paired(arm.name, "hierarchical", ev(k))) for k in every_k]
        for label, arm in subsets(evidence.scale).items()
    }
    verdicts: dict[str, Verdict] = {
        label: every(above(one.values, NEARLY) for one in several) for label, several in found.items()
    }
    return Finding(
        every(verdicts.values()),
        ends_of(worst([one for several in found.values() for one in several])),
        {
            label: {"verdict": verdicts[label], "difference": {str(k): found[label][k - 1].mean for k in every_k}}
            for label in found
        },
        {"full": {str(k): mean(evidence, "hierarchical", ev(k)) for k in every_k}},
        [_subset_summary(found, verdicts), _subset_table(evidence, found)],
        [_subset_plot(every_k, found)],
        "All of these have to be nearly free to confirm; each has a verdict of its own in the table.",
    )


def _subset_summary(found: dict[str, list[Interval]], verdicts: dict[str, Verdict]) -> Table:
    rows = []
    for label, several in found.items():
        lowest = worst(several)
        rows.append([label, verdicts[label], str(several.index(lowest) + 1), *signed(lowest), *signed(several[-1])])
    header = ["budgets", "verdict", "worst k", "difference there", "interval", "at K", "interval"]
    return Table("EV(k) minus that of training on all budgets", header, rows)


def _subset_table(evidence: Evidence, found: dict[str, list[Interval]]) -> Table:
    rows = []
    for k in range(1, evidence.scale.k + 1):
        differences = [f"{several[k - 1].mean:+.4f}" for several in found.values()]
        rows.append([str(k), f"{mean(evidence, 'hierarchical', ev(k)):.4f}", *differences])
    return Table("Every k: EV of all budgets, and differences to it", ["k", "all", *found], rows, True)


def _subset_plot(ks: Sequence[int], found: dict[str, list[Interval]]) -> Plot:
    caption = "EV(k) minus that of the autoencoder trained on all budgets: mean over paired seeds and 95 % interval."
    lines = [band(label, ks, several) for label, several in found.items()]
    return Plot("subsets", "Fewer or unequal budgets", caption, "k", "difference in EV", lines, log_x=True)


CLAIM = Claim(
    "B6",
    "Training on a subset of budgets is nearly free in quality",
    "EV(k) minus that of training on all budgets, at every k up to K, those outside the subset included. A subset "
    "is nearly free if the difference is above −0.005 at every k.",
    subset,
    arms=subset_arms,
)
