"""C3: how explained variance depends on the shape of the heads."""

from __future__ import annotations

from scipy.stats import spearmanr

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import ends_of, mean, own_ev, summary
from monosem.reproduce.kronsae.arm import kron
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import above, below, every, interval

SHAPES = ((1, 8), (2, 4), (2, 8), (4, 4), (4, 8), (8, 8))


def arms(scale: Scale) -> list[Arm]:
    """Kron in every shape."""
    return [kron(m, n) for m, n in SHAPES]


def ranked(evidence: Evidence, against: list[float]) -> list[float]:
    """Spearman's correlation of EV over the shapes with a number of each, by seed."""
    curves = zip(*(evidence.values(kron(m, n).name, own_ev) for m, n in SHAPES), strict=True)
    return [float(spearmanr(curve, against).statistic) for curve in curves]


def judge(evidence: Evidence) -> Finding:
    """Both rank correlations."""
    heads = {(m, n): evidence.scale.n_latents // (m * n) for m, n in SHAPES}
    by_heads = interval(ranked(evidence, [float(h) for h in heads.values()]))
    by_base = interval(ranked(evidence, [float(m) for m, _ in SHAPES]))
    rows = [
        [str(h), str(m), str(n), f"{1 / m + 1 / n:.3f}", f"{mean(evidence, kron(m, n).name, own_ev):.4f}"]
        for (m, n), h in heads.items()
    ]
    return Finding(
        every([above(by_heads.values), below(by_base.values)]),
        ends_of(by_heads),
        {"rank_correlation_with_heads": summary(by_heads), "rank_correlation_with_base": summary(by_base)},
        {},
        [Table("EV at equal tokens, means over seeds", ["h", "m", "n", "encoder rows / F", "EV"], rows)],
        note="The interval is that of the correlation with h. At fixed F the encoder's rows grow with h as well.",
    )


CLAIM = Claim(
    "C3",
    "At a fixed number of latents, explained variance rises with the number of heads and falls with m",
    "Spearman's rank correlation over six shapes of EV with h, and with m, in each seed. Confirmed if the first is "
    "positive and the second negative, contradicted if one has the opposite sign.",
    judge,
    arms=arms,
)
