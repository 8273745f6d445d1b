"""Teaching a trained autoencoder new domains: train beside it, sum, measure on every domain and on general text."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.activations import Stream
from monosem.boost.result import Result
from monosem.boost.rival import GRAFTED, grafted, more_latents
from monosem.boost.table import ALL, CORE, GENERAL, MORE, measured
from monosem.disk import lock, write_json
from monosem.lm import LanguageModel
from monosem.progress import remark
from monosem.sae import SAE, DenseEncoder, find, groups, load, merged, save
from monosem.shapes import InputError, Site
from monosem.text import Windows
from monosem.training import Grid, TrainConfig, diverged, open_run, train
from monosem.training.calibration import calibrate
from monosem.training.config import PLAIN
from monosem.training.core import Core, active_latents, needed
from monosem.training.model import load_model
from monosem.training.recipe import recipe, role_of
from monosem.training.role import plain_core
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
CHANGED = ("extended_random", "extended_active", "finetuned")
"""Roles that start as the core and change it."""
CALIBRATION = 16_384
"""Tokens of a text on which L0 is set for what needs no training."""


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


def core_text(core: SAE) -> dict[str, object]:
    """The settings that read the text a core was trained on; of a composition, its first group's. Empty if unknown."""
    trained = groups(core)[0].info.get("training", {}).get("config", {})
    return {key: trained[key] for key in ("text", "column", *PLAIN) if key in trained}


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
    do, for two texts of one name, and for a finished run beside another core or with other settings.
    """
    folder, grid = Path(folder), Grid.of(config)
    if baselines:
        grid = grid.replace(sae=tuple(dict.fromkeys((*grid.shared.sae, *BASELINES))))
    core = _checked(grid, windows, loss_windows)
    domains = _domains(texts, folder, core)
    with lock(folder):
        trained = {domain.name: _trained(_of_domain(grid, domain), domain, core) for domain in domains}
        if baselines:
            elsewhere = Domain(GENERAL, str(grid.shared.general), folder / "runs" / GENERAL)
            one = Grid(replace(_general(grid.shared), sae=_residuals(grid)[:1], general=grid.shared.general))
            trained[GENERAL] = _trained(Grid(replace(one.shared, domain=GENERAL)), elsewhere, core)
        total = merged([_first_residual(trained[domain.name], len(groups(core.sae))) for domain in domains])
        total.info = core.sae.info | {"groups": total.info["groups"], "core": core.describe()}
        _save(total, folder / "saes" / "boosted")
        lm = load_model(grid.shared)
        saes = _named(core, domains, trained, total, grid, lm)
        result = measured(
            saes,
            _texts(grid.shared, domains, lm, windows),
            lm,
            domains={domain.name: domain.text for domain in domains},
            loss_windows=loss_windows,
            command=command,
        )
        result.provenance["core"] = core.describe() | {"folder": grid.shared.core}
        result.provenance["general_text"] = grid.shared.general
        result.provenance["diverged"] = {
            f"{domain.name}/{name}": lost.message
            for domain in domains
            for name, lost in diverged(domain.folder).items()
        }
        write_json(folder / "boost.json", result.to_json())
    return Boosting(total, saes, result)


def _checked(grid: Grid, windows: int, loss_windows: int) -> Core:
    """The core; everything that can be wrong before anything is trained. Raises `InputError`."""
    core = needed(grid.shared)
    if grid.shared.general is None:
        raise InputError("no general text to watch: name one by general, such as the text the core was trained on")
    if windows < 1 or loss_windows < 0:
        raise InputError(f"windows = {windows}, loss_windows = {loss_windows}: give at least 1, and at least 0")
    if not _residuals(grid):
        raise InputError(f"no residual among {', '.join(grid.shared.sae)}: name one in sae, such as batch_topk")
    changed = [name for name in grid.shared.sae if recipe(name).role in CHANGED]
    if changed and not isinstance(plain_core(grid.shared).encoder, DenseEncoder):
        raise InputError(f"{', '.join(changed)}: need a core with a row for each latent; leave them out")
    return core


def _residuals(grid: Grid) -> tuple[str, ...]:
    roles = {name: role_of(name, grid.shared) for name in grid.shared.sae}
    return tuple(name for name, role in roles.items() if role is not None and role.residual)


def _domains(texts: Sequence[str], folder: Path, core: Core) -> list[Domain]:
    taken = {group.name for group in groups(core.sae)} | {GENERAL}
    found: dict[str, Domain] = {}
    for text in texts:
        name = domain_name(text)
        if name in taken:
            raise InputError(f"the latents for {text} would be called {name!r}, which is taken: rename the text")
        if name in found:
            raise InputError(f"two texts would be called {name!r}: boost one of them by a command of its own")
        found[name] = Domain(name, text, folder / "runs" / name)
    if not found:
        raise InputError("no text of a domain was given: name at least one")
    return list(found.values())


def _of_domain(grid: Grid, domain: Domain) -> Grid:
    return Grid(replace(grid.shared.with_text(domain.text), domain=domain.name), **grid.lists)


def _general(config: TrainConfig) -> TrainConfig:
    """Settings that read the general text: the core's own as the core was trained on it."""
    assert config.general is not None
    own, found = core_text(needed(config).sae), config.with_text(config.general)
    return TrainConfig.from_dict(found.describe() | own) if own.get("text") == config.general else found


