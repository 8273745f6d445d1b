"""Doing what is planned: a pass at a time, its rows written when it is done."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.claim import Claim
from monosem.reproduce.data import Data
from monosem.reproduce.ledger import TUNING, Ledger, Run
from monosem.reproduce.plan import data_seed
from monosem.reproduce.row import Row
from monosem.sae import SAE
from monosem.training import together


class Work:
    """Runs passes and writes rows; keeps the data of the last pass open."""

    def __init__(self, ledger: Ledger, claims: list[Claim], command: str, device: str = "cpu") -> None:
        self._ledger, self._claims, self._command, self._device = ledger, claims, command, device
        self._data: dict[tuple[str, int | None], Data] = {}

    def adopt(self) -> None:
        """Give every claim a row of its own for what another claim has measured already."""
        rows = []
        for claim in self._claims:
            for run in self._ledger.runs(claim):
                measured = self._ledger.found(run)
                if measured is not None and not self._has(claim.id, run):
                    rows.append(self._row(claim.id, run, measured, 0.0))
        if rows:
            self._ledger.rows.append(rows)

    def do(self, runs: list[Run]) -> None:
        """One pass, or one trial: train, measure, write."""
        start = time.perf_counter()
        found = self._tried(runs[0]) if isinstance(runs[0].work, Trial) else self._trained(runs)
        seconds = (time.perf_counter() - start) / len(runs)
        self._ledger.rows.append(
            [self._row(claim, run, found[run.name], seconds) for run in runs for claim in self._claims_of(run)]
        )

    def _claims_of(self, run: Run) -> list[str]:
        if run.tuning:
            return [TUNING]
        return [claim.id for claim in self._claims if any(run.key == other.key for other in self._ledger.runs(claim))]

    def _has(self, claim: str, run: Run) -> bool:
        code = self._ledger.digest(run)
        return code is not None and self._ledger.rows.has(claim, run.name, run.seed, code)

    def _tried(self, run: Run) -> dict[str, Measured]:
        assert isinstance(run.work, Trial)
        return {run.name: run.work.run(self._ledger.scale, run.seed)}

    def _trained(self, runs: list[Run]) -> dict[str, Measured]:
        ledger = self._ledger
        data = self._opened(runs[0])
        configs = {run.name: ledger.config(run) for run in runs}
        label = f"seed {runs[0].seed}, {len(runs)} arm{'s' * (len(runs) > 1)}"
        saes = together(data.source, data.site, configs, device=self._device, label=label)
        if runs[0].tuning:
            data = data._replace(held_out=data.validation, tokens=None)
        return {name: measured(ledger, sae, data) for name, sae in saes.items()}

    def _opened(self, run: Run) -> Data:
        assert not isinstance(run.work, Trial)
        seed = data_seed(self._ledger.study, run)
        if (run.work.data, seed) not in self._data:
            self._data = {(run.work.data, seed): self._open(run.work.data, seed)}
        return self._data[run.work.data, seed]

    def _open(self, name: str, seed: int | None) -> Data:
        return self._ledger.study.data[name].open(self._ledger.scale, seed or 0)

    def _row(self, claim: str, run: Run, found: Measured, seconds: float) -> Row:
        known = {} if isinstance(run.work, Trial) else self._identity(run)
        return {
            "claim": claim,
            "arm": run.name,
            "seed": run.seed,
            "scale": self._ledger.scale.name,
            "digest": self._ledger.digest(run),
            "settings": self._ledger.settings(run),
            "measured": found,
            "seconds": round(seconds, 3),
            "command": self._command,
            "threads": torch.get_num_threads(),
            "versions": versions(),
            **known,
        }

    def _identity(self, run: Run) -> dict[str, Any]:
        assert not isinstance(run.work, Trial)
        data = self._data.get((run.work.data, data_seed(self._ledger.study, run)))
        return {} if data is None else {"data": data.identity}


def measured(ledger: Ledger, sae: SAE, data: Data) -> Measured:
    """The figures of every measure of the study."""
    found: Measured = {}
    with torch.no_grad():
        for measure in ledger.study.measures:
            found |= measure(sae, data, ledger.scale)
    return found


def versions() -> dict[str, str]:
    """What results may depend on besides the settings."""
    try:
        own = version("monosem")
    except PackageNotFoundError:
        own = "source"
    return {"monosem": own, "torch": torch.__version__, "python": platform.python_version()}
