"""I1, I2: whether HierarchicalTopK's latents stay as easy to read at every budget, and at later ranks."""

from __future__ import annotations

import statistics

from monosem.reproduce.arm import Arm, Measured
from monosem.reproduce.claim import Claim, Evidence, Finding, Line, Plot, Table
from monosem.reproduce.figure import band, ends_of, mean, signed, summary, worst
from monosem.reproduce.interpretability.arm import HIERARCHICAL, budgets, topk, topks
from monosem.reproduce.interpretability.kind import Kind, claims, score
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Interval, above, below, every, interval


def arms(scale: Scale) -> list[Arm]:
    """The method, and a specialist for every budget."""
    return [HIERARCHICAL, *topks(scale)]


def pair(scale: Scale) -> list[Arm]:
    """The method, and TopK at K."""
    return [HIERARCHICAL, topk(scale.k)]


def at_budgets(evidence: Evidence, kind: Kind) -> Finding:
    """The hierarchical autoencoder read at k minus a TopK trained for k."""
    found = {(key, k): _gap(evidence, key, k) for key in kind.keys for k in budgets(evidence.scale)}
    rows = [
        [
            key,
            str(k),
            *(f"{_mean(evidence, name, key, k):.4f}" for name in (HIERARCHICAL.name, f"topk_{k}")),
            *signed(gap),
        ]
        for (key, k), gap in found.items()
    ]
    header = ["score", "k", "hierarchical", "TopK at k", "difference", "95 % interval"]
    return Finding(
        every(above(one.values, -kind.slack) for one in found.values()),
        ends_of(worst(list(found.values()))),
        {f"{key}, k = {k}": summary(one) for (key, k), one in found.items()},
        {f"{key}, topk_{k}": _mean(evidence, f"topk_{k}", key, k) for key, k in found},
        [Table("Means over seeds", header, rows)],
        [_plot(evidence, kind.keys[0], kind.words)],
        "The interval is that of the budget that reaches lowest.",
    )


def _gap(evidence: Evidence, key: str, k: int) -> Interval:
    read = score(str(k), key)
    ours, theirs = evidence.values(HIERARCHICAL.name, read), evidence.values(f"topk_{k}", read)
    return interval([a - b for a, b in zip(ours, theirs, strict=True)])


def _mean(evidence: Evidence, name: str, key: str, k: int) -> float:
    return mean(evidence, name, score(str(k), key))


def _plot(evidence: Evidence, key: str, words: str) -> Plot:
    ks = budgets(evidence.scale)
    x = [float(k) for k in ks]
    ours = [interval(evidence.values(HIERARCHICAL.name, score(str(k), key))) for k in ks]
    theirs = [interval(evidence.values(f"topk_{k}", score(str(k), key))) for k in ks]
    lines = [band("hierarchical, one autoencoder", x, ours), band("TopK, one a k", x, theirs)]
    caption = "Mean over seeds and 95 % interval; units drawn at random among those that fire often enough."
    return Plot(f"budgets-{key}", f"{words[0].upper()}{words[1:]}", caption, "k", words, lines, log_x=True)


def decline(found: Measured) -> float:
    """Mean coherence over the first quarter of ranks minus that over the last, ranks that were read alone."""
    scores = [one for one in found["ranks"] if one is not None]
    quarter = max(len(scores) // 4, 1)
    return statistics.fmean(scores[:quarter]) - statistics.fmean(scores[-quarter:])


def by_rank(evidence: Evidence) -> Finding:
    """The decline over ranks minus TopK's."""
    base = topk(evidence.scale.k).name
    found = interval(evidence.paired(HIERARCHICAL.name, base, decline))
    names = (HIERARCHICAL.name, base)
    return Finding(
        below(found.values),
        ends_of(found),
        {"decline_difference": summary(found), "decline": mean(evidence, HIERARCHICAL.name, decline)},
        {"decline": mean(evidence, base, decline)},
        plots=[
            Plot(
                "ranks",
                "Coherence by rank",
                "Rank 1 is a token's strongest latent. Of the units drawn alone; means over seeds.",
                "rank",
                "coherence of contexts, AUC",
                [_ranks(evidence, name) for name in names],
            )
        ],
        note="Few units are drawn, and those that fire often weigh most.",
    )


def _ranks(evidence: Evidence, name: str) -> Line:
    several = zip(*(evidence.measured(name, seed)["ranks"] for seed in evidence.scale.seeds), strict=True)
    points = [(rank, statistics.fmean(one)) for rank, one in enumerate(several, 1) if None not in one]
    return Line(name, [float(rank) for rank, _ in points], [value for _, value in points])


CLAIMS = (
    *claims(
        "I1",
        "HierarchicalTopK's latents are as interpretable at every budget as those of a TopK trained for it",
        "Read with the k strongest latents, minus a TopK trained at k, for every k. Confirmed if the difference is "
        "above −{slack} at every k, contradicted if below at any.",
        at_budgets,
        arms,
    ),
    Claim(
        "I2.coherence",
        "A proxy: the latents at later ranks stay coherent as they do not in TopK",
        "Coherence of contexts (as for I1.coherence) at rank r: mean over tokens whose r-th strongest latent is one of "
        "the units drawn. Its decline is the mean over the first quarter of ranks minus that over the last. Confirmed "
        "if it declines less than in TopK-K.",
        by_rank,
        arms=pair,
    ),
)
