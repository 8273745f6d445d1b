"""The features active on one token at one layer: what is removed for them, and what is left of them then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from monosem.flow.design import Design
from monosem.flow.entering import Entering
from monosem.flow.group import BITS
from monosem.flow.removal import Removal, changes
from monosem.flow.rerun import Clean, Rerun
from monosem.flow.suite import Suite
from monosem.flow.trial import EXHAUSTIVE, OTHER_TOKEN, Method, Moment, Trial, exhaustive, from_other_token
from monosem.lm import LanguageModel
from monosem.shapes import Site

_LOGITS = 1 << 26
"""Logits of a pass that measures losses (256 MiB in float32)."""


class Setup(NamedTuple):
    """What all occurrences share. The first `matchers` methods are matchers, the others controls of the first one."""

    suite: Suite
    lm: LanguageModel
    design: Design
    methods: tuple[Method, ...]
    matchers: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of methods and searches, as results have them."""
        return (*(method.name for method in self.methods), *((EXHAUSTIVE, OTHER_TOKEN) * self.design.exhaustive))

    @property
    def sampled(self) -> tuple[Method, ...]:
        """Those whose losses are measured: the reference and its controls."""
        return (self.methods[0], *self.methods[self.matchers :])


class Measured(NamedTuple):
    """The targets' activations after each removal, and those of the same row of an unchanged run; losses likewise."""

    new: Float[Tensor, "E S"]
    old: Float[Tensor, "E S"]
    losses: dict[Removal, tuple[float, float]]


