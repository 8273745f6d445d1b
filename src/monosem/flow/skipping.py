"""Layer skipping: every way past every layer of a suite, measured in one reading of a text.

x̂_{t+1} takes the place of the output of layer t + 1, whose computation then has no effect (arXiv 2410.07656, section
5.5; arXiv 2502.03032, appendix F).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from monosem.evaluation.paired import Interval, difference
from monosem.evaluation.reading import check_request
from monosem.flow.crossing import Crossing, Pair, rules_of
from monosem.flow.passage import Passage, pooled
from monosem.flow.shortcut import Way
from monosem.flow.suite import Suite
from monosem.lm import LanguageModel
from monosem.progress import progress
from monosem.shapes import InputError, Site
from monosem.text.window import Windows

CONTRASTS = (
    ("permutation, folded", "cosine, folded"),
    ("cosine, unfolded", "cosine, folded"),
    ("permutation, unfolded", "permutation, folded"),
    ("layer dropped", "cosine, folded"),
    ("x̂_t as x_{t+1}", "cosine, folded"),
)
"""Pairs of ways of which the papers say that the second is better, or which bound it."""


class Contrast(NamedTuple):
    """By how much `metric` is greater for the way `b` than for `a`, in the mean over layers."""

    a: str
    b: str
    metric: str
    interval: Interval


@dataclass(frozen=True)
class Skipping:
    """Every way past every layer, on `n_tokens` kept tokens; `provenance` says which."""

    passages: list[Passage]
    n_tokens: int
    provenance: dict[str, Any]

    @property
    def ways(self) -> list[str]:
        return list(dict.fromkeys(one.way for one in self.passages))

    def of(self, way: str) -> list[Passage]:
        """One way past each layer."""
        return [one for one in self.passages if one.way == way]

    def difference(self, a: str, b: str, metric: str = "explained_variance") -> Interval:
        """b − a in the mean over layers, paired by window; `metric` may be `delta_ce`. Raises `InputError`."""
        for name in (a, b):
            if not self.of(name):
                raise InputError(f"no way {name!r} was measured: there are {', '.join(self.ways)}")
        return difference(pooled(self.of(a), metric), pooled(self.of(b), metric))

    @property
    def metrics(self) -> list[str]:
        """What was measured: explained variance, and the loss where it was asked for."""
        return ["explained_variance", *(["delta_ce"] if self.passages[0].losses is not None else [])]

    def contrasts(self) -> list[Contrast]:
        """Those of `CONTRASTS` whose ways were measured, in every metric."""
        return [
            Contrast(a, b, metric, self.difference(a, b, metric))
            for a, b in CONTRASTS
            if {a, b} <= set(self.ways)
            for metric in self.metrics
        ]

    def to_json(self) -> dict[str, Any]:
        """JSON-able: one object a passage, one a contrast."""
        return {
            "passages": [one.to_json() for one in self.passages],
            "contrasts": [{**one._asdict(), "interval": one.interval._asdict()} for one in self.contrasts()],
            "n_tokens": self.n_tokens,
            "provenance": self.provenance,
        }


def skip_layers(
    suite: Suite,
    lm: LanguageModel,
    windows: Windows,
    ways: Sequence[Way],
    *,
    layers: Sequence[int] | None = None,
    loss_windows: int | None = None,
    batch: int = 8,
) -> Skipping:
    """Measure each way past each layer t + 1 that has residual autoencoders before and after (None: all).

    The first `loss_windows` windows (None: all, 0: none) go through the model once for each way and layer, replaced at
    kept positions: the tokens that the autoencoders left out in training keep what the layer gives. Raises `InputError`
    where no two neighbouring layers have autoencoders.
    """
    found = None
    for part in skipped(suite, lm, windows, ways, layers=layers, loss_windows=loss_windows, batch=batch):
        found = part
    if found is None:
        raise InputError("no token is left to measure: give longer windows or other text")
    return found


def skipped(
    suite: Suite,
    lm: LanguageModel,
    windows: Windows,
    ways: Sequence[Way],
    *,
    layers: Sequence[int] | None = None,
    loss_windows: int | None = None,
    batch: int = 8,
) -> Iterator[Skipping]:
    """The same after each batch of windows: of all that were read so far."""
    check_request(windows, batch)
    with torch.no_grad():
        pairs = [Pair(suite, source, target, ways) for source, target in neighbours(suite, layers)]
    sites = list(dict.fromkeys(site for pair in pairs for site in (pair.source, pair.target)))
    run = Crossing(lm, windows, pairs, rules_of(suite, sites))
    origin = _origin(suite, sites, lm, windows)
    count = len(windows.tokens)
    most = count if loss_windows is None else min(loss_windows, count)
    # A batch is measured with losses or without.
    bounds = sorted({*range(0, most, batch), *range(most, count, batch), count})
    total = windows.tokens.numel() + len(ways) * len(pairs) * most * windows.tokens.shape[1]
    with progress(f"{len(ways)} ways past {len(pairs)} layers", total, "tok") as bar:
        for start, end in pairwise(bounds):
            run.read(slice(start, end), start < most, bar)
            if run.tokens:
                read = {"windows": end, "loss_tokens": int(sum(run.counts))}
                yield Skipping(run.passages(), run.tokens, {**origin, **read})


def neighbours(suite: Suite, layers: Sequence[int] | None = None) -> list[tuple[Site, Site]]:
    """Residual sites of the suite that follow each other; `layers` are those skipped. Raises `InputError`."""
    sites = [Site("resid_post", layer) for layer in suite.layers()]
    found = [(site, later) for site in sites if (later := suite.after(site)) is not None]
    if not found:
        raise InputError(
            f"no two neighbouring layers have an autoencoder of the residual stream: there are layers {suite.layers()}"
        )
    if layers is None:
        return found
    known = [later.layer for _, later in found]
    for layer in layers:
        if layer not in known:
            raise InputError(f"layer {layer} cannot be skipped: layers with autoencoders before and behind are {known}")
    return [pair for pair in found if pair[1].layer in layers]


def _origin(suite: Suite, sites: Sequence[Site], lm: LanguageModel, windows: Windows) -> dict[str, Any]:
    return {
        "model": lm.identity(),
        "text": dict(windows.identity),
        "length": windows.tokens.shape[1],
        "saes": {str(site): suite.hash(site) for site in sites},
    }
