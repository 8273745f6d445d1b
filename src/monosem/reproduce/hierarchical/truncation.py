"""B2: what cutting to a smaller k costs."""

from __future__ import annotations

from collections.abc import Sequence

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding, Plot, Table
from monosem.reproduce.figure import band, ends_of, ev, mean, signed, summary, worst
from monosem.reproduce.hierarchical.arm import HIERARCHICAL, budgets, multi, topk, twin
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Interval, above, every, interval


def truncation_arms(scale: Scale) -> list[Arm]:
    """The method, a specialist for each k, MultiTopK, and the control of chance."""
    return [HIERARCHICAL, *map(topk, budgets(scale)), multi(scale), twin(scale)]


def truncation(evidence: Evidence) -> Finding:
    """Gains over the largest TopK cut to k, at every k."""
    most, base = evidence.scale.k, f"topk_{evidence.scale.k}"
    every_k = range(1, most + 1)
    gains = {
        name: [interval(evidence.paired(name, base, ev(k))) for k in every_k]
        for name in ("hierarchical", "multi_topk", "topk_twin")
    }
    few = most // 4
    verdicts = {name: every(above(gain.values) for gain in several[:few]) for name, several in gains.items()}
    losses = {k: interval([-gap for gap in evidence.paired(base, f"topk_{k}", ev(k))]) for k in budgets(evidence.scale)}
    return Finding(
        verdicts["hierarchical"],
        ends_of(worst(gains["hierarchical"][:few])),
        {
            "gain_over_truncated": {str(k): gain.mean for k, gain in zip(every_k, gains["hierarchical"], strict=True)},
            "truncation_loss_T": {str(k): summary(loss) for k, loss in losses.items()},
        },
        {
            name: {"verdict": verdicts[name], "mean_gain": {str(k): gains[name][k - 1].mean for k in every_k}}
            for name in ("multi_topk", "topk_twin")
        },
        [_losses(losses), _gains(evidence, gains)],
        [_gain_plot(every_k, gains)],
        f"Judged at every k up to {few}. Control of chance (another TopK-{most} against the first): "
        f"{verdicts['topk_twin']}.",
    )


def _losses(losses: dict[int, Interval]) -> Table:
    rows = [[str(k), *signed(loss)] for k, loss in losses.items()]
    title = "T(k) = EV of a TopK trained at k − EV of the largest TopK cut to k: the price of slicing an ordinary one"
    return Table(title, ["k", "T(k)", "interval"], rows)


def _gains(evidence: Evidence, gains: dict[str, list[Interval]]) -> Table:
    most = evidence.scale.k
    rows = []
    for k in range(1, most + 1):
        values = [mean(evidence, name, ev(k)) for name in ("hierarchical", f"topk_{most}", "multi_topk")]
        ours, two, chance = (gains[name][k - 1] for name in ("hierarchical", "multi_topk", "topk_twin"))
        numbers = [f"{value:.4f}" for value in values]
        rows.append([str(k), *numbers, *signed(ours), f"{two.mean:+.4f}", f"{chance.mean:+.4f}"])
    header = ["k", "hierarchical", f"TopK-{most} cut", "MultiTopK", "gain", "interval", "MultiTopK's", "chance"]
    return Table("EV at every k; gains are over the cut TopK", header, rows, folded=True)


def _gain_plot(ks: Sequence[int], gains: dict[str, list[Interval]]) -> Plot:
    labels = {"hierarchical": "hierarchical", "multi_topk": "MultiTopK {K/4, K}", "topk_twin": "another TopK (chance)"}
    return Plot(
        "gain",
        "What training on budgets gains over cutting an ordinary TopK",
        "EV(k) minus that of the largest TopK cut to k: mean over paired seeds and 95 % interval.",
        "k",
        "difference in explained variance",
        [band(label, ks, gains[name], dashed=name == "topk_twin") for name, label in labels.items()],
        log_x=True,
    )


CLAIM = Claim(
    "B2",
    "Cutting an ordinary autoencoder to a smaller k costs much, cutting a hierarchical one little",
    "EV_hierarchical(k) − EV_topk_K(k), both cut to their k strongest latents. Confirmed if positive for all "
    "k ≤ K/4, contradicted if negative for any. Controls: MultiTopK {K/4, K}, and a second TopK-K for chance.",
    truncation,
    arms=truncation_arms,
)
