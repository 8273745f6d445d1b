"""Do single features hold a property? Sparse probing, and absorption in the first-letter task.

  monosem probe runs/first --task first-letter             absorption, and sparse probing of letters
  monosem probe runs/first --task corpus                   which of eight embedded corpora a text is from
  monosem probe runs/first --task language --k 1,2         which of four languages a speech is in
  monosem probe runs/first --data labels.jsonl --examples 500 --json

A file has one object a line, {"text": "…", "label": "…"}. For every class against the others a logistic regression sees
k latents, chosen by the difference of their means; accuracy (half is chance) and F1 are of texts it has not seen.
Absorption is measured where a linear probe of the activations finds at least 20 letters with F1 > 0.6.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.cli import flag, subject
from monosem.cli.attribute import on_model
from monosem.cli.evaluate import budgets
from monosem.cli.output import show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.interpret import Absorption, Labelled, Mean, Probing
    from monosem.lm import LanguageModel

TASKS = ("first-letter", "corpus", "language")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a run, or one autoencoder")
    parser.add_argument("--task", choices=TASKS, help="what is to be told apart")
    parser.add_argument("--data", type=Path, metavar="FILE.jsonl", help="labelled texts of your own instead")
    parser.add_argument("--k", default="1,2,5", metavar="K[,K]", help="latents a probe sees (default: 1,2,5)")
    parser.add_argument(
        "--examples",
        type=int,
        default=200,
        metavar="N",
        help="texts a label, or words a letter, at most (default: 200)",
    )
    parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens read of a text (default: 128)")
    parser.add_argument(
        "--shots", type=int, default=10, metavar="N", help="words spelled before one in question (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw, split and random baselines (default: 0)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="texts in one pass (default: 16)")
    subject.choosing(parser)
    on_model(parser)
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    ks = budgets(parsed.k)
    if (parsed.task is None) == (parsed.data is None):
        raise InputError(f"give either --task ({', '.join(TASKS)}) or --data FILE.jsonl")
    if not ks or min(ks) < 1:
        raise InputError(f"--k {parsed.k}: give at least one latent, such as 1,2,5")
    if min(parsed.examples, parsed.length, parsed.batch) < 1:
        raise InputError("--examples, --length and --batch: give at least 1 each")
    from monosem.interpret.absorption_task import absorption_of
    from monosem.interpret.probing import probed
    from monosem.interpret.probing_control import read_beside

    part, lm = subject.open_saes(parsed, choice=subject.Choice(parsed.site, parsed.sae))
    examples = _examples(parsed, lm, part.config.held_out)
    value, texts = {}, []
    for place, saes in subject.places(part.saes).items():
        value[place] = {}
        every, read = read_beside(saes, lm, examples, seed=parsed.seed, batch=parsed.batch)
        if parsed.task == "first-letter":
            absorbed = absorption_of(every, read)
            value[place]["absorption"] = absorbed.to_json()
            texts.append(_absorption(place, absorbed))
        found = probed(read, ks=ks, seed=parsed.seed)
        value[place]["probing"] = found.to_json()
        texts.append(_probing(place, found))
    show(parsed, value, "\n\n".join(texts))


def _examples(parsed: argparse.Namespace, lm: LanguageModel, held_out: float) -> Labelled:
    from monosem.interpret.first_letter import first_letters
    from monosem.interpret.probing_data import CORPORA, LANGUAGES, corpora, read_labelled

    drawn: dict[str, Any] = {"each": parsed.examples, "length": parsed.length, "seed": parsed.seed}
    if parsed.data is not None:
        return read_labelled(lm.tokenizer, parsed.data, **drawn)
    if parsed.task == "first-letter":
        return first_letters(lm.tokenizer, per_letter=parsed.examples, shots=parsed.shots, seed=parsed.seed)
    names = dict(zip(CORPORA, CORPORA)) if parsed.task == "corpus" else LANGUAGES
    return corpora(lm.tokenizer, names, held_out=held_out, **drawn)


def _absorption(place: str, found: Absorption) -> str:
    words, letters = found.settings["words"], len(found.settings["letters"])
    head = f"first-letter absorption at {place}: {words:,} words, seed {found.settings['seed']}"
    if found.gate:
        return f"{head}\n{found.gate}"
    rows = [
        [name, _mean(row.fraction), _mean(row.full), _mean(row.splits), f"{found.settings['l0'][name]:.1f}"]
        for name, row in found.rows.items()
    ]
    note = (
        f"means over the {letters} letters whose probe has F1 > 0.6, with 95 % intervals; lower is better, but an "
        "autoencoder that has learned nothing is low too"
    )
    return f"{head}\n{table(['', 'absorption', 'full', 'main latents', 'L0'], rows)}\n{note}"


def _probing(place: str, found: Probing) -> str:
    rows = [
        [f"{row.subject or '–'}: {row.kind}", str(row.k or "–"), _mean(row.accuracy), _mean(row.f1)]
        for row in found.rows
    ]
    classes = found.settings["classes"]
    counts = ", ".join(f"{name} {train}+{test}" for name, (train, test) in classes.items())
    notes = [f"examples to learn from and to test on, half of them of the class: {counts}"]
    if skipped := found.settings["skipped classes"]:
        notes.append(f"skipped, with fewer than 10 on either side: {', '.join(skipped)}")
    head = f"sparse probing at {place}: {found.source}, seed {found.settings['probe seed']}"
    return "\n".join([head, table(["", "k", "accuracy", "F1"], rows), *notes])


def _mean(found: Mean) -> str:
    if not math.isfinite(found.value):
        return "–"
    if not math.isfinite(found.low):
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
