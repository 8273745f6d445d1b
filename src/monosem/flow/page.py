"""A flow graph as one HTML file that loads nothing: the picture, and what is known of every latent in it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from jinja2 import ChoiceLoader, FileSystemLoader

from monosem.disk import whole_file
from monosem.flow.drawing import LANE_NAMES, ORIGIN_COLOURS, drawn, inline_svg, key, title
from monosem.flow.graph import LANES, Flag, Graph, Lane, Origin
from monosem.flow.node import Node
from monosem.flow.note import Note
from monosem.report.page import environment

MEANINGS: dict[Flag, str] = {
    "seed": "traced from here",
    "source": "the suite begins here: what came before is not known",
    "sink": "the suite ends here: what comes after is not known",
    "birth": "born here: no latent of the stream one step earlier is similar enough",
    "death": "ends here: no latent of the next layer is similar enough",
}
ORIGINS: dict[Origin, str] = {
    "persisted": "s(R) is high, both modules are low: it was there before",
    "processed": "s(R) and a module are high: it was there, and is added to",
    "newborn": "only a module is high: that module writes it",
    "unexplained": "no score is high",
}


class Link(NamedTuple):
    """A match or a successor of a latent; `at` is its key in the page, None where it is not in the graph."""

    name: str
    node: Node | None
    at: str | None
    score: float
    cut: float | None
    high: bool
    mutual: bool = True


class Detail(NamedTuple):
    """Everything a page shows of one latent."""

    node: Node
    at: str
    lane: str
    origin: Origin | None
    flags: list[Flag]
    note: Note
    matches: list[Link]
    successors: list[Link]


def write_graph(path: str | Path, graph: Graph, *, command: str = "", weak: bool | None = None) -> Path:
    """Write the page of a graph; `command` is shown as what made it, `weak` is as for `drawn`.

    The same arguments give the same bytes.
    """
    graph = drawn(graph, weak)
    templates = environment()
    assert templates.loader is not None
    templates.loader = ChoiceLoader([FileSystemLoader(Path(__file__).parent), templates.loader])
    text = templates.get_template("graph.html.j2").render(
        title=title(graph),
        graph=graph,
        about=about(graph),
        command=command,
        picture=inline_svg(graph),
        details=[_detail(graph, node) for node in _ordered(graph)],
        first=key(graph.seeds[0]),
        colours=ORIGIN_COLOURS,
        origins=ORIGINS,
        meanings=MEANINGS,
        weak=any(graph.weak(edge) and edge.lane != "resid" for edge in graph.edges),
        sites=[(site, name, graph.cuts.get(site)) for site, name in graph.sites.items()],
    )
    with whole_file(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def about(graph: Graph) -> list[str]:
    """What the graph is, in sentences that state only what was recorded."""
    start, end = graph.span
    sentences = [
        f"Latents of sparse autoencoders of {graph.model.get('name', 'a model')}, joined with what they match one "
        f"step earlier, found by {graph.matcher}.",
        f"{len(graph.vertices)} latents and {len(graph.edges)} matches. The chain of what was traced reaches from "
        f"layer {start} to layer {end} before a cut or the suite ends it.",
    ]
    return sentences + cautions(graph)


def cautions(graph: Graph) -> list[str]:
    """What has to be known before anything is read off the graph."""
    if not graph.same_start:
        return []
    return [
        "Some of these autoencoders began from the same random numbers (one seed and site), so that latents of equal "
        "number may match because of that and not because training found them: "
        f"{graph.equal_numbers:.0%} of the matches shown join equal numbers."
    ]


def _ordered(graph: Graph) -> list[Node]:
    return [node for nodes in graph.layers().values() for node in nodes]


def _detail(graph: Graph, node: Node) -> Detail:
    vertex = graph.vertices[node]
    high = graph.high(node)
    matches = [
        _link(graph, _symbol(lane), vertex.matches.get(lane), score, lane in high)
        for lane, score in vertex.scores.items()
    ]
    successors = [
        _link(
            graph, _symbol(edge.lane), edge.target, edge.score, not graph.weak(edge), edge.mutual, graph.cut(node.site)
        )
        for edge in graph.edges
        if edge.source == node
    ]
    order = list(MEANINGS)
    return Detail(
        node,
        key(node),
        LANE_NAMES[LANES[node.site.kind]],
        graph.origin(node),
        sorted(graph.flags(node), key=order.index),
        graph.notes.get(node, Note()),
        matches,
        successors,
    )


def _link(
    graph: Graph, name: str, node: Node | None, score: float, high: bool, mutual: bool = True, cut: float | None = None
) -> Link:
    at = key(node) if node is not None and node in graph.vertices else None
    level = cut if cut is not None or node is None else graph.cut(node.site)
    return Link(name, node, at, score, level, high, mutual)


def _symbol(lane: Lane) -> str:
    return {"resid": "s(R)", "mlp": "s(M)", "attn": "s(A)"}[lane]
