"""A flow graph as SVG: the stream in the middle, attention and MLP beside it, strength as width."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator

from markupsafe import Markup

from monosem.flow.graph import LANES, Edge, Graph, Lane, Origin
from monosem.flow.layout import CARD_HEIGHT, CARD_WIDTH, Layout, arranged
from monosem.flow.node import Node
from monosem.flow.note import Note
from monosem.shapes.card import visible

INK, SOFT, LINE, CARD, PAPER = "#1b1d21", "#62666e", "#dfe0dc", "#ffffff", "#fcfcfa"
LANE_COLOURS: dict[Lane, str] = {"attn": "#009E73", "resid": "#4a4f58", "mlp": "#D55E00"}
ORIGIN_COLOURS: dict[Origin, str] = {
    "persisted": "#0072B2",
    "processed": "#CC79A7",
    "newborn": "#E69F00",
    "unexplained": "#9aa0aa",
}
LANE_NAMES: dict[Lane, str] = {"attn": "attention adds", "resid": "residual stream", "mlp": "MLP adds"}
_CAPTION, _LEGEND = 31, 54


def drawn(graph: Graph, weak: bool | None = None) -> Graph:
    """What is drawn of a graph: with `weak` also modules' matches below the cut; None: where it is a single chain."""
    per_layer = Counter(node.site for node in graph.vertices if LANES[node.site.kind] == "resid")
    return graph if (max(per_layer.values(), default=0) <= 1 if weak is None else weak) else graph.pruned(chain=False)


def svg(graph: Graph, *, weak: bool | None = None) -> Markup:
    """A picture that stands alone: light, with its title and legend; `weak` as for `drawn`."""
    graph = drawn(graph, weak)
    layout = arranged(graph)
    width, height = max(layout.width, 640), layout.height + _LEGEND
    body = Markup("\n").join([_paper(width, height), *_title(graph), _shifted(_parts(graph, layout), _LEGEND)])
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0:g} {1:g}" width="{0:g}" height="{1:g}" '
        'font-family="system-ui, DejaVu Sans, sans-serif" role="img" aria-label="{2}">\n{3}\n</svg>\n'
    ).format(width, height, title(graph), body)


def inline_svg(graph: Graph) -> Markup:
    """The picture inside a page, whose style takes over its colours; every card and edge can be found by its node."""
    layout = arranged(graph)
    return Markup(
        '<svg class="flow" viewBox="0 0 {0:g} {1:g}" width="{0:g}" height="{1:g}" aria-label="{2}">\n{3}\n</svg>'
    ).format(layout.width, layout.height, title(graph), _parts(graph, layout))


def title(graph: Graph) -> str:
    """What the graph is about."""
    shown = [str(seed) for seed in graph.seeds[:3]]
    more = f" and {len(graph.seeds) - 3} more" if len(graph.seeds) > 3 else ""
    return f"Flow of {', '.join(shown)}{more}"


def key(node: Node) -> str:
    """How a page names a node."""
    return str(node).replace(".", "-").replace("/", "-")


def _parts(graph: Graph, layout: Layout) -> Markup:
    edges = sorted(graph.edges, key=lambda edge: edge.score)
    return Markup("\n").join(
        [
            *_lanes(graph, layout),
            *(_edge(graph, edge, layout) for edge in edges),
            *(_card(graph, node, layout) for node in layout.cards),
        ]
    )


def _lanes(graph: Graph, layout: Layout) -> Iterator[Markup]:
    """Headings, layers, and the bar of the span."""
    for lane, (left, width) in layout.lanes.items():
        yield _text(left + width / 2, 18, LANE_NAMES[lane], "lane", LANE_COLOURS[lane], 12, anchor="middle")
    yield _text(8, 18, "layer", "layer", SOFT, 12)
    for layer, top in layout.rows.items():
        yield _text(8, top + CARD_HEIGHT / 2 + 4, str(layer), "layer", SOFT, 12)
    start, end = graph.span
    low, high = layout.rows[start] + CARD_HEIGHT, layout.rows[end]
    yield Markup('<path class="span" d="M38 {:g}V{:g}" stroke="{}" stroke-width="3" stroke-linecap="round"/>').format(
        high, low, LINE
    )


def _edge(graph: Graph, edge: Edge, layout: Layout) -> Markup:
    weak = graph.weak(edge)
    x, y = layout.middle(edge)
    said = f"{edge.score:.2f}" + ("" if edge.mutual else " one-way") + (f" over {edge.gap} layers" if edge.gap else "")
    return Markup(
        '<g class="edge {}{}" data-source="{}" data-target="{}"{}><path d="{}" fill="none" stroke="{}" '
        'stroke-width="{:.2f}"{}/>{}</g>'
    ).format(
        edge.lane,
        " weak" if weak else "",
        key(edge.source),
        key(edge.target),
        Markup(' opacity=".38"') if weak else "",
        layout.path(edge),
        LANE_COLOURS[edge.lane],
        thickness(edge.score),
        Markup(' stroke-dasharray="2 4"') if weak else "",
        _text(x, y, said, "score", SOFT, 10.5, anchor="end" if edge.lane == "mlp" else "start"),
    )


