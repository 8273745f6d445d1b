"""What a study at one scale consists of, and which of it is done: every run, its settings, its row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from monosem.disk import digest
from monosem.reproduce.arm import Arm, Measured, Trial
from monosem.reproduce.claim import Claim, Evidence
from monosem.reproduce.row import Rows
from monosem.reproduce.scale import Scale
from monosem.reproduce.study import Study
from monosem.training.config import TrainConfig

TUNING = "tuning"
"""What stands for a claim in the rows that choose learning rates."""


class Run(NamedTuple):
    """An arm or a trial with one seed. An arm's rate is None until its family's is chosen."""

    name: str
    seed: int | None
    work: Arm | Trial
    lr: float | None = None
    tuning: bool = False

    @property
    def key(self) -> tuple[str, int | None]:
        return self.name, self.seed


class Ledger:
    """A study and a scale beside the rows on disk."""

    def __init__(self, study: Study, scale: Scale, rows: Rows) -> None:
        self.study, self.scale, self.rows = study, scale, rows

    def runs(self, claim: Claim) -> list[Run]:
        """Everything a claim needs, seed by seed."""
        arms = self.study.arms(self.scale, claim)
        rates = {family: self.rate(family) for family in {arm.family for arm in arms}}
        runs = [Run(arm.name, seed, arm, rates[arm.family]) for seed in self.scale.seeds for arm in arms]
        for trial in claim.trials(self.scale):
            seeds = self.scale.seeds if trial.seeded else (None,)
            runs += [Run(trial.name, seed, trial) for seed in seeds]
        return runs

    def grid(self, family: str) -> list[Run]:
        """The family's representative at every learning rate."""
        arm = self.study.representative(self.scale, family)
        names = [(f"{family}@{rate:g}", rate) for rate in self.scale.rates]
        return [Run(name, self.scale.tuning_seed, replace(arm, name=name), rate, True) for name, rate in names]

    def rate(self, family: str) -> float | None:
        """The learning rate with the largest score; None until all were tried. One alone needs no trial."""
        if len(self.scale.rates) == 1:
            return self.scale.rates[0]
        tried = {run.lr: self.found(run) for run in self.grid(family)}
        scores = {lr: self.study.families[family].score(one) for lr, one in tried.items() if one is not None}
        return max(scores, key=lambda lr: scores[lr]) if len(scores) == len(tried) else None

    def config(self, run: Run, lr: float | None = None) -> TrainConfig:
        """The training settings of an arm; `lr` stands in for a rate that is not chosen yet."""
        assert isinstance(run.work, Arm)
        rate = run.lr if run.lr is not None else lr
        assert run.seed is not None
        assert rate is not None
        return self.scale.config(run.work, run.seed, rate, self.scale.tuning_share if run.tuning else 1.0)

    def settings(self, run: Run) -> dict[str, Any]:
        """Everything that decides a run's result, JSON-able."""
        if isinstance(run.work, Trial):
            return run.work.settings(self.scale)
        config = self.config(run)
        given = {**self.scale.settings, **run.work.settings, "sae": run.work.sae}
        return {**given, "tokens": config.tokens, "lr": config.lr, "seed": config.seed, "data": run.work.data}

    def digest(self, run: Run) -> str | None:
        """The digest under which a run's row is found; None for an arm without a learning rate."""
        if isinstance(run.work, Arm) and run.lr is None:
            return None
        judge = self.scale.extra.get("judge")
        beside = [] if judge is None else [judge]
        study, settings = [self.study.name, self.study.revision], self.settings(run)
        return digest([*study, self.scale.held_out, run.tuning, settings, *beside])

    def found(self, run: Run) -> Measured | None:
        """What a run measured, if it is done."""
        code = self.digest(run)
        return None if code is None else self.rows.find(run.name, run.seed, code)

    def missing(self, claim: Claim) -> list[Run]:
        """The runs of a claim that are not done."""
        return [run for run in self.runs(claim) if self.found(run) is None]

    def evidence(self, claim: Claim) -> Evidence | None:
        """What the claim is judged by; None while a run is missing."""
        found = {run.key: self.found(run) for run in self.runs(claim)}
        done = {key: measured for key, measured in found.items() if measured is not None}
        return Evidence(self.scale, done) if len(done) == len(found) else None

    def families(self, runs: list[Run]) -> list[str]:
        """Families of these runs whose learning rate is not chosen yet."""
        waiting = [run.work.family for run in runs if isinstance(run.work, Arm) and run.lr is None]
        return list(dict.fromkeys(waiting))
