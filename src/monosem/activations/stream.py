"""The stream a trainer reads: windows in a permuted order, blocks of them shuffled by token, batches of one size.

Everything is a function of (seed, position): the state is two numbers, and a stream built from it continues bitwise.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.shapes import InputError, Site


class Rows(NamedTuple):
    """Kept tokens: their activations at each site and where they come from."""

    acts: dict[Site, Float[Tensor, "N D"]]
    windows: Int[Tensor, " N"]
    positions: Int[Tensor, " N"]


@runtime_checkable
class Source(Protocol):
    """Where activations come from: a model that runs now, or a store on disk."""

    sites: tuple[Site, ...]
    n_windows: int

    def rows(self, windows: Int[np.ndarray, " W"]) -> Rows:
        """The kept tokens of these windows, in this order."""
        ...


class Stream:
    """Endless batches of exactly `batch` rows. A token comes once an epoch.

    The windows of an epoch are permuted by (seed, epoch) and read in blocks of `block` windows; the rows of a block
    are permuted by (seed, block number). Batches run on across blocks, so every row is emitted.
    """

    def __init__(self, source: Source, *, batch: int, block: int = 256, seed: int = 0) -> None:
        if source.n_windows < 1:
            raise InputError("the text gives no window of activations: use a longer text or shorter windows")
        self.source, self.batch, self.seed = source, batch, seed
        self.block = min(block, source.n_windows)
        self._number, self._cursor = 0, 0
        self._rows: Rows | None = None
        self._order = np.empty(0, np.int64)

    @property
    def blocks_per_epoch(self) -> int:
        return -(-self.source.n_windows // self.block)

    @property
    def epoch(self) -> int:
        return self._number // self.blocks_per_epoch

    def state(self) -> dict[str, int]:
        """JSON-able: the block and the next row in it."""
        return {"seed": self.seed, "block": self._number, "cursor": self._cursor}

    def resume(self, state: dict[str, int]) -> None:
        """Continue after the batch at which `state` was taken; the current block is computed again."""
        if state["seed"] != self.seed:
            raise InputError(f"the stream has seed {self.seed}, the state to resume has {state['seed']}")
        self._number, self._cursor, self._rows = state["block"], state["cursor"], None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Rows:
        parts, missing, empty = [], self.batch, 0
        while missing:
            if self._rows is None:
                self._load()
            take = self._order[self._cursor : self._cursor + missing]
            if len(take):
                parts.append(_take(self._rows, torch.from_numpy(take)))
                self._cursor += len(take)
                missing -= len(take)
            empty = 0 if len(take) else empty + 1
            if empty > self.blocks_per_epoch:
                raise InputError("the exclusion rule leaves no token of this text: give longer windows or other text")
            if self._cursor == len(self._order):
                self._number, self._cursor, self._rows = self._number + 1, 0, None
        return parts[0] if len(parts) == 1 else _join(parts)

    def _load(self) -> None:
        epoch, place = divmod(self._number, self.blocks_per_epoch)
        windows = np.random.default_rng((self.seed, 0, epoch)).permutation(self.source.n_windows)
        self._rows = self.source.rows(windows[place * self.block : (place + 1) * self.block])
        _check_finite(self._rows)
        self._order = np.random.default_rng((self.seed, 1, self._number)).permutation(len(self._rows.windows))


def _take(rows: Rows | None, where: Tensor) -> Rows:
    assert rows is not None
    acts = {site: act[where.to(act.device)] for site, act in rows.acts.items()}
    return Rows(acts, rows.windows[where], rows.positions[where])


def _join(parts: list[Rows]) -> Rows:
    acts = {site: torch.cat([part.acts[site] for part in parts]) for site in parts[0].acts}
    return Rows(acts, torch.cat([part.windows for part in parts]), torch.cat([part.positions for part in parts]))


def _check_finite(rows: Rows) -> None:
    for site, act in rows.acts.items():
        # A sum is finite only if every term is, and one pass without a mask is cheap; overflow is settled below.
        if act.sum(dtype=torch.float32).isfinite():
            continue
        bad = (~act.isfinite().all(dim=1)).nonzero().flatten()
        if len(bad):
            first = int(bad[0])
            raise InputError(
                f"activations at {site} are not finite at {len(bad)} token(s), first at window "
                f"{int(rows.windows[first])} position {int(rows.positions[first])}: check the model's precision there"
            )
