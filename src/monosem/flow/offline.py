"""The offline judge of steered text: coherence by the plain model's loss, behaviour by scorers that passed their gates.

Total = B · C where a theme is to appear, (1 − B) · C where it is to go. Never comparable with a reading judge's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr

from monosem.flow.behaviour import Scorer
from monosem.flow.fluency import Coherence, Fluency, shuffled
from monosem.flow.generation import losses
from monosem.flow.sample import Sample, Split
from monosem.flow.steering import Mode
from monosem.interpret.interval import auc
from monosem.lm import LanguageModel

AUC, CLOSE, HALF = 0.9, 0.2, 0.5


class Gate(NamedTuple):
    """A condition on a scorer before it is used: what was measured, against which limit, and whether it holds."""

    scorer: str
    name: str
    value: float
    limit: str
    passed: bool

    def to_json(self) -> dict[str, Any]:
        return self._asdict()


class Scored(NamedTuple):
    """One text: its mean loss by the plain model, C, and by scorer B and the total; NaN where it cannot be told."""

    loss: float
    coherence: Coherence
    behaviour: dict[str, float]
    total: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """JSON-able, but for NaN."""
        return self._asdict() | {"coherence": self.coherence._asdict()}


@dataclass(frozen=True)
class Offline:
    """Fluency, the scorers whose gates hold, and every gate that was tried."""

    mode: Mode
    fluency: Fluency
    scorers: Mapping[str, Scorer]
    gates: Sequence[Gate] = ()

    def score(self, texts: Sequence[Sample], mean_losses: Sequence[float]) -> list[Scored]:
        """Every text by every scorer; `mean_losses` are the plain model's, NaN for an empty text."""
        behaviour = {name: scorer.score(texts) for name, scorer in self.scorers.items()}
        found = []
        for place, (text, loss) in enumerate(zip(texts, mean_losses, strict=True)):
            coherence = self.fluency.score(loss, text.ids)
            own = {name: float(values[place]) for name, values in behaviour.items()}
            found.append(Scored(loss, coherence, own, totals(self.mode, coherence.value, own)))
        return found

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "judge": "offline",
            "mode": self.mode,
            "fluency": self.fluency.to_json(),
            "scorers": {name: scorer.describe() for name, scorer in self.scorers.items()},
            "gates": [gate.to_json() for gate in self.gates],
        }


def totals(mode: Mode, coherence: float, behaviour: Mapping[str, float]) -> dict[str, float]:
    """B · C of what is added, (1 − B) · C of what is taken away."""
    return {name: (b if mode == "add" else 1 - b) * coherence for name, b in behaviour.items()}


def judge_offline(
    lm: LanguageModel,
    mode: Mode,
    plain: Sequence[Sample],
    scorers: Sequence[Scorer],
    theme: Split,
    background: Split,
    seed: int = 0,
) -> Offline:
    """Fluency on the scale of these plain texts, and the scorers that pass their gates. Raises as `Fluency.of`."""
    written = [text for text in plain if text.ids]
    mixed = [text._replace(ids=ids) for text, ids in zip(written, shuffled([one.ids for one in written], seed))]
    own, other = (mean_losses(lm, texts) for texts in (written, mixed))
    fluency = Fluency.of(own, other, [text.ids for text in written])
    return gated(lm, mode, fluency, scorers, theme, background, plain, seed)


def gated(
    lm: LanguageModel,
    mode: Mode,
    fluency: Fluency,
    scorers: Sequence[Scorer],
    theme: Split,
    background: Split,
    plain: Sequence[Sample],
    seed: int = 0,
) -> Offline:
    """The judge with those of `scorers` that pass.

    Each has to tell the theme from other text (AUC ≥ 0.9 on texts it has not seen); to find plain texts as close to
    other text as 0.2 where a theme is to appear, or 0.2 more of the theme in them where it is to go; and to find at
    least half as much of the theme in the theme's texts with their words shuffled. Fluency has to fall by half there.
    """
    mixed = [_mixed(text, lm, seed + place) for place, text in enumerate(theme.test)]
    c = [_coherence(lm, fluency, texts) for texts in (theme.test, mixed)]
    gates = [Gate("fluency", "shuffled over whole", _share(c[1], c[0]), "≤ 0.5", _share(c[1], c[0]) <= HALF)]
    kept = {}
    for scorer in scorers:
        own = list(_gates(scorer, mode, theme, background, plain, mixed))
        gates += own
        if all(gate.passed for gate in [gates[0], *own]):
            kept[scorer.name] = scorer
    return Offline(mode, fluency, kept, gates)


def _gates(
    scorer: Scorer, mode: Mode, theme: Split, background: Split, plain: Sequence[Sample], mixed: Sequence[Sample]
) -> list[Gate]:
    own, other = scorer.score(theme.test), scorer.score(background.test)
    told = auc(own, other)
    above = float(scorer.score(plain).mean() - other.mean())
    close = abs(above) <= CLOSE if mode == "add" else above >= CLOSE
    kept = _share(float(scorer.score(mixed).mean()), float(own.mean()))
    return [
        Gate(scorer.name, "AUC", told, f"≥ {AUC}", told >= AUC),
        Gate(scorer.name, "plain texts above other text", above, f"{'±' if mode == 'add' else '≥'} {CLOSE}", close),
        Gate(scorer.name, "shuffled over whole", kept, f"≥ {HALF}", kept >= HALF),
    ]


def correlations(scored: Sequence[Scored]) -> dict[str, float]:
    """Spearman's rank correlation of the behaviours of two scorers over texts; NaN where one is constant."""
    names = list(scored[0].behaviour) if scored else []
    values = {name: np.array([one.behaviour[name] for one in scored]) for name in names}
    found = {}
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            varies = len(scored) > 2 and np.ptp(values[first]) > 0 and np.ptp(values[second]) > 0
            found[f"{first}, {second}"] = (
                float(spearmanr(values[first], values[second]).statistic) if varies else math.nan
            )
    return found


def mean_losses(lm: LanguageModel, texts: Sequence[Sample]) -> list[float]:
    """The plain model's mean loss on every text given what is before it, nats; NaN for an empty one."""
    given = [torch.tensor(text.before or text.ids[:1], dtype=torch.int64) for text in texts]
    written = [text.ids if text.before else text.ids[1:] for text in texts]
    return [float(loss.mean()) if len(loss) else math.nan for loss in losses(lm, given, written)]


def _coherence(lm: LanguageModel, fluency: Fluency, texts: Sequence[Sample]) -> float:
    scores = [fluency.score(loss, text.ids) for text, loss in zip(texts, mean_losses(lm, texts))]
    return float(np.mean([one.value for one in scores]))


def _mixed(text: Sample, lm: LanguageModel, seed: int) -> Sample:
    """The same words in a random order."""
    found = text.text.split()
    mixed = " ".join(found[place] for place in np.random.default_rng(seed).permutation(len(found)))
    return Sample(lm.tokenizer(mixed, add_special_tokens=False)["input_ids"], mixed, text.before)


def _share(value: float, whole: float) -> float:
    return value / whole if whole > 0 else math.nan
