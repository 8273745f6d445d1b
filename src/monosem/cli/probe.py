"""Do single features hold a property? Sparse probing, and absorption in the first-letter task.

  monosem probe runs/first --task first-letter             absorption, and sparse probing of letters
  monosem probe runs/first --task corpus                   which of eight embedded corpora a text is from
  monosem probe runs/first --task language --k 1,2         which of four languages a speech is in
  monosem probe runs/first --data labels.jsonl --examples 500 --json

A file has one object a line, {"text": "…", "label": "…"}. For every class against the others a logistic regression sees
k latents, chosen by the difference of their means; accuracy (half is chance) and F1 are of texts it has not seen.
Absorption is measured where a linear probe of the activations finds at least 20 letters with F1 > 0.6. Controls are
rows of the same tables: random directions, random latents, shuffled labels and letters, one answer to everything.

Activations that were read are kept in the cache, so that an interrupted probe continues and the next autoencoder is
probed without the model; results are kept beside the autoencoders in probing.json.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.cli import flag, subject
from monosem.cli.attribute import on_model
from monosem.cli.evaluate import budgets
from monosem.cli.output import plain, say, show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.interpret import Absorption, Labelled, Mean, Probing
    from monosem.lm import LanguageModel
    from monosem.sae import SAE

TASKS = ("first-letter", "corpus", "language")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a run, or one autoencoder")
    parser.add_argument("--task", choices=TASKS, help="what is to be told apart")
    parser.add_argument("--data", type=Path, metavar="FILE.jsonl", help="labelled texts of your own instead")
    parser.add_argument(
        "--k",
        default="1,2,5",
        metavar="K[,K]",
        help="latents a probe of sparse probing sees, whatever the task (default: 1,2,5)",
    )
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
    if min(parsed.examples, parsed.length, parsed.batch) < 1 or parsed.shots < 0:
        raise InputError("--examples, --length and --batch: give at least 1 each, and --shots at least 0")
    if parsed.seed < 0:
        raise InputError(f"--seed {parsed.seed}: give 0 or more")
    part, lm = subject.open_saes(parsed, choice=subject.Choice(parsed.site, parsed.sae))
    examples = _examples(parsed, lm, part.config.held_out)
    value: dict[str, Any] = {}
    texts, refusals = [], []
    for place, saes in subject.places(part.saes).items():
        try:
            found = _measured(parsed, lm, saes, examples, ks)
        except InputError as error:
            refusals.append(error)
            value[place] = {"refused": str(error)}
            texts.append(f"{place}: {error}")
            continue
        value[place] = {name: one.to_json() for name, one in found.items()}
        texts += [_TEXTS[name](place, one) for name, one in found.items()]
        _store(parsed, part, lm, place, value[place])
    if len(refusals) == len(value):
        raise refusals[0]
    show(parsed, value, "\n\n".join(texts))


def _measured(
    parsed: argparse.Namespace, lm: LanguageModel, saes: dict[str, SAE], examples: Labelled, ks: tuple[int, ...]
) -> dict[str, Any]:
    """Absorption (of first letters) and probing of the autoencoders of one place.

    Nothing is read where it is known before that neither can be measured. Raises `InputError` for too few examples of
    any other task.
    """
    from monosem.disk import cache_folder
    from monosem.interpret import absorption_task, probing
    from monosem.interpret.probing_control import read_beside

    letters = parsed.task == "first-letter"
    nothing = probing.unread(examples)
    if nothing is not None and not letters:
        raise InputError(nothing.gate)
    absorbed = absorption_task.unread(saes, examples) if letters else None
    if nothing is not None and absorbed is not None:
        return {"absorption": absorbed, "probing": nothing}
    how: dict[str, Any] = {"seed": parsed.seed, "batch": parsed.batch, "keep": cache_folder() / "probing"}
    every, read = read_beside(saes, lm, examples, **how)
    if letters and absorbed is None:
        absorbed = absorption_task.absorption_of(every, read, control=next(iter(saes)), seed=parsed.seed)
    found = {"absorption": absorbed} if letters else {}
    return found | {"probing": probing.probed(read, ks=ks, seed=parsed.seed)}


def _store(
    parsed: argparse.Namespace, part: subject.Part, lm: LanguageModel, place: str, found: dict[str, Any]
) -> None:
    """Write what was measured beside each autoencoder of a place, with the rows of controls."""
    from monosem.evaluation.provenance import of_autoencoder
    from monosem.interpret.probing_file import write_probing

    if other := subject.differing_flags(parsed, part.saes, lm):
        return say(f"not stored beside the autoencoders: {', '.join(other)} is not that of training")
    names = list(subject.places(part.saes)[place])
    for name in names:
        others = {other for other in names if other != name}
        own = {
            "provenance": {
                "command": subject.command(),
                "model": lm.identity(),
                "device": str(lm.device),
                "place": place,
                **of_autoencoder(part.saes[name]),
            }
        }
        own |= {kind: _without(one, others) for kind, one in found.items()}
        write_probing(part.folders[name], parsed.task or parsed.data.name, plain(own))
    return None


def _without(found: dict[str, Any], others: set[str]) -> dict[str, Any]:
    """The same without the rows of other autoencoders; the control of the first stays."""
    rows = found["rows"]
    if isinstance(rows, dict):
        return found | {"rows": {name: row for name, row in rows.items() if name not in others}}
    return found | {"rows": [row for row in rows if row["subject"] not in others]}


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
    from monosem.interpret.absorption_gate import LEAST_F1, LEAST_WORDS
    from monosem.interpret.absorption_task import SHUFFLED

    words, letters = found.settings["words"], len(found.settings["letters"])
    head = f"first-letter absorption at {place}: {words:,} words, seed {found.settings['seed']}"
    if found.gate:
        return f"{head}\n{found.gate}"
    l0 = found.settings["l0"]
    rows = [
        [
            name,
            *map(_mean, (row.fraction, row.full, row.splits, row.f1)),
            f"{l0[name.removesuffix(f': {SHUFFLED}')]:.1f}",
        ]
        for name, row in found.rows.items()
    ]
    notes = [
        f"means over the {letters} letters that a linear probe finds in {LEAST_WORDS} test words or more with F1 > "
        f"{LEAST_F1}, with 95 % intervals",
        "F1: how well the main latents find the letter on test words; where it is low they are latents of something "
        "else, and absorption says nothing, high or low",
    ]
    notes += [
        f"{name}: main latents no better than always yes: {', '.join(row.not_found)}"
        for name, row in found.rows.items()
        if row.not_found
    ]
    if few := found.settings["too few words"]:
        notes.append(f"left out, with fewer than {LEAST_WORDS} words to test on: {', '.join(few)}")
    return "\n".join([head, table(["", "absorption", "full", "main latents", "F1", "L0"], rows), *notes])


def _probing(place: str, found: Probing) -> str:
    head = f"sparse probing at {place}: {found.source}"
    if found.gate:
        return f"sparse probing at {place}\nnot measurable here: {found.gate}"
    rows = [
        [
            f"{row.subject}: {row.kind}" if row.subject else row.kind,
            str(row.k or "–"),
            *map(_mean, (row.accuracy, row.f1)),
        ]
        for row in found.rows
    ]
    settings = found.settings
    counts = ", ".join(f"{name} {train}+{test}" for name, (train, test) in settings["classes"].items())
    notes = [
        f"examples to learn from and to test on, half of them of the class: {counts}",
        "always yes: one answer to everything, which is right half of the time and has F1 two thirds",
    ]
    notes += [
        f"{name}: only {count} latents fire on these examples, so no k is greater"
        for name, count in settings["firing latents"].items()
        if count < max(settings["asked k"])
    ]
    if skipped := settings["skipped classes"]:
        notes.append(f"skipped, with fewer than 10 on either side: {', '.join(skipped)}")
    return "\n".join([f"{head}, seed {settings['probe seed']}", table(["", "k", "accuracy", "F1"], rows), *notes])


_TEXTS = {"absorption": _absorption, "probing": _probing}


def _mean(found: Mean) -> str:
    if not math.isfinite(found.value):
        return "–"
    if not math.isfinite(found.low):
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
