"""Teach a trained autoencoder new domains: a small residual autoencoder for each, summed with it.

  monosem boost runs/first --text bundestag --n-latents 144 --k 5 --run runs/german
  monosem boost runs/first/saes/topk --text bundestag --text chemistry --general news --run runs/two
  monosem boost runs/first --text python --sae batch_topk,hierarchical,kron+batch_topk --k 5,10 --run runs/kinds
  monosem boost runs/first --text medical-abstracts --baselines --run runs/compared
  monosem boost runs/german/saes/boosted --text congreso --run runs/next

CORE is frozen. A residual reads the same activations x, and explains what the core leaves of them, x − core(x); it
has no decoder bias, and is added to the core's output (SAE Boost, arXiv 2507.12990). Every --text is a domain with a
residual of its own, trained independently; their sum with the core is RUN/saes/boosted, an autoencoder for every other
command, whose latents keep their origin. What each domain's run trained is in RUN/runs/DOMAIN/saes.

General text (--general, by default the core's own) is watched while training: more than --harm of its explained
variance lost is said, or with --on-harm stop ends the run. Afterwards everything is measured on held-out text of each
domain and on general text: RUN/boost.json and RUN/report.html.

--baselines trains on the same batches what the residual has to be better than: the core extended by as many latents
(random or copies of the busiest; all of it or the new ones alone), the core fine-tuned, its most changed latents
grafted on the core, an autoencoder from scratch, a residual with a random frozen decoder, and one trained on general
text; more latents of the core (a lower threshold at the same total L0) are measured always.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.cli import flag, subject
from monosem.cli.output import say, show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.training import Grid

FIXED = {"text", "core", "domain", "site", "target", "skip", "store", "controls"}
"""Settings that a core or a domain decides."""
SHOWN = {"n_latents": "a quarter of the width", "general": "the core's own text"}
SHOWN |= dict.fromkeys(("model", "dtype", "device", "window", "bos", "separator", "held_out", "column"), "the core's")
"""Defaults that depend on the core, as `--help` says them."""
ENOUGH = 100_000_000
"""Distinct tokens of a domain below which the paper reports harm to general text."""
DEFAULTS: dict[str, Any] = {"sae": ["batch_topk"], "k": 5, "calibrate": True}


def arguments(parser: argparse.ArgumentParser) -> None:
    from monosem.training.config import settings

    parser.add_argument("folder", metavar="CORE", type=Path, help="a trained autoencoder, or a run that has one")
    parser.add_argument(
        "--text", action="append", dest="texts", metavar="TEXT", required=True, help="text of a domain; repeats"
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="where results live (default: runs/boost-DOMAINS)")
    parser.add_argument("--baselines", action="store_true", help="also train what a residual is compared with")
    parser.add_argument(
        "--windows", type=int, default=128, metavar="N", help="held-out windows of each text (default: 128)"
    )
    parser.add_argument(
        "--loss-windows",
        type=int,
        default=32,
        metavar="N",
        help="windows of each text that also go through the whole model (default: 32)",
    )
    names = {name for name, *_ in settings()}
    flag.training(parser, names - FIXED, {**DEFAULTS, **SHOWN})
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    from monosem.boost import boost
    from monosem.report.boosting import write_boosting
    from monosem.training.run import domain_name

    grid = _grid(parsed)
    folder = parsed.run or Path("runs") / ("boost-" + "-".join(map(domain_name, parsed.texts)))
    say(f"run folder: {folder}")
    found = boost(
        grid,
        parsed.texts,
        folder,
        baselines=parsed.baselines,
        windows=parsed.windows,
        loss_windows=parsed.loss_windows,
        command=subject.command(),
    )
    result = found.result.to_json()
    write_boosting(folder / "report.html", result)
    written = f"the sum: {folder / 'saes' / 'boosted'}\nreport: {folder / 'report.html'}"
    show(parsed, result, f"{summary(result)}\n\n{written}")
    if lost := result["provenance"]["diverged"]:
        raise InputError("; ".join(lost.values()))


def _grid(parsed: argparse.Namespace) -> Grid:
    """The settings, with model, site, sizes and general text of the core where they are not given."""
    from monosem.boost.boosting import beside, core_text
    from monosem.training import TrainConfig
    from monosem.training.config import PLAIN
    from monosem.training.core import needed
    from monosem.training.grid import grid_from_toml

    given = flag.given(parsed) | (grid_from_toml(parsed.config) if parsed.config else {})
    if wrong := [key for key in given if key in FIXED]:
        raise InputError(f"{parsed.config} sets {wrong[0]}, which the core and --text decide here: take it out")
    if len(parsed.texts) > 1 and (several := [key for key in given if key in PLAIN]):
        raise InputError(f"{several[0]} is said of one text, and there are {len(parsed.texts)}: boost one at a time")
    usual = beside(parsed.folder, TrainConfig(text=parsed.texts[0]))
    core = needed(usual).sae
    sizes = {"n_latents": max(DEFAULTS["k"], round(core.d_in / 4)), "general": core_text(core).get("text")}
    grid = flag.grid(parsed, usual.describe() | DEFAULTS | sizes)
    if grid.shared.general is None:
        raise InputError("the core does not say which text it was trained on: name a general text by --general")
    return grid


def summary(result: dict[str, Any]) -> str:
    """A table a text: figures of everything measured on it."""
    parts = []
    for text in (*result["domains"], result["general"]):
        rows = [_row(row, row["texts"][text]) for row in result["rows"] if text in row["texts"]]
        header = ["autoencoder", "EV", "gain", "L0", "new", "CE rec. (zero)", "KL, nats", "general"]
        parts.append(f"{text} ({result['provenance']['tokens'][text]:,} held-out tokens)\n" + table(header, rows))
    parts += _few_tokens(result)
    parts.append(
        "gain: EV minus the core's; new: active latents beside the core's; general: whether EV (1 %) and cross-entropy "
        "(0.01 nats)\nof general text are kept, by the 95 % interval over windows"
    )
    return "\n\n".join(parts)


def _few_tokens(result: dict[str, Any]) -> list[str]:
    """A note on residuals that saw less text than the paper found necessary."""
    seen = {
        group["name"]: group["distinct_tokens"]
        for row in result["rows"]
        if row["kind"] == "residual"
        for group in row["groups"][1:]
        if group["distinct_tokens"] is not None and group["distinct_tokens"] < ENOUGH
    }
    if not seen:
        return []
    told = ", ".join(f"{name} {count:,}" for name, count in seen.items())
    return [
        f"distinct tokens of a domain: {told}. The paper saw general text suffer with fewer than {ENOUGH:,}; "
        "look at the last column"
    ]


def _row(row: dict[str, Any], figures: dict[str, Any]) -> list[str]:
    new = sum(l0 for name, l0 in figures["l0_by_group"].items() if name != row["groups"][0]["name"])
    kept = figures.get("preserved", {})
    drop = f"{kept['verdict']} ({_drop(kept)})" if kept else "–"
    return [
        row["name"],
        f"{figures['explained_variance']:.4f}",
        "–" if row["name"] == "core" else f"{figures['gains']['ev']:+.4f}",
        f"{figures['l0']:.4g}",
        f"{new:.3g}" if len(row["groups"]) > 1 else "–",
        _cell(figures.get("ce_loss_score")),
        _cell(figures.get("kl_div")),
        drop,
    ]


def _drop(kept: dict[str, Any]) -> str:
    """The change of general explained variance: as a share of the core's, or where that is next to nothing absolute."""
    change = -kept["drop"]["value"]
    return f"{change:+.2%}" if kept["relative"] else f"{change:+.4f} EV"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
