"""Evaluating several autoencoders of one site in one reading of a text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from monosem.evaluation import per_k
from monosem.evaluation.batch import Batch
from monosem.evaluation.by_window import ByWindow, Terms
from monosem.evaluation.place import Place, shared_place
from monosem.evaluation.provenance import of_autoencoder, provenance
from monosem.evaluation.ratio import Figure
from monosem.evaluation.reading import check_request, evaluating, read
from monosem.evaluation.reconstruction import Reconstruction
from monosem.evaluation.recovered import Recovered
from monosem.evaluation.replacement import Trial, Variant, replacement_losses, variants
from monosem.evaluation.result import Results, metric_frame, results_table
from monosem.evaluation.variation import Variation
from monosem.lm import LanguageModel
from monosem.sae import SAE
from monosem.shapes import InputError
from monosem.text.window import Windows


@dataclass(frozen=True)
class Evaluation:
    """What one autoencoder does on the kept tokens of a text, in raw space.

    `errors` has the standard error over batches of the metrics that have one; `compat` holds figures that
    exist only to compare with other tools' tables.
    """

    metrics: dict[str, float]
    errors: dict[str, float]
    curves: dict[str, list]
    compat: dict[str, float]
    provenance: dict[str, Any]
    n_tokens: int
    n_excluded: int
    space: str = "raw"
    terms: dict[str, Terms] = field(default_factory=dict, compare=False, repr=False)
    """What each window adds to the metrics that are quotients of sums: for paired differences; not in JSON."""
    density: Float64[Tensor, " F"] | None = field(default=None, compare=False, repr=False)
    """The share of these tokens on which each latent is active; not in JSON."""

    @property
    def alive(self) -> Bool[Tensor, " F"] | None:
        """Which latents are active on any of these tokens."""
        return None if self.density is None else self.density > 0

    def to_json(self) -> dict[str, Any]:
        """JSON-able; a metric that is not defined is null."""
        return {
            "metrics": _finite(self.metrics),
            "errors": _finite(self.errors),
            "curves": self.curves,
            "compat": _finite(self.compat),
            "provenance": self.provenance,
            "n_tokens": self.n_tokens,
            "n_excluded": self.n_excluded,
            "space": self.space,
        }

    def frame(self) -> Any:
        """A data frame: a row a metric, its value and standard error. Needs pandas."""
        return metric_frame(self)

    def _repr_html_(self) -> str:
        return results_table({"": self})


class _Read:
    """What the first reading of a text leaves: sums, and which tokens were kept."""

    def __init__(self, saes: Mapping[str, SAE]) -> None:
        self.variation = Variation()
        self.reconstructions = {name: Reconstruction(sae) for name, sae in saes.items()}
        self.keep: list[Bool[Tensor, "W T"]] = []
        self.by_window = ByWindow()


def evaluate(
    saes: dict[str, SAE],
    lm: LanguageModel,
    windows: Windows,
    *,
    batch: int = 8,
    loss_windows: int | None = None,
    loss_per_k: bool | None = None,
    command: str | None = None,
) -> Results[Evaluation]:
    """Measure autoencoders that share a site and an exclusion rule, both stored in `sae.info`.

    Of transcoders every metric is about the target they predict, and the target is what is replaced.

    One forward pass per `batch` of windows serves all of them. The first `loss_windows` windows (None: all,
    0: none) go through the whole model again, unchanged and with the site replaced at kept positions by each
    reconstruction, by zero and by the mean over kept tokens; losses are averaged over kept tokens that have a
    next one. `loss_per_k` runs the model with the k strongest latents alone as well, at every power of two below
    K, for autoencoders with ranks (None: those trained for several budgets). Raises `InputError` before any forward
    pass when widths, sites or rules do not fit.
    """
    place = shared_place(saes, lm)
    check_request(windows, batch)
    if loss_windows is not None and loss_windows < 0:
        raise InputError(f"loss_windows {loss_windows}: give a number of windows, 0 for no loss, or nothing for all")
    with evaluating(saes):
        first = _reconstructed(saes, lm, windows, place, batch)
        keep = torch.cat(first.keep)[:loss_windows]
        trials = {name: Trial(sae, _budgets(sae, loss_per_k)) for name, sae in saes.items()}
        recovered, source_tokens = _recovered(trials, lm, windows, keep, place, first.variation, batch)
    origin = provenance(lm, windows, place, batch, command)
    origin["loss"] = {"windows": len(keep), "tokens": source_tokens}
    found = {
        name: _evaluation(
            first,
            name,
            _losses_of(name, recovered),
            first.by_window.terms(name) | recovered[name, None].terms(),
            windows,
            origin | of_autoencoder(sae),
        )
        for name, sae in saes.items()
    }
    return Results(found)


def _budgets(sae: SAE, asked: bool | None) -> tuple[int, ...]:
    """The smaller budgets at which the model is run."""
    most = per_k.most(sae)
    if asked is None:
        # What `at` gives shares its smaller budgets with the autoencoder it is from.
        asked = len(sae.info.get("budgets", {}).get("J", ())) > 1 and "budget" not in sae.info
    return tuple(per_k.powers(most)) if asked and most else ()


def _reconstructed(saes: Mapping[str, SAE], lm: LanguageModel, windows: Windows, place: Place, batch: int) -> _Read:
    result = _Read(saes)
    for reading in read(lm, windows, place, batch=batch, label="evaluating"):
        result.keep.append(reading.keep)
        if not len(reading.acts):
            continue
        result.variation.update(reading.target)
        result.by_window.read(reading.target, reading.keep)
        for name, sae in saes.items():
            one = Batch.of(sae, reading.acts, reading.target)
            result.reconstructions[name].update(one)
            result.by_window.update(name, one)
    if not result.variation.tokens:
        raise InputError(f"no token is left to evaluate on ({place.exclusion}): give longer windows or other text")
    return result


def _recovered(
    trials: Mapping[str, Trial],
    lm: LanguageModel,
    windows: Windows,
    keep: Bool[Tensor, "N T"],
    place: Place,
    variation: Variation,
    batch: int,
) -> tuple[dict[Variant, Recovered], int]:
    """Loss metrics of each reconstruction, and the number of source tokens they are averaged over."""
    recovered, tokens = {variant: Recovered(variant) for variant in variants(trials)}, 0
    if len(keep):
        for losses in replacement_losses(trials, lm, windows, keep, place, variation.mean(), batch):
            tokens += int(losses.tokens.sum())
            for one in recovered.values():
                one.update(losses)
    return recovered, tokens


def _losses_of(name: str, recovered: Mapping[Variant, Recovered]) -> dict[int | None, dict[str, Figure]]:
    """Loss metrics of one autoencoder by budget; None: its own."""
    return {k: one.figures() for (own, k), one in recovered.items() if own == name}


def _evaluation(
    first: _Read,
    name: str,
    losses: dict[int | None, dict[str, Figure]],
    terms: dict[str, Terms],
    windows: Windows,
    origin: dict[str, Any],
) -> Evaluation:
    measured = first.reconstructions[name]
    figures, curves = measured.figures(first.variation), measured.curves(first.variation)
    if origin["loss"]["tokens"]:
        figures |= losses[None]
        curves |= _losses_per_k(curves.get("per_k", []), losses)
    return Evaluation(
        metrics={key: figure.value for key, figure in figures.items()},
        errors={key: figure.error for key, figure in figures.items() if figure.error is not None},
        curves=curves,
        compat=measured.compat(),
        provenance=origin,
        n_tokens=first.variation.tokens,
        n_excluded=windows.tokens.numel() - first.variation.tokens,
        terms=terms,
        density=measured.density(),
    )


def _losses_per_k(
    rows: list[per_k.Row], losses: Mapping[int | None, Mapping[str, Figure]]
) -> dict[str, list[per_k.Row]]:
    """The curve over k with losses at the budgets that have some, and at K; nothing if no budget has."""
    smaller = {k: figures for k, figures in losses.items() if k is not None}
    return {"per_k": per_k.with_losses(rows, {**smaller, len(rows): losses[None]})} if smaller else {}


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in figures.items()}
