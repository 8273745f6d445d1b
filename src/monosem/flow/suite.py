"""A suite: one autoencoder for each of many sites of one model, loaded when it is first needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Int64
from torch import Tensor

from monosem.disk import digest, read_sealed
from monosem.flow.direction import Direction
from monosem.flow.node import Node
from monosem.sae import SAE, describe, find, load
from monosem.shapes import STREAM, InputError, Site

PARENTS = {"resid": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}
"""Where a feature of the residual stream can come from: the stream before the block, and what the block adds."""
_SAME = ("fingerprint", "tokenizer", "d_model", "n_layers")
"""Of two models these agree where both are known; the precision they run in may differ."""


class Suite(Mapping[Site, SAE]):
    """Autoencoders by site; all write vectors of one width into the residual stream of one model.

    `resid_pre.L` is the same tensor as `resid_post.(L − 1)` and is known by that name, except in the first layer.
    """

    def __init__(self, saes: Mapping[Site, SAE]) -> None:
        """Raises `InputError` for transcoders, sites outside the residual stream, other widths and other models."""
        self._loaded: dict[Site, SAE] = {_named(site): sae for site, sae in saes.items()}
        self._folders: dict[Site, Path] = {}
        self._configs = {site: describe(sae) for site, sae in self._loaded.items()}
        self._directions: dict[Site, Direction] = {}
        self._hashes: dict[Site, str] = {}
        self.model = _checked({str(site): config for site, config in self._configs.items()})

    @classmethod
    def load(cls, folders: str | Path | Sequence[str | Path], sae: str | None = None) -> Suite:
        """The autoencoders of runs and folders, their configurations now and their weights when used.

        `sae` chooses by name where a run has several at a site: `topk-k16`, `*-seed0,mine`. Raises `InputError` where
        two are at one site, and as the constructor does.
        """
        suite = cls({})
        configs: dict[str, dict[str, Any]] = {}
        for folder in _chosen([folders] if isinstance(folders, (str, Path)) else folders, sae):
            config = read_sealed(folder / "config.json")
            site = _site(config, str(folder))
            if site in suite._folders:
                raise InputError(
                    f"{suite._folders[site]} and {folder} are both at {site}: give one of them, or choose with a name"
                )
            suite._folders[site], suite._configs[site] = folder, config
            configs[str(folder)] = config
        suite.model = _checked(configs)
        return suite

    def __getitem__(self, site: Site) -> SAE:
        if site not in self._loaded:
            if site not in self._folders:
                raise InputError(f"the suite has no autoencoder at {site}: it has {self._shown()}")
            self._loaded[site] = load(self._folders[site])
        return self._loaded[site]

    def __iter__(self) -> Iterator[Site]:
        """In the order of the stream: layer by layer, in each what attention adds, what the MLP adds, the sum."""
        return iter(sorted(self._configs, key=_order))

    def __len__(self) -> int:
        return len(self._configs)

    def __contains__(self, site: object) -> bool:
        return site in self._configs

    def folder(self, site: Site) -> Path | None:
        """Where the autoencoder lives, with its statistics and labels; None where it came without a folder."""
        return self._folders.get(site)

    @property
    def d_model(self) -> int:
        return self._config(next(iter(self)))["d_out"]

    def n_latents(self, site: Site) -> int:
        """The size of the dictionary at a site; weights are not loaded for it."""
        return sum(group["n_latents"] for group in self._config(site)["groups"])

    def info(self, site: Site) -> dict[str, Any]:
        """What the autoencoder at a site says of itself; weights are not loaded for it."""
        return self._config(site)["info"]

    def layers(self, kind: str = "resid_post") -> list[int]:
        """Layers that have an autoencoder of this kind of site, ascending."""
        return sorted(site.layer for site in self if site.kind == kind and site.layer is not None)

    def before(self, site: Site) -> dict[str, Site]:
        """Where a residual feature may come from, R_L = R_(L−1) + A_L + M_L, as far as the suite has it."""
        if site.kind != "resid_post" or site.layer is None:
            return {}
        layers = {"resid": site.layer - 1, "mlp": site.layer, "attn": site.layer}
        parents = {name: Site(kind, layers[name]) for name, kind in PARENTS.items()}
        return {name: parent for name, parent in parents.items() if parent in self}

    def after(self, site: Site) -> Site | None:
        """Where a feature goes on: the next layer's residual stream; of a module's output, its own layer's."""
        if site.layer is None or site.kind not in PARENTS.values():
            return None
        later = Site("resid_post", site.layer + (site.kind == "resid_post"))
        return later if later in self else None

    def direction(self, site: Site) -> Direction:
        """Unit decoder rows and their norms in raw units, kept."""
        if site not in self._directions:
            self._directions[site] = Direction.of(self[site])
        return self._directions[site]

    def release(self, site: Site) -> None:
        """Forget directions, and weights that can be loaded again: for suites larger than memory."""
        self._directions.pop(site, None)
        if site in self._folders:
            self._loaded.pop(site, None)

    def hash(self, site: Site) -> str:
        """A digest of weights and configuration: the same whether loaded or from memory."""
        if site not in self._hashes:
            config = {key: value for key, value in self._config(site).items() if key not in ("info", "sha256")}
            self._hashes[site] = digest({**config, "weights": self._weights(site)})
        return self._hashes[site]

    def node(self, text: str) -> Node:
        """Read `resid_post.12/4711`. Raises `InputError` for sites and latents that the suite does not have."""
        node = Node.parse(text)
        node = Node(_named(node.site), node.latent)
        self.latents(node.site, torch.tensor([node.latent]))
        return node

    def latents(self, site: Site, latents: Int64[Tensor, " S"] | None = None) -> Int64[Tensor, " S"]:
        """These latents, or all of a site. Raises `InputError` for one that is not there."""
        count = self.n_latents(site)
        if latents is None:
            return torch.arange(count)
        if wrong := latents[(latents < 0) | (latents >= count)].tolist():
            raise InputError(
                f"{site}/{wrong[0]} does not exist: the autoencoder at {site} has {count:,} latents from 0"
            )
        return latents

    def _config(self, site: Site) -> dict[str, Any]:
        if site not in self._configs:
            raise InputError(f"the suite has no autoencoder at {site}: it has {self._shown()}")
        return self._configs[site]

    def _weights(self, site: Site) -> str:
        stored = self._config(site).get("sha256")
        if stored is not None:
            return stored
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in self[site].state_dict().items()}
        return hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()

    def _shown(self) -> str:
        return ", ".join(map(str, self)) or "none"


