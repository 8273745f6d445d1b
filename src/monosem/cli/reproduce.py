"""Re-test the claims of a paper: train what they need, and say which hold.

  monosem reproduce hierarchical                                    minutes, synthetic data
  monosem reproduce ground_truth                                    known features: what of them is recovered
  monosem reproduce boost                                           a domain added to a frozen core
  monosem reproduce hierarchical --scale medium --budget 40         SmolLM2, at most 40 minutes
  monosem reproduce hierarchical --scale medium --claims B1,B2
  monosem reproduce interpretability --scale medium --judge endpoint:http://localhost:8000/v1#qwen3
  monosem reproduce kronsae --scale large --model google/gemma-2-2b --site resid_post.12 --device cuda

Prints its plan first: runs, tokens, predicted minutes. Claims that do not fit the budget become "not tested". Every
finished run is a row of OUT/NAME.rows.jsonl and is not run again: the same command continues where it stopped, and with
nothing left to do it only writes the result OUT/NAME.json and the page OUT/NAME.md again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.cli import flag
from monosem.cli.output import say, show, table
from monosem.reproduce import STUDIES
from monosem.shapes import InputError
from monosem.training.config import settings

if TYPE_CHECKING:
    from monosem.reproduce.request import Request

WORDS = ("model", "dtype", "device", "text", "column", "site", "activations")
COUNTS = ("n_latents", "k", "tokens", "distinct_tokens", "batch")
"""Settings of a scale that can be given another value."""


def arguments(parser: argparse.ArgumentParser) -> None:
    names = "; ".join(f"{name}: {about}" for name, about in STUDIES.items())
    parser.add_argument("name", help=names)
    parser.add_argument("--scale", default="small", help="small: minutes; medium: 40 minutes; large: as published")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="time there is (default: the scale's)")
    parser.add_argument("--claims", metavar="ID,ID", help="only these claims (default: all)")
    parser.add_argument("--seeds", metavar="N,N", help="other seeds than the scale's")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/reproduction"),
        metavar="FOLDER",
        help="where rows, result and page are kept (default: docs/reproduction)",
    )
    parser.add_argument(
        "--judge",
        help="who reads for claims of interpretability that need it: endpoint:URL#MODEL or local:NAME, as for score",
    )
    for setting, _, _, text in settings():
        if setting in WORDS + COUNTS:
            kind = flag.integer if setting in COUNTS else str
            spelled = "--" + setting.replace("_", "-")
            parser.add_argument(spelled, type=kind, metavar=setting.upper(), help=f"{text} (default: the scale's)")
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    request = asked(parsed)
    flag.use_threads(parsed)
    from monosem.reproduce.reproduction import reproduce

    result = reproduce(request, say if parsed.json else print)
    page = parsed.out / f"{parsed.name}.md"
    show(parsed, result, f"\n{summary(result)}\n\npage: {page}")


def asked(parsed: argparse.Namespace) -> Request:
    """The command line as a request. Raises `InputError`."""
    from monosem.reproduce.request import Request

    given = {name: getattr(parsed, name) for name in WORDS + COUNTS if getattr(parsed, name) is not None}
    numbers = seeds(parsed.seeds)
    return Request(parsed.name, parsed.scale, parsed.claims, parsed.budget, given, numbers, parsed.out, parsed.judge)


def seeds(text: str | None) -> tuple[int, ...] | None:
    """`0,1,2` as numbers. Raises `InputError`."""
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words) or len({int(word) for word in words}) < len(words):
        raise InputError(f"--seeds {text}: give different whole numbers, such as 0,1,2")
    return tuple(int(word) for word in words)


def summary(result: dict[str, Any]) -> str:
    """One line a claim."""
    rows = []
    for one in result["claims"]:
        ends = one["interval"]
        shown = "–" if not ends or None in ends else f"{ends[0]:+.4f} … {ends[1]:+.4f}"
        rows.append([f"{one['id']} {one['claim']}", one["scale"], one["verdict"], shown])
    return table(["claim", "scale", "verdict", "95 % interval"], rows)
