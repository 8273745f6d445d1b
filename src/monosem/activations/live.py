"""Activations from a model that runs now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from monosem.activations.stream import Rows
from monosem.lm import LanguageModel
from monosem.shapes import Site
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows

CALIBRATION_WINDOWS = 32
PASS_WINDOWS = 8
"""Windows that go through the model at once."""


def calibrate(
    lm: LanguageModel, windows: Windows, sites: list[Site], exclusion: Exclusion, *, batch: int = PASS_WINDOWS
) -> Exclusion:
    """Set the rule's norm limits from the first windows of the text, `batch` at a time as a source reads them."""
    sample = windows.tokens[:CALIBRATION_WINDOWS]
    parts = [_capture(lm, part, sites, batch) for part in sample.split(batch)]
    acts = {site: torch.cat([part[site] for part in parts]) for site in sites}
    return exclusion.calibrated(windows.special[: len(sample)], acts)


class Live:
    """A source of activations that runs the model, `batch` windows at a time.

    Every pass has the same shape (a short last one is filled up), so a window's activations do not depend on which
    windows are asked for beside it.
    """

    def __init__(
        self, lm: LanguageModel, windows: Windows, sites: list[Site], exclusion: Exclusion, *, batch: int = PASS_WINDOWS
    ) -> None:
        self.lm, self.windows, self.exclusion, self.batch = lm, windows, exclusion, batch
        self.sites, self.n_windows = tuple(sites), len(windows.tokens)

    def rows(self, windows: Int[np.ndarray, " W"]) -> Rows:
        parts = [
            self._pass(torch.from_numpy(windows[at : at + self.batch])) for at in range(0, len(windows), self.batch)
        ]
        acts = {site: torch.cat([part.acts[site] for part in parts]) for site in self.sites}
        return Rows(acts, torch.cat([part.windows for part in parts]), torch.cat([part.positions for part in parts]))

    def _pass(self, windows: torch.Tensor) -> Rows:
        acts = _capture(self.lm, self.windows.tokens[windows], list(self.sites), self.batch)
        return kept(acts, windows, self.exclusion.mask(self.windows.special[windows], acts))


def _capture(lm: LanguageModel, tokens: torch.Tensor, sites: list[Site], batch: int) -> dict[Site, torch.Tensor]:
    """A pass of exactly `batch` windows; missing ones are filled up and dropped again."""
    filled = torch.cat([tokens, tokens[-1:].expand(batch - len(tokens), -1)])
    return {site: act[: len(tokens)] for site, act in lm.capture(filled, sites).items()}


def rounding_loss(
    acts: Mapping[Site, Float[torch.Tensor, "W T D"]],
    exact: Mapping[Site, Float[torch.Tensor, "W T D"]],
    exclusion: Exclusion,
    special: Bool[torch.Tensor, "W T"],
) -> dict[str, Any]:
    """What activations lose against float32 ones, by site, JSON-able.

    `unexplained_variance` is Σ‖act − x‖² / Σ‖x − mean‖² over kept tokens: no autoencoder trained on `acts` can be
    closer to the float32 model than this.
    """
    result = {}
    for site, act in acts.items():
        keep = ~exclusion.mask(special, {site: exact[site]})
        x, rounded = exact[site].cpu()[keep].double(), act.cpu()[keep].double()
        lost = float((rounded - x).square().sum() / (x - x.mean(0)).square().sum())
        dtype = str(act.dtype).removeprefix("torch.")
        result[str(site)] = {"dtype": dtype, "unexplained_variance": lost, "tokens": len(x)}
    return result


def kept(acts: dict[Site, torch.Tensor], windows: torch.Tensor, excluded: torch.Tensor) -> Rows:
    """The rows of [W, T, D] activations that the rule keeps."""
    which, positions = (~excluded).nonzero(as_tuple=True)
    rows = {site: act[which.to(act.device), positions.to(act.device)] for site, act in acts.items()}
    return Rows(rows, windows[which], positions)
