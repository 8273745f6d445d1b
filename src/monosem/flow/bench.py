"""A comparison from what a person asks for: model, latents, settings, texts, judges, result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from monosem.disk import cache_folder
from monosem.flow.asked import asked_nodes, asked_settings, with_baselines
from monosem.flow.behaviour import Scorer
from monosem.flow.behaviour_feature import features
from monosem.flow.behaviour_word import Classifier, lexicon
from monosem.flow.contrast import Contrast, contrast
from monosem.flow.node import Node
from monosem.flow.offline import Offline, judge_offline
from monosem.flow.request import Request
from monosem.flow.sampling import Sampling
from monosem.flow.steered import best, scored, to_json
from monosem.flow.steering import Steering
from monosem.flow.suite import Suite
from monosem.flow.sweep import PLAIN, Setting, Sweep, Texts, check_folder
from monosem.interpret import Cached, Judge, named_judge
from monosem.lm import LanguageModel
from monosem.shapes import InputError
from monosem.training.config import TrainConfig
from monosem.training.model import load_model


@dataclass(frozen=True)
class Bench:
    """Everything that is needed before the first token is written."""

    request: Request
    sweep: Sweep
    settings: list[Setting]
    nodes: list[Node]
    contrast: Contrast | None
    judge: Judge | None

    def save(self, folder: Path) -> Path:
        """Write the steering of the one steered setting. Raises `InputError` where there are several."""
        steered = [one for one in self.settings if one.steering is not None and "baseline" not in (one.axes or {})]
        if len(steered) != 1 or steered[0].steering is None:
            raise InputError(
                f"--save is for one setting, this has {len(steered)}: give one strength, layer and schedule"
            )
        return steered[0].steering.save(folder)

    def run(self, folder: Path | None = None) -> dict[str, Any]:
        """Write, score, and sum up, JSON-able; texts are kept in `folder`, else in the cache."""
        if folder is not None:
            check_folder(folder)
        found = self.sweep.run(self.settings, folder or cache_folder() / "flow" / "steered")
        offline = self._offline(found)
        mode = self.request.mode
        rows, judges = scored(
            self.sweep, found, mode, offline=offline, judge=self.judge, subjects=list(self.request.subject)
        )
        metrics = [key for key in rows[0].scores[0] if ": total" in key]
        extra = {"nodes": list(map(str, self.nodes)), "best": {key: best(rows, key) for key in metrics}}
        return to_json(self.sweep, rows, judges, mode, extra)

    def _offline(self, found: Sequence[Texts]) -> Offline | None:
        if self.contrast is None:
            return None
        plain = next(one for one in found if one.setting.name == PLAIN)
        theme, other = self.contrast
        scorers: list[Scorer] = [Classifier(theme, other), lexicon(theme, other, self.request.lexicon)]
        if self.sweep.suite is not None:
            steered = self._directions()
            scorers.append(features(self.sweep.lm, self.sweep.suite, theme, other, steered, self.nodes))
        texts = plain.samples([ids.tolist() for ids in self.sweep.ids()])
        return judge_offline(self.sweep.lm, self.request.mode, texts, scorers, theme, other, self.request.seed)

    def _directions(self) -> Float32[Tensor, "S D"]:
        """Every direction that any setting adds or takes away."""
        found = []
        for one in self.settings:
            for push in one.steering.pushes.values() if one.steering else ():
                found += [push.vectors, *([] if push.instead is None else [push.instead])]
        return torch.cat(found)


def opened(request: Request, say: Callable[[str], None]) -> Bench:
    """Load what is asked for; `say` gets remarks. Raises `InputError`."""
    request.check()
    suite = Suite.load(list(request.suite), request.sae) if request.suite else None
    given = None if request.steering is None else Steering.load(request.steering)
    if given is not None and given.mode == "rescale" and suite is None:
        raise InputError("these vectors rescale activations of autoencoders: give --suite RUN as well")
    lm = _model(request, suite, given, say)
    sampling = Sampling(request.new_tokens, request.temperature, request.top_p, request.seed)
    count = request.samples or (16 if request.is_scored else 3)
    sweep = Sweep(lm, request.prompts, sampling, count, suite, request.reading, request.batch)
    texts = None if request.theme is None else contrast(request, sweep)
    nodes, found = ([], []) if suite is None or given is not None else asked_nodes(request, lm, suite, texts, say)
    settings = asked_settings(request, suite, nodes, found, given, say)
    if suite is not None and given is None:
        settings = with_baselines(request, settings, suite, lm, texts)
    mode = request.mode if given is None else given.mode
    return Bench(replace(request, mode=mode), sweep, settings, nodes, texts, _judge(request))


def _judge(request: Request) -> Judge | None:
    if request.judge is None:
        return None
    more = {"concurrency": request.concurrency, "max_tokens": request.max_tokens, "device": request.device or "auto"}
    return Cached(named_judge(request.judge, **more))


def _model(request: Request, suite: Suite | None, given: Steering | None, say: Callable[[str], None]) -> LanguageModel:
    training = None if suite is None else suite.info(next(iter(suite))).get("training")
    known: Mapping[str, Any] = suite.model if suite is not None else given.info.get("model", {}) if given else {}
    asked = {name: getattr(request, name) for name in ("model", "dtype", "device") if getattr(request, name)}
    if training is not None:
        config = replace(TrainConfig.from_dict(training["config"]), **asked)
        lm = load_model(replace(config, device_map=None) if request.device else config)
    else:
        name = request.model or known.get("name")
        if not name:
            raise InputError("nothing says which model is steered: name it with --model")
        lm = LanguageModel.load(name, dtype=request.dtype or "auto", device=request.device or "auto")
    if known.get("fingerprint") and known["fingerprint"] != lm.fingerprint():
        say(f"note: the latents were trained on other weights than {lm.name}'s; results describe the pair")
    return lm
