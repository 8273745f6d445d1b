"""Activations from a model that runs now."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int

from monosem.activations.exclusion import Exclusion
from monosem.activations.stream import Rows
from monosem.lm import LanguageModel
from monosem.shapes import Site
from monosem.text import Windows

CALIBRATION_WINDOWS = 32


def calibrate(lm: LanguageModel, windows: Windows, sites: list[Site], exclusion: Exclusion) -> Exclusion:
    """Set the rule's norm limits from the first windows of the text."""
    sample = windows.tokens[:CALIBRATION_WINDOWS]
    return exclusion.calibrated(windows.special[: len(sample)], lm.capture(sample, sites))


class Live:
    """A source of activations that runs the model, `batch` windows at a time.

    Every pass has the same shape (a short last one is filled up), so a window's activations do not depend on which
    windows are asked for beside it.
    """

    def __init__(
        self, lm: LanguageModel, windows: Windows, sites: list[Site], exclusion: Exclusion, *, batch: int = 8
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
        filled = torch.cat([windows, windows[-1:].expand(self.batch - len(windows))])
        acts = self.lm.capture(self.windows.tokens[filled], list(self.sites))
        acts = {site: act[: len(windows)] for site, act in acts.items()}
        return kept(acts, windows, self.exclusion.mask(self.windows.special[windows], acts))


def kept(acts: dict[Site, torch.Tensor], windows: torch.Tensor, excluded: torch.Tensor) -> Rows:
    """The rows of [W, T, D] activations that the rule keeps."""
    which, positions = (~excluded).nonzero(as_tuple=True)
    rows = {site: act[which.to(act.device), positions.to(act.device)] for site, act in acts.items()}
    return Rows(rows, windows[which], positions)
