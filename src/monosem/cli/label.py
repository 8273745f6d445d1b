"""A short phrase for what features stand for, by a judge that reads the contexts they fire in.

  monosem label runs/first --judge local:HuggingFaceTB/SmolLM2-1.7B-Instruct
  monosem label runs/first 17 4711 --judge endpoint:http://localhost:8000/v1#qwen3-14b
  monosem label runs/first --features 200 --seed 1 --judge endpoint:https://api.openai.com/v1#gpt-4o-mini --dry-run

The judge sees 16 contexts of each feature: the strongest, and others above the median. Labels are kept in
labels.sqlite beside the autoencoder, where monosem score, features and report find them; answers are kept in the
cache, so that an interrupted run continues and nothing is paid for twice.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from monosem.cli import flag, judging, subject
from monosem.cli.features import gather
from monosem.cli.output import show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.interpret import Cached, Drawn, Label, Question
    from monosem.lm.spelling import Spelling


def arguments(parser: argparse.ArgumentParser) -> None:
    judging.arguments(parser, "who is asked: endpoint:URL#MODEL or local:NAME")
    parser.add_argument("index", type=int, nargs="*", help="features to label (default: some at random)")


def run(parsed: argparse.Namespace) -> None:
    from monosem.interpret import write_labels
    from monosem.lm.spelling import Spelling

    flag.use_threads(parsed)
    judge = judging.open_judge(parsed)
    opened = subject.open_subject(parsed, choice=subject.Choice(parsed.site, parsed.sae))
    for name, sae in opened.saes.items():
        if wrong := [index for index in parsed.index if not 0 <= index < sae.n_latents]:
            raise InputError(f"feature {wrong[0]} does not exist in {name}: indices run from 0 to {sae.n_latents - 1}")
    spelling = Spelling(opened.lm.tokenizer)
    statistics = gather(opened)
    drawn = {
        name: judging.drawn(parsed, sae, statistics[name], parsed.index or None) for name, sae in opened.saes.items()
    }
    cost = judging.announce(parsed, judge, [one for found in drawn.values() for one in _questions(found, spelling)])
    found: dict[str, list[Label]] = {}
    for name, one in () if parsed.dry_run else drawn.items():
        found[name] = labelled(judge, one, spelling, name)
        if opened.own:
            write_labels(opened.folders[name], found[name])
    value = {
        "judge": judge.name,
        "estimate": cost,
        "saes": {name: _json(drawn[name], found.get(name)) for name in drawn},
    }
    show(parsed, value, "\n\n".join(_text(name, drawn[name], labels) for name, labels in found.items()))


def _questions(drawn: Drawn, spelling: Spelling) -> list[Question]:
    from monosem.interpret.label import questions

    return questions(drawn.features, spelling)


def labelled(judge: Cached, drawn: Drawn, spelling: Spelling, name: str) -> list[Label]:
    """Every label that a judge gives."""
    from monosem.interpret import label

    return label(judge, drawn.features, spelling, name).labels


def _json(drawn: Drawn, labels: list[Label] | None) -> dict[str, Any]:
    given = None if labels is None else {"labels": [one._asdict() for one in labels]}
    return drawn.to_json() | (given or {}) | ({} if labels is None else {"missing": len(drawn.features) - len(labels)})


def _text(name: str, drawn: Drawn, labels: list[Label]) -> str:
    rows = [[str(one.latent), one.text] for one in labels]
    missing = len(drawn.features) - len(labels)
    lines = [judging.origin(name, drawn), *([f"{missing} without a label that could be read"] if missing else [])]
    return "\n".join([*lines, _left(rows)])


def _left(rows: list[list[str]]) -> str:
    """A table whose last column is text."""
    width = max((len(row[1]) for row in rows), default=0)
    return table(["feature", "label".ljust(width)], [[index, text.ljust(width)] for index, text in rows])
