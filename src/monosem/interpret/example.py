"""Contexts that a feature is explained and judged by: where it fires, from all strengths, and where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from monosem.disk import digest
from monosem.evaluation import Context, FeatureStatistics
from monosem.evaluation.context import around
from monosem.shapes import InputError

Similar = Callable[[int], list[int]]
"""The latents most like a latent, nearest first (`interpret/similar.py`)."""
Kind = Literal["random", "hard"]
MIXED = 5
"""Features that shuffling contexts among them needs."""
_CANDIDATES = 64


@dataclass(frozen=True)
class Sampling:
    """How contexts of a feature are drawn; the sizes are those of arXiv 2505.22255, sec. 5.

    `width`: tokens on either side. `shown`: contexts above the median that an explainer sees, half of them the
    strongest; `positives`: others, from `groups` equal shares by strength, that it is judged by; `negatives`: contexts
    in which it is silent, of which a share `hard` are such that a similar feature fires. A feature with fewer than
    `least` positives or negatives is skipped. `seed` draws the contexts of a feature, whichever features are drawn.
    """

    width: int = 15
    groups: int = 10
    shown: int = 16
    positives: int = 64
    negatives: int = 64
    hard: float = 0.5
    least: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.groups, self.shown, self.least) < 1 or not 0 <= self.hard <= 1:
            raise InputError(f"{self}: give sizes of at least 1 and a share of hard contexts from 0 to 1")
        if min(self.positives, self.negatives) < self.least:
            raise InputError(
                f"{self.positives} positives and {self.negatives} negatives: give at least {self.least} of each"
            )


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

    `alive` of the `latents` fire at all; `seed` drew the order in which they were tried.
    """

    features: list[Examples]
    seed: int | None
    latents: int
    alive: int
    few: int = 0
    dense: int = 0
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def skipped(self) -> int:
        return self.few + self.dense

    def to_json(self) -> dict[str, Any]:
        """JSON-able, without the contexts themselves."""
        sizes = {"latents": self.latents, "alive": self.alive, "skipped_few": self.few, "skipped_dense": self.dense}
        drawn = {"drawn": [one.latent for one in self.features], "seed": self.seed}
        return {**drawn, **sizes, "sampling": vars(self.sampling)}


def draw(
    statistics: FeatureStatistics,
    n: int,
    *,
    seed: int = 0,
    similar: Similar | None = None,
    sampling: Sampling | None = None,
    latents: Sequence[int] | None = None,
) -> Drawn:
    """`n` features at random among those with enough contexts, or the `latents` named, each with its contexts.

    Without `similar` every negative context is a random one. Raises `InputError` when no feature has enough.
    """
    if n < 1:
        raise InputError(f"{n} features were asked for: give at least 1")
    sampling = sampling or Sampling()
    alive = np.flatnonzero(np.diff(statistics.starts))
    order = latents if latents is not None else np.random.default_rng(seed).permutation(alive).tolist()
    source = _Source(statistics, sampling, similar or (lambda latent: []))
    drawn = Drawn([], None if latents is not None else seed, statistics.n_latents, len(alive), sampling=sampling)
    few = dense = 0
    for latent in order:
        found = source.examples(latent)
        if len(found.positives) < sampling.least:
            few += 1
        elif len(found.negatives) < sampling.least:
            dense += 1
        else:
            drawn.features.append(found)
        if len(drawn.features) == n and latents is None:
            break
    if not drawn.features:
        raise InputError(
            f"none of {len(order):,} features has {sampling.least} contexts to be judged by beside {sampling.shown} to "
            f"be explained from ({few:,} fire too seldom, {dense:,} too often): read more text with --windows"
        )
    return replace(drawn, few=few, dense=dense)


