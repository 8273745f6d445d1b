"""G6: where recovery is possible, training recovers and controls do not, so the measure can see."""

from __future__ import annotations

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding
from monosem.reproduce.figure import ends_of, summary, worst
from monosem.reproduce.ground_truth.arm import PCA, RULES, controls, easy, easy_name
from monosem.reproduce.ground_truth.overview import recovered, table
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import above, below, every, interval

MOST, HALF = 0.9, 0.5
TRAINED = ("topk", "batch_topk", "jumprelu")
NAMES = (*RULES, *controls("topk"), PCA)


def arms(scale: Scale) -> list[Arm]:
    """The rules, and what did not learn, on the easy world."""
    return [easy(name, scale) for name in NAMES]


def judge(evidence: Evidence) -> Finding:
    """Trained ones above 0.9, controls below 0.5."""
    found = {name: interval(evidence.values(easy_name(name), recovered)) for name in NAMES}
    trained = [found[name] for name in TRAINED]
    others = [found[name] for name in (*controls("topk"), PCA)]
    return Finding(
        every([*(above(one.values, MOST) for one in trained), *(below(one.values, HALF) for one in others)]),
        ends_of(worst(trained)),
        {name: summary(found[name]) for name in RULES},
        {name: summary(found[name]) for name in (*controls("topk"), PCA)},
        [table(evidence, [easy_name(name) for name in NAMES])],
        note="The interval is that of the trained rule that recovers least. ReLU, whose L0 its penalty only steers, is "
        "beside them.",
    )


CLAIM = Claim(
    "G6",
    "Where recovery is possible, training recovers the features and controls do not",
    "Share of the features recovered on the easy world, with a latent for every feature. Confirmed if above 0.9 for "
    "TopK, BatchTopK and JumpReLU and below 0.5 for every control of TopK and for PCA; contradicted if one is on the "
    "other side.",
    judge,
    arms=arms,
)
