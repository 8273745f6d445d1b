"""G1: much variance explained, few features recovered."""

from __future__ import annotations

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding
from monosem.reproduce.figure import ends_of, mean, own_ev, summary
from monosem.reproduce.ground_truth.arm import CONTROLLED, KINDS, PCA, controls, hard
from monosem.reproduce.ground_truth.overview import of_frequent, recovered, scatter, table
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import above, below, every, interval

HALF = 0.5
NAMES = (*KINDS, *(name for kind in CONTROLLED for name in controls(kind)), PCA)
PUBLISHED = {"explained_variance": 0.71, "recovered": 0.09}
"""The abstract of arXiv 2602.14111, on data of its own."""


def arms(scale: Scale) -> list[Arm]:
    """Every kind and every control."""
    return [hard(name, scale) for name in NAMES]


def judge(evidence: Evidence) -> Finding:
    """TopK decides; all others are beside it."""
    explained = interval(evidence.values("topk", own_ev))
    held = interval(evidence.values("topk", of_frequent))
    share = mean(evidence, "topk", recovered)
    return Finding(
        every([above(explained.values, HALF), below(held.values, HALF)]),
        ends_of(held),
        {"explained_variance": summary(explained), "of_frequent": summary(held), "recovered": share},
        {"published": PUBLISHED, **{name: mean(evidence, name, recovered) for name in NAMES}},
        [table(evidence, NAMES)],
        [scatter(evidence, NAMES)],
        f"TopK explains {explained.mean:.3f} of the variance and recovers {share:.3f} of all features; the paper has "
        "0.71 and 0.09 on data of its own. The interval is that of the share of the most frequent features.",
    )


CLAIM = Claim(
    "G1",
    "Most variance explained, less than half of the features a dictionary could hold recovered",
    "TopK on the hard world. Confirmed if EV is above 0.5 and, of as many of the most frequent features as there are "
    "latents, less than 0.5 are recovered; contradicted if either is on the other side. Every kind and control is in "
    "the table.",
    judge,
    arms=arms,
)
