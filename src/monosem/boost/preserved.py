"""Whether general text is as well explained as by the core alone: a verdict with intervals over windows."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from monosem.evaluation import Evaluation
from monosem.evaluation.by_window import Terms
from monosem.training.guard import SMALL_EV

EV_LIMIT = 0.01
"""Share of the core's explained variance that may be lost: the paper reports less than 1 % (arXiv 2507.12990)."""
CE_LIMIT = 0.01
"""Nats of cross-entropy that may be added (our choice)."""

Verdict = Literal["preserved", "damaged", "undecided"]


class Bounds(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def verdict(self, limit: float) -> Verdict:
        """By the side of the limit on which the whole interval lies."""
        return "preserved" if self.high < limit else "damaged" if self.low > limit else "undecided"


class Preserved(NamedTuple):
    """The loss of explained variance as a share of the core's, the added cross-entropy, and what they come to."""

    verdict: Verdict
    drop: Bounds
    added_ce: Bounds | None
    relative: bool

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "verdict": self.verdict,
            "drop": self.drop._asdict(),
            "added_ce": None if self.added_ce is None else self.added_ce._asdict(),
            "relative": self.relative,
            "limits": {"drop": EV_LIMIT, "added_ce": CE_LIMIT},
        }


def preserved(core: Evaluation, other: Evaluation, *, resamples: int = 1000, seed: int = 0) -> Preserved:
    """Compare on the same general text; bootstrap over windows, in which documents are packed.

    Preserved: the upper bounds of both are below their limits; damaged: a lower bound exceeds one.
    """
    ev, other_ev = core.terms["explained_variance"], other.terms["explained_variance"]
    relative = abs(core.metrics["explained_variance"]) >= SMALL_EV
    drop = _bounds(lambda rows: _drop(ev, other_ev, rows, relative), len(ev.num), resamples, seed)
    found: list[Verdict] = [drop.verdict(EV_LIMIT)]
    ce = None
    if "ce_loss_sae" in core.terms:
        a, b = core.terms["ce_loss_sae"], other.terms["ce_loss_sae"]
        ce = _bounds(lambda rows: _ratio(b, rows) - _ratio(a, rows), len(a.num), resamples, seed)
        found.append(ce.verdict(CE_LIMIT))
    worst: Verdict = "damaged" if "damaged" in found else "undecided" if "undecided" in found else "preserved"
    return Preserved(worst, drop, ce, relative)


def _drop(core: Terms, other: Terms, rows: np.ndarray, relative: bool) -> float:
    was = _ratio(core, rows)
    return (was - _ratio(other, rows)) / (abs(was) if relative else 1.0)


def _ratio(terms: Terms, rows: np.ndarray) -> float:
    return float(terms.num[rows].sum() / terms.den[rows].sum())


def _bounds(figure: Any, count: int, resamples: int, seed: int) -> Bounds:
    generator = np.random.default_rng(seed)
    drawn = [figure(generator.integers(0, count, count)) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Bounds(figure(np.arange(count)), float(low), float(high))
