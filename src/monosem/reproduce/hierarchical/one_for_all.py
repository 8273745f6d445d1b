"""B1: one autoencoder against one for each sparsity."""

from __future__ import annotations

import statistics

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding, Plot, Table
from monosem.reproduce.figure import band, ends_of, ev, ev_at_l0, mean, own_ev, own_l0, signed, summary, worst
from monosem.reproduce.hierarchical.arm import HIERARCHICAL, batch_topk, budgets, topk
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Interval, above, every, interval

MATCHES = -0.01
"""EV that still matches a specialist."""


def specialists(scale: Scale) -> list[Arm]:
    """The method, and one TopK and one BatchTopK for each k."""
    return [HIERARCHICAL, *(make(k) for k in budgets(scale) for make in (topk, batch_topk))]


def against_topk(evidence: Evidence, k: int) -> Interval:
    """D(k) = EV_hierarchical(k) − EV_topk_k(k)."""
    pairs = zip(evidence.values("hierarchical", ev(k)), evidence.values(f"topk_{k}", ev(k)), strict=True)
    return interval([ours - theirs for ours, theirs in pairs])


def against_batch_topk(evidence: Evidence, k: int) -> Interval:
    """The same against BatchTopK, at the L0 it really has on the held-out tokens."""
    differences = []
    for seed in evidence.scale.seeds:
        ours, theirs = evidence.measured("hierarchical", seed), evidence.measured(f"batch_topk_{k}", seed)
        differences.append(ev_at_l0(theirs["l0"][-1], evidence.scale.k)(ours) - theirs["ev"][-1])
    return interval(differences)


def one_for_all(evidence: Evidence) -> Finding:
    """D(k) against every specialist."""
    ks = budgets(evidence.scale)
    gaps = {
        "topk": {k: against_topk(evidence, k) for k in ks},
        "batch_topk": {k: against_batch_topk(evidence, k) for k in ks},
    }
    found = [gap for several in gaps.values() for gap in several.values()]
    rows = [_specialist_row(evidence, k, {kind: several[k] for kind, several in gaps.items()}) for k in ks]
    table = Table(
        "Means over seeds; D = hierarchical − specialist, with the 95 % interval over paired seeds",
        ["k", "hierarchical", "TopK at k", "D", "interval", "BatchTopK", "its L0", "D at that L0", "interval"],
        rows,
    )
    measured = {f"D_{kind}": {str(k): summary(gap) for k, gap in several.items()} for kind, several in gaps.items()}
    mean_gap = statistics.fmean(gap.mean for gap in gaps["topk"].values())
    return Finding(
        every(above(gap.values, MATCHES) for gap in found),
        ends_of(worst(found)),
        {**measured, "mean_D_topk": mean_gap, "tokens_an_arm": evidence.scale.tokens},
        _totals(evidence),
        [table],
        [_front(evidence)],
        "The interval is that of the k and specialist that reach lowest.",
    )


def _specialist_row(evidence: Evidence, k: int, gaps: dict[str, Interval]) -> list[str]:
    batch = f"batch_topk_{k}"
    return [
        str(k),
        f"{mean(evidence, 'hierarchical', ev(k)):.4f}",
        f"{mean(evidence, f'topk_{k}', ev(k)):.4f}",
        *signed(gaps["topk"]),
        f"{mean(evidence, batch, lambda found: found['ev'][-1]):.4f}",
        f"{mean(evidence, batch, lambda found: found['l0'][-1]):.1f}",
        *signed(gaps["batch_topk"]),
    ]


def _totals(evidence: Evidence) -> dict[str, object]:
    """One autoencoder against several: tokens an autoencoder are equal, tokens in total are not."""
    count = len(budgets(evidence.scale))
    return {
        "specialists": {str(k): mean(evidence, f"topk_{k}", ev(k)) for k in budgets(evidence.scale)},
        "tokens_of_all_topk_specialists": count * evidence.scale.tokens,
    }


def _front(evidence: Evidence) -> Plot:
    ks, most = budgets(evidence.scale), evidence.scale.k
    every_k = evidence.measured("hierarchical", evidence.scale.seeds[0])["k"]
    ours = [interval(evidence.values("hierarchical", ev(k))) for k in every_k]
    l0 = [mean(evidence, "hierarchical", lambda found, k=k: found["l0"][k - 1]) for k in every_k]
    lines = [band("hierarchical, one autoencoder", l0, ours)]
    for label, prefix in (("TopK, one a k", "topk"), ("BatchTopK, one a k", "batch_topk")):
        names = [f"{prefix}_{k}" for k in ks]
        found = [interval(evidence.values(name, own_ev)) for name in names]
        lines.append(band(label, [mean(evidence, name, own_l0) for name in names], found))
    return Plot(
        "front",
        "Explained variance against L0",
        "Mean over seeds and 95 % interval, held-out tokens. Shaded: more latents than any trained budget.",
        "active latents (L0)",
        "explained variance",
        lines,
        log_x=True,
        shaded_from=float(most),
    )


CLAIM = Claim(
    "B1",
    "One autoencoder matches or beats autoencoders trained for each sparsity",
    "D(k) = EV_hierarchical(k) − EV of an autoencoder trained at k with as many tokens, for k in {8, 16, 32, K}; "
    "against BatchTopK at the L0 it has on the held-out tokens. Confirmed if D(k) > −0.01 at all k, contradicted "
    "if D(k) < −0.01 at any.",
    one_for_all,
    arms=specialists,
)
