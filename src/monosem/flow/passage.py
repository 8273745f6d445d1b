"""How well one way past a layer does: explained variance and loss, by window so that ways can be compared in pairs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from monosem.evaluation.by_window import Terms
from monosem.evaluation.paired import Interval, difference
from monosem.evaluation.variation import Variation
from monosem.shapes import Site


class Passage(NamedTuple):
    """One way past `target`'s layer, as `place` sees it.

    `explained` and `losses` are numerators and denominators by window: of the strict explained variance, and of the
    increase of the cross-entropy in nats a token. `centred` is what a constant offset of x̂ adds to the squared error.
    """

    source: Site
    target: Site
    way: str
    place: Site
    explained: Terms
    centred: float
    losses: Terms | None

    @property
    def ev(self) -> float:
        """1 − Σ‖x̂ − x‖² / Σ‖x − mean‖², strict: offsets count."""
        return float(self.explained.num.sum() / self.explained.den.sum())

    @property
    def ev_literal(self) -> float:
        """1 − Var(x̂ − x) / Var(x) summed over dimensions: never smaller, blind to a constant offset."""
        return self.ev + self.centred / float(self.explained.den.sum())

    @property
    def delta_ce(self) -> Interval | None:
        """Cross-entropy with the replacement minus without, nats a token; None where it was not measured."""
        return None if self.losses is None else difference(_none(self.losses), self.losses)

    def to_json(self) -> dict[str, Any]:
        """JSON-able, without the terms."""
        sites = {name: str(getattr(self, name)) for name in ("source", "target", "place")}
        found = {**sites, "way": self.way, "explained_variance": self.ev, "explained_variance_literal": self.ev_literal}
        loss = self.delta_ce
        return found if loss is None else found | {"delta_ce": loss._asdict()}


def pooled(passages: list[Passage], metric: str = "explained_variance") -> Terms:
    """One way over several layers, each of equal weight, by window: for paired differences between two ways."""
    assert metric in ("explained_variance", "delta_ce")
    terms = [one.explained if metric == "explained_variance" else one.losses for one in passages]
    given = [one for one in terms if one is not None]
    # A stream's norm grows from layer to layer: without weights the last would be all.
    parts = [Terms(one.num / one.den.sum(), one.den / one.den.sum()) for one in given]
    return Terms(np.mean([one.num for one in parts], 0), np.mean([one.den for one in parts], 0))


class Part(NamedTuple):
    """What one batch adds to a tally: ‖e‖² of each window, Σ e, tokens, and what cross-entropy was measured."""

    squared: list[float]
    error: Float64[Tensor, " D"]
    tokens: int
    ce: list[float]

    @classmethod
    def of(cls, recon: Float[Tensor, "B D"], x: Float[Tensor, "B D"], counts: list[int], ce: list[float]) -> Part:
        """Kept tokens of some windows, `counts` in each that has any."""
        error = x.double() - recon.double()
        squared = [float(part.square().sum()) for part in error.split(counts)]
        return cls(squared, error.sum(0).cpu(), len(error), ce)


class Tally:
    """Running sums of one way."""

    def __init__(self) -> None:
        self._parts: list[Part] = []

    def add(self, part: Part) -> None:
        self._parts.append(part)

    def explained(self, variation: Variation) -> tuple[Terms, float]:
        """By window, and ‖Σ e‖² / n."""
        total = variation.per_batch()
        squared = np.array([value for part in self._parts for value in part.squared])
        error = torch.stack([part.error for part in self._parts]).sum(0)
        tokens = sum(part.tokens for part in self._parts)
        return Terms(total - squared, total), float(error.square().sum()) / tokens

    def losses(self, clean: list[float], tokens: list[float]) -> Terms | None:
        """By window, above that of the unchanged model; None where none was measured."""
        ce = np.array([value for part in self._parts for value in part.ce])
        return Terms(ce - np.array(clean), np.array(tokens)) if tokens else None


def _none(terms: Terms) -> Terms:
    return Terms(np.zeros_like(terms.num), terms.den)


def in_each(keep: Int[Tensor, " W"]) -> list[int]:
    """How many kept tokens each window has that has any."""
    return [count for count in keep.tolist() if count]
