"""Measure autoencoders on held-out text: one table for a run, or one autoencoder.

  monosem evaluate runs/first
  monosem evaluate runs/first/saes/topk --windows 512 --loss-windows 128 --json

Explained variance is 1 − Σ‖x−x̂‖²/Σ‖x−mean‖² over all kept tokens; CE recovered is the share of the loss increase
from zero- or mean-ablation that the reconstruction avoids. Tokens the stored rule excludes keep their activation.
Results are stored beside each autoencoder as evaluation.json.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from monosem.cli import flag, subject
from monosem.cli.output import show, table

if TYPE_CHECKING:
    from monosem.evaluation import Evaluation

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
    parser.add_argument(
        "--loss-windows",
        type=int,
        default=64,
        metavar="N",
        help="windows that also go through the whole model (default: 64)",
    )
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    opened = subject.open_subject(parsed)
    evaluations = measure(opened, parsed.loss_windows, store=parsed.text is None)
    result = {name: evaluation.to_json() for name, evaluation in evaluations.items()}
    show(parsed, result, summary(evaluations, rates(opened)))


def measure(opened: subject.Subject, loss_windows: int, *, store: bool) -> dict[str, Evaluation]:
    """Evaluate and, if asked, store the result beside each autoencoder."""
    from monosem.disk import write_json
    from monosem.evaluation import evaluate

    evaluations = evaluate(opened.saes, opened.lm, opened.windows, loss_windows=loss_windows, command=subject.command())
    if store:
        for name, evaluation in evaluations.items():
            write_json(opened.folders[name] / "evaluation.json", evaluation.to_json())
    return evaluations


def summary(evaluations: dict[str, Evaluation], rates: dict[str, float | None]) -> str:
    """The table a person reads, with what it was measured on."""
    rows = []
    for name, one in evaluations.items():
        cells = [f"{one.metrics[key]:.4g}" for key in COLUMNS if key != "frac_alive"]
        cells[0] = f"{one.metrics['explained_variance']:.4f} ± {one.errors.get('explained_variance', float('nan')):.4f}"
        rate = rates.get(name)
        rows.append([name, *cells, f"{1 - one.metrics['frac_alive']:.1%}", f"{rate:,.0f}" if rate else "–"])
    first = next(iter(evaluations.values()))
    header = ["autoencoder", *COLUMNS.values(), "trained tok/s"]
    loss = first.provenance["loss"]
    note = (
        f"{first.n_tokens:,} held-out tokens at {first.provenance['site']} ({first.n_excluded:,} excluded), losses on "
        f"{loss['tokens']:,}; {first.space} space; ± one standard error over batches; dead: silent on these tokens; "
        "trained tok/s: this autoencoder's own training steps, without the model"
    )
    return f"{table(header, rows)}\n{note}"


def rates(opened: subject.Subject) -> dict[str, float | None]:
    """Training tokens a second of each autoencoder's own steps, where that was stored."""
    found = {}
    for name, sae in opened.saes.items():
        training = sae.info.get("training", {})
        seconds = training.get("step_seconds")
        found[name] = training["tokens"] / seconds if seconds else None
    return found
