"""Teaching a trained autoencoder new domains: train beside it, sum, measure on every domain and on general text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from monosem.activations import Stream
from monosem.boost.result import Result
from monosem.boost.rival import grafted, more_latents
from monosem.boost.table import ALL, CORE, GENERAL, measured
from monosem.disk import lock, write_json
from monosem.lm import LanguageModel
from monosem.sae import SAE, find, load, merged, save
from monosem.shapes import InputError, Site
from monosem.text import Windows
from monosem.training import Grid, TrainConfig, open_run, train
from monosem.training.core import Core, needed
from monosem.training.model import load_model
from monosem.training.run import domain_name, first_windows, prepare, run_windows

BASELINES = (
    "batch_topk+frozen_decoder",
    "batch_topk+scratch",
    "batch_topk+extended_random",
    "batch_topk+extended_random+held_core",
    "batch_topk+extended_active",
    "batch_topk+extended_active+held_core",
    "finetuned",
)
"""What `--baselines` trains on the same batches as the residual (arXiv 2507.12990, and our controls)."""
CALIBRATION = 16_384
"""Tokens of the domain on which L0 is set for what needs no training."""


class Domain(NamedTuple):
    """A text that the core is boosted for, and the run that trains on it."""

    name: str
    text: str
    folder: Path


class Boosting(NamedTuple):
    """The sum of the core and one residual a domain, everything else that was trained, and figures of all."""

    sum: SAE
    saes: dict[str, SAE]
    result: Result


def beside(core: str | Path, config: TrainConfig) -> TrainConfig:
    """The settings with model, site and windows of a core, where the core says them. Raises `InputError`."""
    config = replace(config, core=str(core))
    info = needed(config).sae.info
    trained = info.get("training", {}).get("config", {})
    keys = ("model", "dtype", "device", "device_map", "reinit", "window", "bos", "separator", "held_out", "column")
    known = {key: trained[key] for key in keys if key in trained}
    site = {"site": info["site"]} | ({"target": info["target"]} if "target" in info else {})
    return TrainConfig.from_dict(config.describe() | known | site)


def boost(
    config: TrainConfig | Grid,
    texts: Sequence[str],
    folder: str | Path,
    *,
    baselines: bool = False,
    windows: int = 128,
    loss_windows: int = 32,
    command: str | None = None,
) -> Boosting:
    """Train residuals beside `config.core` for every text, one run each, and measure them on all texts.

    `config.general` is the text that must not suffer. Runs that are there are continued or, finished, read. Writes
    `folder`/runs/DOMAIN, `folder`/saes/boosted and `folder`/boost.json. Raises `InputError` as `train` and `evaluate`
    do, and for two texts of one name.
    """
    folder, grid = Path(folder), Grid.of(config)
    if baselines:
        grid = grid.replace(sae=tuple(dict.fromkeys((*grid.shared.sae, *BASELINES))))
    domains = _domains(texts, folder)
    if grid.shared.general is None:
        raise InputError("no general text to watch: name one by general, such as the text the core was trained on")
    with lock(folder):
        trained = {domain.name: _trained(_of_domain(grid, domain), domain) for domain in domains}
        if baselines:
            elsewhere = Domain(GENERAL, grid.shared.general, folder / "runs" / GENERAL)
            one = Grid(replace(grid.shared, sae=grid.shared.sae[:1]))
            trained[GENERAL] = _trained(_of_domain(one, elsewhere), elsewhere)
        total = merged([_first_residual(trained[domain.name]) for domain in domains])
        core = needed(grid.shared)
        total.info = core.sae.info | {key: total.info[key] for key in ("groups",)}
        save(total, folder / "saes" / "boosted")
        lm = load_model(grid.shared)
        saes = _named(core, domains, trained, total, grid.shared, lm)
        result = measured(
            saes,
            _texts(grid.shared, domains, lm, windows),
            lm,
            domains={domain.name: domain.text for domain in domains},
            loss_windows=loss_windows,
            command=command,
        )
        write_json(folder / "boost.json", result.to_json())
    return Boosting(total, saes, result)


def _domains(texts: Sequence[str], folder: Path) -> list[Domain]:
    found: dict[str, Domain] = {}
    for text in texts:
        name = domain_name(text)
        if name in found or name == GENERAL:
            raise InputError(f"two texts would be called {name!r}: rename one of {', '.join(texts)}")
        found[name] = Domain(name, text, folder / "runs" / name)
    if not found:
        raise InputError("no text of a domain was given: name at least one")
    return list(found.values())


def _of_domain(grid: Grid, domain: Domain) -> Grid:
    text = grid.shared.with_text(domain.text)
    return Grid(replace(text, domain=domain.name), **grid.lists)


def _trained(grid: Grid, domain: Domain) -> dict[str, SAE]:
    """What a domain's run gives: trained now, to its end, or as it is there. Raises `InputError` for another run."""
    if (domain.folder / "run.json").exists() and open_run(domain.folder)[1] == "finished":
        found = open_run(domain.folder)[0].describe()
        for key, value in grid.describe().items():
            if key not in ("device", "dtype", "on_harm") and found[key] != value:
                raise InputError(
                    f"{domain.folder} holds a run with {key} = {found[key]}, asked for {value}: choose another folder"
                )
        return {name: load(path) for name, path in find(domain.folder).items()}
    return train(grid, domain.folder)


