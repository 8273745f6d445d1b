"""A flow graph in the layout of attribution graphs, which circuit-tracer's and Neuronpedia's viewers read."""

from __future__ import annotations

from typing import Any

from monosem import __version__
from monosem.flow.graph import LANES, Graph
from monosem.flow.node import Node

COLUMNS = {"attn": "attention", "resid": "residual", "mlp": "MLP"}
"""What stands where an attribution graph has the tokens of its prompt: position 0, 1, 2."""
_POSITION = {lane: place for place, lane in enumerate(COLUMNS)}


def to_attribution(graph: Graph, slug: str = "flow") -> dict[str, Any]:
    """The JSON object of schema version 1 (Cantor pairs of layer and latent as `feature`).

    A flow graph has no prompt: its three lanes take the place of positions. Weights of links are scores, seeds are
    pinned, `clerp` is the label or the promoted tokens. `generation_settings` has what the graph was made with.
    """
    return {
        "metadata": {
            "slug": slug,
            "scan": str(graph.model.get("name", "model")),
            "transcoder_list": [],
            "prompt_tokens": list(COLUMNS.values()),
            "prompt": f"flow of {', '.join(map(str, graph.seeds))}",
            "schema_version": 1,
            "info": {
                "description": "matches of sparse autoencoder latents across layers; columns are kinds of site",
                "generator": {"name": "monosem", "version": __version__},
            },
            "generation_settings": {
                "matcher": graph.matcher,
                **graph.options,
                "cuts": {str(site): cut for site, cut in graph.cuts.items()},
                "sites": {str(site): name for site, name in graph.sites.items()},
            },
        },
        "qParams": {
            "pinnedIds": [_id(seed) for seed in graph.seeds],
            "supernodes": [],
            "linkType": "both",
            "clickedId": _id(graph.seeds[0]),
            "sg_pos": "",
        },
        "nodes": [_node(graph, node) for node in graph.vertices],
        "links": [
            {"source": _id(edge.source), "target": _id(edge.target), "weight": edge.score} for edge in graph.edges
        ],
    }


def _node(graph: Graph, node: Node) -> dict[str, Any]:
    layer, position = _place(node)
    note = graph.notes.get(node)
    return {
        "node_id": _id(node),
        "feature": (layer + node.latent) * (layer + node.latent + 1) // 2 + node.latent,
        "layer": str(layer),
        "ctx_idx": position,
        "feature_type": "cross layer transcoder",
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{node.latent}-{position}",
        "clerp": note.caption if note is not None and note.caption else str(node),
        "influence": None,
        "activation": None,
    }


def _id(node: Node) -> str:
    layer, position = _place(node)
    return f"{layer}_{node.latent}_{position}"


def _place(node: Node) -> tuple[int, int]:
    assert node.site.layer is not None
    return node.site.layer, _POSITION[LANES[node.site.kind]]
