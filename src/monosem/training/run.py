"""A run: a folder that holds its settings, log, checkpoints and, at the end, its autoencoders.

run.json  metrics.jsonl  checkpoints/000000500/…  saes/topk/{config.json, weights.safetensors}
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from monosem.activations import Exclusion, Live, Source, Store, Stream, calibrate, recorded, rounding_loss
from monosem.disk import digest, lock, read_json, sweep, write_json
from monosem.lm import LanguageModel
from monosem.lm.pattern import routes
from monosem.sae import SAE, boosted, save
from monosem.shapes import InputError, Site
from monosem.shapes.route import Route, sites_of
from monosem.text import Request, Windows, enough, read
from monosem.training import calibration, checkpoint, memory
from monosem.training.config import TrainConfig
from monosem.training.core import Core, check_place, core_of, group_name, stream_beside
from monosem.training.core import domain_name as domain_name
from monosem.training.divergence import Divergence
from monosem.training.draw import draws
from monosem.training.grid import Grid, route_of
from monosem.training.guard import Guard
from monosem.training.job import Job
from monosem.training.loop import Loop
from monosem.training.model import load_model
from monosem.training.recipe import budgeted, check, effective, role_of
from monosem.training.start import first_batch, known_job, new_job

FORMAT, VERSION = "monosem.run", 1


class Prepared(NamedTuple):
    """What a run reads: a model, the training windows, from where to where, and the activations there."""

    lm: LanguageModel
    windows: Windows
    routes: tuple[Route, ...]
    source: Source
    exclusion: Exclusion
    rounding: dict[str, Any]
    core: Core | None = None
    guard: Guard | None = None

    @property
    def site(self) -> Site:
        """The first site that is read."""
        return self.routes[0].site


def train(config: TrainConfig | Grid, folder: str | Path) -> dict[str, SAE]:
    """Train every autoencoder of `config` in one pass over one stream; continue an unfinished run in `folder`.

    A token that the exclusion rule leaves out at one site is left out at all, so that all see the same ones. An
    autoencoder that diverges is left behind, and the others are what they are without it; `diverged(folder)` says which
    and where. Raises `InputError` for bad settings, too little memory, a folder that holds another run or is in use,
    activations that are not finite, and when all diverge; `Interrupted` after Ctrl-C or SIGTERM, with a checkpoint
    written.
    """
    folder = Path(folder)
    grid = Grid.of(config)
    for one in grid.variants().values():
        check(one.sae[0], one)
    with lock(folder):
        grid = _claim(folder, grid)
        sweep(folder, folder / "checkpoints", folder / "saes", *(folder / "saes").glob("*/"))
        prepared = _prepared(grid, folder)
        grid, inputs = _resolved(grid, prepared.lm), _inputs(prepared)
        _check_inputs(folder, inputs)
        arms = grid.arms(prepared.routes)
        write_json(folder / "run.json", _head(grid, "training", inputs, list(arms)))
        shared = grid.shared
        stream = stream_beside(prepared.source, prepared.core, shared)
        loop = _start(arms, shared, folder, prepared, stream)
        try:
            loop.run()
        finally:
            write_json(folder / "run.json", _head(grid, "training", inputs, list(arms), loop.diverged))
        saes = _finish(arms, folder, prepared, loop)
        write_json(folder / "run.json", _head(grid, "finished", inputs, list(arms), loop.diverged))
    return saes


def prepare(config: TrainConfig | Grid) -> Prepared:
    """Load the model, pack the text and open the activations, recording them first if they are to be stored."""
    grid = Grid.of(config)
    lm = load_model(grid.shared)
    return _opened(grid, lm, tuple(routes(grid.shared.site, grid.shared.target, lm)))


def _opened(grid: Grid, lm: LanguageModel, along: tuple[Route, ...]) -> Prepared:
    config, sites, core = grid.shared, sites_of(along), core_of(grid.shared)
    if core is not None:
        check_place(core, along, lm.identity())
        core.sae.to(lm.device)
    text = run_windows(config, lm, "train")
    wanted = enough(text, _distinct(grid, lm, along))
    if config.activations == "store":
        folder = None if config.store is None else Path(config.store)
        store = recorded(lm, text, sites, n_windows=wanted, folder=folder)
        lossless = lm.dtype == torch.float32 and store.identity["dtype"] == "float32"
        if not lossless and len(store.rounding) < len(sites):
            store.measure_rounding(load_model(config, "float32"))
        if core is not None:
            store = Store(store.folder, store.n_windows, core.exclusion, sites)
        read = first_windows(text, store.n_windows)
        guard = _guard(config, lm, core)
        return Prepared(lm, read, along, store, store.exclusion, store.rounding, core, guard)
    exclusion = calibrate(lm, text, sites, Exclusion()) if core is None else core.exclusion
    rounding = {}
    if lm.dtype != torch.float32:
        sample = first_windows(text, 4)
        acts, exact = (model.capture(sample.tokens, sites) for model in (lm, load_model(config, "float32")))
        rounding = rounding_loss(acts, exact, exclusion, sample.special)
    text = first_windows(text, wanted)
    guard = _guard(config, lm, core)
    return Prepared(lm, text, along, Live(lm, text, sites, exclusion), exclusion, rounding, core, guard)


def _guard(config: TrainConfig, lm: LanguageModel, core: Core | None) -> Guard | None:
    """Activations of general text that the core and what is beside it are compared on. Raises `InputError`."""
    if config.general is None or core is None:
        return None
    text = run_windows(config.with_text(config.general), lm, "held_out")
    sites = list(dict.fromkeys([Site.parse(core.sae.info["site"]), core.explained]))
    count = min(len(text.tokens), -(-config.general_tokens // max(config.window - 1, 1)))
    rows = Live(lm, first_windows(text, count), sites, core.exclusion).rows(np.arange(count))
    read, explained = rows.acts[sites[0]], rows.acts[core.explained]
    if len(read) < 2:
        raise InputError(f"general = {config.general} has {len(read)} held-out tokens: give more text")
    return Guard(core, read[: config.general_tokens], explained[: config.general_tokens], config)


def _distinct(grid: Grid, lm: LanguageModel, along: tuple[Route, ...]) -> int:
    """Tokens of text that are read: those of the longest autoencoder unless settings say so."""
    if grid.shared.distinct_tokens is not None:
        return grid.shared.distinct_tokens
    arms = grid.arms(along).values()
    return max(budgeted(arm.sae[0], arm, lm.width(route_of(arm).site)).tokens for arm in arms)


def _prepared(grid: Grid, folder: Path) -> Prepared:
    """Prepare with `run.json` in place, so that a kill while recording can be resumed; bad input leaves none behind."""
    fresh = not (folder / "run.json").exists()
    write_json(folder / "run.json", _head(grid, "training", _inputs_of(folder)))
    try:
        lm = load_model(grid.shared)
        along = tuple(routes(grid.shared.site, grid.shared.target, lm))
        memory.check(grid.arms(along), lm)
        return _opened(grid, lm, along)
    except InputError:
        if fresh:
            (folder / "run.json").unlink()
        raise


def run_windows(config: TrainConfig, lm: LanguageModel, part: Any) -> Windows:
    """The windows of one part of the run's text: `train` or `held_out`."""
    asked = {item.name: getattr(config, item.name) for item in fields(Request) if item.name != "wanted"}
    request = Request(**asked, wanted=config.distinct_tokens or config.tokens)
    return read(request, lm.tokenizer, part, vocab_size=lm.vocab_size)


