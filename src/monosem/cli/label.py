"""A short phrase for what features stand for, by a judge that reads the contexts they fire in.

  monosem label runs/first --judge local:HuggingFaceTB/SmolLM2-1.7B-Instruct
  monosem label runs/first 17 4711 --judge endpoint:http://localhost:8000/v1#qwen3-14b
  monosem label runs/first --features 200 --seed 1 --judge endpoint:https://api.openai.com/v1#gpt-4o-mini --dry-run

Numbers of features come right behind the folder. The judge sees 16 contexts of each feature: the strongest, and others
above the median. Labels are kept in labels.sqlite beside the autoencoder, where monosem score, features and report find
them; answers are kept in the cache, so that an interrupted run continues and nothing is paid for twice. An answer that
cannot be read is asked for once more, then the feature has no label until the next run.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from monosem.cli import flag, judging, subject
from monosem.cli.features import gather
from monosem.cli.output import show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.interpret import Drawn
    from monosem.interpret.labelling import Labelling

_WIDE = 100


def arguments(parser: argparse.ArgumentParser) -> None:
    judging.arguments(parser, "who is asked: endpoint:URL#MODEL or local:NAME")
    parser.add_argument("index", type=int, nargs="*", help="features to label (default: some at random)")


def run(parsed: argparse.Namespace) -> None:
    from monosem.interpret import label, write_labels
    from monosem.interpret.labelling import questions
    from monosem.lm.spelling import Spelling

    flag.use_threads(parsed)
    judge = judging.open_judge(parsed)
    opened = subject.open_subject(parsed, choice=subject.Choice(parsed.site, parsed.sae))
    named = list(dict.fromkeys(parsed.index))
    for name, sae in opened.saes.items():
        if wrong := [index for index in named if not 0 <= index < sae.n_latents]:
            raise InputError(f"feature {wrong[0]} does not exist in {name}: indices run from 0 to {sae.n_latents - 1}")
    judging.remark(opened)
    spelling = Spelling(opened.lm.tokenizer)
    statistics = gather(opened)
    drawn = {
        name: judging.drawn(parsed, sae, statistics[name], named or None, judged=not named)
        for name, sae in opened.saes.items()
    }
    cost, line = judging.announce(
        parsed, judge, [one for own in drawn.values() for one in questions(own.features, spelling)]
    )
    found: dict[str, Labelling] = {}
    for name, one in () if parsed.dry_run else drawn.items():
        found[name] = label(judge, one.features, spelling, name)
        if opened.own:
            write_labels(opened.folders[name], found[name].labels)
    saes = {name: _json(drawn[name], found.get(name)) for name in drawn}
    text = line if parsed.dry_run else "\n\n".join(_text(name, drawn[name], own) for name, own in found.items())
    show(parsed, {"judge": judge.name, "estimate": cost, "saes": saes}, text)


def _json(drawn: Drawn, found: Labelling | None) -> dict[str, Any]:
    if found is None:
        return drawn.to_json()
    labels = [one._asdict() for one in found.labels]
    return drawn.to_json() | {"labels": labels, "malformed": found.malformed, "missing": found.missing}


def _text(name: str, drawn: Drawn, found: Labelling) -> str:
    rows = [[str(one.latent), _short(one.text)] for one in found.labels]
    lines = [judging.origin(name, drawn, judged=False)]
    if found.malformed:
        lines.append(f"{found.malformed} asked again, {found.missing} without a label that could be read")
    return "\n".join([*lines, _left(rows)])


def _short(text: str) -> str:
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 1]}…"


def _left(rows: list[list[str]]) -> str:
    """A table whose last column is text."""
    width = max((len(row[1]) for row in rows), default=0)
    return table(["feature", "label".ljust(width)], [[index, text.ljust(width)] for index, text in rows])
