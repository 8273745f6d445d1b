"""What a text is to this study: a source to train on, and held-out activations that know their windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.activations import Rows, Source
from monosem.lm import LanguageModel
from monosem.reproduce.scale import Scale
from monosem.shapes import Site
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows


class Part(NamedTuple):
    """Kept raw activations of W windows in order, and which of their T tokens these are."""

    acts: Float[Tensor, "N D"]
    keep: Bool[Tensor, "W T"]

    @classmethod
    def of(cls, rows: Rows, site: Site, first: int, shape: tuple[int, int]) -> Part:
        """The rows of windows `first`, `first` + 1, …; `shape` is (W, T)."""
        keep = torch.zeros(shape, dtype=torch.bool)
        keep[rows.windows - first, rows.positions] = True
        return cls(rows.acts[site].float(), keep)


class Text(NamedTuple):
    """`windows` are the tokens of `held_out`, where there is a language model to read them."""

    name: str
    source: Source
    held_out: Part
    validation: Part
    windows: Windows | None = None


class Ground(NamedTuple):
    """Where a seed's experiments take place: a site, general text, domains by name, and the tokens left out."""

    site: Site
    general: Text
    domain: Callable[[str], Text]
    exclusion: Exclusion
    lm: LanguageModel | None = None

    @property
    def device(self) -> torch.device:
        """Where autoencoders are trained."""
        return torch.device("cpu") if self.lm is None else self.lm.device


class Beginning:
    """A source with the first `tokens` tokens of another, for budgets of text that are smaller than a window too."""

    def __init__(self, source: Source, tokens: int, length: int) -> None:
        self.sites, self.n_windows = source.sites, -(-tokens // length)
        self._source, self._tokens, self._length = source, tokens, length

    def rows(self, windows: Int[np.ndarray, " W"]) -> Rows:
        found = self._source.rows(windows)
        keep = found.windows * self._length + found.positions < self._tokens
        acts = {site: act[keep.to(act.device)] for site, act in found.acts.items()}
        return Rows(acts, found.windows[keep], found.positions[keep])


BATCH = 1024


def sample(source: Source, ground: Ground, scale: Scale) -> list[Float[Tensor, "B D"]]:
    """Batches of training activations to set thresholds on: as many tokens as the scale says, or all there are."""
    count = min(source.n_windows, -(-scale.extra["calibration"] // scale.extra["window"]))
    acts = source.rows(np.arange(count)).acts[ground.site].to(ground.device).float()
    return list(acts[: scale.extra["calibration"]].split(BATCH))
