"""C7: residuals of several domains beside one core."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch

from monosem.boost import Alignment
from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.boost import core as cores
from monosem.reproduce.boost import kept, price, rate
from monosem.reproduce.boost.arm import BOOST
from monosem.reproduce.boost.experiment import Experiment, everywhere, experiment
from monosem.reproduce.boost.reading import explained
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import Read, ends_of, summary, worst
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Verdict, above, below, every, interval
from monosem.sae import SAE, added, merged, without

PART = 1 / 3
"""Share of the gain that may be lost to the other residuals."""


def run(scale: Scale, seed: int | None) -> Measured:
    """EV of every set of residuals on held-out text of every domain and in general; and where two of them meet."""
    names = everywhere(scale)
    first = experiment(scale, seed, names[0])
    ones = {name: first.on(first.here.domain(name)) for name in names}
    sums = {name: one.load(one.residual()) for name, one in ones.items()}
    saes = {"core": first.core} | {label(some): merged([sums[name] for name in some]) for some in subsets(names)}
    texts = {name: one.text.held_out for name, one in ones.items()} | {"general": first.here.general.held_out}
    found = {name: explained(saes, part) for name, part in texts.items()}
    return {"ev": found, "conflict": {name: conflicts(saes[label(names)], ones[name]) for name in names}}


def subsets(names: list[str]) -> list[tuple[str, ...]]:
    """Every residual alone, every pair, …, all; of more than three each alone, and all."""
    if len(names) > 3:
        return [*((name,) for name in names), tuple(names)]
    return [some for count in range(1, len(names) + 1) for some in combinations(names, count)]


def label(some: tuple[str, ...] | list[str]) -> str:
    """What a set is called."""
    return " + ".join(some)


@torch.no_grad()
def conflicts(total: SAE, one: Experiment) -> list[dict[str, Any]]:
    """2 Σ⟨a, b⟩ / Σ‖e‖² of every two residuals on held-out text of a domain."""
    names = everywhere(one.scale)
    core, found = without(total, *names), Alignment(names)
    for acts in one.text.held_out.acts.split(1024):
        x = acts.to(total.W_dec.device)
        found.update(x - core(x), added(total, x))
    return found.conflicts()


def predict(scale: Scale) -> float:
    """Seconds for one seed."""
    several = everywhere(scale)
    return price.trial(scale, [BOOST] * len(several), read=len(subsets(several)) * (len(several) + 1) // 2)


def settings(scale: Scale) -> dict[str, Any]:
    """What decides it."""
    return {"trial": "several", "domains": everywhere(scale), **kept.shared(scale)}


TRIAL = Trial("several", run, predict, settings)


def trials(scale: Scale) -> list[Trial]:
    """One a seed."""
    return [rate.TRIAL, cores.TRIAL, TRIAL]


def kept_gain(domain: str, names: list[str]) -> Read:
    """Gain of the residual alone over the core, times the part, minus what the others take away."""

    def read(found: Measured) -> float:
        own = found["ev"][domain]
        alone, together = own[domain], own[label(names)]
        return PART * (alone - own["core"]) - (alone - together)

    return read


def sum_over_core(domain: str, names: list[str]) -> Read:
    """EV of all residuals together minus the core's."""
    return lambda found: found["ev"][domain][label(names)] - found["ev"][domain]["core"]


def verdict(margins: Mapping[str, list[float]], sums: Mapping[str, list[float]]) -> Verdict:
    """Less than a third of each gain lost: confirmed; a sum below the core: contradicted."""
    if every(above(values) for values in margins.values()) == "confirmed":
        return "confirmed"
    return "contradicted" if "confirmed" in [below(values) for values in sums.values()] else "undecided"


def judge(evidence: Evidence) -> Finding:
    """C7."""
    names = everywhere(evidence.scale)
    margins = {name: evidence.values("several", kept_gain(name, names)) for name in names}
    sums = {name: evidence.values("several", sum_over_core(name, names)) for name in names}
    found = {name: interval(values) for name, values in margins.items()}
    return Finding(
        verdict(margins, sums),
        ends_of(worst(list(found.values()))),
        {"margin": {name: summary(one) for name, one in found.items()}},
        {"sum_over_core": {name: summary(interval(values)) for name, values in sums.items()}},
        [_matrix(evidence, names), _conflicts(evidence, names)],
        note="The interval is that of a third of the gain minus what other residuals take from it, where it is lowest.",
    )


def _matrix(evidence: Evidence, names: list[str]) -> Table:
    texts = [*names, "general"]

    def cell(some: str, text: str) -> str:
        values = evidence.values("several", lambda found: found["ev"][text][some])
        return f"{sum(values) / len(values):.4f}"

    rows = [[some, *(cell(some, text) for text in texts)] for some in ("core", *map(label, subsets(names)))]
    return Table("EV on held-out text, means over seeds", ["residuals", *(f"on {text}" for text in texts)], rows)


def _conflicts(evidence: Evidence, names: list[str]) -> Table:
    rows = []
    for name in names:
        several = [evidence.measured("several", seed)["conflict"][name] for seed in evidence.scale.seeds]
        for same in zip(*several, strict=True):
            value = sum(one["conflict"] for one in same) / len(same)
            rows.append([name, f"{same[0]['a']}, {same[0]['b']}", f"{value:+.4f}"])
    return Table("Conflict 2 Σ⟨a, b⟩ / Σ‖e‖², means over seeds", ["text", "residuals", "conflict"], rows)


CLAIM = Claim(
    "C7",
    "Residuals of several domains add up without collapsing",
    "EV on each domain of the core with its residual alone, and with the residuals of all domains. Confirmed if the "
    "others take less than a third of the gain over the core on every domain, contradicted if the sum is below the "
    "core on one.",
    judge,
    trials=trials,
    untestable=lambda scale: None if len(everywhere(scale)) > 1 else "needs two domains",
)