def thickness(score: float) -> float:
    """The width of an edge in pixels: 1 for a score of 0, 8 for 1."""
    return 1 + 7 * min(max(score, 0.0), 1.0)


def _card(graph: Graph, node: Node, layout: Layout) -> Markup:
    x, y = layout.cards[node]
    flags, origin, note = graph.flags(node), graph.origin(node), graph.notes.get(node, Note())
    colour = ORIGIN_COLOURS[origin] if origin else LANE_COLOURS[LANES[node.site.kind]]
    seed = "seed" in flags
    strong = any(not graph.weak(edge) for edge in graph.edges if edge.source == node)
    faint = not (strong or seed or LANES[node.site.kind] == "resid")
    parts = [
        Markup("<title>{}</title>").format(_said(graph, node)),
        Markup('<rect class="box" width="{}" height="{}" rx="5" fill="{}" stroke="{}" stroke-width="{}"/>').format(
            CARD_WIDTH, CARD_HEIGHT, CARD, INK if seed else LINE, 2 if seed else 1
        ),
        Markup('<rect class="mark" width="4" height="{}" x="1" y="1" rx="2" fill="{}"/>').format(
            CARD_HEIGHT - 2, colour
        ),
        _text(12, 15, str(node.latent), "number", INK, 12, weight="600"),
        _text(CARD_WIDTH - 8, 15, _state(origin, flags), "state", SOFT, 10.5, anchor="end"),
        _text(12, 29.5, _short(note.caption), "caption", INK, 11),
        *_badges(flags),
    ]
    classes = f"card {LANES[node.site.kind]}" + (" weak" if faint else "") + (" seed" if seed else "")
    return Markup('<g class="{}" data-node="{}" tabindex="0" transform="translate({:g} {:g})"{}>{}</g>').format(
        classes, key(node), x, y, Markup(' opacity=".5"') if faint else "", Markup("").join(parts)
    )


def _badges(flags: frozenset[str]) -> Iterator[Markup]:
    """A bar where the stream's chain begins or ends."""
    middle = CARD_WIDTH / 2
    for flag, word, y, below in (("birth", "born", CARD_HEIGHT, 13), ("death", "ends", 0, -5)):
        if flag in flags:
            yield Markup(
                '<path class="end" d="M{:g} {}h44" stroke="{}" stroke-width="4" stroke-linecap="round"/>'
            ).format(middle - 22, y, INK)
            yield _text(middle - 26, y + below, word, "end", INK, 10.5, anchor="end", weight="600")


def _state(origin: Origin | None, flags: frozenset[str]) -> str:
    words = ["seed" if "seed" in flags else None, origin]
    return " · ".join(word for word in words if word is not None)


def _said(graph: Graph, node: Node) -> str:
    """What a browser shows where no script runs."""
    note, vertex = graph.notes.get(node, Note()), graph.vertices[node]
    scores = ", ".join(f"s({lane}) {score:.2f}" for lane, score in vertex.scores.items())
    return " · ".join(part for part in (str(node), note.caption, scores) if part)


def _short(text: str) -> str:
    """As much of a text as fits into a card; wide characters count twice."""
    shown, room = "", _CAPTION
    for letter in text:
        room -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if room < 0:
            return shown + "…"
        shown += letter
    return shown


def _text(
    x: float, y: float, text: str, name: str, colour: str, size: float, *, anchor: str = "start", weight: str = "400"
) -> Markup:
    if not text:
        return Markup("")
    return Markup(
        '<text class="{}" x="{:g}" y="{:g}" fill="{}" font-size="{:g}" text-anchor="{}" font-weight="{}">{}</text>'
    ).format(name, x, y, colour, size, anchor, weight, Markup(visible(text)))  # noqa: S704


def _paper(width: float, height: float) -> Markup:
    return Markup('<rect width="{:g}" height="{:g}" fill="{}"/>').format(width, height, PAPER)


def _shifted(parts: Markup, down: float) -> Markup:
    return Markup('<g transform="translate(0 {:g})">{}</g>').format(down, parts)


def _title(graph: Graph) -> Iterator[Markup]:
    yield _text(8, 22, title(graph), "title", INK, 15, weight="600")
    x = 8.0
    for origin, colour in ORIGIN_COLOURS.items():
        yield Markup('<rect x="{:g}" y="35" width="10" height="10" rx="2" fill="{}"/>').format(x, colour)
        yield _text(x + 15, 44, origin, "key", SOFT, 11)
        x += 32 + 6.3 * len(origin)
    yield _text(x + 4, 44, f"width: {graph.matcher} · dashed: below the cut · bar at the left: span", "key", SOFT, 11)
