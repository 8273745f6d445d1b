"""From a latent backward to where it came from and forward to where it goes, one layer at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from monosem.evaluation.match import same_start
from monosem.flow.cosine import Cosine
from monosem.flow.cut import Cuts
from monosem.flow.graph import LANES, Edge, Graph, Lane, Vertex, union
from monosem.flow.match import Match, Matcher
from monosem.flow.node import Node
from monosem.flow.suite import Suite
from monosem.shapes import InputError, Site

Way = Literal["both", "backward", "forward"]
Forward = Literal["top1", "mutual", "inverse"]
MOST = 6
"""Successors of one latent that the `inverse` rule draws, the strongest first."""


def trace(
    suite: Suite,
    seeds: Node | str | Sequence[Node | str],
    matcher: Matcher | None = None,
    *,
    direction: Way = "both",
    cuts: Cuts | Mapping[Site, float] | None = None,
    forward: Forward = "top1",
    gaps: bool = False,
) -> Graph:
    """The flow graph of one latent or several (arXiv 2502.03032, section 3.3 and appendix B.2); `Cosine()` by default.

    Backward, every latent of the stream R_L has its best matches in M_L and A_L beside it, and the one in R_(L−1) is
    the next. Forward, `top1` takes the best match in R_(L+1), whose own predecessors are found as well, so that an
    edge says whether it is `mutual`; `mutual` ends where it is not; `inverse` takes the latents of R_(L+1) whose best
    match this one is, at or above the cut, `MOST` at most. A module's latent enters the stream at its own layer.
    Nothing is pruned: `cuts` judge, `Cuts()` by default, or numbers by the site in which matches are sought. `gaps`: go
    on over layers without an autoencoder.

    Raises `InputError` for latents that the suite does not have, dead ones, and a layer gap without `gaps`.
    """
    asked = [seeds] if isinstance(seeds, (str, Node)) else list(seeds)
    nodes = [suite.node(str(seed)) for seed in asked]
    walk = Walk(suite, matcher or Cosine(), Cuts() if cuts is None else cuts, forward, gaps)
    return union([walk.graph(node, direction) for node in dict.fromkeys(nodes)])


class Walk:
    """Matches found so far on the way through a suite; several seeds share them."""

    def __init__(
        self, suite: Suite, matcher: Matcher, cuts: Cuts | Mapping[Site, float], forward: Forward, gaps: bool
    ) -> None:
        self.suite, self.matcher, self.forward, self.gaps = suite, matcher, forward, gaps
        self._cuts, self._levels = cuts, dict[Site, float]()
        self._vertices: dict[Node, Vertex] = {}
        self._parents: dict[Site, Match] = {}

    def graph(self, seed: Node, direction: Way) -> Graph:
        """All that one seed reaches."""
        self._check(seed, direction)
        reached = _Reached()
        self._visit(seed, reached)
        if direction != "forward" and LANES[seed.site.kind] == "resid":
            self._backward(seed, reached)
        if direction != "backward":
            self._onward(seed, reached)
        return Graph(
            seeds=(seed,),
            vertices=reached.vertices,
            edges=tuple(reached.edges.values()),
            cuts={site: self.cut(site) for site in self._sought(reached)},
            matcher=self.matcher.name,
            sites={site: self.suite.hash(site) for site in self.suite},
            same_start=self._same_start(reached),
            model=dict(self.suite.model),
            options={"direction": direction, "forward": self.forward, "gaps": self.gaps},
        )

    def cut(self, site: Site) -> float:
        """What a score of a match at this site has to reach."""
        if site not in self._levels:
            given = self._cuts
            level = given.at(self.suite, LANES[site.kind], site) if isinstance(given, Cuts) else given.get(site, 0.0)
            self._levels[site] = float(level)
        return self._levels[site]

    def _sought(self, reached: _Reached) -> list[Site]:
        """Every site in which matches of the graph were sought, and from which it went on."""
        asked = (self._earlier(node.site).values() for node in reached.vertices)
        onward = (node.site for node, vertex in reached.vertices.items() if vertex.onward is not None)
        return sorted({*(site for sites in asked for site in sites), *onward}, key=list(self.suite).index)

    def _same_start(self, reached: _Reached) -> bool | None:
        """Whether some of the autoencoders that edges join drew their initial weights alike; None: unknown."""
        joined = {(edge.source.site, edge.target.site) for edge in reached.edges.values()}
        known = {same_start(self.suite[a], self.suite[b]) for a, b in joined}
        return True if True in known else (None if None in known or not known else False)

    def _check(self, seed: Node, direction: Way) -> None:
        if seed.site.kind not in LANES:
            raise InputError(f"{seed} is at {seed.site.kind}: flow follows latents of {', '.join(LANES)}")
        if bool(self.suite.direction(seed.site).dead[seed.latent]):
            raise InputError(f"{seed} has a decoder row of length 0, which resembles nothing: choose another latent")
        if direction == "backward" and LANES[seed.site.kind] != "resid":
            raise InputError(
                f"{seed} is added to the stream by a module: it has no predecessors among decoders, trace it forward"
            )

    def _backward(self, node: Node, reached: _Reached) -> None:
        while True:
            self._check_gap(node.site, -1)
            parent = reached.vertices[node].matches.get("resid")
            if parent is None:
                return
            score = reached.vertices[node].scores["resid"]
            self._visit(parent, reached)
            reached.add(_edge(parent, node, score, True))
            node = parent

    def _onward(self, seed: Node, reached: _Reached) -> None:
        waiting = [seed]
        while waiting:
            node = waiting.pop()
            self._check_gap(node.site, +1)
            later = self._later(node.site)
            if later is None:
                continue
            found = self._successors(node, later)
            reached.vertices[node] = reached.vertices[node]._replace(
                onward=max((edge.score for edge in found.edges), default=0.0), successors=found.count
            )
            for edge in found.edges:
                self._visit(edge.target, reached)
                reached.add(edge)
                waiting.append(edge.target)

    def _visit(self, node: Node, reached: _Reached) -> None:
        """Put a latent and its matches in modules into the graph."""
        if node in reached.vertices:
            return
        vertex = reached.vertices[node] = self._vertex(node)
        for lane, match in vertex.matches.items():
            if lane != "resid":
                reached.vertices.setdefault(match, Vertex(match))
                reached.add(_edge(match, node, vertex.scores[lane], True))

    def _seen(self, node: Node) -> Vertex:
        """A latent with its best match one step earlier in each lane."""
        scores: dict[Lane, float] = {}
        matches: dict[Lane, Node] = {}
        for lane, site in self._earlier(node.site).items():
            found = self.matcher.match(self.suite, node.site, site, torch.tensor([node.latent]))
            scores[lane] = float(found.score)
            if bool(found.matched):
                matches[lane] = Node(site, int(found.best))
        return Vertex(node, scores, matches)

    def _earlier(self, site: Site) -> dict[Lane, Site]:
        found: dict[Lane, Site] = {LANES[place.kind]: place for place in self.suite.before(site).values()}
        if self.gaps and "resid" not in found and LANES[site.kind] == "resid" and (far := self._next(site, -1)):
            found["resid"] = far
        return found

    def _later(self, site: Site) -> Site | None:
        return self.suite.after(site) or (self._next(site, +1) if self.gaps else None)

    def _next(self, site: Site, step: int) -> Site | None:
        """The nearest residual site of the suite before or after this one."""
        layers = [layer for layer in self.suite.layers() if (layer - _layer(site)) * step > 0]
        return Site("resid_post", min(layers) if step > 0 else max(layers)) if layers else None

    def _check_gap(self, site: Site, step: int) -> None:
        """Raises `InputError` where the next residual site is not that of the next layer, unless that is allowed."""
        if LANES[site.kind] == "resid":
            there, neighbour = self._next(site, step), Site("resid_post", _layer(site) + step)
        else:
            there = neighbour = Site("resid_post", _layer(site))
        if self.gaps or there is None or neighbour in self.suite:
            return
        raise InputError(
            f"from {site} the suite has no {neighbour} (it has the stream of layers "
            f"{', '.join(map(str, self.suite.layers())) or 'none'}): train that layer too, or allow gaps (--gaps)"
        )

    def _successors(self, node: Node, later: Site) -> _Successors:
        if self.forward == "inverse" and LANES[node.site.kind] == "resid":
            return self._heirs(node, later)
        match = self.matcher.match(self.suite, node.site, later, torch.tensor([node.latent]))
        if not bool(match.matched):
            return _Successors([], 0)
        child = Node(later, int(match.best))
        mutual = self._vertex(child).matches.get(LANES[node.site.kind]) == node
        if self.forward == "mutual" and not mutual:
            return _Successors([], 0)
        return _Successors([_edge(node, child, float(match.score), mutual)], 1)

    def _heirs(self, node: Node, later: Site) -> _Successors:
        """The latents of the later site whose best match is this one, and how many there are in all."""
        if later not in self._parents:
            self._parents[later] = self.matcher.match(self.suite, later, node.site)
        back = self._parents[later]
        scores = torch.where(back.best == node.latent, back.score, -1.0)
        cut = max(self.cut(node.site), 0.0)
        order = scores.argsort(descending=True, stable=True)[:MOST].tolist()
        children = [(Node(later, int(back.latents[row])), float(scores[row])) for row in order if scores[row] >= cut]
        return _Successors([_edge(node, child, score, True) for child, score in children], int((scores >= 0).sum()))

    def _vertex(self, node: Node) -> Vertex:
        if node not in self._vertices:
            self._vertices[node] = self._seen(node)
        return self._vertices[node]


class _Successors(NamedTuple):
    edges: list[Edge]
    count: int


class _Reached:
    """Vertices and edges of one seed's graph."""

    def __init__(self) -> None:
        self.vertices: dict[Node, Vertex] = {}
        self.edges: dict[tuple[Node, Node], Edge] = {}

    def add(self, edge: Edge) -> None:
        self.edges.setdefault((edge.source, edge.target), edge)


def _edge(source: Node, target: Node, score: float, mutual: bool) -> Edge:
    return Edge(source, target, LANES[source.site.kind], score, mutual, _gap(source.site, target.site))


def _gap(earlier: Site, later: Site) -> int:
    """Layers of the stream between two sites of it; 0 for a module and its sum."""
    return max(_layer(later) - _layer(earlier) - 1, 0)


def _layer(site: Site) -> int:
    assert site.layer is not None
    return site.layer
