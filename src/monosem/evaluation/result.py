"""Evaluations by name, as a table: in a notebook, or as a data frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from monosem.evaluation.provenance import whereabouts
from monosem.shapes import card
from monosem.shapes.frame import frame

COLUMNS = {
    "explained_variance": "explained variance",
    "l0": "L0",
    "ce_loss_score": "CE recovered (zero)",
    "ce_loss_score_mean": "CE recovered (mean)",
    "kl_div": "KL, nats",
    "frac_alive": "alive",
}
"""Figures that a notebook shows, where they were measured."""


@runtime_checkable
class Measured(Protocol):
    """What an evaluation offers to a table."""

    @property
    def metrics(self) -> dict[str, float]: ...

    @property
    def errors(self) -> dict[str, float]: ...

    @property
    def n_tokens(self) -> int: ...

    @property
    def n_excluded(self) -> int: ...

    @property
    def provenance(self) -> dict[str, Any]: ...


M = TypeVar("M", bound=Measured)


class Results(dict[str, M], Generic[M]):
    """Evaluations by autoencoder; a notebook shows their main figures."""

    def frame(self) -> Any:
        """A data frame: a row an autoencoder, a column a metric, METRIC_error where it has one. Needs pandas."""
        keys = dict.fromkeys(key for one in self.values() for key in one.metrics)
        columns: dict[str, list[float]] = {}
        for key in keys:
            columns[key] = [one.metrics.get(key, math.nan) for one in self.values()]
            if any(key in one.errors for one in self.values()):
                columns[f"{key}_error"] = [one.errors.get(key, math.nan) for one in self.values()]
        return frame(columns, list(self))

    def _repr_html_(self) -> str:
        return results_table(self)


def results_table(results: Mapping[str, Measured]) -> str:
    """The main figures of several evaluations as HTML."""
    if not results:
        return card.soft("nothing was evaluated")
    columns = {key: heading for key, heading in COLUMNS.items() if any(key in one.metrics for one in results.values())}
    rows = [[name, *(_cell(one, key) for key in columns)] for name, one in results.items()]
    first = next(iter(results.values()))
    return card.table(["", *columns.values()], rows, _note(first))


def metric_frame(one: Measured) -> Any:
    """A data frame: a row a metric, its value and standard error. Needs pandas."""
    errors = [one.errors.get(key, math.nan) for key in one.metrics]
    return frame({"value": list(one.metrics.values()), "error": errors}, list(one.metrics))


def _cell(one: Measured, key: str) -> str:
    value, error = one.metrics.get(key, math.nan), one.errors.get(key)
    if not math.isfinite(value):
        return "–"
    if key == "frac_alive":
        return f"{value:.1%}"
    return f"{value:.4g}" if error is None else f"{value:.4f} ± {error:.4f}"


def _note(first: Measured) -> str:
    losses = first.provenance["loss"]["tokens"]
    measured = f", losses on {losses:,} of them" if losses else ", losses not measured"
    return (
        f"{first.n_tokens:,} tokens at {whereabouts(first.provenance)}{measured}; "
        f"{first.n_excluded:,} more were left out; ± one standard error over batches"
    )
