"""What is removed for a feature: its active matches, or what a control puts in their place; and searches over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.flow.group import BITS, NOWHERE
from monosem.flow.match import Match
from monosem.flow.removal import Part, Removal

EXHAUSTIVE, OTHER_TOKEN = "exhaustive", "other token"
ACTIVE, DIRECTION = "random active", "random direction"


class Moment(NamedTuple):
    """One token of a window at one layer: target latents that are active on it, and activations a_t by origin.

    `key` is (seed, window, position, layer), from which controls draw.
    """

    key: tuple[int, int, int, int]
    targets: Int64[Tensor, " S"]
    values: dict[str, Float[Tensor, " G"]]

    @property
    def layer(self) -> int:
        return self.key[3]

    def drawing(self, purpose: int) -> np.random.Generator:
        """Random numbers of one purpose, the same whatever else is drawn."""
        return np.random.default_rng([*self.key, purpose])


class Trial(NamedTuple):
    """One removal for one target (its place among `targets`); None for a target without an active predecessor."""

    target: int
    group: int
    subset: int
    removal: Removal | None


@dataclass(frozen=True)
class Matched:
    """Every subset of a target's active matches, rescaled by each r; all of the k matches at an origin together."""

    name: str
    matches: Mapping[int, Mapping[str, Match]]
    r: Sequence[float]

    def trials(self, moment: Moment) -> list[Trial]:
        found = []
        for place, latent in enumerate(moment.targets.tolist()):
            parts = self._active(moment, latent)
            group = sum(BITS[origin] for origin in parts)
            if group == NOWHERE:
                found.append(Trial(place, NOWHERE, NOWHERE, None))
            for subset in _subsets(group):
                removed = tuple(part for origin, own in parts.items() if BITS[origin] & subset for part in own)
                found += [Trial(place, group, subset, Removal(r, removed)) for r in self.r]
        return found

    def _active(self, moment: Moment, latent: int) -> dict[str, list[Part]]:
        parts = {}
        for origin, match in self.matches[moment.layer].items():
            values = moment.values[origin]
            candidates = [index for index in match.indices[latent].tolist() if index >= 0]
            own = [Part(origin, index, float(values[index])) for index in candidates if values[index] > 0]
            if own:
                parts[origin] = own
        return parts


@dataclass(frozen=True)
class RandomActive:
    """A control: in place of each active match another latent that is active on the token at the same origin.

    Where no other is active the match itself stays out, and nothing is removed there.
    """

    reference: Matched
    name: str = ACTIVE

    def trials(self, moment: Moment) -> list[Trial]:
        rng, replaced = moment.drawing(1), {}
        found = []
        for trial in self.reference.trials(moment):
            if trial.removal is None:
                found.append(trial)
                continue
            # One replacement of each match of a target, whatever r and whichever subset.
            for part in trial.removal.parts:
                if (trial.target, part) not in replaced:
                    replaced[trial.target, part] = _another(moment, part, rng)
            drawn = tuple(one for part in trial.removal.parts if (one := replaced[trial.target, part]) is not None)
            found.append(trial._replace(removal=trial.removal._replace(parts=drawn)))
        return found


@dataclass(frozen=True)
class RandomDirection:
    """A control: the change at each origin keeps its norm and gets a random direction, one for each target."""

    reference: Matched
    name: str = DIRECTION

    def trials(self, moment: Moment) -> list[Trial]:
        seeds = moment.drawing(2).integers(1 << 40, size=len(moment.targets)).tolist()
        return [
            trial
            if trial.removal is None
            else trial._replace(removal=trial.removal._replace(turned=seeds[trial.target]))
            for trial in self.reference.trials(moment)
        ]


Method = Matched | RandomActive | RandomDirection
"""What asks for removals at a moment."""


def exhaustive(moment: Moment) -> list[Removal]:
    """Every active latent of every origin, removed one at a time."""
    return [
        Removal(0.0, (Part(origin, latent, float(values[latent])),))
        for origin, values in moment.values.items()
        for latent in (values > 0).nonzero()[:, 0].tolist()
    ]


def from_other_token(moment: Moment, elsewhere: Mapping[str, Float[Tensor, "N G"]]) -> list[Removal]:
    """The control of the search: at each origin as many latents, active on other tokens and not on this one.

    Each is taken off as if it were active as it is there. `elsewhere` has a row for each token; they are used
    in random order until there are enough. A largest change over many tries is large by chance: this says how large.
    """
    rng, found = moment.drawing(3), []
    for origin, values in moment.values.items():
        wanted, taken = int((values > 0).sum()), values > 0
        for row in rng.permutation(len(elsewhere[origin])).tolist():
            there = elsewhere[origin][row]
            fresh = rng.permutation(((there > 0) & ~taken).nonzero()[:, 0].numpy())[:wanted].tolist()
            found += [Removal(0.0, (Part(origin, latent, float(there[latent])),)) for latent in fresh]
            taken = _with(taken, fresh)
            wanted -= len(fresh)
            if not wanted:
                break
    return found


def _subsets(group: int) -> list[int]:
    """Every set of origins within a group that is not empty, smaller codes first."""
    return [subset for subset in range(1, group + 1) if not subset & ~group]


def _another(moment: Moment, part: Part, rng: np.random.Generator) -> Part | None:
    values = moment.values[part.origin]
    others = [latent for latent in (values > 0).nonzero()[:, 0].tolist() if latent != part.latent]
    if not others:
        return None
    latent = others[int(rng.integers(len(others)))]
    return Part(part.origin, latent, float(values[latent]))


def _with(taken: Bool[Tensor, " G"], latents: Sequence[int]) -> Bool[Tensor, " G"]:
    taken = taken.clone()
    taken[torch.tensor(latents, dtype=torch.int64)] = True
    return taken
