"""A flow graph: latents joined with their matches one step earlier, from single features through the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from monosem.flow.node import Node
from monosem.flow.note import Note
from monosem.shapes import InputError, Site

Lane = Literal["resid", "mlp", "attn"]
LANES: dict[str, Lane] = {"resid_post": "resid", "mlp_out": "mlp", "attn_out": "attn"}
"""The three kinds of site that flow knows, by their short names: R, M and A of arXiv 2502.03032."""

Origin = Literal["persisted", "processed", "newborn", "unexplained"]
Flag = Literal["seed", "source", "sink", "birth", "death"]


class Edge(NamedTuple):
    """`source` is a match of `target` one step earlier; `score` is what the matcher measured, such as a cosine.

    `lane` is that of the source. `mutual`: the source is the target's own best match there, as it always is going
    backward. `gap`: layers that were leapt over.
    """

    source: Node
    target: Node
    lane: Lane
    score: float
    mutual: bool = True
    gap: int = 0


class Vertex(NamedTuple):
    """A latent of the stream with s(R), s(M), s(A) and its best matches, by lane; a module's latent has neither.

    A lane without an autoencoder has no score; one where nothing matches has 0 and no match. `onward` is the score of
    the best successor that the forward rule accepts, 0 without one, None where nobody went on from here.
    `successors`: how many there are.
    """

    node: Node
    scores: Mapping[Lane, float] = MappingProxyType({})
    matches: Mapping[Lane, Node] = MappingProxyType({})
    onward: float | None = None
    successors: int = 0


class Span(NamedTuple):
    """The first and the last layer that a feature's chain reaches, both included."""

    start: int
    end: int


@dataclass(frozen=True)
class Graph:
    """Vertices and edges from `seeds` on, complete: cuts only say what is high, born, dead, and what `pruned` drops.

    `cuts` has the threshold of a score by the site in which matches were sought. `sites` has the hash of the
    autoencoder at every site of the suite, `model` what the suite says of its model. `same_start`: some autoencoders
    that edges join drew their initial weights from the same random numbers, so that latents of equal number may
    resemble each other because of that; None where seeds were not stored.
    """

    seeds: tuple[Node, ...]
    vertices: Mapping[Node, Vertex]
    edges: tuple[Edge, ...]
    cuts: Mapping[Site, float]
    matcher: str
    sites: Mapping[Site, str]
    model: Mapping[str, Any]
    same_start: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[Node, Note] = field(default_factory=dict)

    def high(self, node: Node) -> tuple[Lane, ...]:
        """Lanes in which the node's score reaches the cut."""
        vertex = self.vertices[node]
        return tuple(
            lane
            for lane, score in vertex.scores.items()
            if lane in vertex.matches and score >= self.cut(vertex.matches[lane].site)
        )

    def cut(self, site: Site) -> float:
        """What a match at `site` has to reach."""
        return self.cuts.get(site, 0.0)

    def origin(self, node: Node) -> Origin | None:
        """Where a latent of the stream comes from, by scores alone (arXiv 2502.03032, section 3.3).

        None where that cannot be told: without autoencoders on the stream before it, or of any module beside it.
        """
        scores = self.vertices[node].scores
        return origin_of(scores, self.high(node))

    def flags(self, node: Node) -> frozenset[Flag]:
        """`source`, `sink`: the suite ends there. `birth`: s(R) is below the cut. `death`: no successor reaches it."""
        vertex = self.vertices[node]
        found: set[Flag] = {"seed"} if node in self.seeds else set()
        if LANES[node.site.kind] != "resid":
            return frozenset(found)
        if "resid" not in vertex.scores:
            found.add("source")
        elif "resid" not in self.high(node):
            found.add("birth")
        if not any(site.kind == "resid_post" and _layer(site) > _layer(node.site) for site in self.sites):
            found.add("sink")
        elif vertex.onward is not None and (not vertex.successors or vertex.onward < self.cut(node.site)):
            found.add("death")
        return frozenset(found)

    def weak(self, edge: Edge) -> bool:
        """Whether an edge is below its cut."""
        return edge.score < self.cut(edge.source.site)

    @property
    def equal_numbers(self) -> float:
        """Share of edges that join latents of equal number; by chance it is one over the size of a dictionary."""
        return sum(edge.source.latent == edge.target.latent for edge in self.edges) / max(len(self.edges), 1)

    @property
    def span(self) -> Span:
        """The layers from the first to the last that chains of the seeds reach before a cut ends them."""
        layers = [_layer(node.site) for node in self._chain(cut=True)]
        return Span(min(layers), max(layers))

    def pruned(self, cuts: Mapping[Site, float] | None = None, *, chain: bool = True) -> Graph:
        """Without matches in modules that are below the cut, and with `chain` without the stream beyond one.

        Going backward the chain ends before a parent when s(R) of the node is below the cut; going forward before a
        child whose s(R) is. Seeds always stay. With `cuts` these take the place of the graph's own.
        """
        graph = self if cuts is None else replace(self, cuts={**self.cuts, **cuts})
        kept = set(graph._chain(cut=chain))
        for edge in graph.edges:
            if edge.lane != "resid" and edge.target in kept and not graph.weak(edge):
                kept.add(edge.source)
        edges = tuple(edge for edge in graph.edges if graph._stays(edge, kept, chain))
        vertices = {node: vertex for node, vertex in graph.vertices.items() if node in kept}
        return replace(graph, vertices=vertices, edges=edges)

    def layers(self) -> dict[int, list[Node]]:
        """Nodes by layer, the last layer first."""
        found: dict[int, list[Node]] = {}
        for node in sorted(self.vertices, key=lambda node: (-_layer(node.site), node.site.kind, node.latent)):
            found.setdefault(_layer(node.site), []).append(node)
        return found

    def _repr_html_(self) -> str:
        from monosem.flow.drawing import svg

        return svg(self)

    def _stays(self, edge: Edge, kept: set[Node], chain: bool) -> bool:
        if edge.source not in kept or edge.target not in kept:
            return False
        allowed = not chain if edge.lane == "resid" else edge.source in self.seeds
        return allowed or not self._ends(edge)

    def _ends(self, edge: Edge) -> bool:
        """Whether a cut parts source and target: s(R) of the target is low, or what a module adds is unlike it."""
        return self.weak(edge) if edge.lane != "resid" else "resid" not in self.high(edge.target)

    def _chain(self, cut: bool) -> list[Node]:
        """The seeds, and latents of the stream that are reached from them over the stream."""
        found = dict.fromkeys(self.seeds)
        for ahead in (False, True):
            waiting = list(self.seeds)
            reached = set(waiting)
            while waiting:
                for edge in self._next(waiting.pop(), ahead):
                    other = edge.target if ahead else edge.source
                    if other not in reached and not (cut and self._ends(edge)):
                        reached.add(other)
                        waiting.append(other)
            found |= dict.fromkeys(sorted(reached, key=str))
        return list(found)

    def _next(self, node: Node, ahead: bool) -> list[Edge]:
        """Edges to successors, or to the parent in the stream."""
        if ahead:
            return [edge for edge in self.edges if edge.source == node]
        return [edge for edge in self.edges if edge.target == node and edge.lane == "resid" and edge.mutual]


