"""Evaluating several autoencoders of one site in one reading of a text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from monosem.evaluation.batch import Batch
from monosem.evaluation.place import Place, shared_place
from monosem.evaluation.provenance import of_autoencoder, provenance
from monosem.evaluation.ratio import Figure
from monosem.evaluation.reading import check_request, evaluating, read
from monosem.evaluation.reconstruction import Reconstruction
from monosem.evaluation.recovered import Recovered
from monosem.evaluation.replacement import replacement_losses
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


class _Read:
    """What the first reading of a text leaves: sums, and which tokens were kept."""

    def __init__(self, saes: Mapping[str, SAE]) -> None:
        self.variation = Variation()
        self.reconstructions = {name: Reconstruction(sae) for name, sae in saes.items()}
        self.keep: list[Bool[Tensor, "W T"]] = []


def evaluate(
    saes: dict[str, SAE],
    lm: LanguageModel,
    windows: Windows,
    *,
    batch: int = 8,
    loss_windows: int | None = None,
    command: str | None = None,
) -> dict[str, Evaluation]:
    """Measure autoencoders that share a site and an exclusion rule, both stored in `sae.info`.

    One forward pass per `batch` of windows serves all of them. The first `loss_windows` windows (None: all,
    0: none) go through the whole model again, unchanged and with the site replaced at kept positions by each
    reconstruction, by zero and by the mean over kept tokens; losses are averaged over kept tokens that have a
    next one. Raises `InputError` before any forward pass when widths, sites or rules do not fit.
    """
    place = shared_place(saes, lm)
    check_request(windows, batch)
    if loss_windows is not None and loss_windows < 0:
        raise InputError(f"loss_windows {loss_windows}: give a number of windows, 0 for no loss, or nothing for all")
    with evaluating(saes):
        first = _reconstructed(saes, lm, windows, place, batch)
        keep = torch.cat(first.keep)[:loss_windows]
        recovered, source_tokens = _recovered(saes, lm, windows, keep, place, first.variation, batch)
    origin = provenance(lm, windows, place, batch, command)
    origin["loss"] = {"windows": len(keep), "tokens": source_tokens}
    return {
        name: _evaluation(first, name, recovered[name].figures(), windows, origin | of_autoencoder(sae))
        for name, sae in saes.items()
    }


def _reconstructed(saes: Mapping[str, SAE], lm: LanguageModel, windows: Windows, place: Place, batch: int) -> _Read:
    result = _Read(saes)
    for reading in read(lm, windows, place, batch=batch, label="evaluating"):
        result.keep.append(reading.keep)
        if not len(reading.acts):
            continue
        result.variation.update(reading.acts)
        for name, sae in saes.items():
            result.reconstructions[name].update(Batch.of(sae, reading.acts))
    if not result.variation.tokens:
        raise InputError(f"no token is left to evaluate on ({place.exclusion}): give longer windows or other text")
    return result


def _recovered(
    saes: Mapping[str, SAE],
    lm: LanguageModel,
    windows: Windows,
    keep: Bool[Tensor, "N T"],
    place: Place,
    variation: Variation,
    batch: int,
) -> tuple[dict[str, Recovered], int]:
    """Loss metrics, and the number of source tokens they are averaged over."""
    recovered, tokens = {name: Recovered(name) for name in saes}, 0
    if len(keep):
        for losses in replacement_losses(saes, lm, windows, keep, place, variation.mean(), batch):
            tokens += losses.tokens
            for one in recovered.values():
                one.update(losses)
    return recovered, tokens


def _evaluation(
    first: _Read, name: str, losses: dict[str, Figure], windows: Windows, origin: dict[str, Any]
) -> Evaluation:
    measured = first.reconstructions[name]
    figures = measured.figures(first.variation)
    if origin["loss"]["tokens"]:
        figures |= losses
    return Evaluation(
        metrics={key: figure.value for key, figure in figures.items()},
        errors={key: figure.error for key, figure in figures.items() if figure.error is not None},
        curves=measured.curves(first.variation),
        compat=measured.compat(),
        provenance=origin,
        n_tokens=first.variation.tokens,
        n_excluded=windows.tokens.numel() - first.variation.tokens,
    )


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in figures.items()}