def first_windows(text: Windows, count: int) -> Windows:
    """The first `count` windows of a text, as a text."""
    return text.first(count)


def open_run(folder: str | Path) -> tuple[Grid, str]:
    """The settings of a run folder and whether it is `training` or `finished`. Raises `InputError`."""
    head = read_json(Path(folder) / "run.json")
    if head.get("format") != FORMAT or head.get("version") != VERSION:
        raise InputError(f"{folder} is not a run folder of {FORMAT} version {VERSION}")
    return Grid.from_dict(head["config"]), head["status"]


def diverged(folder: str | Path) -> dict[str, Divergence]:
    """The autoencoders of a run that diverged, by name: they have a line in its log and no folder."""
    found = read_json(Path(folder) / "run.json").get("diverged", {})
    return {name: Divergence(**one) for name, one in found.items()}


def _resolved(grid: Grid, lm: LanguageModel) -> Grid:
    """The settings with `auto` replaced by what it became, so that a resumed run computes the same."""
    return Grid.from_dict(grid.describe() | {"dtype": str(lm.dtype).removeprefix("torch."), "device": str(lm.device)})


def _head(
    grid: Grid,
    status: str,
    inputs: str | None,
    saes: Sequence[str] = (),
    diverged: Mapping[str, Divergence] | None = None,
) -> dict[str, Any]:
    about = {"format": FORMAT, "version": VERSION, "config": grid.describe()}
    found = {name: one._asdict() for name, one in (diverged or {}).items()}
    return about | {"status": status, "inputs": inputs, "saes": list(saes), "diverged": found}


def _inputs(prepared: Prepared) -> str:
    """A digest of what a run reads: a path or a hub name may hold something else tomorrow."""
    exclusion = prepared.exclusion.describe()
    read = [prepared.lm.identity(), prepared.windows.identity, len(prepared.windows.tokens), exclusion]
    return digest(read if prepared.core is None else [*read, prepared.core.sha256])


def _inputs_of(folder: Path) -> str | None:
    return read_json(folder / "run.json")["inputs"] if (folder / "run.json").exists() else None


