"""Record activations to disk, in a folder of the cache named by everything that decides them.

  monosem record --site resid_post.12 --tokens 1M
  monosem record --site resid_post.6 --site mlp_out.6 --text my.jsonl --folder /data/acts
  monosem record --text HuggingFaceFW/fineweb-edu --text-config sample-10BT --tokens 10M --dry-run
  monosem record --text news:0.7,house-of-commons:0.3 --tokens 500k

--dry-run says how many windows, tokens and bytes that is and, from a few passes it makes, how many hours.
Training at one site reuses a recording of that site alone, in the model's precision, from the cache.
Recording can be stopped and continued; a folder of another model, text, site or precision is refused.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from monosem.cli import flag
from monosem.cli.output import say, show
from monosem.training.config import PLAIN

if TYPE_CHECKING:
    from monosem.lm import LanguageModel
    from monosem.shapes import Site
    from monosem.text import Windows
    from monosem.training.config import TrainConfig

SAMPLE = 16
"""Windows of a dataset that a forecast reads, instead of downloading all that is asked for."""
SETTINGS = {
    "model",
    "reinit",
    "dtype",
    "device",
    "device_map",
    "text",
    "column",
    "window",
    "bos",
    "separator",
    "held_out",
    *PLAIN,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--site",
        action="append",
        dest="sites",
        metavar="SITE",
        help="where to read; several with commas or as a pattern: resid_post.* (default: resid_post.12)",
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
    parser.add_argument("--dry-run", action="store_true", help="say what it takes, and record nothing")
    flag.training(parser, SETTINGS)
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    from monosem.activations import store_bytes, store_folder, store_identity
    from monosem.lm.pattern import matching
    from monosem.training.model import load_model
    from monosem.training.run import run_windows

    config = replace(flag.config(parsed), distinct_tokens=parsed.count)
    lm = load_model(config)
    sites = matching(",".join(parsed.sites or ["resid_post.12"]), lm)
    sampled = parsed.dry_run and _is_streamed(config)
    text = run_windows(replace(config, take=SAMPLE * config.window) if sampled else config, lm, "train")
    n_windows = -(-parsed.count // config.window)
    n_windows = n_windows if sampled else min(len(text.tokens), n_windows)
    dtype = parsed.store_dtype or str(lm.dtype).removeprefix("torch.")
    identity = store_identity(lm, text, sites, dtype)
    folder = parsed.folder or store_folder(identity)
    plan = Plan(text, sites, n_windows, dtype, store_bytes(identity, n_windows), folder)
    if parsed.dry_run:
        _predict(parsed, lm, plan, sampled)
    else:
        _record(parsed, config, lm, plan)


class Plan(NamedTuple):
    """What is to be recorded, and where."""

    text: Windows
    sites: list[Site]
    n_windows: int
    dtype: str
    size: int
    folder: Path

    def describe(self, lm: LanguageModel) -> str:
        length = self.text.tokens.shape[1]
        return (
            f"{self.n_windows:,} windows of {length} tokens, {self.size / 2**20:,.0f} MiB on disk as {self.dtype}; "
            f"model in {lm.dtype}"
        )


def _is_streamed(config: TrainConfig) -> bool:
    """Whether reading the whole text for a forecast would download it."""
    from monosem.text.dataset import is_dataset

    return config.take is None and is_dataset(config.text) and not Path(config.text).expanduser().exists()


def _predict(parsed: argparse.Namespace, lm: LanguageModel, plan: Plan, sampled: bool) -> None:
    from monosem.activations.forecast import forecast

    length = plan.text.tokens.shape[1]
    recorded = 0 if sampled else min(_recorded(plan.folder), plan.n_windows)
    found = forecast(lm, plan.text, plan.sites, plan.n_windows - recorded)
    hours, least, most = (seconds / 3600 for seconds in found[:3])
    free = _free(plan.folder)
    lines = [
        f"{plan.describe(lm)}; nothing was recorded",
        f"{plan.n_windows * length:,} tokens at {', '.join(map(str, plan.sites))}, into {plan.folder}",
        f"hours: {hours:.3g} ({least:.3g} to {most:.3g} by the quickest and the slowest of {found.passes} passes of "
        f"{found.windows} windows; writing not counted)",
        f"disk: {plan.size / 2**30:,.2f} GiB needed, {free / 2**30:,.2f} free" + ": TOO LITTLE" * (plan.size > free),
    ]
    lines += [f"{recorded:,} of these windows are recorded already: the hours are for the rest"] * bool(recorded)
    lines += ["from the first windows of the dataset, as if it were long enough"] * sampled
    result = {
        "dry_run": True,
        "windows": plan.n_windows,
        "tokens": plan.n_windows * length,
        "bytes": plan.size,
        "bytes_free": free,
        "recorded": recorded,
        "hours": hours,
        "hours_least": least,
        "hours_most": most,
        "measured": {"passes": found.passes, "windows": found.windows},
        "folder": str(plan.folder),
    }
    show(parsed, result, "\n".join(lines))


def _free(folder: Path) -> int:
    """Bytes free where a folder is or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _recorded(folder: Path) -> int:
    """Windows that the folder holds already."""
    from monosem.activations import Store

    return Store(folder).n_windows if (folder / "exclusion.json").exists() else 0


def _record(parsed: argparse.Namespace, config: TrainConfig, lm: LanguageModel, plan: Plan) -> None:
    import torch

    from monosem.activations import record
    from monosem.training.model import load_model

    say(plan.describe(lm))
    store = record(lm, plan.text, plan.sites, n_windows=plan.n_windows, dtype=plan.dtype, folder=parsed.folder)
    if plan.dtype != "float32" or lm.dtype != torch.float32:
        store.measure_rounding(load_model(config, "float32"))
    lines = [
        f"{store.folder}: {store.n_windows:,} windows at {', '.join(map(str, plan.sites))}",
        str(store.exclusion),
    ]
    lines += [
        f"{site}: {row['dtype']} loses {row['unexplained_variance']:.2e} of the variance"
        for site, row in store.rounding.items()
    ]
    result = {
        "folder": str(store.folder),
        "windows": store.n_windows,
        "bytes": plan.size,
        "identity": store.identity,
    }
    show(
        parsed,
        {**result, "exclusion": store.exclusion.describe(), "rounding": store.rounding},
        "\n".join(lines),
    )
