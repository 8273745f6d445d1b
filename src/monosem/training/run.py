"""A run: a folder that holds its settings, log, checkpoints and, at the end, its autoencoders.

run.json  metrics.jsonl  checkpoints/000000500/…  saes/topk/{config.json, weights.safetensors}
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, NamedTuple

import torch

from monosem.activations import Exclusion, Live, Source, Stream, calibrate, record, rounding_loss
from monosem.disk import digest, lock, read_json, sweep, write_json
from monosem.lm import LanguageModel
from monosem.sae import SAE, build, save
from monosem.shapes import InputError, Site
from monosem.text import Windows, load_corpus, windows
from monosem.training import calibration, checkpoint
from monosem.training.config import TrainConfig
from monosem.training.job import Job
from monosem.training.loop import Loop
from monosem.training.recipe import budgeted, check, make, make_objective

FORMAT, VERSION = "monosem.run", 1


class Prepared(NamedTuple):
    """What a run reads: a model, the training windows, one site, and the activations there."""

    lm: LanguageModel
    windows: Windows
    site: Site
    source: Source
    exclusion: Exclusion
    rounding: dict[str, Any]


def train(config: TrainConfig, folder: str | Path) -> dict[str, SAE]:
    """Train every autoencoder of `config` in one pass over one stream; continue an unfinished run in `folder`.

    Raises `InputError` for bad settings, a folder that holds another run or is in use, and activations or losses
    that are not finite; `Interrupted` after Ctrl-C or SIGTERM, with a checkpoint written.
    """
    folder = Path(folder)
    for name in config.sae:
        check(name, config)
    with lock(folder):
        config = _claim(folder, config)
        sweep(folder, folder / "checkpoints", folder / "saes")
        prepared = _prepared(config, folder)
        config, inputs = _resolved(config, prepared.lm), _inputs(prepared)
        _check_inputs(folder, inputs)
        write_json(folder / "run.json", _head(config, "training", inputs))
        stream = Stream(prepared.source, batch=config.batch, block=config.block, seed=config.seed)
        loop = _start(config, folder, prepared, stream)
        loop.run()
        saes = _finish(config, folder, prepared, loop)
        write_json(folder / "run.json", _head(config, "finished", inputs))
    return saes


def prepare(config: TrainConfig) -> Prepared:
    """Load the model, pack the text and open the activations, recording them first if they are to be stored."""
    lm = LanguageModel.load(config.model, dtype=config.dtype, device=config.device)
    site = lm.site(config.site)
    text = run_windows(config, lm, "train")
    longest = max(budgeted(name, config, lm.width(site)).tokens for name in config.sae)
    distinct = longest if config.distinct_tokens is None else config.distinct_tokens
    wanted = -(-distinct // (config.window - 1))
    if config.activations == "store":
        store = record(lm, text, [site], n_windows=wanted)
        if lm.dtype != torch.float32 and not store.rounding:
            store.measure_rounding(_in_float32(config))
        return Prepared(lm, first_windows(text, store.n_windows), site, store, store.exclusion, store.rounding)
    exclusion = calibrate(lm, text, [site], Exclusion())
    rounding = {}
    if lm.dtype != torch.float32:
        sample = first_windows(text, 4)
        acts, exact = (model.capture(sample.tokens, [site]) for model in (lm, _in_float32(config)))
        rounding = rounding_loss(acts, exact, exclusion, sample.special)
    text = first_windows(text, wanted)
    return Prepared(lm, text, site, Live(lm, text, [site], exclusion), exclusion, rounding)


def _prepared(config: TrainConfig, folder: Path) -> Prepared:
    """Prepare with `run.json` in place, so that a kill while recording can be resumed; bad input leaves none behind."""
    fresh = not (folder / "run.json").exists()
    write_json(folder / "run.json", _head(config, "training", _inputs_of(folder)))
    try:
        return prepare(config)
    except InputError:
        if fresh:
            (folder / "run.json").unlink()
        raise


def _in_float32(config: TrainConfig) -> LanguageModel:
    return LanguageModel.load(config.model, dtype="float32", device=config.device)


def run_windows(config: TrainConfig, lm: LanguageModel, part: Any) -> Windows:
    """The windows of one part of the run's text: `train` or `held_out`."""
    corpus = load_corpus(config.text, config.column)
    return windows(
        corpus,
        lm.tokenizer,
        part=part,
        length=config.window,
        held_out=config.held_out,
        bos=config.bos,
        separator=config.separator,
    )


def first_windows(text: Windows, count: int) -> Windows:
    """The first `count` windows of a text, as a text."""
    return Windows(text.tokens[:count], text.documents[:count], text.special[:count], text.identity)


