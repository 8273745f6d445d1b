"""Training arms on a text, alone or beside a core."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosem.activations import Source
from monosem.reproduce.arm import Arm
from monosem.reproduce.boost.text import Ground
from monosem.reproduce.boost.threshold import Batches, at_l0, with_last_at
from monosem.reproduce.scale import Scale
from monosem.sae import SAE, groups
from monosem.training import TrainConfig, together
from monosem.training.core import active_latents

CORE_KEYS = ("n_latents", "k", "tokens", "distinct_tokens", "batch")


def config(scale: Scale, arm: Arm, seed: int, lr: float, core: Path | None, domain: str | None = None) -> TrainConfig:
    """The settings of an arm; without a core, those of the core itself. Raises `InputError`."""
    own: dict[str, Any] = {"core": str(core), "domain": domain}
    if core is None:
        own = {key: scale.extra["core"][key] for key in CORE_KEYS if key in scale.extra["core"]}
    given = {**scale.settings, **own, **arm.settings}
    return TrainConfig.from_dict({**given, "sae": (arm.sae,), "seed": seed, "lr": lr})


def trained(ground: Ground, source: Source, configs: Mapping[str, TrainConfig], label: str) -> dict[str, SAE]:
    """Arms on one stream, each with the ground's exclusion rule; residuals as sums with their core."""
    saes = together(source, ground.site, configs, device=ground.device, label=label)
    for sae in saes.values():
        sae.info = sae.info | {"exclusion": ground.exclusion.describe()}
    return saes


def settled(saes: Mapping[str, SAE], configs: Mapping[str, TrainConfig], batches: Batches) -> dict[str, SAE]:
    """Arms with the L0 they were trained for on these tokens: a residual's own, or that of a joint rule."""
    return {name: _settled(sae, configs[name], batches) for name, sae in saes.items()}


def _settled(sae: SAE, one: TrainConfig, batches: Batches) -> SAE:
    if len(groups(sae)) > 1:
        return with_last_at(sae, batches, one.k)
    return at_l0(sae, batches, active_latents(one) + (0 if one.sae == ("finetuned",) else one.k))
