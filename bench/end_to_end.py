"""Training on the live stream: tokens a second from text to updated weights, and where the time goes.

One autoencoder, and several on the same batches, beside the bare forward pass cut off after the same layer, in the same
process, interleaved. Parts: the model's forward pass, the stream (exclusion, shuffling, batches), the steps. Lines of
the log and checkpoints are left out.

    python bench/end_to_end.py --windows 32 --saes 8 --json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

import paired
from monosem.activations import Exclusion, Live, Stream, calibrate
from monosem.lm import LanguageModel
from monosem.shapes import Site
from monosem.text import Windows, load_corpus, windows
from monosem.training import Job, TrainConfig
from monosem.training.recipe import make

PARTS = ("model", "stream", "step")


class Stop(Exception):  # noqa: N818
    """Ends the bare pass after the wanted layer."""


class Clock:
    """Seconds of each part, summed since they were last taken."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def __call__(self, part: str, run: Callable[[], Any]) -> Any:
        start = self._now()
        result = run()
        self.seconds[part] += self._now() - start
        return result

    def taken(self) -> dict[str, float]:
        seconds, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        seconds["stream"] -= seconds["model"]  # the stream calls the model
        return seconds

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


class Clocked:
    """A language model as `Live` sees it, with its passes timed."""

    def __init__(self, lm: LanguageModel, clock: Clock) -> None:
        self.lm, self.clock, self.device = lm, clock, lm.device

    def capture(self, tokens: Tensor, sites: Iterable[Site]) -> dict[Site, Tensor]:
        return self.clock("model", lambda: self.lm.capture(tokens, sites))


class Training:
    """Some autoencoders on one live stream; a call trains on as many tokens as the text has."""

    def __init__(self, live: Live, clock: Clock, options: argparse.Namespace, count: int) -> None:
        self.clock, self.site, self.device = clock, live.sites[0], live.lm.device
        self.stream = Stream(live, batch=options.batch)
        self.steps = live.windows.tokens.numel() // options.batch
        first = self._batch()
        self.jobs = [job(options, seed, first) for seed in range(count)]
        self.parts: list[dict[str, float]] = []
        clock.taken()

    def __call__(self) -> None:
        for _ in range(self.steps):
            x = self.clock("stream", self._batch)
            self.clock("step", lambda x=x: self._step(x))
        self.parts.append(self.clock.taken())

    def _batch(self) -> Tensor:
        return next(self.stream).acts[self.site].to(self.device).float()

    def _step(self, x: Tensor) -> None:
        sst = (x - x.mean(0)).square().sum()
        for one in self.jobs:
            one.step(x, one.config.lr, 1, sst)

    def shares(self, times: list[float]) -> dict[str, float]:
        """The median share of each part in the last rounds, which took `times` milliseconds."""
        rounds = list(zip(self.parts[-len(times) :], times, strict=True))
        return {part: round(statistics.median(1e3 * one[part] / ms for one, ms in rounds), 3) for part in PARTS}


def job(options: argparse.Namespace, seed: int, first: Tensor) -> Job:
    config = TrainConfig(
        sae=(options.sae,), n_latents=options.n_latents, k=options.k, batch=options.batch, tokens=10**9, seed=seed
    )
    return Job(options.sae, *make(options.sae, config, first), config, first.device)


def bare_pass(lm: LanguageModel, site: Site, text: Windows, batch: int) -> Callable[[], None]:
    """The forward pass over the text, cut off after the site's block, with nothing kept."""
    block = lm.model.get_submodule(lm.module_path(site))

    def stop(*_: object) -> None:
        raise Stop

    def bare() -> None:
        handle = block.register_forward_hook(stop)
        with torch.no_grad():
            for tokens in text.tokens.split(batch):
                with suppress(Stop):
                    lm.model(input_ids=tokens.to(lm.device), use_cache=False)
        handle.remove()

    return bare


def arguments() -> argparse.Namespace:
    parser = paired.arguments(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", default="news")
    parser.add_argument("--layer", type=int, default=12)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--sae", default="topk")
    parser.add_argument("--saes", type=int, default=8)
    parser.add_argument("--n-latents", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    if options.windows * 256 % options.batch:
        parser.error(f"{options.windows} windows of 256 tokens are no whole number of batches of {options.batch}")
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    lm = LanguageModel.load(options.model)
    site = Site("resid_post", options.layer)
    text = windows(load_corpus(options.text), lm.tokenizer, part="train")
    text = text._replace(**{key: getattr(text, key)[: options.windows] for key in ("tokens", "documents", "special")})
    exclusion = calibrate(lm, text, [site], Exclusion())
    trainings = {}
    for name, count in {"one": 1, "several": options.saes}.items():
        clock = Clock()
        live = Live(Clocked(lm, clock), text, [site], exclusion)
        trainings[name] = Training(live, clock, options, count)
    candidates: dict[str, Callable[[], object]] = {"bare": bare_pass(lm, site, text, live.batch), **trainings}
    times = paired.interleaved(candidates, options.repeats)
    about = {key: getattr(options, key) for key in ("sae", "saes", "n_latents", "k", "batch", "threads", "repeats")}
    about |= {"model": lm.name, "dtype": str(lm.dtype), "site": str(site), "tokens": text.tokens.numel()}
    found = result(times, trainings, text.tokens.numel())
    # Against as many runs of one autoencoder each, which would run the model every time.
    found["several_over_alone"] = round(paired.ratio(times, "several", "one") / options.saes, 3)
    paired.show(about | found, options.json)


def result(times: dict[str, list[float]], trainings: dict[str, Training], tokens: int) -> dict[str, object]:
    """Rates, times over the bare pass, and the share of each part."""
    found: dict[str, object] = dict(paired.medians(times))
    found |= {f"{name}_tokens_per_s": round(1e3 * tokens / statistics.median(ms)) for name, ms in times.items()}
    for name, training in trainings.items():
        found[f"{name}_over_bare"] = round(paired.ratio(times, name, "bare"), 3)
        found |= {f"{name}_{part}_share": share for part, share in training.shares(times[name]).items()}
    return found


if __name__ == "__main__":
    main()
