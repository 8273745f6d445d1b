"""Write one self-contained HTML page about a run: curves, budgets, costs, features with their contexts.

  monosem report runs/first
  monosem report runs/first --output first.html --features 30
  monosem report runs/first runs/second/saes/topk --output both.html

Evaluates and gathers feature statistics first where that is not done yet. Several folders make one page, if their
autoencoders read the same model and text.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monosem.cli import evaluate, features, flag, subject
from monosem.cli.output import show


def arguments(parser: argparse.ArgumentParser) -> None:
    subject.arguments(parser, windows=256)
    parser.add_argument("others", type=Path, nargs="*", help="further runs or autoencoders to compare with it")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.html",
        help="where to write (default: report.html in the folder; of several, comparison.html in the first)",
    )
    parser.add_argument(
        "--features",
        type=int,
        default=12,
        metavar="N",
        help="strongest features shown, and as many random ones (default: 12)",
    )
    evaluate.loss_flags(parser)
    parser.add_argument("--seed", type=int, default=0, help="decides the random features (default: 0)")
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    opened = subject.open_subject(parsed, parsed.others)
    evaluations = evaluate.stored_or_measured(opened, parsed.loss_windows, parsed.loss_per_k)
    output = parsed.output or parsed.folder / ("comparison.html" if parsed.others else "report.html")
    write(opened, evaluations, output, parsed.features, parsed.seed)
    show(parsed, {"report": str(output)}, f"report: {output}")


def write(opened: subject.Subject, evaluations: dict[str, Any], output: Path, n_features: int, seed: int) -> Path:
    """The page, from what is stored beside the autoencoders."""
    from monosem.interpret import labels
    from monosem.report import Subject, write_report

    statistics = features.gather(opened)
    folders = opened.folders
    subjects = [
        Subject(name, sae, evaluations[name], statistics[name], _log(folders[name]), labels(folders[name]))
        for name, sae in opened.saes.items()
    ]
    return write_report(output, subjects, opened.lm, command=subject.command(), n_features=n_features, seed=seed)


def _log(folder: Path) -> list[dict[str, Any]]:
    """The lines of an autoencoder in the log of its run."""
    from monosem.sae import find
    from monosem.training import log

    (name,) = find(folder)
    return [line for line in log.read(subject.run_of(folder) / "metrics.jsonl") if line["sae"] == name]