def open_run(folder: str | Path) -> tuple[TrainConfig, str]:
    """The settings of a run folder and whether it is `training` or `finished`. Raises `InputError`."""
    head = read_json(Path(folder) / "run.json")
    if head.get("format") != FORMAT or head.get("version") != VERSION:
        raise InputError(f"{folder} is not a run folder of {FORMAT} version {VERSION}")
    return TrainConfig.from_dict(head["config"]), head["status"]


def _resolved(config: TrainConfig, lm: LanguageModel) -> TrainConfig:
    """The settings with `auto` replaced by what it became, so that a resumed run computes the same."""
    return TrainConfig.from_dict(
        config.describe() | {"dtype": str(lm.dtype).removeprefix("torch."), "device": str(lm.device)}
    )


def _head(config: TrainConfig, status: str, inputs: str | None) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "config": config.describe(), "status": status, "inputs": inputs}


def _inputs(prepared: Prepared) -> str:
    """A digest of what a run reads: a path or a hub name may hold something else tomorrow."""
    exclusion = prepared.exclusion.describe()
    return digest([prepared.lm.identity(), prepared.windows.identity, len(prepared.windows.tokens), exclusion])


def _inputs_of(folder: Path) -> str | None:
    return read_json(folder / "run.json")["inputs"] if (folder / "run.json").exists() else None


def _check_inputs(folder: Path, inputs: str) -> None:
    if _inputs_of(folder) not in (None, inputs):
        raise InputError(
            f"the model or the text of the run in {folder} is not what it was when the run began: "
            "restore it, or start a new run in another folder"
        )


def _claim(folder: Path, config: TrainConfig) -> TrainConfig:
    """The settings to go on with: those asked for, or, the same but for `auto`, those of the unfinished run."""
    if not (folder / "run.json").exists():
        return config
    found, status = open_run(folder)
    for key, value in found.describe().items():
        asked = config.describe()[key]
        # A device is resolved (cuda becomes cuda:0) and does not decide what is trained.
        if key != "device" and asked not in (value, "auto"):
            raise InputError(f"{folder} holds a run with {key} = {value}, asked for {asked}: choose another folder")
    if status == "finished":
        raise InputError(f"{folder} holds this run, finished: see monosem evaluate {folder}, or choose another folder")
    return found


def _start(config: TrainConfig, folder: Path, prepared: Prepared, stream: Stream) -> Loop:
    device = prepared.lm.device
    saved = checkpoint.load(folder / "checkpoints")
    if saved is None:
        first = next(stream).acts[prepared.site].float()
        stream.resume({"seed": config.seed, "block": 0, "cursor": 0})
        made = {name: make(name, config, first) for name in config.sae}
    else:
        made = {name: (build(saved.saes[name]), make_objective(name, config)) for name in config.sae}
    jobs = [
        Job(name, sae, objective, budgeted(name, config, sae.d_in), device) for name, (sae, objective) in made.items()
    ]
    loop = Loop(jobs, stream, prepared.site, config, folder)
    if saved is not None:
        loop.resume(saved)
    return loop


def _finish(config: TrainConfig, folder: Path, prepared: Prepared, loop: Loop) -> dict[str, SAE]:
    batches = []
    if config.calibrate:
        batches = [next(loop.stream).acts[prepared.site].to(prepared.lm.device).float() for _ in range(8)]
    saes = {}
    for job in loop.jobs:
        sae = job.sae.eval()
        calibrated = calibration.calibrate(sae, batches, config.k) if batches else None
        sae.info = provenance(config, prepared, job) | {"calibration": calibrated, "name": job.name} | axes(job)
        save(sae, folder / "saes" / job.name)
        saes[job.name] = sae
    return saes


def axes(job: Job) -> dict[str, Any]:
    """What the objective trained, for later tools: budgets and rank weights, or widths of the dictionary."""
    described = job.objective.nesting.describe()
    return {"budgets": described} if "J" in described else described


def provenance(config: TrainConfig, prepared: Prepared, job: Job) -> dict[str, Any]:
    """Where an autoencoder belongs and how it came to be; stored with it."""
    lm, site, tokens = prepared.lm, prepared.site, job.config.steps * config.batch
    kept = int((~prepared.exclusion.mask(prepared.windows.special, {})).sum())
    return {
        "site": str(site),
        "module_path": lm.module_path(site),
        "transformer_lens": site.transformer_lens,
        "model": lm.identity(),
        "model_source": lm.source,
        "text": prepared.windows.identity,
        "exclusion": prepared.exclusion.describe(),
        "rounding": prepared.rounding,
        "seed": config.seed,
        "training": {
            "config": config.describe(),
            "tokens": tokens,
            "distinct_tokens": min(kept, tokens),
            "epochs": tokens / kept,
            "clamped_share": job.clamped_share,
            "step_seconds": job.seconds,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
    }
