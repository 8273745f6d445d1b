"""From latents to steering: which of them, at which layers, how strong (arXiv 2502.03032, appendices B.1 and B.2)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float32
from torch import Tensor

from monosem.flow.graph import Span
from monosem.flow.node import Node
from monosem.flow.schedule import Schedule
from monosem.flow.scope import Scope
from monosem.flow.steering import Push, Steering
from monosem.flow.suite import Suite
from monosem.flow.threshold import Thresholds, positive_thresholds
from monosem.shapes import InputError, Site

Layers = Literal["cumulative", "single"]
"""All layers up to one, or that layer alone."""

Scale = Literal["folded", "raw", "unit"]
"""What a strength of 1 adds: the latent at its threshold, at a code of 1, or a vector of norm 1."""


def adding(
    suite: Suite,
    nodes: Collection[Node],
    strength: float,
    *,
    schedule: Schedule | None = None,
    layers: Layers = "cumulative",
    layer: int | None = None,
    scale: Scale = "folded",
    pseudo: Thresholds | None = None,
    tokens: Scope = "all",
) -> Steering:
    """Add every node's direction, h ← h + s'_l v_i, each once, with the strength that `schedule` gives its layer.

    `folded` multiplies directions by the thresholds of their latents, so that one strength suits all; `pseudo` has
    thresholds by site for dictionaries that have none. Raises `InputError` as `positive_thresholds` and `chosen`.
    """
    schedule = schedule or Schedule()
    kept, pushes = chosen(nodes, layers, layer), {}
    origin, span = _origin(suite, kept, layers, layer), span_of(nodes)
    for site, latents in _by_site(kept).items():
        direction = suite.direction(site)
        length = _lengths(suite, site, scale, pseudo)[latents]
        vectors = direction.unit[latents] * length[:, None]
        strengths = torch.full((len(latents),), float(schedule.at(layer_of(site), strength, span)))
        pushes[site] = Push(vectors.cpu(), strengths, latents)
    said = {"strength": strength, "schedule": schedule.to_json(), "scale": scale}
    return Steering("add", pushes, tokens, origin | said)


def rescaling(
    suite: Suite,
    nodes: Collection[Node],
    r: float,
    *,
    layers: Layers = "cumulative",
    layer: int | None = None,
    tokens: Scope = "all",
) -> Steering:
    """Multiply every node's part of the activation by r, h ← h + (r − 1) a_i v_i: 1 changes nothing, 0 removes it."""
    kept, pushes = chosen(nodes, layers, layer), {}
    origin = _origin(suite, kept, layers, layer)
    for site, latents in _by_site(kept).items():
        direction = suite.direction(site)
        vectors = direction.unit[latents] * direction.norm[latents, None]
        pushes[site] = Push(vectors.cpu(), torch.full((len(latents),), float(r)), latents)
    return Steering("rescale", pushes, tokens, origin | {"r": r})


def chosen(nodes: Collection[Node], layers: Layers = "cumulative", layer: int | None = None) -> list[Node]:
    """Nodes of the layers 0 … `layer` or of `layer` alone, at any site; all if none is given. Each once, in order.

    Raises `InputError` where none is left.
    """
    if layers not in get_args(Layers):
        raise InputError(f"layers {layers!r}: give {', '.join(get_args(Layers))}")
    if not nodes:
        raise InputError("nothing is to be steered: give at least one latent, such as resid_post.12/4711")
    kept = [
        node
        for node in dict.fromkeys(nodes)
        if layer is None or layer_of(node.site) == layer or (layers == "cumulative" and layer_of(node.site) < layer)
    ]
    if not kept:
        span = span_of(nodes)
        where = f"layer {layer}" if layers == "single" else f"layers 0 to {layer}"
        raise InputError(f"no latent is at {where}: they are at layers {span.start} to {span.end}")
    return sorted(kept, key=lambda node: (layer_of(node.site), str(node.site), node.latent))


def span_of(nodes: Collection[Node]) -> Span:
    """The first and the last layer of some nodes."""
    layers = [layer_of(node.site) for node in nodes]
    return Span(min(layers), max(layers))


def layer_of(site: Site) -> int:
    """The layer that a site belongs to; the embedding counts as layer 0."""
    return site.layer or 0


def _lengths(suite: Suite, site: Site, scale: Scale, pseudo: Thresholds | None) -> Float32[Tensor, " F"]:
    """The norm, in raw units, of what a strength of 1 adds of each latent."""
    norm = suite.direction(site).norm
    match scale:
        case "unit":
            return torch.ones_like(norm)
        case "raw":
            return norm
        case "folded":
            try:
                return norm * positive_thresholds(suite, site, pseudo).to(norm)
            except InputError as error:
                raise InputError(f"the scale folded needs thresholds ({error}): choose raw or unit") from None
        case _:
            raise InputError(f"scale {scale!r}: give {', '.join(get_args(Scale))}")


def _by_site(nodes: Collection[Node]) -> dict[Site, Tensor]:
    found: dict[Site, list[int]] = {}
    for node in nodes:
        found.setdefault(node.site, []).append(node.latent)
    return {site: torch.tensor(latents, dtype=torch.int64) for site, latents in found.items()}


def _origin(suite: Suite, nodes: Collection[Node], layers: Layers, layer: int | None) -> dict[str, Any]:
    sites = dict.fromkeys(node.site for node in nodes)
    for site in sites:
        suite.latents(site, torch.tensor([node.latent for node in nodes if node.site == site]))
    return {
        "model": dict(suite.model),
        "dictionaries": {str(site): suite.hash(site) for site in sites},
        "nodes": [str(node) for node in nodes],
        "layers": layers,
        "layer": layer,
    }
