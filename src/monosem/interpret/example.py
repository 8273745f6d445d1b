"""Contexts that a feature is explained and judged by: where it fires, from all strengths, and where it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from monosem.disk import digest
from monosem.evaluation import Context, FeatureStatistics
from monosem.evaluation.context import around
from monosem.interpret.apart import Apart, from_groups, silent, spread
from monosem.interpret.sampling import Sampling
from monosem.shapes import InputError

Similar = Callable[[int], list[int]]
"""The latents most like a latent, nearest first (`interpret/similar.py`)."""
Kind = Literal["random", "hard"]
_CANDIDATES = 64


class Negative(NamedTuple):
    """A context in which the feature is silent; `like` is the similar feature that fires there, where one does."""

    context: Context
    kind: Kind
    like: int | None = None


@dataclass(frozen=True)
class Examples:
    """The contexts of one feature: `shown` to an explainer, and, apart from them, those it is judged by."""

    latent: int
    shown: list[Context]
    positives: list[Context]
    negatives: list[Negative]

    @property
    def origin(self) -> str:
        """A digest of what an explainer sees: a label belongs to it."""
        return digest([[one.tokens, [round(value, 4) for value in one.values]] for one in self.shown])

    def to_json(self) -> dict[str, Any]:
        """JSON-able, with token ids and activations."""
        return {
            "latent": self.latent,
            "shown": [one._asdict() for one in self.shown],
            "positives": [one._asdict() for one in self.positives],
            "negatives": [one._asdict() | {"context": one.context._asdict()} for one in self.negatives],
        }


@dataclass(frozen=True)
class Drawn:
    """Features drawn at random, and how many were passed over: `few` fire too seldom, `dense` are hardly ever silent.

    `alive` of the `latents` fire at all on the `windows` of `tokens` tokens that count; `seed` drew the order in which
    they were tried, None where they were named. `hard_by` says what makes two features similar.
    """

    features: list[Examples]
    seed: int | None
    latents: int
    alive: int
    few: int = 0
    dense: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    windows: int = 0
    tokens: int = 0
    hard_by: str = "none"

    @property
    def skipped(self) -> int:
        return self.few + self.dense

    @property
    def positives(self) -> float:
        """Contexts in which a feature fires, mean over the features."""
        return _mean([len(one.positives) for one in self.features])

    @property
    def strong(self) -> float:
        """The share of these that are from the stronger half of a feature's activations: 0.5 where groups are even."""
        half = self.sampling.groups / 2
        return _mean([(one.group or 0) < half for own in self.features for one in own.positives])

    @property
    def hard(self) -> float:
        """The share of silent contexts in which a similar feature fires: `Sampling.hard` where there are enough."""
        return _mean([one.kind == "hard" for own in self.features for one in own.negatives])

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which contexts are judged, JSON-able: a score of other contexts is another score."""
        sizes = {"windows": self.windows, "tokens": self.tokens, "hard_by": self.hard_by}
        return {"seed": self.seed, **sizes, "sampling": vars(self.sampling)}

    def to_json(self) -> dict[str, Any]:
        """JSON-able, without the contexts themselves; NaN for a mean of nothing."""
        sizes = {"latents": self.latents, "alive": self.alive, "skipped_few": self.few, "skipped_dense": self.dense}
        means = {"positives": self.positives, "strong_positives": self.strong, "hard_negatives": self.hard}
        return {"drawn": [one.latent for one in self.features], **sizes, **means, **self.settings}


def draw(
    statistics: FeatureStatistics,
    n: int,
    *,
    seed: int = 0,
    similar: Similar | None = None,
    hard_by: str | None = None,
    sampling: Sampling | None = None,
    latents: Sequence[int] | None = None,
    judged: bool = True,
) -> Drawn:
    """`n` features at random among those with enough contexts, or the `latents` named, each with its contexts.

    Without `similar` every negative context is a random one; `hard_by` names it in what is kept. `judged` = False: a
    feature that fires at all is enough, to be explained. Raises `InputError` when no feature has enough contexts, or
    where they are wider than a window.
    """
    sampling = sampling or Sampling()
    _check(statistics, n, seed, sampling)
    alive = np.flatnonzero(np.diff(statistics.starts))
    order = latents if latents is not None else np.random.default_rng(seed).permutation(alive).tolist()
    source = _Source(statistics, sampling, similar or (lambda latent: []), sampling.least if judged else 1)
    found: list[Examples] = []
    few = dense = 0
    for latent in order:
        own = source.examples(latent)
        if len(own.positives) < sampling.least if judged else not own.shown:
            few += 1
        elif len(own.negatives) < sampling.least and judged:
            dense += 1
        else:
            found.append(own)
        if len(found) == n and latents is None:
            break
    if not found:
        wanted = f"{sampling.least} contexts to be judged by beside {sampling.shown} to be explained from"
        raise InputError(
            f"none of {len(order):,} features has {wanted if judged else 'a context'} "
            f"({few:,} fire too seldom, {dense:,} too often): read more text with --windows"
        )
    by = hard_by or ("none" if similar is None else "similar")
    size = {"windows": statistics.n_windows, "tokens": statistics.n_tokens, "hard_by": by}
    started = None if latents is not None else seed
    return Drawn(found, started, statistics.n_latents, len(alive), few, dense, sampling, **size)


def _check(statistics: FeatureStatistics, n: int, seed: int, sampling: Sampling) -> None:
    if n < 1:
        raise InputError(f"{n} features were asked for: give at least 1")
    if seed < 0:
        raise InputError(f"seed {seed}: give 0 or more")
    if sampling.width >= statistics.length:
        raise InputError(
            f"width {sampling.width}: windows have {statistics.length} tokens, give fewer on either side of a context"
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


class _Source:
    """The text of feature statistics, from which contexts are cut."""

    def __init__(self, statistics: FeatureStatistics, sampling: Sampling, similar: Similar, least: int) -> None:
        self.statistics, self.sampling, self.similar, self.least = statistics, sampling, similar, least
        self.counts: Int[np.ndarray, " F"] = np.diff(statistics.starts)
        self.kept: Int[np.ndarray, " K"] = np.flatnonzero(~statistics.left_out().reshape(-1))

    def examples(self, latent: int) -> Examples:
        if self.counts[latent] < self.least:
            return Examples(latent, [], [], [])
        shown = self._shown(latent)
        positives = self._positives(latent, shown)
        if len(positives) < self.sampling.least:
            return Examples(latent, shown, positives, [])
        return Examples(latent, shown, positives, self._silent(latent))

    def _shown(self, latent: int) -> list[Context]:
        """What an explainer sees, the strongest first; it does not depend on how many contexts are judged."""
        own = self.sampling
        top = self.statistics.top(latent, own.shown // 2, own.width)
        many = -(-2 * own.shown // own.groups)
        sampled = self.statistics.quantiles(latent, many, own.groups, own.seed, own.width)
        strong = [one for one in sampled if (one.group or 0) < own.groups / 2]
        free = [one for one in strong if all(self._apart(one, other) for other in top)]
        return sorted([*top, *spread(free, own.shown - len(top))], key=lambda one: -one.value)

    def _positives(self, latent: int, shown: Sequence[Context]) -> list[Context]:
        """From every group as evenly as there are places that share no token with what is shown."""
        own = self.sampling
        tokens, values = self.statistics.activations(latent)
        free = Apart(self.statistics.length, own.width, shown)
        generator = np.random.default_rng([own.seed + 1, latent])
        places = from_groups(tokens, values, own.positives, own.groups, free, generator)
        return [self._around(place, tokens, values)._replace(group=group) for place, group in places]

    def _silent(self, latent: int) -> list[Negative]:
        own = self.sampling
        generator = np.random.default_rng([own.seed, latent, 1])
        free = Apart(self.statistics.length, own.width)
        found: list[Negative] = []
        near = self.similar(latent)
        hard = round(own.negatives * own.hard)
        for place, other in enumerate(near):
            share = -(-(hard - len(found)) // (len(near) - place))
            found += self._taken(latent, self._firing(other, generator), share, free, "hard", other)
        candidates = generator.choice(self.kept, own.negatives * _CANDIDATES)
        return found + self._taken(latent, candidates, own.negatives - len(found), free, "random")

    def _firing(self, other: int, generator: np.random.Generator) -> Int[np.ndarray, " N"]:
        """The stronger half of a similar feature's activations, in random order."""
        tokens, values = self.statistics.activations(other)
        return generator.permutation(tokens[values >= np.median(values)] if len(values) else tokens)

    def _taken(
        self, latent: int, places: Int[np.ndarray, " N"], n: int, free: Apart, kind: Kind, like: int | None = None
    ) -> list[Negative]:
        """The first `n` free places around which the latent is silent."""
        tokens, values = self.statistics.activations(latent)
        found: list[Negative] = []
        for place in places[silent(tokens, places, self.statistics.length, self.sampling.width)].tolist():
            if len(found) == n:
                break
            if free.take(place):
                found.append(Negative(self._around(place, tokens, values), kind, like))
        return found

    def _around(self, place: int, tokens: Int[np.ndarray, " N"], values: Float[np.ndarray, " N"]) -> Context:
        window, position = divmod(place, self.statistics.length)
        text = self.statistics.window(window)
        return around(text, window, position, tokens, values, self.sampling.width)

    def _apart(self, a: Context, b: Context) -> bool:
        return a.window != b.window or abs(a.position - b.position) > 2 * self.sampling.width
