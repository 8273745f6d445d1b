"""Train autoencoders on a model's activations, several in one pass.

  monosem train --site resid_post.12 --n-latents 8192 --k 32 --tokens 1M --run runs/first
  monosem train --sae topk,batch_topk,jumprelu --text my.jsonl --model ./my-llama --run runs/mine
  monosem train --sae hierarchical --k 64 --budgets pow2 --run runs/any-k
  monosem train --sae topk,kron,kron+hierarchical --base 4 --extension 8 --equal flops --run runs/kron
  monosem train --config settings.toml --run runs/first --lr 3e-4
  monosem train --resume runs/first

Ctrl-C writes a checkpoint. The same command, or --resume, goes on from the last one; the result is the same,
bit for bit, as if nothing had happened (same machine, same number of threads).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.cli import flag
from monosem.cli.output import say, show, table
from monosem.disk import digest
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.sae import SAE


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="where the run lives (default: runs/SITE-SETTINGS)")
    parser.add_argument(
        "--resume", type=Path, metavar="FOLDER", help="continue the run in this folder with its own settings"
    )
    flag.training(parser)
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    from monosem.training import open_run, train

    if parsed.resume:
        if parsed.run and parsed.run != parsed.resume:
            raise InputError(f"--resume {parsed.resume} and --run {parsed.run} name two folders: give one")
        if parsed.config or flag.given(parsed):
            raise InputError(
                "--resume goes on with the run's own settings: give no others, or name the folder by --run"
            )
        config, parsed.run = open_run(parsed.resume)[0], parsed.resume
    else:
        config = flag.config(parsed)
    parsed.run = parsed.run or Path("runs") / f"{config.site}-{digest(config.describe(), 8)}"
    say(f"run folder: {parsed.run}")
    saes = train(config, parsed.run)
    for note in notes(saes):
        say(note)
    rows = [[name, f"{sae.n_latents:,}", str(parsed.run / "saes" / name)] for name, sae in saes.items()]
    result = {"run": str(parsed.run), "saes": {row[0]: row[2] for row in rows}}
    text = table(["autoencoder", "latents", "folder"], rows)
    show(parsed, result, f"{text}\n\nnext: monosem evaluate {parsed.run}")


def notes(saes: dict[str, SAE]) -> list[str]:
    """What a person should know before believing the figures."""
    from monosem.sae.flops import encoder_share

    found = []
    for name, sae in saes.items():
        if (share := encoder_share(sae)) > 1:
            found.append(f"note: the encoder of {name} has {share:.4g} times the rows of a dense one: it is dearer")
        if (clamped := sae.info["training"].get("clamped_share") or 0) > 0.01:
            found.append(
                f"note: {clamped:.1%} of the gate's gradients in {name} were clamped in the last steps: "
                "raise --gate-clamp, or read its figures with care"
            )
    return found
