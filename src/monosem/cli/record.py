"""Record activations to disk, in a folder of the cache named by everything that decides them.

  monosem record --site resid_post.12 --tokens 1M
  monosem record --site resid_post.6 --site mlp_out.6 --text my.jsonl --folder /data/acts

Training at one site reuses a recording of that site alone, in the model's precision, from the cache.
Recording can be stopped and continued; a folder of another model, text, site or precision is refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from monosem.cli import flag
from monosem.cli.output import say, show

SETTINGS = {"model", "dtype", "device", "text", "column", "window", "bos", "separator", "held_out"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--site",
        action="append",
        dest="sites",
        metavar="SITE",
        help="where to read; repeat for several (default: resid_post.12)",
    )
    parser.add_argument(
        "--tokens",
        dest="count",
        type=flag.integer,
        default=1_000_000,
        metavar="N",
        help="tokens to record (default: 1000000)",
    )
    parser.add_argument(
        "--store-dtype",
        choices=["float32", "bfloat16", "float16"],
        help="precision on disk (default: the model's)",
    )
    parser.add_argument("--folder", type=Path, help="where to write (default: in the cache, by content)")
    flag.training(parser, SETTINGS)
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    import torch

    from monosem.activations import record, store_bytes, store_identity
    from monosem.lm import LanguageModel
    from monosem.training.run import run_windows

    config = flag.config(parsed)
    lm = LanguageModel.load(config.model, dtype=config.dtype, device=config.device)
    sites = [lm.site(site) for site in parsed.sites or ["resid_post.12"]]
    text = run_windows(config, lm, "train")
    n_windows = min(len(text.tokens), -(-parsed.count // config.window))
    dtype = parsed.store_dtype or str(lm.dtype).removeprefix("torch.")
    size = store_bytes(store_identity(lm, text, sites, dtype), n_windows)
    say(
        f"{n_windows:,} windows of {config.window} tokens, {size / 2**20:,.0f} MiB on disk as {dtype}; "
        f"model in {lm.dtype}"
    )
    store = record(lm, text, sites, n_windows=n_windows, dtype=dtype, folder=parsed.folder)
    if dtype != "float32" or lm.dtype != torch.float32:
        store.measure_rounding(LanguageModel.load(config.model, dtype="float32", device=config.device))
    lines = [
        f"{store.folder}: {store.n_windows:,} windows at {', '.join(map(str, sites))}",
        str(store.exclusion),
    ]
    lines += [
        f"{site}: {row['dtype']} loses {row['unexplained_variance']:.2e} of the variance"
        for site, row in store.rounding.items()
    ]
    result = {
        "folder": str(store.folder),
        "windows": store.n_windows,
        "bytes": size,
        "identity": store.identity,
    }
    show(
        parsed,
        {**result, "exclusion": store.exclusion.describe(), "rounding": store.rounding},
        "\n".join(lines),
    )
