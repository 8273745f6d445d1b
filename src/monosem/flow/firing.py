"""Which latents fire where, at several sites on the same tokens: what matching by data is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64
from scipy.sparse import csr_array
from torch import Tensor

from monosem.activations import Source
from monosem.evaluation.feature import Entries
from monosem.flow.suite import Suite
from monosem.progress import progress
from monosem.shapes import InputError, Site
from monosem.shapes.codes import Codes


class Fired(NamedTuple):
    """Active entries of one autoencoder, sorted by latent: latent i owns starts[i]:starts[i + 1] of both arrays."""

    starts: np.ndarray
    tokens: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, codes: Sequence[Codes]) -> Fired:
        """Codes of consecutive tokens."""
        entries, start = Entries(codes[0].n_latents), 0
        for part in codes:
            entries.update(part, torch.arange(start, start + part.rows, dtype=torch.int32))
            start += part.rows
        return cls(**entries.by_latent())


@dataclass(frozen=True)
class Firing:
    """Codes at each site on the same `n_tokens` tokens; 8 bytes an active entry."""

    n_tokens: int
    fired: Mapping[Site, Fired]

    @classmethod
    @torch.no_grad()
    def record(
        cls,
        suite: Suite,
        source: Source,
        sites: Sequence[Site] | None = None,
        *,
        tokens: int | None = None,
        windows: int = 8,
    ) -> Firing:
        """Encode aligned tokens at these sites (None: all of the suite that the source has), `windows` at a time.

        Stops at `tokens` of them (None: all); the source leaves out what its exclusion rule names. Raises `InputError`
        for a site that the source does not have, and where it has no token.
        """
        chosen = _sites(suite, source, sites)
        entries = {site: Entries(suite.n_latents(site)) for site in chosen}
        read = 0
        with progress("encoding", tokens, "tok") as bar:
            for start in range(0, source.n_windows, windows):
                rows = source.rows(np.arange(start, min(start + windows, source.n_windows)))
                count = len(rows.windows) if tokens is None else min(len(rows.windows), tokens - read)
                where = torch.arange(read, read + count, dtype=torch.int32)
                for site in chosen:
                    sae = suite[site]
                    entries[site].update(sae.codes(rows.acts[site][:count].to(sae.W_dec.device).float()), where)
                read += count
                bar.advance(count)
                if read == tokens:
                    break
        if not read:
            raise InputError("no token is left to encode: give longer windows or other text")
        return cls(read, {site: Fired(**entries[site].by_latent()) for site in chosen})

    def matrix(self, site: Site, *, binary: bool = False) -> csr_array:
        """Codes [F, n_tokens], a row a latent, in float64; ones instead of values if `binary`."""
        fired = self._at(site)
        values = np.ones(len(fired.values)) if binary else fired.values.astype(np.float64)
        return csr_array((values, fired.tokens, fired.starts), shape=(len(fired.starts) - 1, self.n_tokens))

    def density(self, site: Site) -> Float64[Tensor, " F"]:
        """The share of tokens on which each latent is active."""
        return torch.from_numpy(np.diff(self._at(site).starts) / self.n_tokens)

    def medians(self, site: Site) -> Float32[Tensor, " F"]:
        """The median of each latent's positive activations; of all of them for one that is never active.

        Pseudo thresholds for autoencoders that have none, in units of codes.
        """
        fired = self._at(site)
        if not len(fired.values):
            raise InputError(f"no latent at {site} is active on these {self.n_tokens:,} tokens: give more text")
        owner = np.repeat(np.arange(len(fired.starts) - 1), np.diff(fired.starts))
        ordered = fired.values[np.lexsort((fired.values, owner))]
        counts = np.diff(fired.starts)
        low, high = fired.starts[:-1] + (counts - 1) // 2, fired.starts[:-1] + counts // 2
        found = np.full(len(counts), np.median(fired.values), dtype=np.float32)
        there = counts > 0
        found[there] = (ordered[low[there]] + ordered[high[there]]) / 2
        return torch.from_numpy(found)

    def _at(self, site: Site) -> Fired:
        if site not in self.fired:
            raise InputError(f"nothing was encoded at {site}: there are codes at {', '.join(map(str, self.fired))}")
        return self.fired[site]


def _sites(suite: Suite, source: Source, asked: Sequence[Site] | None) -> list[Site]:
    known = [site for site in suite if site in source.sites]
    for site in asked or ():
        if site not in known:
            raise InputError(f"no activations of an autoencoder's site {site}: there are {', '.join(map(str, known))}")
    return list(known if asked is None else asked)
