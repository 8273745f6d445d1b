"""The settings of a comparison: strengths by layers by strategies and schedules, and what stands beside each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from monosem.flow.baseline import PROMPTS, mean_difference, random_direction, random_features
from monosem.flow.node import Node
from monosem.flow.schedule import Schedule
from monosem.flow.scope import Scope
from monosem.flow.steering import Mode, Steering
from monosem.flow.strategy import Layers, Scale, adding, layer_of, rescaling
from monosem.flow.suite import Suite
from monosem.flow.sweep import PLAIN, Setting
from monosem.flow.threshold import Thresholds
from monosem.shapes import InputError, Site

BASELINES = ("random", "features", "difference", "prompt")
"""Baselines by name: a random direction, random features, the difference in means, words in the prompt."""


@dataclass(frozen=True)
class Grid:
    """Every combination is a setting; `layers` None means all layers of the latents at once.

    `strengths` are s where a theme is added and r where latents are rescaled, which has no schedule.
    """

    mode: Mode
    strengths: tuple[float, ...]
    layers: tuple[int | None, ...] = (None,)
    strategies: tuple[Layers, ...] = ("cumulative",)
    schedules: tuple[Schedule, ...] = (Schedule(),)
    scale: Scale = "folded"
    tokens: Scope = "all"

    def __post_init__(self) -> None:
        """Raises `InputError` for an empty axis."""
        for name in ("strengths", "layers", "strategies", "schedules"):
            if not getattr(self, name):
                raise InputError(f"the grid has no {name}: give at least one")

    def settings(
        self, suite: Suite, nodes: Sequence[Node], seeds: Sequence[Node] = (), pseudo: Thresholds | None = None
    ) -> list[Setting]:
        """Plain text, then every combination; seeds alone at every strength where `nodes` has more than they.

        Layers without a latent have no `single` setting.
        """
        found = [Setting(PLAIN)]
        if set(nodes) > set(seeds) and seeds:
            for strength in self.strengths:
                steering = self._steering(suite, seeds, strength, Schedule(), "cumulative", None, pseudo)
                found.append(self._named("seeds", strength, None, Schedule(), steering))
        held = {layer_of(node.site) for node in nodes}
        for strategy in self.strategies:
            for schedule in self.schedules if self.mode == "add" else (Schedule(),):
                for layer in self.layers:
                    if layer is not None and (layer not in held if strategy == "single" else layer < min(held)):
                        continue
                    for strength in self.strengths:
                        steering = self._steering(suite, nodes, strength, schedule, strategy, layer, pseudo)
                        found.append(self._named(strategy, strength, layer, schedule, steering))
        if len(found) == 1:
            raise InputError(f"no latent is at the layers asked for: they are at {', '.join(map(str, sorted(held)))}")
        return list({one.name: one for one in found}.values())

    def _steering(
        self,
        suite: Suite,
        nodes: Sequence[Node],
        strength: float,
        schedule: Schedule,
        strategy: Layers,
        layer: int | None,
        pseudo: Thresholds | None,
    ) -> Steering:
        where: dict[str, Any] = {"layers": strategy, "layer": layer, "tokens": self.tokens}
        if self.mode == "rescale":
            return rescaling(suite, nodes, strength, **where)
        return adding(suite, nodes, strength, schedule=schedule, scale=self.scale, pseudo=pseudo, **where)

    def _named(
        self, strategy: str, strength: float, layer: int | None, schedule: Schedule, steering: Steering
    ) -> Setting:
        letter = "s" if self.mode == "add" else "r"
        where = "" if layer is None else f" {layer}" if strategy == "single" else f" to {layer}"
        shape = "" if schedule.shape == "constant" or strategy == "seeds" else f", {schedule.shape}"
        axes = {"strategy": strategy, "strength": strength, "layer": layer, "schedule": schedule.to_json()}
        return Setting(f"{strategy}{where}, {letter} = {strength:g}{shape}", steering, axes=axes)


def beside(
    settings: Sequence[Setting],
    baselines: Sequence[str],
    suite: Suite,
    *,
    seed: int = 0,
    differences: Callable[[Sequence[Site]], Mapping[Site, Any]] | None = None,
    subject: str | None = None,
) -> list[Setting]:
    """The settings, and for each steered one its baselines of the same norm; prompting once for all.

    `differences` gives the difference in means at the sites that it is asked for. Raises `InputError` for an unknown
    baseline, for `difference` without texts and for `prompt` without a subject.
    """
    if wrong := [name for name in baselines if name not in BASELINES]:
        raise InputError(f"baseline {wrong[0]!r} is unknown: give {', '.join(BASELINES)}")
    if "difference" in baselines and differences is None:
        raise InputError("the difference in means needs texts of the theme: give them, or leave that baseline out")
    if "prompt" in baselines and not subject:
        raise InputError("prompting needs a subject to write about: give it, or leave that baseline out")
    steered = [one for one in settings if one.steering is not None]
    sites = list(dict.fromkeys(site for one in steered if one.steering for site in one.steering.pushes))
    means = differences(sites) if differences is not None and "difference" in baselines else {}
    makers: dict[str, Callable[[Steering], Steering]] = {
        "random": lambda steering: random_direction(steering, seed),
        "features": lambda steering: random_features(steering, suite, seed),
        "difference": lambda steering: mean_difference(steering, means),
    }
    found = list(settings)
    for one in steered:
        for name in baselines:
            if name in makers and one.steering is not None:
                axes = {**(one.axes or {}), "baseline": name}
                found.append(replace(one, name=f"{one.name}: {name}", steering=makers[name](one.steering), axes=axes))
    if "prompt" in baselines and steered and steered[0].steering is not None:
        words = PROMPTS[steered[0].steering.mode].format(subject=subject)
        found.append(Setting("prompt", words=words, axes={"baseline": "prompt"}))
    return found
