"""Write with a model while latents are added to its activations, or rescaled: plain and steered text side by side.

  monosem steer "I think" --suite runs/suite --feature resid_post.12/47 --strength 4
  monosem steer "I think" --suite runs/suite --feature resid_post.12/47 --along-flow --strength 0.5,1,2 --out steered
  monosem steer "I think" --suite runs/suite --from-theme resid_post.12 --theme medical-abstracts --strength 1,2,4
  monosem steer "The problem of physics is" --suite runs/suite --graph flow.json --rescale=0,-2,-8 --layer each
  monosem steer "I think" --suite runs/suite --feature mlp_out.9/3 --strength 2 --schedule exponential,linear --layer 12
  monosem steer "I think" --suite runs/suite --feature resid_post.12/47 --strength 3 --save vectors
  monosem steer "I think" --steering vectors --samples 4 --json

--strength s adds s·v to every token, v the latent at its threshold (--scale folded); 0 changes nothing. --rescale r
multiplies what active latents contribute; 1 changes nothing, 0 removes it, -1 turns it around. --along-flow takes the
flow graph of the latents: cut where a feature is born or dies for --strength, uncut for --rescale. A text's noise is
the same in every setting, so texts differ only by the steering.

With --theme (a file, or a corpus such as medical-abstracts) texts are scored offline: coherence by the plain model's
loss, behaviour by a classifier, a lexicon and features of the last layer, each only if it passes its gates; with
--judge also by a judge that reads. Beside every setting stand baselines of the same norm: a random direction, random
features, the difference in means; and a prompt that asks for the --subject. Finished settings are kept: the same
command continues. --out writes all texts and scores, and a page with heat maps of strength by layer.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monosem.cli import flag, subject
from monosem.cli.output import say, show, table
from monosem.shapes import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="*", default=["I think"], help='what texts begin with (default: "I think")')
    parser.add_argument(
        "--suite", type=Path, nargs="+", action="extend", default=[], metavar="RUN", help="runs or autoencoders"
    )
    parser.add_argument("--sae", metavar="NAME", help="which autoencoders, where a run has several a site: topk-k16")
    _what(parser)
    _how(parser)
    _writing(parser)
    _scoring(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write steering.json and index.html")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write the vectors of the one setting, for others")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="texts shown a setting (default: 3)")
    parser.add_argument("--model", help="another copy of the model: hub name or local folder (default: as in training)")
    parser.add_argument("--dtype", help="precision of the model (default: as in training)")
    parser.add_argument("--device", help="device of the model (default: as in training)")
    flag.shared(parser)


def _what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--feature", action="append", default=[], metavar="SITE/LATENT", help="what is steered")
    parser.add_argument("--graph", type=Path, metavar="FILE.json", help="the latents of a graph of monosem flow")
    parser.add_argument(
        "--steering", type=Path, metavar="FOLDER", help="vectors that --save wrote; needs no suite to add"
    )
    parser.add_argument("--from-theme", metavar="SITE", help="the latents of a site that fire most on --theme")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many of those (default: 3)")
    parser.add_argument(
        "--along-flow", action="store_true", help="also what these come from and become, layer by layer"
    )
    parser.add_argument("--gaps", action="store_true", help="follow over layers without an autoencoder")


def _how(parser: argparse.ArgumentParser) -> None:
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--strength", metavar="S[,S]", help="add directions (default: 1)")
    ways.add_argument("--rescale", metavar="R[,R]", help="rescale active latents; write --rescale=-2 for negative ones")
    parser.add_argument("--layer", default="all", help="up to which layer: all, each, or numbers (default: all)")
    parser.add_argument("--strategy", default="cumulative", help="cumulative, single or both with a comma")
    parser.add_argument("--schedule", default="constant", help="constant, exponential, linear (default: constant)")
    parser.add_argument("--alpha", type=float, default=-0.05, help="s·exp(alpha·layer), exponential (default: -0.05)")
    parser.add_argument("--end", type=float, default=1.0, metavar="S", help="strength at the last layer, linear (1)")
    parser.add_argument("--relative", action="store_true", help="exponential counts from the first steered layer")
    parser.add_argument("--scale", choices=["folded", "raw", "unit"], default="folded", help="what a strength of 1 is")
    parser.add_argument("--tokens", choices=["all", "generated", "prompt", "last"], default="all", help="which tokens")
    parser.add_argument(
        "--reading", choices=["current", "clean"], default="current", help="rescale by steered or by plain activations"
    )


def _writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--new-tokens", type=int, metavar="N", help="at most, each text (default: 36; 96 to rescale)")
    parser.add_argument("--samples", type=int, metavar="N", help="texts a prompt (default: 3, or 16 if scored)")
    parser.add_argument("--temperature", type=float, default=1.27, help="0: the likeliest token (default: 1.27)")
    parser.add_argument("--top-p", type=float, default=0.7, help="nucleus (default: 0.7)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, splits and baselines (default: 0)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="texts at a time (default: 16)")


def _scoring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--theme", metavar="TEXT", help="text of the theme: a file, folder or corpus")
    parser.add_argument("--other", metavar="TEXT", help="text of anything else (default: that of training)")
    parser.add_argument("--pieces", type=int, default=400, metavar="N", help="pieces of each (default: 400)")
    parser.add_argument("--lexicon", metavar="WORD[,WORD]", help="the theme's words (default: taken from --theme)")
    parser.add_argument("--subject", action="append", default=[], help="the theme in words; further ones: side effects")
    parser.add_argument("--judge", help="endpoint:URL#MODEL or local:NAME, for grades of coherence and behaviour")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens of an answer, for endpoints that think")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="questions at a time (default: 8)")
    parser.add_argument(
        "--baselines", metavar="NAME[,NAME]", help="random, features, difference, prompt; none (default: all if scored)"
    )


def run(parsed: argparse.Namespace) -> None:
    from monosem.disk import write_json
    from monosem.flow import bench
    from monosem.report.steering import write_steering

    flag.use_threads(parsed)
    opened = bench.opened(request(parsed), say)
    if parsed.save is not None:
        say(f"vectors: {opened.save(parsed.save)}")
    result = opened.run(parsed.out)
    result |= {"command": subject.command()}
    written = []
    if parsed.out is not None:
        write_json(parsed.out / "steering.json", result)
        written = [
            parsed.out / "steering.json",
            write_steering(parsed.out / "index.html", result, command=result["command"]),
        ]
    said = [pairs(result, parsed.show), summary(result), *(f"written: {path}" for path in written)]
    show(parsed, result | {"written": [str(path) for path in written]}, "\n\n".join(filter(None, said)))


def request(parsed: argparse.Namespace) -> Any:
    """What is asked for, checked as far as that needs no model. Raises `InputError`."""
    from monosem.flow.request import Request

    if parsed.show < 0:
        raise InputError(f"--show {parsed.show}: give 0 or more")
    rescale = parsed.rescale is not None
    names = {name: getattr(parsed, name) for name in Request.__dataclass_fields__ if hasattr(parsed, name)}
    return Request(
        **names
        | {
            "prompts": tuple(parsed.prompt),
            "mode": "rescale" if rescale else "add",
            "new_tokens": parsed.new_tokens or (96 if rescale else 36),
            "strengths": _numbers("--rescale" if rescale else "--strength", parsed.rescale or parsed.strength or "1"),
            "schedule": _words("--schedule", parsed.schedule, ("constant", "exponential", "linear")),
            "strategy": _words("--strategy", parsed.strategy, ("cumulative", "single")),
            "lexicon": tuple(one.strip() for one in (parsed.lexicon or "").split(",") if one.strip()),
            "baselines": None if parsed.baselines is None else _baselines(parsed.baselines),
        }
    )


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise InputError(f"{name} {text}: give numbers with commas between them, such as {name}=0,1,2") from None


def _words(name: str, text: str, known: Sequence[str]) -> tuple[Any, ...]:
    words = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if wrong := [word for word in words if word not in known]:
        raise InputError(f"{name} {wrong[0]!r} is unknown: use {', '.join(known)}")
    return words


def _baselines(text: str) -> tuple[str, ...]:
    from monosem.flow.grid import BASELINES

    return () if text == "none" else BASELINES if text == "all" else _words("--baselines", text, BASELINES)


def summary(result: Mapping[str, Any]) -> str:
    """Scores of every setting, and which judges stand behind them."""
    rows = result["rows"]
    metrics = list(dict.fromkeys(key for row in rows for key in row["scores"]))
    lines = [
        [row["name"], f"{row['relative_norm']:.3f}", *(_mean(row["scores"].get(key)) for key in metrics)]
        for row in rows
    ]
    notes = ["‖δ‖/‖h‖: mean over steered sites; loss: of the plain model on the text, nats a token; [95 % interval]"]
    offline = result["judges"].get("offline")
    if offline is not None:
        failed = [gate for gate in offline["gates"] if not gate["passed"]]
        notes += [
            f"offline: {gate['scorer']} fails a gate, {gate['name']} {_number(gate['value'])} (asked {gate['limit']})"
            for gate in failed
        ]
    return "\n".join([table(["setting", "‖δ‖/‖h‖", *metrics], lines), *notes])


def pairs(result: Mapping[str, Any], count: int) -> str:
    """Plain text on the left, steered on the right, for the first texts of every setting without a baseline's."""
    plain = {(one["prompt"], one["sample"]): one for row in result["rows"] if not row["axes"] for one in row["texts"]}
    width = max(30, (shutil.get_terminal_size((100, 24)).columns - 3) // 2)
    blocks = []
    for row in result["rows"]:
        if not row["axes"] or row["axes"].get("baseline"):
            continue
        lines = [f"{'plain':<{width}} │ {row['name']}", f"{'─' * width}─┼─{'─' * width}"]
        for one in row["texts"][:count]:
            prompt = result["prompts"][one["prompt"]]
            before = plain.get((one["prompt"], one["sample"]))
            left = prompt + before["text"] if before else ""
            lines += [*_columns(left, prompt + one["text"], width), f"{' ' * width} │"]
        blocks.append("\n".join(line.rstrip() for line in lines[:-1]))
    return "\n\n".join(blocks) if count else ""


def _columns(left: str, right: str, width: int) -> list[str]:
    wrapped = [
        [part for line in side.splitlines() or [""] for part in textwrap.wrap(line, width) or [""]]
        for side in (left, right)
    ]
    longest = max(map(len, wrapped))
    a, b = (side + [""] * (longest - len(side)) for side in wrapped)
    return [f"{one:<{width}} │ {other}" for one, other in zip(a, b)]


def _mean(one: Mapping[str, Any] | None) -> str:
    if one is None or one["value"] is None:
        return "–"
    interval = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
    return f"{one['value']:.3f}{interval}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
