"""Measure autoencoders on held-out text: one table for a run, or one autoencoder.

  monosem evaluate runs/first
  monosem evaluate runs/first/saes/topk --windows 512 --loss-windows 128 --json

Explained variance is 1 − Σ‖x−x̂‖²/Σ‖x−mean‖² over all kept tokens; CE recovered is the share of the loss increase
from zero- or mean-ablation that the reconstruction avoids. Tokens the stored rule excludes keep their activation.
Results are stored beside each autoencoder as evaluation.json.
"""

from __future__ import annotations

import argparse
from typing import Any

from monosem.cli import flag, subject
from monosem.cli.output import show, table

COLUMNS = {
    "explained_variance": "EV",
    "l0": "L0",
    "ce_loss_score": "CE rec. (zero)",
    "ce_loss_score_mean": "CE rec. (mean)",
    "kl_div": "KL, nats",
    "kl_div_score": "KL rec.",
    "frac_alive": "dead",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    subject.arguments(parser, windows=256)
    loss_flag(parser)
    flag.shared(parser)


def loss_flag(parser: argparse.ArgumentParser) -> None:
    """The flag for the costly part of an evaluation."""
    parser.add_argument(
        "--loss-windows",
        type=int,
        default=64,
        metavar="N",
        help="windows that also go through the whole model (default: 64)",
    )


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    opened = subject.open_subject(parsed)
    evaluations = measure(opened, parsed.loss_windows)
    show(parsed, evaluations, summary(evaluations, rates(opened)))


def measure(opened: subject.Subject, loss_windows: int) -> dict[str, Any]:
    """Evaluate and, where model and text are those of training, store the result beside each autoencoder."""
    from monosem.disk import write_json
    from monosem.evaluation import evaluate

    found = evaluate(opened.saes, opened.lm, opened.windows, loss_windows=loss_windows, command=subject.command())
    evaluations = {name: one.to_json() for name, one in found.items()}
    if opened.own:
        for name, evaluation in evaluations.items():
            write_json(opened.folders[name] / "evaluation.json", evaluation)
    return evaluations


def stored_or_measured(opened: subject.Subject, loss_windows: int) -> dict[str, Any]:
    """The evaluations beside the autoencoders, or new ones where there are none."""
    from monosem.disk import read_json

    paths = {name: folder / "evaluation.json" for name, folder in opened.folders.items()}
    if opened.own and all(path.exists() for path in paths.values()):
        return {name: read_json(path) for name, path in paths.items()}
    return measure(opened, loss_windows)


def summary(evaluations: dict[str, Any], rates: dict[str, float | None]) -> str:
    """The table a person reads, with what it was measured on."""
    rows = []
    for name, one in evaluations.items():
        cells = [_cell(one["metrics"].get(key)) for key in COLUMNS]
        error = one["errors"].get("explained_variance")
        cells[0] = f"{one['metrics']['explained_variance']:.4f}" + ("" if error is None else f" ± {error:.4f}")
        cells[-1] = f"{1 - one['metrics']['frac_alive']:.1%}"
        rate = rates.get(name)
        rows.append([name, *cells, f"{rate:,.0f}" if rate else "–"])
    first = next(iter(evaluations.values()))
    header = ["autoencoder", *COLUMNS.values(), "trained tok/s"]
    origin = first["provenance"]
    note = (
        f"{first['n_tokens']:,} held-out tokens at {origin['site']} ({first['n_excluded']:,} excluded), losses on "
        f"{origin['loss']['tokens']:,}; {first['space']} space; ± one standard error over batches\n"
        "dead: silent on these tokens; trained tok/s: this autoencoder's own training steps, without the model"
    )
    return f"{table(header, rows)}\n{note}"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def rates(opened: subject.Subject) -> dict[str, float | None]:
    """Training tokens a second of each autoencoder's own steps, where that was stored."""
    found = {}
    for name, sae in opened.saes.items():
        training = sae.info.get("training", {})
        seconds = training.get("step_seconds")
        found[name] = training["tokens"] / seconds if seconds else None
    return found
