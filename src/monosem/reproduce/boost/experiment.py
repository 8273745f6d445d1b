"""An experiment beside a seed's core on one domain: what it shares, and trials made of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monosem.activations import Source
from monosem.reproduce.arm import Arm, Measured, Trial
from monosem.reproduce.boost import core as cores
from monosem.reproduce.boost import kept, learning, price, rate
from monosem.reproduce.boost.arm import BOOST
from monosem.reproduce.boost.ground import ground
from monosem.reproduce.boost.text import Ground, Text, sample
from monosem.reproduce.boost.threshold import Batches
from monosem.reproduce.scale import Scale
from monosem.sae import SAE, load


class Experiment(NamedTuple):
    """A seed's ground, one of its texts, batches of that text to set thresholds on, and the core's folder."""

    scale: Scale
    seed: int
    here: Ground
    text: Text
    folder: Path
    batches: Batches

    @property
    def core(self) -> SAE:
        """The frozen core."""
        return self.load(self.folder)

    def load(self, folder: Path) -> SAE:
        """An autoencoder where others are trained."""
        return load(folder).to(self.here.device)

    def trained(
        self, arms: Sequence[Arm], source: Source | None = None, beside: Path | None = None, name: str | None = None
    ) -> dict[str, SAE]:
        """Arms on the text, or on another source of it, beside the core, or beside another, with the L0 they are for.

        Thresholds are set on tokens that were trained on; new latents are called `name`, or as the text is.
        """
        rates, folder = rate.chosen(self.scale), beside or self.folder
        configs = {
            arm.name: learning.config(self.scale, arm, self.seed, rates[arm.family], folder, name or self.text.name)
            for arm in arms
        }
        label = f"{self.text.name}, seed {self.seed}, {len(arms)} arm{'s' * (len(arms) > 1)}"
        saes = learning.trained(self.here, source or self.text.source, configs, label)
        batches = self.batches if source is None else sample(source, self.here, self.scale)
        return learning.settled(saes, configs, batches)

    def residual(self) -> Path:
        """The sum of the core and the paper's residual on this text: trained once, and kept."""
        lr = rate.chosen(self.scale)[BOOST.family]
        what = {"what": "residual", "seed": self.seed, "lr": lr, "text": self.text.name}
        return kept.autoencoder(self.scale, what, lambda: self.trained([BOOST])[BOOST.name])

    def on(self, text: Text) -> Experiment:
        """The same beside the same core, on another text."""
        return self._replace(text=text, batches=sample(text.source, self.here, self.scale))


def experiment(scale: Scale, seed: int | None, domain: str) -> Experiment:
    """What a trial of a domain begins with."""
    assert seed is not None
    here = ground(scale, seed)
    folder, text = cores.core(scale, here, seed), here.domain(domain)
    return Experiment(scale, seed, here, text, folder, sample(text.source, here, scale))


Run = Callable[[Experiment], Measured]


def trial(
    kind: str, domain: str, run: Run, arms: Callable[[Scale], Sequence[Arm]], *, read: int, losses: int = 0
) -> Trial:
    """A trial of one domain; `read` autoencoders are evaluated, `losses` of them inside the model as well."""
    return Trial(
        f"{kind}_{domain}",
        functools.partial(_run, run, domain),
        lambda scale: price.trial(scale, arms(scale), read=read + len(arms(scale)), losses=losses, domain=domain),
        functools.partial(_settings, kind, domain),
    )


def _run(run: Run, domain: str, scale: Scale, seed: int | None) -> Measured:
    return run(experiment(scale, seed, domain))


def _settings(kind: str, domain: str, scale: Scale) -> dict[str, Any]:
    """What decides a trial, JSON-able."""
    own = {key: scale.extra[key] for key in ("ks", "unique", "losses")}
    return {"trial": kind, "text_of_domain": domain, **kept.shared(scale), **own}


def everywhere(scale: Scale) -> list[str]:
    """The domains of most claims, and those that few are tested on."""
    return [*scale.extra["domains"], *scale.extra["wide"]]


def on_domains(make: Callable[[str], Trial]) -> Callable[[Scale], list[Trial]]:
    """The trials of a claim: learning rates, cores, and one experiment for each domain of the scale."""
    return lambda scale: [rate.TRIAL, cores.TRIAL, *(make(domain) for domain in scale.extra["domains"])]
