"""Where, how often and how strongly every latent fires on a text, gathered in one reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from monosem.evaluation.feature_file import FORMAT, VERSION, FeatureStatistics
from monosem.evaluation.place import shared_place
from monosem.evaluation.provenance import of_autoencoder, provenance
from monosem.evaluation.reading import check_request, evaluating, read
from monosem.lm import LanguageModel
from monosem.sae import SAE
from monosem.shapes import InputError
from monosem.shapes.codes import Codes
from monosem.text.window import Windows

__all__ = ["FeatureStatistics", "feature_statistics", "statistics_of"]


class Entries:
    """Active entries of one autoencoder as they come, then sorted by latent; tokens keep their order in each.

    Twelve bytes an entry while gathering; sorting moves one batch after the other and lets go of it.
    """

    def __init__(self, n_latents: int) -> None:
        self.counts = np.zeros(n_latents, dtype=np.int64)
        self.total = 0
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, codes: Codes, tokens: Int[Tensor, " B"]) -> None:
        """`tokens` is the flat position w·T + t of each row of `codes`, greater than all before."""
        rows, latents, values = (part.cpu() for part in codes.entries())
        order = latents.sort(stable=True).indices
        part = (latents[order].int().numpy(), tokens[rows[order]].numpy(), values[order].float().numpy())
        self._parts.append(part)
        self.counts += np.bincount(part[0], minlength=len(self.counts))
        self.total += len(part[0])

    def by_latent(self) -> dict[str, np.ndarray]:
        """`starts` [F + 1], and `tokens` and `values` [N] where latent i owns starts[i]:starts[i + 1]."""
        starts = np.concatenate([[0], self.counts.cumsum()])
        cursor = starts[:-1].copy()
        tokens = np.empty(self.total, dtype=self._parts[0][1].dtype)
        values = np.empty(self.total, dtype=np.float32)
        while self._parts:
            latents, part_tokens, part_values = self._parts.pop(0)
            counts = np.bincount(latents, minlength=len(cursor))
            within = np.arange(len(latents)) - (counts.cumsum() - counts)[latents]
            where = cursor[latents] + within
            tokens[where], values[where] = part_tokens, part_values
            cursor += counts
        return {"starts": starts, "tokens": tokens, "values": values}


def feature_statistics(
    saes: dict[str, SAE],
    lm: LanguageModel,
    windows: Windows,
    *,
    batch: int = 8,
    max_entries: int = 200_000_000,
    command: str | None = None,
) -> dict[str, FeatureStatistics]:
    """Read a text once and gather every activation of every latent on the kept tokens.

    Values are codes, in the units of the autoencoder (`metadata["scale"]` converts). Memory is about 12 bytes
    an active entry of all autoencoders together, and 8 more for the one being sorted. Raises `InputError` for
    more than `max_entries` of them, and as `evaluate` does for bad input.
    """
    place = shared_place(saes, lm)
    check_request(windows, batch)
    entries = {name: Entries(sae.n_latents) for name, sae in saes.items()}
    keep: list[Bool[Tensor, "W T"]] = []
    with evaluating(saes):
        for reading in read(lm, windows, place, batch=batch, label="feature statistics"):
            keep.append(reading.keep)
            tokens = _positions(reading.keep, reading.start, windows.tokens.numel())
            for name, sae in saes.items():
                entries[name].update(sae.codes(reading.acts.to(sae.W_dec.device)), tokens)
            _check_total(entries, max_entries, reading.start + len(reading.keep), len(windows.tokens))
    kept = torch.cat(keep)
    if not kept.any():
        raise InputError(f"no token is left to read ({place.exclusion}): give longer windows or other text")
    origin = provenance(lm, windows, place, batch, command)
    return {
        name: _statistics(entries.pop(name), windows.tokens, kept, _units(sae, origin | of_autoencoder(sae)))
        for name, sae in saes.items()
    }


def statistics_of(
    codes: Iterable[Codes], tokens: Int[Tensor, "N T"], keep: Bool[Tensor, "N T"], **metadata: Any
) -> FeatureStatistics:
    """The same of codes that are there already: those of the kept tokens, in the order of the text, in batches."""
    where = _positions(keep, 0, tokens.numel())
    entries, start = None, 0
    for part in codes:
        entries = entries or Entries(part.n_latents)
        entries.update(part, where[start : start + part.rows])
        start += part.rows
    if entries is None or start != len(where):
        raise ValueError(f"codes of {start:,} tokens for {len(where):,} that are kept")
    return _statistics(entries, tokens, keep, metadata)


def _units(sae: SAE, origin: dict) -> dict[str, Any]:
    return {"space": sae.space, "scale": sae.code_scale, "provenance": origin}


def _positions(keep: Bool[Tensor, "W T"], start: int, total: int) -> Int[Tensor, " B"]:
    """Flat positions of the kept tokens, in the smallest integers that hold `total`."""
    flat = keep.flatten().nonzero().flatten() + start * keep.shape[1]
    return flat.int() if total <= torch.iinfo(torch.int32).max else flat


def _check_total(entries: Mapping[str, Entries], most: int, read_so_far: int, count: int) -> None:
    total = sum(one.total for one in entries.values())
    if total > most:
        raise InputError(
            f"{total:,} active entries after {read_so_far:,} of {count:,} windows, max_entries is {most:,}: "
            f"give at most {read_so_far * most // total:,} windows, fewer or sparser autoencoders, "
            "or raise max_entries"
        )


def _statistics(
    entries: Entries, text: Int[Tensor, "N T"], keep: Bool[Tensor, "N T"], metadata: dict[str, Any]
) -> FeatureStatistics:
    arrays = entries.by_latent()
    n_tokens = int(keep.sum())
    sums, peaks = _per_latent(arrays["starts"], arrays["values"])
    arrays |= {
        "window_tokens": text.cpu().int().numpy(),
        "excluded": (~keep).numpy(),
        "density": entries.counts / n_tokens,
        "mean": sums / np.maximum(entries.counts, 1),
        "max": peaks,
    }
    sizes = {"n_latents": len(entries.counts), "n_tokens": n_tokens}
    return FeatureStatistics(arrays, {"format": FORMAT, "version": VERSION, **sizes, **metadata})


def _per_latent(starts: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum (float64) and maximum of each latent's values; 0 for one that never fires."""
    sums, peaks = np.zeros(len(starts) - 1), np.zeros(len(starts) - 1, dtype=np.float32)
    alive = np.diff(starts) > 0
    if alive.any():
        sums[alive] = np.add.reduceat(values, starts[:-1][alive], dtype=np.float64)
        peaks[alive] = np.maximum.reduceat(values, starts[:-1][alive])
    return sums, peaks