class Occurrence:
    """One token at one layer; `base` is the unchanged run, `key` is (seed, window, position, layer).

    `elsewhere` has the codes of the window's tokens, by origin, for the control of the search.
    """

    def __init__(
        self,
        setup: Setup,
        clean: Clean,
        run: Rerun,
        base: Mapping[Site, Float[Tensor, "R D"]],
        key: tuple[int, int, int, int],
        elsewhere: Mapping[str, Float[Tensor, "N G"]],
    ) -> None:
        self.of, self.clean, self.run, self.position, self.elsewhere = setup, clean, run, key[2], elsewhere
        self.design, self.suite, self.passes = setup.design, setup.suite, 0
        self.site, self.origins = Site("resid_post", key[3]), self.suite.before(Site("resid_post", key[3]))
        self.before = codes_of(self.suite, self.site, base[self.site])
        stream = base.get(Site("resid_post", key[3] - 1))
        self.start = None if stream is None else Entering(key[3], stream[:, None])
        values = {origin: codes_of(self.suite, site, base[site][:1])[0] for origin, site in self.origins.items()}
        targets = (self.before > 0).all(0).nonzero()[:, 0]
        drawn = np.random.default_rng([*key, 0]).permutation(len(targets))[: self.design.features]
        self.moment = Moment(key, targets[torch.from_numpy(drawn)], values)

    def trials(self) -> list[dict[str, Any]]:
        """A record of every trial and search, with the columns of `Deactivation` that belong to it."""
        asked = {method.name: method.trials(self.moment) for method in self.of.methods}
        searched = self._searches() if self.design.exhaustive else {}
        listed = [trial.removal for trials in asked.values() for trial in trials if trial.removal is not None]
        removals = list(dict.fromkeys([*listed, *(one for tried in searched.values() for one in tried)]))
        sampled = self._sampled(asked)
        measured = self._measure(removals, [trial.removal for _, trial in sampled if trial.removal is not None])
        rows = {removal: row for row, removal in enumerate(removals)}
        found = [
            self._record(name, trial, measured, rows, lossy=(name, trial) in sampled)
            for name, trials in asked.items()
            for trial in trials
        ]
        for name, tried in searched.items():
            found += self._best(self.of.names.index(name), tried, measured, rows)
        return found

    def _searches(self) -> dict[str, list[Removal]]:
        return {EXHAUSTIVE: exhaustive(self.moment), OTHER_TOKEN: from_other_token(self.moment, self.elsewhere)}

    def _sampled(self, asked: Mapping[str, list[Trial]]) -> list[tuple[str, Trial]]:
        """Trials whose losses are measured: everything active removed, of the first targets that have something."""
        able = [trial.target for trial in asked[self.of.methods[0].name] if trial.removal is not None]
        first = set(list(dict.fromkeys(able))[: self.design.losses])
        return [
            (method.name, trial)
            for method in self.of.sampled
            for trial in asked[method.name]
            if trial.removal is not None and trial.subset == trial.group and trial.target in first
        ]

    def _measure(self, removals: Sequence[Removal], sampled: Sequence[Removal]) -> Measured:
        rows, targets = self.design.rows, self.moment.targets
        new, old = [], []
        for part in _chunks(removals, rows):
            added = self._changes(part, rows)
            after = codes_of(self.suite, self.site, self.run.activations([self.site], added, self.start)[self.site])
            new.append(after[: len(part), targets])
            old.append(self.before[: len(part), targets])
            self.passes += 1
        none = torch.zeros(0, len(targets))
        return Measured(torch.cat([none, *new]), torch.cat([none, *old]), self._losses(sampled))

    def _losses(self, sampled: Sequence[Removal]) -> dict[Removal, tuple[float, float]]:
        asked = list(dict.fromkeys(sampled))
        if not asked:
            return {}
        length = len(self.clean.tokens) - self.position
        rows = max(1, min(len(asked), self.design.rows, _LOGITS // (length * self.of.lm.vocab_size)))
        run = Rerun(self.of.lm, self.clean, self.position, rows)
        base, found = run.losses(layer=self.moment.layer).tolist(), {}
        for part in _chunks(asked, rows):
            after = run.losses(self._changes(part, rows), self.moment.layer).tolist()
            found |= {removal: (base[row], after[row]) for row, removal in enumerate(part)}
            self.passes += 1
        return found

    def _changes(self, removals: Sequence[Removal], rows: int) -> dict[Site, Float32[Tensor, "R D"]]:
        """What is added at every origin, or, where modules keep what they gave, the sum of it at the target's site."""
        filled = [*removals, *[Removal(1.0, ())] * (rows - len(removals))]
        added = changes(self.suite, self.origins, filled)
        if self.design.recompute or not added:
            return added
        first, *rest = (change.to(self.of.lm.device) for change in added.values())
        return {self.site: sum(rest, first)}

    def _record(
        self, name: str, trial: Trial, measured: Measured, rows: Mapping[Removal, int], *, lossy: bool
    ) -> dict[str, Any]:
        latent, removal, method = int(self.moment.targets[trial.target]), trial.removal, self.of.names.index(name)
        start = {"latent": latent, "method": method, "group": trial.group, "subset": trial.subset, "tries": 0}
        if removal is None:
            return start | _figures(float("nan"), float(self.before[0, latent]), float("nan"))
        row = rows[removal]
        losses = measured.losses[removal] if lossy else ()
        old, new = float(measured.old[row, trial.target]), float(measured.new[row, trial.target])
        return start | _figures(removal.r, old, new, *losses)

    def _best(
        self, method: int, tried: Sequence[Removal], measured: Measured, rows: Mapping[Removal, int]
    ) -> Iterator[dict[str, Any]]:
        """For each target the removal with the largest activation change."""
        if not tried:
            return
        places = torch.tensor([rows[removal] for removal in tried])
        left = measured.new[places] / measured.old[places]
        group = sum({BITS[part.origin] for removal in tried for part in removal.parts})
        for target, best in enumerate(left.argmin(0).tolist()):
            row = int(places[best])
            subset = BITS[tried[best].parts[0].origin]
            start = {"latent": int(self.moment.targets[target]), "method": method, "group": group, "subset": subset}
            old, new = float(measured.old[row, target]), float(measured.new[row, target])
            yield {**start, "tries": len(tried), **_figures(0.0, old, new)}


def codes_of(suite: Suite, site: Site, act: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
    """Dense activations on the CPU; what is stored but not positive counts as 0."""
    sae = suite[site]
    return sae.encode(act.to(sae.W_dec)).clamp_min(0).cpu()


def _chunks(removals: Sequence[Removal], rows: int) -> Iterator[Sequence[Removal]]:
    return (removals[start : start + rows] for start in range(0, len(removals), rows))


def _figures(
    r: float, old: float, new: float, loss_old: float = float("nan"), loss_new: float = float("nan")
) -> dict[str, float]:
    return {"r": r, "old": old, "new": new, "loss_old": loss_old, "loss_new": loss_new}