def _trained(grid: Grid, domain: Domain, core: Core) -> dict[str, SAE]:
    """What a domain's run gives: trained now, to its end, or as it is there. Raises `InputError` for another run."""
    if not (domain.folder / "run.json").exists() or open_run(domain.folder)[1] != "finished":
        return train(grid, domain.folder)
    found = open_run(domain.folder)[0].describe()
    for key, value in grid.describe().items():
        if key not in ("device", "dtype", "on_harm") and found[key] != value:
            raise InputError(
                f"{domain.folder} holds a run with {key} = {found[key]}, asked for {value}: choose another folder"
            )
    saes = {name: load(path) for name, path in find(domain.folder).items()}
    for name, sae in saes.items():
        if sae.info.get("core", {}).get("sha256", core.sha256) != core.sha256:
            raise InputError(f"{domain.folder / 'saes' / name} was trained beside another core: choose another folder")
        sae.to(core.sae.W_dec.device)
    return saes


def _first_residual(saes: Mapping[str, SAE], old: int) -> SAE:
    """The first composition with a group more than the core's."""
    for sae in saes.values():
        if len(groups(sae)) > old:
            return sae
    raise InputError(f"no residual is left among {', '.join(saes)}: lower lr")


def _save(total: SAE, folder: Path) -> None:
    """Write the sum unless it is there already, with what other commands have put beside it."""
    if folder.exists():
        there = load(folder)
        ours, theirs = total.state_dict(), there.state_dict()
        same = ours.keys() == theirs.keys() and all(torch.equal(ours[key].cpu(), theirs[key]) for key in ours)
        if same and there.info == total.info:
            return
    save(total, folder)


def _texts(config: TrainConfig, domains: Sequence[Domain], lm: LanguageModel, count: int) -> dict[str, Windows]:
    """Held-out windows of every domain and, last, of general text."""
    read = {domain.name: config.with_text(domain.text) for domain in domains} | {GENERAL: _general(config)}
    return {name: first_windows(run_windows(one, lm, "held_out"), count) for name, one in read.items()}


def _named(
    core: Core,
    domains: Sequence[Domain],
    trained: Mapping[str, Mapping[str, SAE]],
    total: SAE,
    grid: Grid,
    lm: LanguageModel,
) -> dict[str, SAE]:
    """Everything that is measured: the core, each run's autoencoders as DOMAIN/NAME, rivals, and the sum of all."""
    saes, config = {CORE: core.sae}, grid.shared
    elsewhere = activations(_general(config), core, CALIBRATION) if "finetuned" in config.sae else []
    for domain in domains:
        acts = activations(config.with_text(domain.text), core, CALIBRATION)
        own = _more(core, acts, grid) | dict(trained[domain.name])
        for name, sae in trained[domain.name].items():
            if name.startswith("finetuned"):
                own[name.replace("finetuned", GRAFTED)] = grafted(
                    plain_core(config), sae, config.n_latents, acts, config.k
                )
            if elsewhere and (recalibrated := _on_general(sae, elsewhere, config)) is not None:
                own[f"{name}@general"] = recalibrated
        saes |= {f"{domain.name}/{name}": sae for name, sae in own.items()}
    if GENERAL in trained:
        saes |= {f"{GENERAL}/{name}": sae for name, sae in trained[GENERAL].items()}
    if len(domains) > 1:
        saes[ALL] = total
    exclusion = core.exclusion.describe()
    for sae in saes.values():
        sae.info = sae.info | {"exclusion": exclusion}
        sae.to(lm.device).eval()
    return saes


def _more(core: Core, acts: list[Float[Tensor, "B D"]], grid: Grid) -> dict[str, SAE]:
    """The core alone with as many latents as it has with a residual, for every k; said where it has no way to."""
    before = sum(int(core.sae.codes(x).l0().sum()) for x in acts) / sum(len(x) for x in acts)
    budgets = grid.lists.get("k", (grid.shared.k,))
    found = {k: more_latents(core.sae, acts, before + k) for k in budgets}
    if None in found.values():
        remark(f"{MORE}: the core has neither k nor thresholds that could be set to another L0; left out")
    return {f"{MORE}-k{k}" if len(budgets) > 1 else MORE: sae for k, sae in found.items() if sae is not None}


def _on_general(sae: SAE, acts: list[Float[Tensor, "B D"]], config: TrainConfig) -> SAE | None:
    """A changed core with its threshold set on general text instead of the domain's, which lowers L0 less there."""
    (kind,) = sae.info["training"]["config"]["sae"]
    role = role_of(kind, config)
    if role is None or recipe(kind).role not in CHANGED:
        return None
    new = copy.deepcopy(sae)
    k = active_latents(config) + (0 if recipe(kind).role == "finetuned" else sae.info["training"]["config"]["k"])
    return None if calibrate(new, acts, k) is None else new


def activations(config: TrainConfig, core: Core, count: int) -> list[Float[Tensor, "B D"]]:
    """Batches of training activations at the core's site, about `count` tokens."""
    prepared = prepare(replace(config, general=None))
    stream = Stream(prepared.source, batch=config.batch, block=config.block, seed=config.order)
    site, device = Site.parse(core.sae.info["site"]), core.sae.W_dec.device
    return [next(stream).acts[site].to(device).float() for _ in range(max(1, count // config.batch))]
