"""Check links between layers causally: remove what a feature is said to come from at one token, see what is left of it.

  monosem deactivate runs/suite --layers 12
  monosem deactivate runs/suite --layers 11,14,17 --texts 35 --tokens 5 --features 25 --losses 1
  monosem deactivate runs/suite --layers 12 --r=0,-1,2 --matchers top1,random --out sweep.json --out trials.csv
  monosem deactivate runs/suite --layers 12 --matchers top1,pearson,exhaustive --identify
  monosem deactivate runs/resid runs/modules --layers 12 --direct --json

For tokens of held-out text and features that are active on them, a matcher names a latent of the stream before the
block, of the MLP output and of the attention output. Those that are active on the token too are the feature's group;
they are rescaled there by r (0 removes, 1 changes nothing), at that token only, with the autoencoder's error kept, and
the block runs again. Success: the feature falls silent. Activation change: 1 − z_new/z_old. Features without an active
match come from nowhere and count in neither.

Controls: another active latent of the same site; a random direction of the same norm. exhaustive removes every active
latent one at a time and keeps the largest change; beside it as many latents of another token, which have nothing to do
with this one, since the largest of many changes is large by chance. [95 % interval] over windows of text. Finished
windows are kept: the same command continues.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monosem.cli import flag, subject
from monosem.cli import suite as suites
from monosem.cli.output import show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.flow import Deactivation, Design, Identification, Matcher, Suite
    from monosem.lm import LanguageModel
    from monosem.text import Windows
    from monosem.training.config import TrainConfig

MATCHERS = {
    "top1": "greatest cosine",
    "top5": "the five greatest, removed together",
    "permutation": "one to one, all weights, folded by thresholds",
    "permutation-dec": "one to one, decoder rows alone",
    "random": "one of the five greatest, drawn",
    "pearson": "greatest correlation of activations on training text",
}
SEARCH = "exhaustive"
USUAL = "top1,top5,permutation-dec,random,exhaustive"


def arguments(parser: argparse.ArgumentParser) -> None:
    suites.arguments(parser)
    parser.add_argument("--layers", help="layers of the features that are followed back (default: up to three, apart)")
    listed = "; ".join(f"{name}: {meaning}" for name, meaning in MATCHERS.items())
    parser.add_argument(
        "--matchers",
        default=USUAL,
        help=f"others are compared with the first. {listed}; {SEARCH}: every active latent (default: {USUAL})",
    )
    parser.add_argument("--r", default="0", metavar="R[,R]", help="what activations are multiplied by (default: 0)")
    parser.add_argument("--texts", type=int, default=35, metavar="N", help="held-out windows (default: 35)")
    parser.add_argument("--length", type=int, default=128, metavar="T", help="their first tokens (default: 128)")
    parser.add_argument("--tokens", type=int, default=5, metavar="N", help="tokens of each (default: 5)")
    parser.add_argument("--features", type=int, default=25, metavar="N", help="at most, active on each (default: 25)")
    parser.add_argument(
        "--losses",
        type=int,
        default=0,
        metavar="N",
        help="features of each token whose removals also run to the end of the text, for the loss (default: 0)",
    )
    parser.add_argument("--direct", action="store_true", help="modules are not run again: only sums change")
    parser.add_argument(
        "--identify", action="store_true", help="groups of all tokens, and whether scores foretell them"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws tokens, features and controls (default: 0)")
    parser.add_argument(
        "--out", type=Path, action="append", default=[], metavar="FILE", help="figures as .json, every trial as .csv"
    )
    flag.shared(parser)


class Bench(NamedTuple):
    """What the experiment is made with."""

    suite: Suite
    lm: LanguageModel
    windows: Windows
    layers: list[int]
    config: TrainConfig


def run(parsed: argparse.Namespace) -> None:
    from monosem.flow import Deactivation

    flag.use_threads(parsed)
    design, names = _design(parsed), _names(parsed)
    _check(parsed)
    bench = _bench(parsed)
    identified = _identified(parsed, bench) if parsed.identify else {}
    found = Deactivation.joined([])
    try:
        for part in _windows(parsed, bench, design, names):
            found = Deactivation.joined([found, part])
    except KeyboardInterrupt:
        if found.windows:
            _show(parsed, bench, design, found, identified)
        raise
    _show(parsed, bench, design, found, identified)


def _windows(parsed: argparse.Namespace, bench: Bench, design: Design, names: list[str]) -> Iterator[Deactivation]:
    from monosem.disk import cache_folder
    from monosem.flow import deactivations

    matchers = [_matcher(name, bench, parsed) for name in names]
    keep = cache_folder() / "flow" / "deactivation"
    return deactivations(bench.suite, bench.lm, bench.windows, matchers, bench.layers, design, keep=keep)


def _design(parsed: argparse.Namespace) -> Design:
    from monosem.flow import Design

    try:
        r = tuple(float(part) for part in parsed.r.split(","))
    except ValueError:
        raise InputError(f"--r {parsed.r}: give numbers with commas between them, such as --r=0,-1,2") from None
    return Design(
        r=r,
        tokens=parsed.tokens,
        features=parsed.features,
        exhaustive=SEARCH in parsed.matchers.split(","),
        losses=parsed.losses,
        recompute=not parsed.direct,
        seed=parsed.seed,
    )


def _names(parsed: argparse.Namespace) -> list[str]:
    asked = [name.strip() for name in parsed.matchers.split(",") if name.strip()]
    if wrong := [name for name in asked if name not in (*MATCHERS, SEARCH)]:
        raise InputError(f"--matchers {wrong[0]} is unknown: use {', '.join((*MATCHERS, SEARCH))}")
    names = [name for name in asked if name != SEARCH]
    if not names or len(set(asked)) < len(asked):
        raise InputError(f"--matchers {parsed.matchers}: give at least one beside {SEARCH}, each once")
    return names


def _check(parsed: argparse.Namespace) -> None:
    for name, least in (("texts", 1), ("length", 3), ("losses", 0)):
        if getattr(parsed, name) < least:
            raise InputError(f"--{name} {getattr(parsed, name)}: give at least {least}")
    for path in parsed.out:
        if path.suffix not in (".json", ".csv"):
            raise InputError(f"--out {path}: the name has to end in .json (figures) or .csv (trials)")


def _bench(parsed: argparse.Namespace) -> Bench:
    from monosem.flow import involved
    from monosem.training.run import first_windows, run_windows

    suite = suites.load(parsed)
    layers = _layers(parsed, suite)
    lm, config = suites.model(parsed, suite)
    for site in {site for layer in layers for site in involved(suite, layer)}:
        suite[site].to(lm.device)
    windows = first_windows(run_windows(config, lm, "held_out"), parsed.texts)
    return Bench(suite, lm, _cut(windows, parsed.length), layers, config)


def _cut(windows: Windows, length: int) -> Windows:
    """The first tokens of every window."""
    tokens, documents, special = (part[:, :length] for part in windows[:3])
    return windows._replace(tokens=tokens, documents=documents, special=special)


def _layers(parsed: argparse.Namespace, suite: Suite) -> list[int]:
    from monosem.flow import followed, origins

    able = followed(suite)
    if not able:
        raise InputError("no layer of the suite can be followed back: it needs resid_post, and mlp_out or attn_out")
    if parsed.layers is None:
        return sorted({able[(2 * part + 1) * len(able) // 6] for part in range(3)})
    try:
        asked = list(dict.fromkeys(int(part) for part in parsed.layers.split(",")))
    except ValueError:
        raise InputError(f"--layers {parsed.layers}: give numbers with commas between them, such as 12,15") from None
    for layer in asked:
        origins(suite, layer)
    return asked


def _matcher(name: str, bench: Bench, parsed: argparse.Namespace) -> Matcher:
    from monosem.flow import Cosine, Permutation, RandomOfTop

    if name == "pearson":
        return _pearson(bench)
    return {
        "top1": Cosine(),
        "top5": Cosine(5),
        "permutation": Permutation(),
        "permutation-dec": Permutation("dec", folded=False),
        "random": RandomOfTop(seed=parsed.seed),
    }[name]


def _pearson(bench: Bench) -> Matcher:
    """Correlations on the text of training, which the experiment does not see."""
    from monosem.activations import Live
    from monosem.flow import Firing, Pearson, involved
    from monosem.shapes.exclusion import Exclusion
    from monosem.training.run import first_windows, run_windows

    sites = list(dict.fromkeys(site for layer in bench.layers for site in involved(bench.suite, layer)))
    windows = first_windows(run_windows(bench.config, bench.lm, "train"), 128)
    exclusion = Exclusion.of(bench.suite.info(sites[0]))
    return Pearson(Firing.record(bench.suite, Live(bench.lm, windows, sites, exclusion)))


def _identified(parsed: argparse.Namespace, bench: Bench) -> dict[int, Identification]:
    from monosem.flow import Cosine, groups, identify, predecessors

    found = groups(bench.suite, bench.lm, bench.windows, Cosine(), bench.layers, seed=parsed.seed)
    return {layer: identify(one, predecessors(bench.suite, layer, Cosine())) for layer, one in found.items()}


def _show(
    parsed: argparse.Namespace,
    bench: Bench,
    design: Design,
    found: Deactivation,
    identified: dict[int, Identification],
) -> None:
    value: dict[str, Any] = {
        "command": subject.command(),
        "complete": found.windows == len(bench.windows.tokens),
        "design": asdict(design),
        "layers": bench.layers,
        "model": bench.lm.identity(),
        "text": dict(bench.windows.identity) | {"windows": found.windows, "length": bench.windows.tokens.shape[1]},
        **found.to_json(),
    }
    value |= {"identification": {str(layer): one.to_json() for layer, one in identified.items()}} if identified else {}
    written = [_write(path, value, found) for path in parsed.out]
    said = [*_identification(identified), summary(found, design), *(f"written: {path}" for path in written)]
    show(parsed, value | {"written": [str(path) for path in written]}, "\n\n".join(said))


def _write(path: Path, value: dict[str, Any], found: Deactivation) -> Path:
    from monosem.disk import whole_file, write_json

    if path.suffix == ".json":
        # JSON has no word for NaN.
        write_json(path, json.loads(json.dumps(value), parse_constant=lambda _: None))
        return path
    with whole_file(path) as temporary:
        temporary.write_text("".join(f"{','.join(row)}\n" for row in found.rows()), encoding="utf-8")
    return path


def _identification(found: dict[int, Identification]) -> list[str]:
    from monosem.flow.identification import shown

    if not found:
        return []
    notes = "groups of every active feature on every kept token; AUC: does the score foretell the activation? 0.5: no"
    return [table(*shown(found)) + f"\n{notes}"]


def summary(found: Deactivation, design: Design) -> str:
    """Figures, groups of the first matcher, paired differences, and what they mean."""
    from monosem.flow.outcome import contrast_row, group_row
    from monosem.flow.trial import EXHAUSTIVE, OTHER_TOKEN

    if not found.trials:
        return "no feature was active on the tokens drawn: give more texts or tokens"
    reference, r = found.methods[0], 0.0 if 0.0 in design.r else design.r[0]
    groups = [group_row(row) for row in found.by_group(reference, r)]
    contrasts = [contrast_row(one) for one in found.contrasts()]
    return "\n".join(
        [
            table(*found.table()),
            f"all active matches removed together, {found.windows} windows; {EXHAUSTIVE}, {OTHER_TOKEN}: "
            "the single removal that changes most\n",
            table([f"{reference}, r = {r:g}", "removed", "targets", "success", "activation change"], groups),
            "removed alone and together\n",
            table(["minus", "r", "on targets", "targets", "Δ success", "Δ activation change"], contrasts),
            "in pairs on targets of both; single-source: with one active origin; * 0 lies outside the interval",
        ]
    )
