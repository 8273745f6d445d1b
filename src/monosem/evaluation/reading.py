"""Reading a text once through the model: the kept activations of a site, and of a target, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from monosem.evaluation.place import Place
from monosem.lm import LanguageModel
from monosem.progress import progress
from monosem.sae import SAE
from monosem.shapes import InputError, Site
from monosem.text.window import Windows


class Reading(NamedTuple):
    """Windows `start` and following: which tokens are kept, and the raw activations of those, in order.

    `target` is what is to be explained: of a transcoder the activations it predicts, else `acts` themselves.
    """

    start: int
    keep: Bool[Tensor, "W T"]
    acts: Float32[Tensor, "B D"]
    target: Float32[Tensor, "B E"]


def read(lm: LanguageModel, windows: Windows, place: Place, *, batch: int, label: str) -> Iterator[Reading]:
    """One truncated forward pass per batch of windows.

    Raises `InputError` for activations that are not finite.
    """
    count, length = windows.tokens.shape
    sites = list(dict.fromkeys([place.site, place.target, *map(lm.site, place.exclusion.max_norm)]))
    with progress(label, count * length, "tok") as bar:
        for start in range(0, count, batch):
            tokens = windows.tokens[start : start + batch]
            acts = lm.capture(tokens, sites)
            keep = ~place.exclusion.mask(windows.special[start : start + batch], acts)
            kept = {site: _kept(acts[site], keep, start, site) for site in dict.fromkeys((place.site, place.target))}
            yield Reading(start, keep, kept[place.site], kept[place.target])
            bar.advance(tokens.numel())


def check_request(windows: Windows, batch: int) -> None:
    """Raises `InputError` when there is nothing to read."""
    if not len(windows.tokens):
        raise InputError("there are no windows to evaluate on: give a longer text or a shorter window length")
    if batch < 1:
        raise InputError(f"batch {batch}: give at least one window a batch")


@contextmanager
def evaluating(saes: Mapping[str, SAE]) -> Iterator[None]:
    """Autoencoders in evaluation mode without gradient inside the block, as they were afterwards."""
    training = {name: sae.training for name, sae in saes.items()}
    try:
        for sae in saes.values():
            sae.eval()
        with torch.no_grad():
            yield
    finally:
        for name, sae in saes.items():
            sae.train(training[name])


def _kept(acts: Tensor, keep: Tensor, start: int, site: Site) -> Tensor:
    kept = acts[keep.to(acts.device)].float()
    bad = (~kept.isfinite().all(1)).nonzero().flatten()
    if len(bad):
        window, position = keep.nonzero()[int(bad[0])].tolist()
        raise InputError(
            f"the activation at {site}, window {start + window}, position {position} is not finite: "
            "load the model with dtype float32, or leave that text out"
        )
    return kept
