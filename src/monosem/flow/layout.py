"""Where the parts of a flow graph stand: a row for each layer, the last on top, and a lane for each kind of site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monosem.flow.graph import LANES, Edge, Graph, Lane
from monosem.flow.node import Node

ORDER: tuple[Lane, ...] = ("attn", "resid", "mlp")
"""Lanes from left to right."""
CARD_WIDTH, CARD_HEIGHT = 200, 36
COLUMN = CARD_WIDTH + 26
_PITCH, _STACK, _LANE_GAP, _MARGIN, _HEAD = 88, CARD_HEIGHT + 8, 30, 56, 34
_DOCK = 0.2
"""Where on the lower edge of a card, from its sides, what modules add comes in."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Sizes in pixels. `cards` has the left upper corner of each node, `lanes` the left edge and width of each lane,
    `rows` the upper edge of each layer.

    Modules' cards are below the stream's: what they add comes between the layer before and the sum.
    """

    width: float
    height: float
    cards: Mapping[Node, Point]
    lanes: Mapping[Lane, tuple[float, float]]
    rows: Mapping[int, float]

    def path(self, edge: Edge) -> str:
        """The curve of an edge as SVG path data, from its source to its target."""
        (x0, y0), (x1, y1) = self.cards[edge.source], self.cards[edge.target]
        if edge.lane == "resid":
            start, end = (x0 + CARD_WIDTH / 2, y0), (x1 + CARD_WIDTH / 2, y1 + CARD_HEIGHT)
            bend = (start[1] - end[1]) / 2
            return f"M{_at(start)}C{_at((start[0], start[1] - bend))} {_at((end[0], end[1] + bend))} {_at(end)}"
        side = 1 if edge.lane == "attn" else -1
        start = (x0 + (CARD_WIDTH if side > 0 else 0), y0 + CARD_HEIGHT / 2)
        end = (x1 + CARD_WIDTH * (_DOCK if side > 0 else 1 - _DOCK), y1 + CARD_HEIGHT)
        corner = (end[0], start[1])
        return f"M{_at(start)}H{corner[0] - 14 * side:g}Q{_at(corner)} {_at((corner[0], corner[1] - 14))}V{end[1]:g}"

    def middle(self, edge: Edge) -> Point:
        """Where the score of an edge is written: beside it."""
        x0, y0 = self.cards[edge.source]
        if edge.lane == "resid":
            return x0 + CARD_WIDTH / 2 + 9, y0 - 7
        return x0 + (CARD_WIDTH + 6 if edge.lane == "attn" else -6), y0 + CARD_HEIGHT / 2 - 7


def arranged(graph: Graph) -> Layout:
    """Chains of the stream stand upright in columns of their own; modules' cards are stacked at their sides."""
    columns = _columns(graph)
    count = max(columns.values(), default=0) + 1
    present = {LANES[node.site.kind] for node in graph.vertices}
    lanes: dict[Lane, tuple[float, float]] = {}
    left: float = _MARGIN
    for lane in (lane for lane in ORDER if lane in present):
        width = COLUMN * (count if lane == "resid" else 1)
        lanes[lane] = (left, width)
        left += width + _LANE_GAP
    inset = (COLUMN - CARD_WIDTH) / 2
    rows: dict[int, float] = {}
    cards: dict[Node, Point] = {}
    top: float = _HEAD
    for layer, nodes in graph.layers().items():
        rows[layer] = top
        stacks = dict.fromkeys(ORDER, 0)
        for node in sorted(nodes, key=lambda node: _reach(graph, node, columns)):
            lane = LANES[node.site.kind]
            if lane == "resid":
                cards[node] = (lanes[lane][0] + columns[node] * COLUMN + inset, top)
            else:
                # Attention comes first, so it stands lower; lines from both sides do not run into one another.
                lower = _PITCH / 2 + stacks[lane] * _STACK + (9 if lane == "attn" else 0)
                cards[node] = (lanes[lane][0] + inset, top + lower)
                stacks[lane] += 1
        top += _PITCH + max(max(stacks.values()) - 1, 0) * _STACK
    return Layout(left, max(y for _, y in cards.values()) + CARD_HEIGHT + 14, cards, lanes, rows)


def _reach(graph: Graph, node: Node, columns: Mapping[Node, int]) -> tuple[int, int]:
    """Order in a stack: with the nearest target first, lines into several columns do not cross."""
    targets = [columns[edge.target] for edge in graph.edges if edge.source == node and edge.target in columns]
    side = -1 if node.site.kind == "mlp_out" else 1
    return min((side * place for place in targets), default=0), node.latent


def _columns(graph: Graph) -> dict[Node, int]:
    """The column of each latent of the stream: that of its successor where it is free, else the nearest free one."""
    children: dict[Node, list[Node]] = {}
    for edge in graph.edges:
        children.setdefault(edge.source, []).append(edge.target)
    columns: dict[Node, int] = {}
    for nodes in graph.layers().values():
        own = [node for node in nodes if LANES[node.site.kind] == "resid"]
        wishes = {node: [columns[one] for one in children.get(node, ()) if one in columns] for node in own}
        taken: set[int] = set()
        for node in sorted(own, key=lambda node: (not wishes[node], min(wishes[node], default=0), node.latent)):
            wish = min(wishes[node], default=0)
            free = [place for place in range(wish + len(own) + 1) if place not in taken]
            columns[node] = min(free, key=lambda place: (abs(place - wish), place))
            taken.add(columns[node])
    return columns


def _at(point: Point) -> str:
    return f"{point[0]:g} {point[1]:g}"
