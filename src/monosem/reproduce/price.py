"""What runs will take, predicted from a few real steps and evaluations here."""

from __future__ import annotations

import statistics
import time
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.disk import digest
from monosem.reproduce.arm import Trial
from monosem.reproduce.data import Data
from monosem.reproduce.ledger import Ledger, Run
from monosem.reproduce.synthetic import SITE, Synthetic
from monosem.sae import SAE
from monosem.sae.flops import multiplier
from monosem.training import Job, TrainConfig
from monosem.training.recipe import make

PROBE_STEPS = 4
PROBE_TOKENS = 2048
_FREE = ("lr", "seed", "tokens")


class Price(NamedTuple):
    """Seconds of one training step and of one evaluation; how many times the tokens asked for are trained on."""

    step: float
    evaluation: float
    repeats: float = 1.0


class Prices:
    """Seconds of runs and data; every kind of arm is tried once, on noise of the width of its data."""

    def __init__(self, ledger: Ledger, device: str = "cpu") -> None:
        self._ledger, self._device = ledger, device
        self._known: dict[str, Price] = {}
        self._trials: dict[str, float] = {}
        self._data: dict[str, float] = {}

    def run(self, run: Run) -> float:
        """Seconds of one arm or trial with one seed."""
        if isinstance(run.work, Trial):
            if run.name not in self._trials:
                self._trials[run.name] = run.work.predict(self._ledger.scale)
            return self._trials[run.name]
        config = self._ledger.config(run, self._ledger.scale.rates[0])
        price = self._price(run, config)
        return price.repeats * config.steps * price.step + price.evaluation

    def tokens(self, run: Run) -> int:
        """Training tokens of one arm with one seed."""
        if isinstance(run.work, Trial):
            return 0
        config = self._ledger.config(run, self._ledger.scale.rates[0])
        return round(self._price(run, config).repeats * config.steps * config.batch)

    def data(self, name: str) -> float:
        """Seconds to open data once."""
        if name not in self._data:
            self._data[name] = self._ledger.study.data[name].predict(self._ledger.scale)
        return self._data[name]

    def _price(self, run: Run, config: TrainConfig) -> Price:
        assert not isinstance(run.work, Trial)
        kind = {key: value for key, value in config.describe().items() if key not in _FREE}
        kind |= {"data": run.work.data, "k": config.k}
        code = digest(kind)
        if code not in self._known:
            self._known[code] = self._probe(run.work.data, config)
        return self._known[code]

    def _probe(self, name: str, config: TrainConfig) -> Price:
        x = noise(self._ledger.study.data[name].width(self._ledger.scale), config.batch)
        step, sae = self._stepped(config, x)
        repeats = multiplier(sae) if config.equal == "flops" else 1.0
        seconds = self._evaluated(sae) * self._ledger.scale.held_out / PROBE_TOKENS + self._beside
        return Price(step, seconds, repeats)

    def _stepped(self, config: TrainConfig, x: Float[Tensor, "B D"]) -> tuple[float, SAE]:
        """Median seconds of some steps after the first; no latent counts as dead, as in most of a run."""
        (kind,) = config.sae
        job = Job("probe", *make(kind, config, x), config, torch.device(self._device))
        x, energy, taken = x.to(self._device), x.new_ones(()).to(self._device), []
        for _ in range(1 + PROBE_STEPS):
            start = time.perf_counter()
            job.step(x, config.lr, 1, energy)
            if x.is_cuda:
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        job.sae.info = {"site": str(SITE), "training": {"config": config.describe()}}
        return statistics.median(taken[1:]), job.sae.eval()

    def _evaluated(self, sae: SAE) -> float:
        data = probe_data(sae.d_in)
        start = time.perf_counter()
        for measure in self._ledger.study.measures:
            measure(sae, data, self._ledger.scale)
        return time.perf_counter() - start

    @cached_property
    def _beside(self) -> float:
        return self._ledger.study.beside(self._ledger.scale)


def noise(width: int, tokens: int) -> Float[Tensor, "B D"]:
    """Normal activations: a step costs the same whatever they are."""
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(0))


def probe_data(width: int) -> Data:
    """Noise to time an evaluation on."""
    x = noise(width, PROBE_TOKENS)
    return Data(
        Synthetic(lambda generator, count: x[:count], 1, 0), SITE, x, x, {"data": "noise"}, torch.arange(len(x))
    )
