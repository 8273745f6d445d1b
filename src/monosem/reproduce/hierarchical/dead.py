"""B5: dead latents."""

from __future__ import annotations

from monosem.reproduce import measure
from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import Read, ends_of, mean, summary
from monosem.reproduce.hierarchical.arm import pair, without_aux
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import below, every, interval


def aux_arms(scale: Scale) -> list[Arm]:
    """The method and its control, each with and without the auxiliary loss."""
    return [arm for one in pair(scale) for arm in (one, without_aux(one))]


def dead(evidence: Evidence) -> Finding:
    """Differences of dead shares."""
    base = f"topk_{evidence.scale.k}"
    read: Read = lambda found: found["dead"]  # noqa: E731
    pairs = {
        "with auxiliary loss": ("hierarchical", base),
        "without": ("hierarchical_no_aux", f"{base}_no_aux"),
    }
    found = {label: interval(evidence.paired(*names, read)) for label, names in pairs.items()}
    rows = [
        [name, f"{mean(evidence, name, read):.4f}", f"{mean(evidence, name, lambda one: one['dead_few']):.4f}"]
        for names in pairs.values()
        for name in names
    ]
    title = f"Share of latents without any activation on the {evidence.scale.held_out:,} held-out tokens"
    return Finding(
        every(below(one.values) for one in found.values()),
        ends_of(max(found.values(), key=lambda one: one.high)),
        {label: summary(one) for label, one in found.items()},
        {label: mean(evidence, names[1], read) for label, names in pairs.items()},
        [Table(title, ["arm", f"k = {evidence.scale.k}", f"k = {measure.FEW}"], rows)],
        note="Lower than TopK both with and without the auxiliary loss confirms. The interval is that of the worse.",
    )


CLAIM = Claim(
    "B5",
    "Few latents die",
    "Share of latents silent on the held-out tokens at k = K, hierarchical minus TopK-K, with and without the "
    "auxiliary loss. Confirmed if lower in both, contradicted if higher in one.",
    dead,
    arms=aux_arms,
)
