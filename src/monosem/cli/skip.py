"""Skip layers by carrying features over them: how much of the next layer a match between two layers explains.

  monosem skip runs/suite
  monosem skip runs/suite --layers 12,13 --windows 128 --loss-windows 32 --json
  monosem skip runs/suite --quantiles 0.25,0.5,0.75 --values dec-dec,sum --k 3
  monosem skip runs/suite --thresholds rate --matches
  monosem skip runs/topk --thresholds median --weights dec

Codes of layer t are carried to the features of layer t + 1 that they match, decoded there, and take the place of what
layer t + 1 computes. Folded: activations are measured in thresholds, so that each arrives as strong as features of
t + 1 are. Beside it: the layer dropped (x_t stays), x̂_t in its place, and the two autoencoders alone, which skip
nothing. EV is strict (offsets count); ΔCE is the increase of the cross-entropy in nats a token, measured on the first
windows. Differences are in the mean over layers, in pairs of windows; * 0 lies outside the interval.

--thresholds: own (JumpReLU, BatchTopK); rate, one for each latent of BatchTopK, with the rates it has in batches;
median, the median positive activation, for autoencoders that have none. With one for all, folding is one factor.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from monosem.cli import flag, subject, suite
from monosem.cli.output import show, table
from monosem.shapes import InputError, Site

if TYPE_CHECKING:
    from monosem.activations import Live
    from monosem.evaluation.paired import Interval
    from monosem.flow import Firing, Matcher, Quality, Skipping, Suite, Way
    from monosem.flow.threshold import Thresholds
    from monosem.lm import LanguageModel
    from monosem.text import Windows
    from monosem.training.config import TrainConfig

THRESHOLDS = ("own", "rate", "median")
TITLES = {"explained_variance": "EV", "delta_ce": "ΔCE, nats"}


def arguments(parser: argparse.ArgumentParser) -> None:
    suite.arguments(parser)
    parser.add_argument("--layers", metavar="L[,L]", help="layers to skip (default: all with autoencoders around them)")
    parser.add_argument(
        "--weights", choices=("all", "dec", "enc"), default="all", help="what permutations compare (default: all)"
    )
    parser.add_argument("--approximate", action="store_true", help="permutations among the 256 nearest")
    parser.add_argument("--thresholds", choices=THRESHOLDS, default="own", help="to fold by (default: own)")
    parser.add_argument(
        "--quantiles",
        metavar="Q[,Q]",
        help="only the nearest share by their match, the others as they are",
    )
    parser.add_argument("--values", metavar="PAIR[,PAIR]", help="keep cosines: of enc-enc, dec-enc, dec-dec, sum")
    parser.add_argument("--k", type=int, default=5, help="with --values: of the 1 to k nearest (default: 5)")
    parser.add_argument("--matches", action="store_true", help="how far matched weights are apart, how often both fire")
    parser.add_argument("--windows", type=int, default=64, metavar="N", help="held-out windows (default: 64)")
    parser.add_argument(
        "--loss-windows", type=int, default=8, metavar="N", help="of them also for ΔCE, a pass a way (default: 8)"
    )
    parser.add_argument(
        "--calibration", type=int, default=64, metavar="N", help="training windows for thresholds and --matches"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures as well")
    flag.shared(parser)


class Bench(NamedTuple):
    """What is measured, and with what."""

    suite: Suite
    lm: LanguageModel
    windows: Windows
    config: TrainConfig
    layers: list[int] | None
    thresholds: Thresholds | None


def run(parsed: argparse.Namespace) -> None:
    from monosem.flow import skipped

    flag.use_threads(parsed)
    _check(parsed)
    bench = _bench(parsed)
    ways = _ways(parsed, bench.thresholds)
    matches = _matches(parsed, bench) if parsed.matches else []
    found = None
    try:
        for part in skipped(
            bench.suite, bench.lm, bench.windows, ways, layers=bench.layers, loss_windows=parsed.loss_windows
        ):
            found = part
    except KeyboardInterrupt:
        if found is not None:
            _show(parsed, bench, found, matches)
        raise
    if found is None:
        raise InputError("no token is left to measure: give longer windows or other text")
    _show(parsed, bench, found, matches)


def _check(parsed: argparse.Namespace) -> None:
    for name, least in (("windows", 1), ("loss_windows", 0), ("calibration", 1), ("k", 1)):
        if getattr(parsed, name) < least:
            raise InputError(f"--{name.replace('_', '-')} {getattr(parsed, name)}: give at least {least}")
    if parsed.out is not None and parsed.out.suffix != ".json":
        raise InputError(f"--out {parsed.out}: the name has to end in .json")


def _bench(parsed: argparse.Namespace) -> Bench:
    from monosem.flow.skipping import neighbours
    from monosem.training.run import first_windows, run_windows

    layers = None if parsed.layers is None else _numbers(parsed.layers, "--layers", int)
    opened = suite.load(parsed)
    neighbours(opened, layers)
    lm, config = suite.model(parsed, opened)
    windows = first_windows(run_windows(config, lm, "held_out"), parsed.windows)
    return _calibrated(Bench(opened, lm, windows, config, layers, None), parsed.thresholds, parsed.calibration)


def _calibrated(bench: Bench, how: str, count: int) -> Bench:
    """With the thresholds that were asked for."""
    if how == "own":
        return bench
    if how == "median":
        firing = _firing(bench, count)
        return bench._replace(thresholds={site: firing.medians(site) for site in firing.fired})
    return bench._replace(suite=_rated(bench, count))


def _rated(bench: Bench, count: int) -> Suite:
    """A threshold for each latent instead of one for all; batches as large as in training."""
    import numpy as np

    from monosem.flow import Suite, with_own_thresholds

    source = _source(bench, count)
    acts = source.rows(np.arange(source.n_windows)).acts
    size = bench.config.batch
    return Suite({site: with_own_thresholds(bench.suite[site], act.float().split(size)) for site, act in acts.items()})


def _sites(bench: Bench) -> list[Site]:
    from monosem.flow.skipping import neighbours

    return list(dict.fromkeys(site for pair in neighbours(bench.suite, bench.layers) for site in pair))


def _source(bench: Bench, count: int) -> Live:
    """Activations of the text of training, which is not measured."""
    from monosem.activations import Live
    from monosem.shapes.exclusion import Exclusion
    from monosem.training.run import first_windows, run_windows

    sites = _sites(bench)
    windows = first_windows(run_windows(bench.config, bench.lm, "train"), count)
    return Live(bench.lm, windows, sites, Exclusion.of(bench.suite.info(sites[0]), str(sites[0])))


def _firing(bench: Bench, count: int) -> Firing:
    from monosem.flow import Firing

    return Firing.record(bench.suite, _source(bench, count))


def _ways(parsed: argparse.Namespace, thresholds: Thresholds | None) -> list[Way]:
    from monosem.flow import Cosine
    from monosem.flow.shortcut import mixture, usual, valued
    from monosem.flow.weight_cosine import Pair

    ways = usual(parsed.weights, thresholds, parsed.approximate)
    for quantile in _numbers(parsed.quantiles or "", "--quantiles", float):
        if not 0 <= quantile <= 1:
            raise InputError(f"--quantiles {quantile:g}: give shares between 0 and 1")
        ways.append(mixture(Cosine(), quantile, thresholds))
    asked = [part for part in (parsed.values or "").split(",") if part]
    if wrong := [pair for pair in asked if pair not in get_args(Pair)]:
        raise InputError(f"--values {wrong[0]}: expected some of {', '.join(get_args(Pair))}")
    pairs = [pair for pair in get_args(Pair) if pair in asked]
    return [*ways, *valued(pairs, parsed.k, thresholds)]


def _numbers(text: str, name: str, kind: type) -> list[Any]:
    try:
        return list(dict.fromkeys(kind(part) for part in text.split(",") if part))
    except ValueError:
        raise InputError(f"{name} {text}: give numbers with commas between them") from None


def _matches(parsed: argparse.Namespace, bench: Bench) -> list[Quality]:
    from monosem.flow import Cosine, Permutation, RandomPermutation, match_quality
    from monosem.flow.skipping import neighbours

    def permutation(folded: bool) -> Matcher:
        return Permutation(parsed.weights, folded, parsed.approximate, bench.thresholds if folded else None)

    matchers = [Cosine(), permutation(True), permutation(False), RandomPermutation()]
    firing, pairs = _firing(bench, parsed.calibration), neighbours(bench.suite, bench.layers)
    return [match_quality(bench.suite, firing, matcher, pairs, bench.thresholds) for matcher in matchers]


def _show(parsed: argparse.Namespace, bench: Bench, found: Skipping, matches: Sequence[Quality]) -> None:
    from monosem.disk import write_json

    value: dict[str, Any] = {
        "command": subject.command(),
        "complete": found.provenance["windows"] == len(bench.windows.tokens),
        "thresholds": parsed.thresholds,
        "weights": parsed.weights,
        **found.to_json(),
        "matches": [one._asdict() for one in matches],
    }
    text = [summary(found), *([_quality_table(matches)] if matches else [])]
    if parsed.out is not None:
        write_json(parsed.out, value)
        text.append(f"written: {parsed.out}")
    show(parsed, value, "\n\n".join(text))


def summary(found: Skipping) -> str:
    """A row a way and a column a layer, for explained variance and for the loss; then differences."""
    layers = [str(one.target.layer) for one in found.of(found.ways[0])]
    parts = []
    for metric in found.metrics:
        rows = [_row(found, way, metric) for way in found.ways]
        parts.append(table([f"{TITLES[metric]} · layer skipped", *layers, "mean"], rows))
    by_pair: dict[str, list[str]] = {}
    for one in found.contrasts():
        by_pair.setdefault(f"{one.b} − {one.a}", []).append(_interval(one.interval))
    header = ["mean over layers", *(f"Δ {TITLES[metric]}" for metric in found.metrics)]
    parts.append(table(header, [[name, *cells] for name, cells in by_pair.items()]))
    parts.append(
        f"{found.n_tokens:,} held-out tokens, losses on {found.provenance['loss_tokens']:,}; "
        "[95 % interval] over windows of text"
    )
    return "\n\n".join(parts)


def _row(found: Skipping, way: str, metric: str) -> list[str]:
    if metric == "explained_variance":
        values = [one.ev for one in found.of(way)]
    else:
        values = [one.delta_ce.value for one in found.of(way) if one.delta_ce is not None]
    return [way, *(f"{value:.3f}" for value in [*values, sum(values) / len(values)])]


def _interval(one: Interval) -> str:
    bounds = f"[{one.low:+.4f}, {one.high:+.4f}]" if one.low <= one.high else "[–]"
    return f"{one.value:+.4f} {bounds}{'*' if one.clear else ' '}"


def _quality_table(matches: Sequence[Quality]) -> str:
    rows = [
        [one.matcher, f"{one.error:.3e}", f"{one.score:.3f}", f"{one.jaccard:.3f}", f"{one.distinct:.1%}"]
        for one in matches
    ]
    notes = "mean over layers; score: P(match active | active), on training text; distinct: targets a latent"
    return table(["match t → t + 1", "decoder MSE, folded", "score", "Jaccard", "distinct"], rows) + f"\n{notes}"