def _first_residual(saes: Mapping[str, SAE]) -> SAE:
    for sae in saes.values():
        if "groups" in sae.info:
            return sae
    raise InputError(f"no residual among {', '.join(saes)}: name one in sae, such as batch_topk")


def _texts(config: TrainConfig, domains: Sequence[Domain], lm: LanguageModel, count: int) -> dict[str, Windows]:
    """Held-out windows of every domain and, last, of general text."""
    assert config.general is not None
    named = {domain.name: domain.text for domain in domains} | {GENERAL: config.general}
    read = {name: run_windows(config.with_text(text), lm, "held_out") for name, text in named.items()}
    return {name: first_windows(text, count) for name, text in read.items()}


def _named(
    core: Core,
    domains: Sequence[Domain],
    trained: Mapping[str, Mapping[str, SAE]],
    total: SAE,
    config: TrainConfig,
    lm: LanguageModel,
) -> dict[str, SAE]:
    """Everything that is measured: the core, each run's autoencoders as DOMAIN/NAME, rivals, and the sum of all."""
    saes = {CORE: core.sae}
    for domain in domains:
        acts = activations(replace(config.with_text(domain.text), domain=domain.name), CALIBRATION)
        k = config.k
        before = sum(int(core.sae.codes(x).l0().sum()) for x in acts) / sum(len(x) for x in acts)
        saes[f"{domain.name}/more_latents"] = more_latents(core.sae, acts, before + k)
        for name, sae in trained[domain.name].items():
            saes[f"{domain.name}/{name}"] = sae
            if name == "finetuned":
                saes[f"{domain.name}/grafted"] = grafted(core.sae, sae, config.n_latents, acts, k)
    if GENERAL in trained:
        saes |= {f"{GENERAL}/{name}": sae for name, sae in trained[GENERAL].items()}
    if len(domains) > 1:
        saes[ALL] = total
    exclusion = core.exclusion.describe()
    for sae in saes.values():
        sae.info = sae.info | {"exclusion": exclusion}
        sae.to(lm.device).eval()
    return saes


def activations(config: TrainConfig, count: int) -> list[Float[Tensor, "B D"]]:
    """Batches of training activations at the core's site, about `count` tokens."""
    prepared = prepare(replace(config, general=None))
    stream = Stream(prepared.source, batch=config.batch, block=config.block, seed=config.order)
    site = Site.parse(needed(config).sae.info["site"])
    device = needed(config).sae.W_dec.device
    return [next(stream).acts[site].to(device).float() for _ in range(max(1, count // config.batch))]
