"""Learning rates beside a core, chosen once on a seed that is not reported, over whole runs.

A part of a run would ask for larger rates than the whole does.
"""

from __future__ import annotations

from typing import Any

from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.boost import kept, learning, price
from monosem.reproduce.boost.arm import representatives
from monosem.reproduce.boost.core import best, core
from monosem.reproduce.boost.core import tried as tried_cores
from monosem.reproduce.boost.ground import ground
from monosem.reproduce.boost.reading import explained
from monosem.reproduce.boost.text import sample
from monosem.reproduce.claim import Table
from monosem.reproduce.scale import Scale


def chosen(scale: Scale) -> dict[str, float]:
    """By family, the rate with the largest EV on validation tokens of the first domain."""
    return {family: best(scores, "domain") for family, scores in tried(scale).items()}


def tried(scale: Scale) -> dict[str, dict[str, dict[str, float]]]:
    """EV on validation tokens of the first domain and of general text, by family and rate."""

    def tune() -> dict[str, Any]:
        seed, here = scale.tuning_seed, ground(scale, scale.tuning_seed)
        text, arms = here.domain(scale.extra["domains"][0]), representatives(scale)
        folder = core(scale, here, seed)
        configs = {
            f"{family}@{lr:g}": learning.config(scale, arm, seed, lr, folder, text.name)
            for family, arm in arms.items()
            for lr in scale.rates
        }
        saes = learning.trained(here, text.source, configs, "learning rates")
        saes = learning.settled(saes, configs, sample(text.source, here, scale))
        found = {"domain": explained(saes, text.validation), "general": explained(saes, here.general.validation)}
        return {
            family: {f"{lr:g}": {key: ev[f"{family}@{lr:g}"] for key, ev in found.items()} for lr in scale.rates}
            for family in arms
        }

    return kept.figures(scale, {"what": "rates beside a core", "ks": scale.extra["ks"]}, tune)


def run(scale: Scale, seed: int | None) -> Measured:
    """Everything that was tried."""
    return {"core": tried_cores(scale), **tried(scale)}


def settings(scale: Scale) -> dict[str, Any]:
    """What decides the rates."""
    return {"trial": "rates", **kept.shared(scale), "ks": scale.extra["ks"]}


def table(scale: Scale, found: Measured) -> Table:
    """Every rate's EV, on the domain and in general, and which was chosen."""
    rows = []
    for family, scores in found.items():
        key = "general" if family == "core" else "domain"
        cells = [
            " / ".join(f"{one[text]:.4f}" for text in ("domain", "general") if text in one) for one in scores.values()
        ]
        rate = best(scores, key)
        edge = " (edge of the grid)" if rate in (min(scale.rates), max(scale.rates)) else ""
        rows.append([family, *cells, f"{rate:g}{edge}"])
    title = f"Learning rates: EV on validation tokens, domain / general, seed {scale.tuning_seed}, all tokens"
    return Table(title, ["family", *(f"lr {lr:g}" for lr in scale.rates), "chosen"], rows, folded=True)


TRIAL = Trial("rates", run, price.rates, settings, seeded=False)
