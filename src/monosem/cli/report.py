"""Write one self-contained HTML page about a run: curves, densities, features with their contexts.

  monosem report runs/first
  monosem report runs/first --output first.html --features 30

Evaluates and gathers feature statistics first where that is not done yet.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monosem.cli import evaluate, features, flag, subject
from monosem.cli.output import show


def arguments(parser: argparse.ArgumentParser) -> None:
    subject.arguments(parser, windows=256)
    parser.add_argument(
        "--output", type=Path, metavar="FILE.html", help="where to write (default: report.html in the folder)"
    )
    parser.add_argument(
        "--features",
        type=int,
        default=12,
        metavar="N",
        help="strongest features shown, and as many random ones (default: 12)",
    )
    evaluate.loss_flag(parser)
    parser.add_argument("--seed", type=int, default=0, help="decides the random features (default: 0)")
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    opened = subject.open_subject(parsed)
    evaluations = evaluate.stored_or_measured(opened, parsed.loss_windows)
    output = write(
        opened, evaluations, parsed.folder, parsed.output or parsed.folder / "report.html", parsed.features, parsed.seed
    )
    show(parsed, {"report": str(output)}, f"report: {output}")


def write(
    opened: subject.Subject, evaluations: dict[str, Any], folder: Path, output: Path, n_features: int, seed: int
) -> Path:
    """The page, from what is stored beside the autoencoders."""
    from monosem.report import Subject, write_report
    from monosem.training import log

    statistics = features.gather(opened)
    run_folder = folder if (folder / "metrics.jsonl").exists() else folder.parent.parent
    lines = log.read(run_folder / "metrics.jsonl")
    subjects = [
        Subject(
            name,
            sae,
            evaluations[name],
            statistics[name],
            [line for line in lines if line["sae"] == name],
        )
        for name, sae in opened.saes.items()
    ]
    return write_report(output, subjects, opened.lm, command=subject.command(), n_features=n_features, seed=seed)
