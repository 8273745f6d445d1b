"""The frozen autoencoder that others are trained beside, and what it leaves unexplained (arXiv 2507.12990)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.activations import Rows, Source, Stream
from monosem.disk import read_json
from monosem.sae import SAE, find, groups, load
from monosem.sae.flops import known_active
from monosem.shapes import InputError, Site
from monosem.shapes.exclusion import Exclusion
from monosem.shapes.route import Left, Route
from monosem.training.config import TrainConfig


class Core(NamedTuple):
    """A trained autoencoder that is never changed, and the checksum of its weights."""

    sae: SAE
    sha256: str

    @property
    def explained(self) -> Site:
        """The site it reconstructs: what it reads, or a transcoder's target."""
        return Site.parse(self.sae.info.get("target", self.sae.info["site"]))

    @property
    def exclusion(self) -> Exclusion:
        """The tokens that it was trained without; whatever is trained beside it leaves out the same."""
        return Exclusion.of(self.sae.info, "the core")

    def describe(self) -> dict[str, Any]:
        """JSON-able: which one it is."""
        return {"name": self.sae.info.get("name"), "sha256": self.sha256, "n_latents": self.sae.n_latents}


def core_of(config: TrainConfig) -> Core | None:
    """The core that settings name. Raises `InputError` for one that cannot be trained beside."""
    if config.core is None:
        return None
    (folder,) = _only(Path(config.core))
    return _opened(str(folder.resolve()), read_json(folder / "config.json").get("sha256", ""))


def needed(config: TrainConfig) -> Core:
    """The same where there has to be one. Raises `InputError`."""
    found = core_of(config)
    if found is None:
        raise InputError(f"{', '.join(config.sae)}: needs a trained autoencoder beside it, give its folder as core")
    return found


def active_latents(config: TrainConfig) -> int:
    """The core's active latents a token: as settings say, or of each group its k or the L0 its training ended with.

    Raises `InputError` where neither is known.
    """
    if config.core_k is not None:
        return config.core_k
    counts = known_active(needed(config).sae)
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        raise InputError("the core does not say how many latents are active a token: give the number as core_k")
    return round(sum(known))


def group_name(config: TrainConfig) -> str:
    """What the latents trained beside a core are called in its sum with them."""
    return config.domain or domain_name(config.text)


def domain_name(text: str) -> str:
    """What the latents trained on a text are called, if nothing else is said: `speeches` for `data/speeches.jsonl`."""
    return Path(text).name.split(".")[0] if "," not in text else "mixture"


def check_name(config: TrainConfig) -> None:
    """Raises `InputError` for new latents with the name of a group that the core has already."""
    name = group_name(config)
    if name in {group.name for group in groups(needed(config).sae)}:
        raise InputError(f"the core has a group {name!r} already: name the new latents otherwise by domain")


class CoreStream(Stream):
    """A stream whose batches also have what the core leaves of its site, computed in float32, once for all."""

    def __init__(self, source: Source, core: Core, *, batch: int, block: int, seed: int) -> None:
        super().__init__(source, batch=batch, block=block, seed=seed)
        self._core, self._site = core, Site.parse(core.sae.info["site"])

    def __next__(self) -> Rows:
        rows = super().__next__()
        target = rows.acts[self._core.explained]
        left = unexplained(self._core.sae, rows.acts[self._site], target)
        acts: dict[Any, Tensor] = {**rows.acts, Left(self._core.explained): left}
        return rows._replace(acts=acts)


def stream_beside(source: Source, core: Core | None, config: TrainConfig) -> Stream:
    """Batches in the order that settings give; beside a core, with what it leaves."""
    if core is None:
        return Stream(source, batch=config.batch, block=config.block, seed=config.order)
    return CoreStream(source, core, batch=config.batch, block=config.block, seed=config.order)


@torch.no_grad()
def unexplained(sae: SAE, acts: Float[Tensor, "B D"], target: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
    """target − sae(acts), subtracted in float32: rounding both first would cost percents of what is left."""
    device = sae.W_dec.device
    return target.to(device).float() - sae(acts.to(device).float()).float()


def check_place(core: Core, along: tuple[Route, ...], model: dict[str, Any]) -> None:
    """Raises `InputError` unless everything is trained at the core's own site of the core's model."""
    site, target = core.sae.info["site"], str(core.explained)
    for route in along:
        if (str(route.site), str(route.explained)) != (site, target):
            raise InputError(
                f"the core reads {site} and explains {target}, asked for {route.site} and {route.explained}: "
                "train beside it at its own site"
            )
    stored = core.sae.info.get("model", {})
    if stored.get("fingerprint") not in (None, model.get("fingerprint")):
        raise InputError(
            f"the core was trained on other weights ({stored.get('name')}) than {model.get('name')}'s: "
            "give the core's own model by model"
        )


def _only(where: Path) -> list[Path]:
    found = find(where)
    if len(found) > 1:
        first = next(iter(found.values()))
        raise InputError(f"{where} holds {', '.join(found)}: give one of them as the core, such as {first}")
    return list(found.values())


@lru_cache(maxsize=1)
def _opened(folder: str, sha256: str) -> Core:
    with torch.device("cpu"):  # weights are read, whatever device new tensors are made on
        sae = load(folder)
    if "site" not in sae.info:
        raise InputError(f"{folder} does not say its site: set sae.info['site'] and save it again")
    return Core(sae.requires_grad_(False), sha256)
