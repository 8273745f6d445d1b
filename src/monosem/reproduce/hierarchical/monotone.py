"""B7: explained variance over k, up to K and beyond."""

from __future__ import annotations

from monosem.reproduce.claim import Claim, Evidence, Finding, Plot, Table
from monosem.reproduce.figure import Read, band, ends_of, ev, mean, summary
from monosem.reproduce.hierarchical.arm import pair
from monosem.reproduce.verdict import below, interval

SLACK = 1e-4
"""EV that EV(k) may fall by from one k to the next."""


def largest_fall(most: int) -> Read:
    """max over k < K of EV(k) − EV(k + 1)."""
    return lambda found: max(a - b for a, b in zip(found["ev"][: most - 1], found["ev"][1:most], strict=True))


def monotone(evidence: Evidence) -> Finding:
    """The largest fall up to K, and the change beyond it."""
    most = evidence.scale.k
    falls = interval(evidence.values("hierarchical", largest_fall(most)))
    beyond: Read = lambda found: ev(2 * most)(found) - ev(most)(found)  # noqa: E731
    slopes = {name: interval(evidence.values(name, beyond)) for name in ("hierarchical", f"topk_{most}")}
    return Finding(
        below(falls.values, SLACK),
        ends_of(falls),
        {
            "largest_fall": summary(falls),
            "change_from_K_to_2K_extrapolated": summary(slopes["hierarchical"]),
            "fails_above_K": below(slopes["hierarchical"].values),
        },
        {f"topk_{most}_change_from_K_to_2K_extrapolated": summary(slopes[f"topk_{most}"])},
        [_monotone_table(evidence)],
        [_monotone_plot(evidence)],
        f"The interval is that of the largest fall of EV between neighbouring k up to {most}. Above that nothing was "
        f"trained: from k = {most} to {2 * most} EV changes by {slopes['hierarchical'].mean:+.4f} (extrapolated).",
    )


def _monotone_table(evidence: Evidence) -> Table:
    most = evidence.scale.k
    rows = []
    for k in evidence.measured("hierarchical", evidence.scale.seeds[0])["k"]:
        values = [f"{mean(evidence, name, ev(k)):.4f}" for name in ("hierarchical", f"topk_{most}")]
        rows.append([f"{k}", *values, "extrapolated" if k > most else "trained"])
    return Table("EV(k) at every k, means over seeds", ["k", "hierarchical", f"topk_{most}", ""], rows, True)


def _monotone_plot(evidence: Evidence) -> Plot:
    ks = evidence.measured("hierarchical", evidence.scale.seeds[0])["k"]
    names = ("hierarchical", f"topk_{evidence.scale.k}")
    lines = [band(name, ks, [interval(evidence.values(name, ev(k))) for k in ks]) for name in names]
    caption = "Mean over seeds and 95 % interval. Shaded: budgets beyond the largest trained one, extrapolated."
    return Plot("every-k", "Explained variance at every k", caption, "k", "EV", lines, True, float(evidence.scale.k))


CLAIM = Claim(
    "B7",
    "Explained variance rises with k up to K, and fails above",
    "The largest fall max over k < K of EV(k) − EV(k + 1). Confirmed if it is below 1e-4, contradicted if above. "
    "Beyond K nothing was trained: EV(2K) − EV(K) is measured beside it and labelled extrapolated.",
    monotone,
    arms=pair,
)