def _chosen(folders: Sequence[str | Path], sae: str | None) -> Iterator[Path]:
    for folder in folders:
        found = find(folder)
        words = ["*"] if sae is None else sae.split(",")
        kept = {name: where for name, where in found.items() if any(map(PurePath(name).match, words))}
        if not kept:
            raise InputError(f"no autoencoder of {folder} is named {sae}: there are {', '.join(found)}")
        yield from kept.values()


def _named(site: Site) -> Site:
    return Site("resid_post", site.layer - 1) if site.kind == "resid_pre" and site.layer else site


def _site(config: Mapping[str, Any], name: str) -> Site:
    stored = config["info"].get("site")
    if stored is None:
        raise InputError(f"{name} does not say its site: set sae.info['site']")
    return _named(Site.parse(str(stored)))


def _order(site: Site) -> tuple[int, int, str]:
    return (-1 if site.layer is None else site.layer, STREAM.index(site.kind), str(site))


def _checked(configs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The model that all autoencoders, by name, belong to. Raises `InputError`."""
    found: dict[str, tuple[str, Any]] = {}
    width: tuple[str, int] | None = None
    for name, config in configs.items():
        _check_place(name, config)
        other, expected = width = width or (name, config["d_out"])
        if config["d_out"] != expected:
            raise InputError(
                f"{other} has d_model {expected} and {name} {config['d_out']}: features of other widths have no cosine"
            )
        model = config["info"].get("model") or {}
        for key in _SAME:
            own = model.get(key)
            first, value = found.setdefault(key, (name, own)) if own is not None else (name, None)
            if own != value:
                raise InputError(
                    f"{first} and {name} belong to different models ({key} {value} and {own}): give those of one model"
                )
    models = [config["info"].get("model") or {} for config in configs.values()]
    return next((model for model in models if model), {})


def _check_place(name: str, config: Mapping[str, Any]) -> None:
    info = config["info"]
    if isinstance(info.get("target"), str):
        raise InputError(
            f"{name} is a transcoder of {info.get('site')} to {info['target']}: a suite is of autoencoders"
        )
    stored = info.get("site")
    if stored is not None and Site.parse(str(stored)).kind not in STREAM:
        raise InputError(
            f"{name} is at {stored}, whose vectors are not the residual stream's: use sites of {', '.join(STREAM)}"
        )
