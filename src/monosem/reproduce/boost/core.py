"""The core of a seed: trained once on general text, kept, and never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.boost import kept, learning, price
from monosem.reproduce.boost.arm import CORE
from monosem.reproduce.boost.ground import ground
from monosem.reproduce.boost.reading import evaluations, explained
from monosem.reproduce.boost.text import Ground, sample
from monosem.reproduce.boost.threshold import at_l0
from monosem.reproduce.scale import Scale
from monosem.sae import SAE, load


def core(scale: Scale, here: Ground, seed: int) -> Path:
    """Its folder; trained if it is not there, at the rate of the largest EV on validation tokens of general text."""
    lr = best(tried(scale), "general")
    return kept.autoencoder(scale, _key(seed, lr), lambda: _trained(scale, here, seed, (lr,))[lr])


def tried(scale: Scale) -> dict[str, dict[str, float]]:
    """EV of every learning rate on the tuning seed's general text; the best core of that seed is kept."""

    def tune() -> dict[str, Any]:
        here = ground(scale, scale.tuning_seed)
        found = _trained(scale, here, scale.tuning_seed, scale.rates)
        scores = {
            f"{lr:g}": {"general": explained({"core": sae}, here.general.validation)["core"]}
            for lr, sae in found.items()
        }
        chosen = best(scores, "general")
        kept.autoencoder(scale, _key(scale.tuning_seed, chosen), lambda: found[chosen])
        return scores

    return kept.figures(scale, {"what": "rates of the core"}, tune)


def best(scores: dict[str, dict[str, float]], text: str) -> float:
    """The learning rate with the largest score on a text."""
    return float(max(scores, key=lambda lr: scores[lr][text]))


def _key(seed: int, lr: float) -> dict[str, Any]:
    return {"what": "core", "seed": seed, "lr": lr}


def _trained(scale: Scale, here: Ground, seed: int, rates: tuple[float, ...]) -> dict[float, SAE]:
    """One for each learning rate, with exactly k latents active a token of general training text."""
    configs = {f"core@{lr:g}": learning.config(scale, CORE, seed, lr, None) for lr in rates}
    saes = learning.trained(here, here.general.source, configs, f"core, seed {seed}")
    batches, k = sample(here.general.source, here, scale), scale.extra["core"]["k"]
    return {float(f"{lr:g}"): at_l0(sae, batches, k) for lr, sae in zip(rates, saes.values(), strict=True)}


def run(scale: Scale, seed: int | None) -> Measured:
    """EV, L0 and dead latents on held-out general text."""
    assert seed is not None
    here = ground(scale, seed)
    found = evaluations({"core": load(core(scale, here, seed))}, here.general.held_out)["core"]
    assert found.alive is not None
    return {
        "ev": found.metrics["explained_variance"],
        "l0": found.metrics["l0"],
        "dead": float((~found.alive).double().mean()),
    }


def settings(scale: Scale) -> dict[str, Any]:
    """What decides a core."""
    return {"trial": "core", **kept.shared(scale)}


TRIAL = Trial("core", run, price.core, settings)
