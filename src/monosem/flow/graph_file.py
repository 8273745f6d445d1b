"""A flow graph as JSON: nodes, edges, and all that it was made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monosem import __version__
from monosem.disk import read_json, write_json
from monosem.flow.graph import Edge, Graph, Vertex
from monosem.flow.node import Node
from monosem.flow.note import Note
from monosem.shapes import InputError, Site

FORMAT, VERSION = "monosem.flow", 1


def to_json(graph: Graph) -> dict[str, Any]:
    """JSON-able. `origin`, `flags`, `weak` and `span` follow from scores and cuts; they are there to be read."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "monosem": __version__,
        "model": dict(graph.model),
        "same_start": graph.same_start,
        "matcher": graph.matcher,
        "options": dict(graph.options),
        "cuts": {str(site): value for site, value in graph.cuts.items()},
        "sites": {str(site): value for site, value in graph.sites.items()},
        "seeds": [str(seed) for seed in graph.seeds],
        "span": list(graph.span),
        "nodes": [_vertex(graph, vertex) for vertex in graph.vertices.values()],
        "edges": [_edge(graph, edge) for edge in graph.edges],
    }


def from_json(value: dict[str, Any]) -> Graph:
    """The graph that `to_json` wrote. Raises `InputError` for anything else."""
    if (value.get("format"), value.get("version")) != (FORMAT, VERSION):
        raise InputError(
            f"format {value.get('format')!r} version {value.get('version')!r}: expected {FORMAT!r} {VERSION}"
        )
    try:
        vertices = [_read_vertex(one) for one in value["nodes"]]
        graph = Graph(
            seeds=tuple(Node.parse(seed) for seed in value["seeds"]),
            vertices={vertex.node: vertex for vertex in vertices},
            edges=tuple(_read_edge(one) for one in value["edges"]),
            cuts={Site.parse(site): cut for site, cut in value["cuts"].items()},
            matcher=value["matcher"],
            sites={Site.parse(site): name for site, name in value["sites"].items()},
            model=value["model"],
            same_start=value["same_start"],
            options=value["options"],
            notes={Node.parse(one["node"]): _read_note(one["note"]) for one in value["nodes"] if one["note"]},
        )
        loose = {node for edge in graph.edges for node in (edge.source, edge.target)} | set(graph.seeds)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"the flow graph is incomplete or altered ({error!r}): write it again") from None
    if missing := loose - set(graph.vertices):
        raise InputError(f"the flow graph has no node {min(map(str, missing))} that it speaks of: write it again")
    return graph


def save_graph(graph: Graph, path: str | Path) -> Path:
    """Write one JSON file, whole or not at all."""
    write_json(Path(path), to_json(graph))
    return Path(path)


def load_graph(path: str | Path) -> Graph:
    """Read a file of `save_graph`. Raises `InputError` with its name for one that is missing or something else."""
    value = read_json(Path(path))
    try:
        return from_json(value)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _vertex(graph: Graph, vertex: Vertex) -> dict[str, Any]:
    note = graph.notes.get(vertex.node)
    return {
        "node": str(vertex.node),
        "scores": dict(vertex.scores),
        "matches": {lane: str(node) for lane, node in vertex.matches.items()},
        "onward": vertex.onward,
        "successors": vertex.successors,
        "origin": graph.origin(vertex.node),
        "flags": sorted(graph.flags(vertex.node)),
        "note": None if note is None else note._asdict(),
    }


def _edge(graph: Graph, edge: Edge) -> dict[str, Any]:
    named = {"source": str(edge.source), "target": str(edge.target), "weak": graph.weak(edge)}
    return {**edge._asdict(), **named}


def _read_vertex(one: dict[str, Any]) -> Vertex:
    matches = {lane: Node.parse(node) for lane, node in one["matches"].items()}
    return Vertex(Node.parse(one["node"]), one["scores"], matches, one["onward"], one["successors"])


def _read_edge(one: dict[str, Any]) -> Edge:
    ends = Node.parse(one["source"]), Node.parse(one["target"])
    return Edge(*ends, one["lane"], one["score"], one["mutual"], one["gap"])


def _read_note(one: dict[str, Any]) -> Note:
    return Note(**one)._replace(promoted=tuple(one["promoted"]), suppressed=tuple(one["suppressed"]))
