"""Follow a latent through the layers: where it came from, how it changed, where it goes, from decoders alone.

  monosem flow resid_post.12/47 --suite runs/suite
  monosem flow resid_post.12/47 --suite runs/suite --out flow.html --out flow.json
  monosem flow resid_post.12/47 resid_post.14/3 --suite runs/suite --backward --prune --out flow.svg
  monosem flow mlp_out.9/47 --suite runs/suite --forward-by mutual --cuts published
  monosem flow resid_post.12/47 --suite runs/resid runs/modules --matcher permutation --json
  monosem flow --find Paris --suite runs/suite

A suite is autoencoders of many sites of one model: resid_post (R), mlp_out (M) and attn_out (A) of consecutive layers.
Every latent of the stream has its best match one step earlier in each: s(R) before the block, s(M) and s(A) in what
the block adds. High s(R) alone: persisted; with a module: processed; a module alone: newborn; nothing: unexplained.
By default a score is high from the greater of the published cut (0.5 for R, 0.25 for M and A) and what random
directions reach in that dictionary (its 0.999 quantile). What --out writes goes by the end of the name: .html, .svg,
.json, and .attribution.json for circuit-tracer's and Neuronpedia's viewers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.cli import flag, matching, subject
from monosem.cli.output import show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.flow import Graph, Node, Suite
    from monosem.lm import LanguageModel


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("latent", nargs="*", help="where to begin, such as resid_post.12/4711; several are one graph")
    parser.add_argument(
        "--suite", type=Path, nargs="+", action="extend", required=True, metavar="RUN", help="runs or autoencoders"
    )
    parser.add_argument("--sae", metavar="NAME", help="which autoencoders, where a run has several a site: topk-k16")
    parser.add_argument("--find", metavar="WORD", help="list latents whose label or promoted tokens have a word")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--backward", dest="way", action="store_const", const="backward", help="only where it came from")
    ways.add_argument("--forward", dest="way", action="store_const", const="forward", help="only where it goes")
    parser.set_defaults(way="both")
    parser.add_argument(
        "--forward-by",
        choices=["top1", "mutual", "inverse"],
        default="top1",
        help="successor: the best match; only if this is that one's best too; all whose best this is (default: top1)",
    )
    matching.arguments(parser)
    parser.add_argument(
        "--prune", action="store_true", help="drop what is below a cut, and what lies beyond on the stream"
    )
    parser.add_argument("--gaps", action="store_true", help="go on over layers without an autoencoder")
    parser.add_argument(
        "--out", type=Path, action="append", default=[], metavar="FILE", help="write a page, picture or JSON"
    )
    parser.add_argument(
        "--weak",
        action=argparse.BooleanOptionalAction,
        help="draw modules' matches below a cut as well (default: of a single chain)",
    )
    parser.add_argument(
        "--tokens",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show promoted tokens, for which the model is loaded (default: yes)",
    )
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    from monosem.flow import Suite
    from monosem.flow.graph_file import to_json
    from monosem.flow.note import notes
    from monosem.flow.page import cautions

    flag.use_threads(parsed)
    _check(parsed)
    suite = Suite.load(parsed.suite, parsed.sae)
    if parsed.find is not None:
        return _find(parsed, suite)
    seeds = [suite.node(text) for text in parsed.latent]
    lm = matching.model(parsed, suite) if parsed.matcher == "pearson" else None
    graph = _traced(parsed, suite, seeds, lm)
    if parsed.tokens and lm is None:
        lm = matching.model(parsed, suite)
    graph = replace(graph, notes=notes(graph.vertices, suite, lm if parsed.tokens else None))
    written = [str(_write(path, graph, parsed.weak)) for path in parsed.out]
    said = [_listing(graph), *cautions(graph), *(f"written: {path}" for path in written)]
    show(parsed, to_json(graph) | {"written": written}, "\n".join(said))
    return None


def _listing(graph: Graph) -> str:
    """Columns of numbers, and what each latent is about after them."""
    from monosem.flow.listing import HEADER, rows

    lines = rows(graph)
    numbers = table(HEADER, [line[:-1] for line in lines]).splitlines()
    width = max(map(len, numbers))
    captions = ["label or promoted tokens", "─" * 24, *(line[-1] for line in lines)]
    return "\n".join(f"{a:<{width}}  {b}".rstrip() for a, b in zip(numbers, captions, strict=True))


def _check(parsed: argparse.Namespace) -> None:
    if parsed.find is None and not parsed.latent:
        raise InputError("no latent was named: give one before --suite such as resid_post.12/4711, or --find WORD")
    if parsed.find is not None and (parsed.latent or parsed.out):
        raise InputError("--find lists latents and draws nothing: ask for the graph of one of them afterwards")
    for path in parsed.out:
        if path.suffix not in FORMS:
            raise InputError(f"--out {path}: the name has to end in {', '.join(FORMS)} or .attribution.json")


def _traced(parsed: argparse.Namespace, suite: Suite, seeds: list[Node], lm: LanguageModel | None) -> Graph:
    from monosem.flow import trace
    from monosem.flow.listing import lost

    matcher = matching.matcher(parsed, suite, lm)
    graph = trace(
        suite,
        seeds,
        matcher,
        direction=parsed.way,
        cuts=matching.cuts(parsed),
        forward=parsed.forward_by,
        gaps=parsed.gaps,
    )
    if not parsed.prune:
        return graph
    pruned = graph.pruned()
    if not pruned.edges:
        raise InputError(f"nothing is left of the flow of {', '.join(map(str, seeds))}: {lost(graph)}")
    return pruned


def _find(parsed: argparse.Namespace, suite: Suite) -> None:
    from monosem.flow.finding import find_latents

    found = find_latents(suite, parsed.find, matching.model(parsed, suite) if parsed.tokens else None)
    rows = [[str(one.node), one.reason, one.label or ""] for one in found]
    value = [one._asdict() | {"node": str(one.node)} for one in found]
    show(parsed, {"find": parsed.find, "latents": value}, table(["latent", "why", "label"], rows))


def _write(path: Path, graph: Graph, weak: bool | None) -> Path:
    if path.name.endswith(".attribution.json"):
        from monosem.disk import write_json
        from monosem.flow.attribution_layout import to_attribution

        write_json(path, to_attribution(graph, path.name.removesuffix(".attribution.json")))
        return path
    return FORMS[path.suffix](path, graph, weak)


def _html(path: Path, graph: Graph, weak: bool | None) -> Path:
    from monosem.flow.page import write_graph

    return write_graph(path, graph, command=subject.command(), weak=weak)


def _svg(path: Path, graph: Graph, weak: bool | None) -> Path:
    from monosem.disk import whole_file
    from monosem.flow.drawing import svg

    with whole_file(path) as temporary:
        temporary.write_text(svg(graph, weak=weak), encoding="utf-8")
    return path


def _json(path: Path, graph: Graph, weak: bool | None) -> Path:
    from monosem.flow import save_graph

    return save_graph(graph, path)


FORMS = {".html": _html, ".svg": _svg, ".json": _json}
