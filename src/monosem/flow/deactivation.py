"""What deactivating predecessors did: every trial, and figures over them with 95 % bounds over windows of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from monosem.disk import save_tensors, whole_file
from monosem.evaluation.by_window import Terms
from monosem.evaluation.paired import Interval, difference
from monosem.flow.group import NOWHERE, group_name, members
from monosem.flow.outcome import Contrast, Outcome, apart, plain_record, ratio, row_of
from monosem.flow.trial import ACTIVE, DIRECTION, EXHAUSTIVE, OTHER_TOKEN

COLUMNS: dict[str, type] = {
    "window": np.int64,
    "position": np.int64,
    "layer": np.int64,
    "latent": np.int64,
    "method": np.int64,
    "group": np.int64,
    "subset": np.int64,
    "tries": np.int64,
    "r": np.float64,
    "old": np.float64,
    "new": np.float64,
    "loss_old": np.float64,
    "loss_new": np.float64,
}
"""A trial: where, which target by which method, its group, the origins removed, z and loss before and after.

`tries` is how many removals a search chose among, 0 where nothing was searched. From nowhere nothing is removed: r and
`new` are NaN. Losses are NaN where they were not measured.
"""
_SAME_TARGET = ("window", "position", "layer", "latent")


@dataclass(frozen=True)
class Deactivation:
    """Trials by column, with the names of methods; the first matcher is the reference that controls belong to."""

    methods: tuple[str, ...]
    columns: Mapping[str, np.ndarray]
    windows: int

    @classmethod
    def joined(cls, parts: Sequence[Deactivation]) -> Deactivation:
        """Results on other windows by the same methods."""
        columns = {
            name: np.concatenate([part.columns[name] for part in parts] or [np.empty(0, kind)])
            for name, kind in COLUMNS.items()
        }
        return cls(parts[-1].methods if parts else (), columns, sum(part.windows for part in parts))

    @classmethod
    def of(cls, methods: Sequence[str], trials: Iterable[Mapping[str, Any]]) -> Deactivation:
        """The trials of one window."""
        listed = list(trials)
        columns = {name: np.array([one[name] for one in listed], dtype=kind) for name, kind in COLUMNS.items()}
        return cls(tuple(methods), columns, 1)

    def save(self, path: Path) -> None:
        """Write the trials whole or not at all."""
        with whole_file(path) as temporary:
            save_tensors({name: torch.from_numpy(column) for name, column in self.columns.items()}, temporary)

    @classmethod
    def load(cls, path: Path, methods: Sequence[str]) -> Deactivation:
        """One window's trials."""
        return cls(tuple(methods), {name: tensor.numpy() for name, tensor in load_file(path).items()}, 1)

    @property
    def trials(self) -> int:
        return len(self.columns["window"])

    def factors(self) -> list[float]:
        """Every r that was tried, in ascending order."""
        return sorted(set(self.columns["r"][self._removed()].tolist()))

    def outcome(self, method: str, r: float, layer: int | None = None) -> Outcome:
        """All active predecessors removed together."""
        own = self._by(method, layer)
        nowhere = own & (self.columns["group"] == NOWHERE)
        rows = own & self._everything() & (self.columns["r"] == r)
        measured = rows & np.isfinite(self.columns["loss_new"])
        return Outcome(
            method,
            r,
            int(rows.sum()),
            int(nowhere.sum()),
            self._mean(rows, self._success()),
            self._mean(rows, self._change()),
            self._mean(measured, self._loss()),
            int(measured.sum()),
            float(self.columns["tries"][rows].mean()) if rows.any() else float("nan"),
        )

    def outcomes(self, layer: int | None = None) -> list[Outcome]:
        """Every method at every r it was tried at."""
        found = [self.outcome(method, r, layer) for method in self.methods for r in self.factors()]
        return [one for one in found if one.targets]

    def by_group(self, method: str, r: float) -> list[dict[str, Any]]:
        """Success and activation change by group and by the origins that were removed, with counts."""
        found = []
        for group in range(1, 8):
            for subset in range(1, 8):
                rows = self._by(method) & (self.columns["r"] == r) & (self.columns["group"] == group)
                rows &= self.columns["subset"] == subset
                if rows.any():
                    figures = {"success": self._mean(rows, self._success()), "change": self._mean(rows, self._change())}
                    name = {"group": group_name(group), "removed": members(subset), "targets": int(rows.sum())}
                    found.append(name | figures)
        return found

    def contrast(self, a: str, b: str, r: float, *, single: str | None = None) -> Contrast:
        """`a` − `b` on common targets, everything removed; with `single` on those that it calls single-source."""
        rows = [self._by(name) & self._everything() & (self.columns["r"] == r) for name in (a, b)]
        common = self._keys(rows[0]) & self._keys(rows[1])
        if single is not None:
            alone = np.isin(self.columns["group"], (1, 2, 4)) & self._everything()
            common &= self._keys(self._by(single) & alone & (self.columns["r"] == r))
        first, second = (self._figures(row, common) for row in rows)
        on = "common" if single is None else f"single-source by {single}"
        gains = {key: difference(second[key], first[key]) for key in ("success", "change")}
        return Contrast(a, b, r, on, len(common), gains["success"], gains["change"])

    def single_minus_combined(self, method: str, r: float) -> Interval:
        """Activation change when one predecessor is removed: of single-source groups minus of combined ones."""
        one = np.isin(self.columns["subset"], (1, 2, 4)) & (self.columns["r"] == r) & self._by(method)
        alone = one & self._everything()
        return apart(self._terms(alone, self._change()), self._terms(one & ~alone, self._change()))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows for people."""
        header = ["removed", "r", "targets", "from nowhere", "success", "activation change", "Δloss / loss", "tries"]
        return header, [row_of(one) for one in self.outcomes()]

    def rows(self) -> Iterator[list[str]]:
        """Names of columns, then every trial with its method by name: for files of tables."""
        yield list(COLUMNS)
        for row in zip(*(self.columns[name].tolist() for name in COLUMNS), strict=True):
            one = dict(zip(COLUMNS, row, strict=True)) | {"method": self.methods[row[list(COLUMNS).index("method")]]}
            yield ["" if value != value else str(value) for value in one.values()]

    def to_json(self) -> dict[str, Any]:
        """JSON-able: all figures, not the trials."""
        reference = self.methods[0] if self.methods else ""
        return {
            "windows": self.windows,
            "trials": self.trials,
            "outcomes": [plain_record(one._asdict()) for one in self.outcomes()],
            "by_layer": {
                str(layer): [plain_record(one._asdict()) for one in self.outcomes(layer)]
                for layer in sorted(set(self.columns["layer"].tolist()))
            },
            "by_group": {
                f"{method} r={r:g}": [plain_record(row) for row in rows]
                for method in self.methods
                for r in self.factors()
                if (rows := self.by_group(method, r))
            },
            "contrasts": [plain_record(one._asdict()) for one in self.contrasts()],
            "single_minus_combined": {
                f"{r:g}": self.single_minus_combined(reference, r)._asdict() for r in self.factors()
            },
        }

    def contrasts(self) -> list[Contrast]:
        """The reference minus every other method where r was tried; searches against it on single-source targets."""
        reference, *others = self.methods or ("",)
        found = []
        for r in self.factors():
            for other in others:
                if other == EXHAUSTIVE:
                    found += [self.contrast(other, one, r, single=one) for one in self._matchers()]
                elif other == OTHER_TOKEN:
                    found.append(self.contrast(EXHAUSTIVE, other, r))
                else:
                    found.append(self.contrast(reference, other, r))
        return [one for one in found if one.targets]

    def _matchers(self) -> list[str]:
        return [name for name in self.methods if name not in (ACTIVE, DIRECTION, EXHAUSTIVE, OTHER_TOKEN)]

    def _by(self, method: str, layer: int | None = None) -> np.ndarray:
        own = self.columns["method"] == self.methods.index(method)
        return own if layer is None else own & (self.columns["layer"] == layer)

    def _removed(self) -> np.ndarray:
        """Trials that removed something: a target from nowhere is in no denominator."""
        return self.columns["group"] != NOWHERE

    def _everything(self) -> np.ndarray:
        """Trials of all active predecessors together; of a search, its best single one."""
        searched = self.columns["tries"] > 0
        return self._removed() & (searched | (self.columns["subset"] == self.columns["group"]))

    def _success(self) -> np.ndarray:
        return (self.columns["new"] == 0).astype(np.float64)

    def _change(self) -> np.ndarray:
        return 1 - self.columns["new"] / self.columns["old"]

    def _loss(self) -> np.ndarray:
        return self.columns["loss_new"] / self.columns["loss_old"] - 1

    def _mean(self, rows: np.ndarray, values: np.ndarray) -> Interval:
        return ratio(self._terms(rows, values))

    def _terms(self, rows: np.ndarray, values: np.ndarray) -> Terms:
        size = int(self.columns["window"].max(initial=-1)) + 1
        window = self.columns["window"][rows]
        return Terms(
            np.bincount(window, weights=values[rows], minlength=size),
            np.bincount(window, minlength=size).astype(np.float64),
        )

    def _key(self, rows: np.ndarray) -> list[tuple[int, ...]]:
        return list(zip(*(self.columns[name][rows].tolist() for name in _SAME_TARGET), strict=True))

    def _keys(self, rows: np.ndarray) -> set[tuple[int, ...]]:
        return set(self._key(rows))

    def _figures(self, rows: np.ndarray, common: set[tuple[int, ...]]) -> dict[str, Terms]:
        places = np.flatnonzero(rows)
        kept = np.zeros_like(rows)
        kept[[place for place, key in zip(places, self._key(rows), strict=True) if key in common]] = True
        return {"success": self._terms(kept, self._success()), "change": self._terms(kept, self._change())}