class _Source:
    """The text of feature statistics, from which contexts are cut."""

    def __init__(self, statistics: FeatureStatistics, sampling: Sampling, similar: Similar) -> None:
        self.statistics, self.sampling, self.similar = statistics, sampling, similar
        self.kept: Int[np.ndarray, " K"] = np.flatnonzero(~statistics.left_out().reshape(-1))

    def examples(self, latent: int) -> Examples:
        shown, positives = self._active(latent)
        if len(positives) < self.sampling.least:
            return Examples(latent, shown, positives, [])
        return Examples(latent, shown, positives, self._silent(latent))

    def _active(self, latent: int) -> tuple[list[Context], list[Context]]:
        """What an explainer sees, the strongest first; and positives, which share no token with it."""
        own = self.sampling
        if np.diff(self.statistics.starts)[latent] < own.least:
            return [], []
        top = self.statistics.top(latent, own.shown // 2, own.width)
        strong = [one for one in self._sampled(latent, own.shown, own.seed, top) if _group(one) < own.groups / 2]
        shown = [*top, *_spread(strong, own.shown - len(top))]
        # Drawn by themselves, so that what is shown does not depend on how many are judged.
        positives = _spread(self._sampled(latent, own.positives, own.seed + 1, shown), own.positives)
        return sorted(shown, key=lambda one: -one.value), positives

    def _sampled(self, latent: int, n: int, seed: int, taken: Sequence[Context]) -> list[Context]:
        """Contexts from every group, more than `n` where there are, that share no token with `taken` ones."""
        own = self.sampling
        found = self.statistics.quantiles(latent, -(-(n + own.shown) // own.groups), own.groups, seed, own.width)
        return [one for one in found if all(_apart(one, other, own.width) for other in taken)]

    def _silent(self, latent: int) -> list[Negative]:
        own = self.sampling
        generator = np.random.default_rng([own.seed, latent, 1])
        found: list[Negative] = []
        near = self.similar(latent)
        hard = round(own.negatives * own.hard)
        for place, other in enumerate(near):
            share = -(-(hard - len(found)) // (len(near) - place))
            found += self._taken(latent, self._firing(other, generator), share, found, "hard", other)
        candidates = generator.choice(self.kept, own.negatives * _CANDIDATES)
        return found + self._taken(latent, candidates, own.negatives - len(found), found, "random")

    def _firing(self, other: int, generator: np.random.Generator) -> Int[np.ndarray, " N"]:
        """The stronger half of a similar feature's activations, in random order."""
        tokens, values = self.statistics.activations(other)
        return generator.permutation(tokens[values >= np.median(values)] if len(values) else tokens)

    def _taken(
        self,
        latent: int,
        places: Int[np.ndarray, " N"],
        n: int,
        taken: Iterable[Negative],
        kind: Kind,
        like: int | None = None,
    ) -> list[Negative]:
        """The first `n` places around which the latent is silent, none within reach of another."""
        length, width = self.statistics.length, self.sampling.width
        tokens, values = self.statistics.activations(latent)
        used = [one.context for one in taken]
        found: list[Negative] = []
        for place in places[silent(tokens, places, length, width)].tolist():
            if len(found) == n:
                break
            window, position = divmod(place, length)
            if all(one.window != window or abs(one.position - position) > 2 * width for one in used):
                context = around(self.statistics.window(window), window, position, tokens, values, width)
                used.append(context)
                found.append(Negative(context, kind, like))
        return found


def silent(
    tokens: Int[np.ndarray, " N"], places: Int[np.ndarray, " P"], length: int, width: int
) -> Bool[np.ndarray, " P"]:
    """Around which flat places no activation (`tokens`, ascending) lies within `width` tokens of the same window."""
    places = places.astype(np.int64)
    first = places // length * length
    low = np.searchsorted(tokens, np.maximum(places - width, first))
    high = np.searchsorted(tokens, np.minimum(places + width + 1, first + length))
    return low == high


def shuffled(features: Sequence[Examples]) -> list[Examples]:
    """A control: every feature with random contexts of the others in place of its own, as many as it had.

    Neighbours are of different features, which `MIXED` features allow; raises `InputError` for fewer.
    """
    if len(features) < MIXED:
        raise InputError(f"shuffled contexts need at least {MIXED} features: draw more, or leave that control out")
    return [_mixed(place, features) for place in range(len(features))]


def _mixed(place: int, features: Sequence[Examples]) -> Examples:
    own, others = features[place], [*features[place + 1 :], *features[:place]]
    generator = np.random.default_rng([own.latent, 5])

    def mixed(kind: str) -> list[Any]:
        """One of each other feature in turn, until there are as many as before."""
        order = generator.permutation(len(others)).tolist()
        columns = [_in_any_order(getattr(others[other], kind), generator) for other in order]
        turns = [column[turn] for turn in range(max(map(len, columns))) for column in columns if turn < len(column)]
        return turns[: len(getattr(own, kind))]

    return Examples(own.latent, own.shown, mixed("positives"), mixed("negatives"))


def _in_any_order(items: Sequence[Any], generator: np.random.Generator) -> list[Any]:
    return [items[place] for place in generator.permutation(len(items)).tolist()]


def _apart(a: Context, b: Context, width: int) -> bool:
    return a.window != b.window or abs(a.position - b.position) > 2 * width


def _group(context: Context) -> int:
    return context.group or 0


def _spread(contexts: Sequence[Context], n: int) -> list[Context]:
    """`n` of them, from every group in turn; the strongest group first."""
    seen: dict[int, int] = {}
    turns: list[tuple[int, int, Context]] = []
    for one in contexts:
        turn = seen[_group(one)] = seen.get(_group(one), -1) + 1
        turns.append((turn, _group(one), one))
    chosen = sorted(turns, key=lambda item: item[:2])[:n]
    return [one for _, _, one in sorted(chosen, key=lambda item: item[1::-1])]
