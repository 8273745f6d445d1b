"""A grid: settings of which some have several values; every combination is an autoencoder, all trained in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from monosem.shapes import InputError, Site
from monosem.shapes.route import Left, Route
from monosem.training.config import TrainConfig, read_toml, typed

SHAPE = ("n_latents", "k", "seed", "subtract_b_dec", "tokens")
LEARNING = ("lr", "warmup", "decay", "schedule", "clip", "precision", "aux", "k_aux", "dead_after", "unit_decoder")
OF_ONE_KIND = {
    "budgets": "hierarchical",
    "budget_weights": "hierarchical",
    "widths": "matryoshka",
    **dict.fromkeys(("heads", "base", "extension", "gate", "gate_clamp", "revival"), "kron"),
    "l1": "relu",
    "bandwidth": "jumprelu",
}
"""Settings that only autoencoders with this word in their name have."""
SWEPT = (*SHAPE, *LEARNING, *OF_ONE_KIND)
"""Settings that may have several values. All others decide what the run reads, which its autoencoders share."""
WORDS = ("budgets", "budget_weights", "widths")
"""Settings in whose single value commas may stand."""


@dataclass(frozen=True, init=False)
class Grid:
    """Settings of a run with several autoencoders: `Grid(TrainConfig(sae=("topk",)), k=(16, 32), seed=(0, 1, 2))`.

    Every autoencoder of `shared.sae` is trained at every site of `shared.site` with every combination of `lists`. All
    see the same tokens in the same order, that of `order_seed`: the smallest of several seeds if it is not given. So
    `seed` decides initial weights, and an autoencoder of a grid is, bit for bit, what its own settings give alone.
    """

    shared: TrainConfig
    lists: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __init__(self, shared: TrainConfig, /, **lists: Iterable[Any]) -> None:
        """Raises `InputError` for settings that a run has once, and for lists that are empty or repeat a value."""
        several = {key: _checked(key, tuple(values), shared.sae) for key, values in lists.items()}
        if shared.distinct_tokens is None and len(several.get("tokens", ())) > 1:
            shared = replace(shared, distinct_tokens=max(several["tokens"]))
        if shared.order_seed is None and len(several.get("seed", ())) > 1:
            shared = replace(shared, order_seed=min(several["seed"]))
        object.__setattr__(self, "shared", replace(shared, **{key: values[0] for key, values in several.items()}))
        object.__setattr__(self, "lists", {key: values for key, values in several.items() if len(values) > 1})

    @classmethod
    def of(cls, config: TrainConfig | Grid) -> Grid:
        """The same settings as a grid."""
        return config if isinstance(config, Grid) else cls(config)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Grid:
        """Settings, each a value or a list of values. Raises `InputError`."""
        lists = {key: value for key, value in values.items() if _is_list(key, value)}
        single = {key: value for key, value in values.items() if key not in lists}
        firsts = {key: value[0] for key, value in lists.items() if len(value)}
        return cls(TrainConfig.from_dict(single | firsts), **lists)

    def describe(self) -> dict[str, Any]:
        """JSON-able; `Grid.from_dict` gives it back."""
        return self.shared.describe() | {key: list(values) for key, values in self.lists.items()}

    def replace(self, **values: Any) -> Grid:
        """The same grid with other shared settings."""
        return Grid(replace(self.shared, **values), **self.lists)

    def arms(self, routes: Iterable[Route]) -> dict[str, TrainConfig]:
        """The settings of every autoencoder by its name: one of each recipe and combination on each route.

        A name says what varies: `topk`, `topk-k16-seed1`, and with several sites `resid_post.12/topk-k16-seed1`, where
        sites are spelled as in `Site.file_name`.
        """
        found, routes = {}, list(routes)
        for route, (name, one) in product(routes, self.variants().items()):
            full = f"{route.site.file_name}/{name}" if len(routes) > 1 else name
            if full in found:
                raise InputError(f"two autoencoders would be called {full}: name one of the sites in another run")
            target = None if route.target is None else str(route.explained)
            found[full] = replace(one, site=str(route.site), target=target)
        return found

    def variants(self) -> dict[str, TrainConfig]:
        """The same for one route, with the sites as they were asked for."""
        from monosem.training.recipe import with_controls

        found = {}
        for kind in with_controls(self.shared).sae:
            varied = {key: values for key, values in self.lists.items() if applies(key, kind)}
            for chosen in product(*varied.values()):
                values = dict(zip(varied, chosen, strict=True))
                name = "-".join([kind, *(_word(key, value) for key, value in values.items())])
                if name in found:
                    raise InputError(f"two autoencoders of the grid would be called {name}: leave one of them out")
                found[name] = replace(self.shared, sae=(kind,), controls=False, **values)
        return found


def route_of(config: TrainConfig) -> Route:
    """That of settings whose sites are single and written out, as `Grid.arms` gives them."""
    from monosem.training.recipe import role_of

    site = Site.parse(config.site)
    target = Site.parse(config.target) if config.transcodes and config.target else None
    role = role_of(config.sae[0], config)
    return Route(site, Left(target or site) if role is not None and role.residual else target)


def grid_from_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file with checked types, where a value may be a list. Raises `InputError`."""
    values = read_toml(path)
    single = typed({key: value for key, value in values.items() if not _is_list(key, value)})
    lists = {key: [typed({key: one})[key] for one in value] for key, value in values.items() if _is_list(key, value)}
    return single | lists


def applies(key: str, kind: str) -> bool:
    """Whether a setting that may have several values makes a difference to this autoencoder."""
    words = kind.split("+")
    if "pca" in words:
        return key in ("k", "tokens")
    if "finetuned" in words and key in ("k", "n_latents"):
        return False
    if "untrained" in words and key in LEARNING:
        return False
    return key not in OF_ONE_KIND or OF_ONE_KIND[key] in words


def _is_list(key: str, value: Any) -> bool:
    return key not in ("sae", "site") and isinstance(value, (list, tuple))


def _checked(key: str, values: tuple[Any, ...], kinds: tuple[str, ...]) -> tuple[Any, ...]:
    given = f"{key} = {', '.join(map(str, values))}"
    if not values:
        raise InputError(f"{key} = []: give at least one value")
    values = tuple(typed({key: value})[key] for value in values)
    if len(values) > 1 and key not in SWEPT:
        raise InputError(
            f"{given}: all autoencoders of a run share one {key}; give one value, and another run for each"
        )
    if len(set(values)) < len(values):
        raise InputError(f"{given}: give each value once")
    if len(values) > 1 and not any(applies(key, kind) for kind in kinds):
        raise InputError(f"{given}: makes no difference to {', '.join(kinds)}; give one value")
    return values


def _word(key: str, value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{key}{value}" if number else f"{key}-{_safe(str(value).lower())}"


def _safe(text: str) -> str:
    """`text` as part of the name of a file."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", text)
