"""Train autoencoders on a model's activations, several in one pass.

  monosem train --site resid_post.12 --n-latents 8192 --k 32 --tokens 1M --run runs/first
  monosem train --sae topk,batch_topk,jumprelu --text my.jsonl --model ./my-llama --run runs/mine
  monosem train --sae hierarchical --k 64 --budgets pow2 --run runs/any-k
  monosem train --sae topk,kron,kron+hierarchical --base 4 --extension 8 --equal flops --run runs/kron
  monosem train --site resid_post.6,resid_post.12 --k 16,32,64 --seed 0,1,2 --run runs/grid
  monosem train --site "resid_post.*" --activations live --run runs/all-layers
  monosem train --sae topk,kron --controls --run runs/controlled
  monosem train --sae topk+frozen_decoder,pca --reinit 0 --run runs/random-model
  monosem train --site mlp_in.12 --target mlp_out --skip --run runs/transcoder
  monosem train --config settings.toml --run runs/first --lr 3e-4
  monosem train --resume runs/first

Sites may be names, several with commas, and patterns (resid_post.*, mlp_out.{6,12}, mlp_out.1?). A setting of an
autoencoder may have several values: every combination is trained at every site, all on the same tokens in one pass
of the model, each what it would be alone, and lives in saes/SITE/NAME-VALUES, such as
saes/resid_post.12/topk-k16-seed1. --budgets, --budget-weights and --widths are repeated for several values. In a file
several values are a list: k = [16, 32].

Controls say what figures are worth: --controls trains, beside every autoencoder, the same without training
(+untrained), with random decoder rows (+frozen_decoder), with rows that turn by a cosine of 0.8 at most
(+soft_frozen_decoder) and with a random encoder (+frozen_encoder), and one pca of k components. --reinit trains on
the model with random weights. With --target an autoencoder predicts another, later site: a transcoder.

An autoencoder that diverges stops alone: the others go on, it has a line in metrics.jsonl and no folder, and the
command ends with status 2.

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
    from monosem.training import Grid


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="where the run lives (default: runs/SITE-SETTINGS)")
    parser.add_argument(
        "--resume", type=Path, metavar="FOLDER", help="continue the run in this folder with its own settings"
    )
    flag.training(parser)
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    from monosem.training import diverged, open_run, train
    from monosem.training.divergence import summed_up

    if parsed.resume:
        if parsed.run and parsed.run != parsed.resume:
            raise InputError(f"--resume {parsed.resume} and --run {parsed.run} name two folders: give one")
        if parsed.config or flag.given(parsed):
            raise InputError(
                "--resume goes on with the run's own settings: give no others, or name the folder by --run"
            )
        grid, parsed.run = open_run(parsed.resume)[0], parsed.resume
    else:
        grid = flag.grid(parsed)
    parsed.run = parsed.run or Path("runs") / _name(grid)
    say(f"run folder: {parsed.run}")
    saes = train(grid, parsed.run)
    for note in notes(saes):
        say(note)
    lost = diverged(parsed.run)
    rows = [[name, f"{sae.n_latents:,}", str(parsed.run / "saes" / name)] for name, sae in saes.items()]
    result = {
        "run": str(parsed.run),
        "saes": {row[0]: row[2] for row in rows},
        "diverged": {name: one._asdict() for name, one in lost.items()},
    }
    text = table(["autoencoder", "latents", "folder"], rows)
    show(parsed, result, f"{text}\n\nnext: monosem evaluate {parsed.run}")
    if lost:
        raise InputError(f"{summed_up(lost)}; {len(saes)} good in {parsed.run / 'saes'}")


def _name(grid: Grid) -> str:
    """The site, or `grid` for several or several values, and a digest of the settings."""
    several = bool(grid.lists) or bool(set(grid.shared.site) & set(",*?[{/:"))
    return f"{'grid' if several else grid.shared.site}-{digest(grid.describe(), 8)}"


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
