"""A flow graph as lines of text, a layer after the other."""

from __future__ import annotations

from collections.abc import Iterator

from monosem.flow.graph import LANES, Graph, Lane
from monosem.flow.node import Node
from monosem.flow.note import Note

SYMBOLS: dict[Lane, str] = {"resid": "s(R)", "mlp": "s(M)", "attn": "s(A)"}
"""The papers' names of a latent's scores."""
HEADER = ("layer", "latent", "from", "s(R)", "before", "s(M)", "MLP", "s(A)", "attention", "")
"""Headings of `rows`, but for the last column, which is what the latent is about."""
_CAPTION = 60


def rows(graph: Graph) -> list[list[str]]:
    """A row for each latent of the stream, the last layer first, and for seeds elsewhere; a star marks a high score."""
    shown = [node for nodes in graph.layers().values() for node in nodes if _shown(graph, node)]
    return [_row(graph, node) for node in shown]


def lost(graph: Graph) -> str:
    """Which cuts every match of the seeds is below, in words; of a graph that nothing is left of when pruned."""
    return "; ".join(part for seed in graph.seeds for part in _reasons(graph, seed)) or "it has no matches at all"


def _shown(graph: Graph, node: Node) -> bool:
    return LANES[node.site.kind] == "resid" or node in graph.seeds


def _row(graph: Graph, node: Node) -> list[str]:
    vertex, high, flags = graph.vertices[node], graph.high(node), graph.flags(node)
    cells: dict[Lane, tuple[str, str]] = {}
    for lane in SYMBOLS:
        match = vertex.matches.get(lane)
        score = f"{vertex.scores[lane]:.2f}{'*' if lane in high else ' '}" if lane in vertex.scores else "–"
        cells[lane] = (score, "" if match is None else str(match.latent))
    note = graph.notes.get(node, Note())
    marks = [word for flag, word in (("seed", "seed"), ("birth", "born"), ("death", "ends")) if flag in flags]
    caption = note.caption if len(note.caption) <= _CAPTION else note.caption[: _CAPTION - 1] + "…"
    name = str(node.latent) if LANES[node.site.kind] == "resid" else str(node)
    scores = [cell for lane in SYMBOLS for cell in cells[lane]]
    return [str(node.site.layer), name, graph.origin(node) or "", *scores, " ".join(marks), caption]


def _reasons(graph: Graph, seed: Node) -> Iterator[str]:
    vertex = graph.vertices[seed]
    for lane, score in vertex.scores.items():
        match = vertex.matches.get(lane)
        if match is None:
            yield f"{SYMBOLS[lane]} of {seed} is 0, nothing matches"
        elif lane not in graph.high(seed):
            yield f"{SYMBOLS[lane]} {score:.2f} of {seed} is below the cut {graph.cut(match.site):.2f} at {match.site}"
    for edge in graph.edges:
        if edge.source == seed:
            score = graph.vertices[edge.target].scores.get("resid", edge.score)
            yield f"s(R) {score:.2f} of its successor {edge.target} is below the cut {graph.cut(seed.site):.2f}"