def _check_inputs(folder: Path, inputs: str) -> None:
    if _inputs_of(folder) not in (None, inputs):
        raise InputError(
            f"the model or the text of the run in {folder} is not what it was when the run began: "
            "restore it, or start a new run in another folder"
        )


def _claim(folder: Path, grid: Grid) -> Grid:
    """The settings to go on with: those asked for, or, the same but for `auto`, those of the unfinished run."""
    if not (folder / "run.json").exists():
        return grid
    found, status = open_run(folder)
    for key, value in found.describe().items():
        asked = grid.describe()[key]
        # A device is resolved (cuda becomes cuda:0); neither decides what is trained.
        if key not in ("device", "on_harm") and asked not in (value, "auto"):
            has, wants = (", ".join(map(str, one)) if isinstance(one, list) else one for one in (value, asked))
            raise InputError(f"{folder} holds a run with {key} = {has}, asked for {wants}: choose another folder")
    if status == "finished":
        raise InputError(f"{folder} holds this run, finished: see monosem evaluate {folder}, or choose another folder")
    return found.replace(on_harm=grid.shared.on_harm)


def _start(
    arms: Mapping[str, TrainConfig], shared: TrainConfig, folder: Path, prepared: Prepared, stream: Stream
) -> Loop:
    device = prepared.lm.device
    saved = checkpoint.load(folder / "checkpoints")
    first = first_batch(stream) if saved is None else {}
    jobs: dict[Route, list[Job]] = {}
    left = {} if saved is None else saved.diverged
    for name, arm in ((name, arm) for name, arm in arms.items() if name not in left):
        job = new_job(name, arm, first, device) if saved is None else known_job(name, arm, saved.saes[name], device)
        jobs.setdefault(route_of(arm), []).append(job)
    loop = Loop(jobs, stream, shared, folder, prepared.guard)
    if saved is not None:
        loop.resume(saved)
    return loop


def _finish(arms: Mapping[str, TrainConfig], folder: Path, prepared: Prepared, loop: Loop) -> dict[str, SAE]:
    batches = [next(loop.stream).acts for _ in range(8)] if loop.config.calibrate else []
    saes = {}
    for job in loop.jobs:
        sae, arm = job.sae.eval(), arms[job.name]
        x = [acts[route_of(arm).site].to(prepared.lm.device).float() for acts in batches]
        k = effective(arm.sae[0], arm).k
        calibrated = calibration.calibrate(sae, x, k, job.control.held) if x else None
        sae.info = provenance(arm, prepared, job) | {"calibration": calibrated, "name": job.name} | axes(job)
        sae = summed(sae, arm, prepared.core)
        save(sae, folder / "saes" / job.name)
        saes[job.name] = sae
    return saes


def summed(sae: SAE, config: TrainConfig, core: Core | None) -> SAE:
    """A residual with its core as one, which says of itself where the residual was trained; anything else as it is."""
    role = role_of(config.sae[0], config)
    if core is None or role is None or not role.residual:
        return sae
    both = boosted(core.sae, {group_name(config): sae})
    both.info = sae.info | {"groups": both.info["groups"], "core": core.describe()}
    return both


def axes(job: Job) -> dict[str, Any]:
    """What the objective trained, for later tools: budgets and rank weights, or widths of the dictionary."""
    described = job.objective.nesting.describe()
    return {"budgets": described} if "J" in described else described


def provenance(config: TrainConfig, prepared: Prepared, job: Job) -> dict[str, Any]:
    """Where an autoencoder belongs and how it came to be; stored with it."""
    lm, tokens = prepared.lm, job.config.steps * config.batch
    route, role = route_of(config), role_of(config.sae[0], config)
    site = route.site
    kept = int((~prepared.exclusion.mask(prepared.windows.special, {})).sum())
    here = {str(one) for one in sites_of([route])}
    target = {} if route.explained == site else {"target": str(route.explained)}
    core = {} if prepared.core is None else {"core": prepared.core.describe()}
    held = {"held_latents": job.sae.info["held_latents"]} if role is not None and role.extends else {}
    return {
        "site": str(site),
        "module_path": lm.module_path(site),
        "transformer_lens": site.transformer_lens,
        "model": lm.identity(),
        "model_source": lm.source,
        "text": prepared.windows.identity,
        "exclusion": prepared.exclusion.describe(),
        "rounding": {name: row for name, row in prepared.rounding.items() if name in here},
        "seed": config.seed,
        "start": draws(config),
        "training": {
            "config": config.describe() | {"unit_decoder": job.config.unit_decoder},
            "tokens": tokens,
            "distinct_tokens": min(kept, tokens),
            "epochs": tokens / kept,
            "clamped_share": job.clamped_share,
            "l0": job.l0,
            "step_seconds": job.seconds,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
        **target,
        **core,
        **held,
    }