def origin_of(scores: Mapping[Lane, float], high: Sequence[Lane]) -> Origin | None:
    """The class of a latent that has these scores, of which these are high; see `Graph.origin`."""
    modules = [lane for lane in scores if lane != "resid"]
    if "resid" not in scores or not modules:
        return None
    fed = any(lane in high for lane in modules)
    if "resid" in high:
        return "processed" if fed else "persisted"
    return "newborn" if fed else "unexplained"


def union(graphs: Sequence[Graph]) -> Graph:
    """Several graphs as one: what they share is there once. Raises `InputError` unless they were made alike."""
    if not graphs:
        raise InputError("no graph was given: give at least one")
    first = graphs[0]
    for other in graphs[1:]:
        for name in ("sites", "matcher", "options"):
            if getattr(other, name) != getattr(first, name):
                raise InputError(f"two graphs differ in their {name}: trace both with the same")
        if any(first.cuts.get(site, cut) != cut for site, cut in other.cuts.items()):
            raise InputError("two graphs differ in their cuts: trace both with the same")
    vertices: dict[Node, Vertex] = {}
    edges: dict[tuple[Node, Node], Edge] = {}
    for graph in graphs:
        edges |= {(edge.source, edge.target): edge for edge in graph.edges}
        for node, vertex in graph.vertices.items():
            known = vertices.get(node)
            vertices[node] = vertex if known is None or known.onward is None else known
    seeds = dict.fromkeys(seed for graph in graphs for seed in graph.seeds)
    notes = {node: note for graph in graphs for node, note in graph.notes.items()}
    cuts = {site: cut for graph in graphs for site, cut in graph.cuts.items()}
    alike = {graph.same_start for graph in graphs}
    return replace(
        first,
        seeds=tuple(seeds),
        vertices=vertices,
        edges=tuple(edges.values()),
        cuts=cuts,
        same_start=True if True in alike else (None if None in alike else False),
        notes=notes,
    )


def _layer(site: Site) -> int:
    assert site.layer is not None
    return site.layer
