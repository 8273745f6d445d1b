"""Which latents a request means, and the settings that it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from monosem.flow.along import along_flow
from monosem.flow.baseline import differences_in_means
from monosem.flow.contrast import Contrast
from monosem.flow.graph_file import load_graph
from monosem.flow.grid import BASELINES, Grid, beside
from monosem.flow.node import Node
from monosem.flow.request import Request
from monosem.flow.sample import Sample
from monosem.flow.schedule import Schedule
from monosem.flow.steering import Steering
from monosem.flow.strategy import layer_of
from monosem.flow.suite import Suite
from monosem.flow.sweep import PLAIN, Setting
from monosem.flow.theme import seeds
from monosem.lm import LanguageModel
from monosem.progress import progress
from monosem.shapes import InputError, Site


def asked_nodes(
    request: Request, lm: LanguageModel, suite: Suite, contrast: Contrast | None, say: Callable[[str], None]
) -> tuple[list[Node], list[Node]]:
    """All latents that are steered, and those they were found from."""
    if request.graph is not None:
        graph = load_graph(request.graph)
        for node in graph.vertices:
            suite.node(str(node))
            if graph.sites.get(node.site, suite.hash(node.site)) != suite.hash(node.site):
                raise InputError(f"the graph was made with another autoencoder at {node.site}: give that suite")
        return list(graph.vertices), list(graph.seeds)
    if request.from_theme is not None:
        assert contrast is not None
        site = lm.site(request.from_theme)
        suite.latents(site)
        found = seeds(lm, suite, site, contrast.theme.train, contrast.other.train, request.seeds)
        say(f"latents of the theme: {', '.join(map(str, found))}")
    else:
        found = list(dict.fromkeys(suite.node(text) for text in request.feature))
    if not request.along_flow:
        return found, found
    graph = along_flow(suite, found, request.mode, gaps=request.gaps)
    say(f"along flow: {len(graph.vertices)} latents of layers {graph.span.start} to {graph.span.end}")
    return list(graph.vertices), found


def asked_settings(
    request: Request,
    suite: Suite | None,
    nodes: list[Node],
    seeds_: list[Node],
    given: Steering | None,
    say: Callable[[str], None],
) -> list[Setting]:
    """Plain text and the vectors of a file, or the grid; `say` gets what may surprise. Raises as `Grid.settings`."""
    if given is not None:
        axes = {"strategy": "file", "strength": None, "layer": None, "schedule": {"shape": "constant"}}
        return [Setting(PLAIN), Setting(str(request.steering), given, axes=axes)]
    assert suite is not None
    schedules = tuple(Schedule(shape, request.alpha, request.end, request.relative) for shape in request.schedule)
    for note in dict.fromkeys(one.note(s) for one in schedules for s in request.strengths):
        if note and request.mode == "add":
            say(f"note: {note}")
    grid = Grid(
        request.mode,
        request.strengths,
        _layers(request.layer, nodes),
        request.strategy,
        schedules,
        request.scale,
        request.tokens,
    )
    return grid.settings(suite, nodes, seeds_)


def _layers(text: str, nodes: Sequence[Node]) -> tuple[int | None, ...]:
    if text == "all":
        return (None,)
    if text == "each":
        return tuple(sorted({layer_of(node.site) for node in nodes}))
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise InputError(f"--layer {text}: give all, each, or numbers with commas between them") from None


def with_baselines(
    request: Request, settings: list[Setting], suite: Suite, lm: LanguageModel, contrast: Contrast | None
) -> list[Setting]:
    """With the baselines that are asked for, by default all that what is given allows, where texts are scored."""
    able = {"difference": contrast is not None, "prompt": bool(request.subject)}
    usual = tuple(name for name in BASELINES if able.get(name, True)) if request.is_scored else ()
    names = usual if request.baselines is None else request.baselines

    def differences(sites: Sequence[Site]) -> Mapping[Site, Tensor]:
        assert contrast is not None
        texts = [[_tokens(one) for one in split.train] for split in contrast]
        with progress("means", sum(map(len, texts)), "texts") as bar:
            return differences_in_means(lm, sites, *texts, advance=bar.advance)

    return beside(
        settings,
        names,
        suite,
        seed=request.seed,
        differences=None if contrast is None else differences,
        subject=next(iter(request.subject), None),
    )


def _tokens(sample: Sample) -> Tensor:
    return torch.tensor([*sample.before, *sample.ids], dtype=torch.int64)
