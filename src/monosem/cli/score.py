"""How far features can be told from others: by a judge that reads, by sentence embeddings, or by tokens alone.

  monosem score runs/first --judge embedding
  monosem score runs/first --judge lexical
  monosem score runs/first --judge local:HuggingFaceTB/SmolLM2-1.7B-Instruct --method detection,intruder
  monosem score runs/first --features 200 --judge endpoint:https://api.openai.com/v1#gpt-4o-mini --dry-run

detection: does the label say in which passages the feature fires, without marks? fuzzing: are these marks right?
Both are balanced accuracies. intruder: which of five marked passages does not belong? embedding: are contexts in which
a feature fires more like each other than like others (AUC)? lexical: on how few kinds of tokens does it fire?

Positives are from ten groups by strength; half of the silent contexts are such that a similar feature fires. Contexts
that a label was made from are not judged. Every table has its controls: contexts shuffled among features, and one
answer to everything; untrained and frozen autoencoders of a run (train --controls) stand in lines of their own. Scores
of different judges are never merged. [95 % interval] over the features drawn.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from monosem.cli import flag, judging, subject
from monosem.cli.features import gather
from monosem.cli.label import labelled
from monosem.cli.output import say, show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.evaluation import FeatureStatistics
    from monosem.interpret import Cached, Drawn, Mean, Plan, Score
    from monosem.lm.spelling import Spelling

METHODS = ("detection", "fuzzing", "intruder")
_UNKNOWN = "a phrase of about as many words as a label has"


def arguments(parser: argparse.ArgumentParser) -> None:
    judging.arguments(
        parser,
        "who judges: endpoint:URL#MODEL, local:NAME, embedding or lexical",
        "  embedding, lexical   no language model: all-MiniLM-L6-v2 out of a wheel; tokens alone",
    )
    parser.add_argument(
        "--method", default=",".join(METHODS), help=f"of a judge that reads (default: {','.join(METHODS)})"
    )
    parser.add_argument(
        "--labels-of",
        metavar="JUDGE",
        help="judge labels that another judge gave, named as monosem label names it (default: its own)",
    )


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    methods = _methods(parsed)
    silent = parsed.judge in ("embedding", "lexical")
    judge = None if silent else judging.open_judge(parsed)
    opened = subject.open_subject(parsed, choice=subject.Choice(parsed.site, parsed.sae))
    statistics = gather(opened)
    drawn = {name: judging.drawn(parsed, sae, statistics[name]) for name, sae in opened.saes.items()}
    cost, found = {}, []
    if judge is None:
        found = _silent(parsed, opened, drawn, statistics)
        if opened.own:
            _write(parsed, opened, found)
    else:
        cost, found = _asking(parsed, judge, opened, drawn, methods)
    value = {"judge": parsed.judge if judge is None else judge.name, "estimate": cost}
    show(parsed, value | {"scores": [one.to_json() for one in found]}, "" if parsed.dry_run else summary(drawn, found))


def _methods(parsed: argparse.Namespace) -> list[str]:
    asked = [one.strip() for one in parsed.method.split(",")]
    if wrong := [one for one in asked if one not in METHODS]:
        raise InputError(f"--method {wrong[0]} is unknown: use {', '.join(METHODS)}")
    return asked


def _silent(
    parsed: argparse.Namespace,
    opened: subject.Subject,
    drawn: dict[str, Drawn],
    statistics: dict[str, FeatureStatistics],
) -> list[Score]:
    """Scores by a judge that answers no questions."""
    from monosem.interpret import SentenceEncoder, coherence, lexical
    from monosem.lm.spelling import Spelling

    if parsed.dry_run:
        say(f"{parsed.judge} asks nobody and costs nothing")
        return []
    if parsed.judge == "lexical":
        return [score for name, one in drawn.items() for score in lexical(statistics[name], one, sae=name)]
    encode, spelling = SentenceEncoder.embedded(device=opened.lm.device), Spelling(opened.lm.tokenizer)
    judge = f"embedding:{encode.name}"
    return [score for name, one in drawn.items() for score in coherence(encode, one, spelling, judge=judge, sae=name)]


def _asking(
    parsed: argparse.Namespace,
    judge: Cached,
    opened: subject.Subject,
    drawn: dict[str, Drawn],
    methods: list[str],
) -> tuple[dict[str, Any], list[Score]]:
    """The estimate of everything, and, unless it was all that was wanted, every score; labels first."""
    from monosem.interpret import score, write_labels
    from monosem.interpret.label import questions
    from monosem.lm.spelling import Spelling

    spelling = Spelling(opened.lm.tokenizer)
    known = {name: _known(parsed, judge, opened, name, one) for name, one in drawn.items()}
    unlabelled = {} if set(methods) == {"intruder"} or parsed.labels_of else _without(drawn, known)
    # Unlike each other, as labels are: what is alike is counted once.
    guessed = {name: {own.latent: f"{_UNKNOWN} {own.latent}" for own in one.features} for name, one in drawn.items()}
    guessed = known if parsed.labels_of else {name: guessed[name] | known[name] for name in drawn}
    asked = [one for name in unlabelled for one in questions(unlabelled[name].features, spelling)]
    planned = _plans(drawn, methods, guessed, judge, spelling)
    asked += [one for plan in planned if plan.control != "constant" for one in plan.questions]
    cost = judging.announce(parsed, judge, asked)
    if parsed.dry_run:
        return cost, []
    for name, one in unlabelled.items():
        given = labelled(judge, one, spelling, name)
        known[name] |= {label.latent: label.text for label in given}
        if opened.own:
            write_labels(opened.folders[name], given)
    found = []
    for plan in _plans(drawn, methods, known, judge, spelling):
        found.append(score(judge, plan))
        if opened.own:
            _write(parsed, opened, found[-1:])
    return cost, found


def _known(
    parsed: argparse.Namespace, judge: Cached, opened: subject.Subject, name: str, drawn: Drawn
) -> dict[int, str]:
    """Labels by the wanted judge that were made from the very contexts that are not judged."""
    from monosem.interpret import labels

    origins = {own.latent: own.origin for own in drawn.features}
    by = parsed.labels_of or judge.name
    return {
        latent: one.text
        for latent, found in (labels(opened.folders[name]).items() if opened.own else ())
        for one in reversed(found)
        if one.judge == by and one.origin == origins.get(latent)
    }


def _without(drawn: dict[str, Drawn], known: dict[str, dict[int, str]]) -> dict[str, Drawn]:
    """The features that have no label yet."""
    from dataclasses import replace

    left = {
        name: replace(one, features=[own for own in one.features if own.latent not in known[name]])
        for name, one in drawn.items()
    }
    return {name: one for name, one in left.items() if one.features}


def _plans(
    drawn: dict[str, Drawn],
    methods: list[str],
    labels: dict[str, dict[int, str]],
    judge: Cached,
    spelling: Spelling,
) -> list[Plan]:
    """Each method on each autoencoder, then its controls, as far as there are features enough."""
    from monosem.interpret import MIXED, plan

    found = []
    for name, one in drawn.items():
        for method in methods:
            usable = len(one.features) if method == "intruder" else len(labels[name])
            controls = (None, *(("shuffled",) if usable >= MIXED else ()), "constant") if usable else ()
            settings: dict[str, Any] = {"labels": labels[name], "per_question": judge.per_question, "sae": name}
            found += [plan(method, one, spelling, control=control, **settings) for control in controls]
    if not found:
        raise InputError("no feature that was drawn has a label: monosem label gives some, with the same --features")
    return found


def _write(parsed: argparse.Namespace, opened: subject.Subject, found: list[Score]) -> None:
    """Scores of the features as they are, beside the labels; controls are for the table alone."""
    from monosem.interpret import Scored, write_scores
    from monosem.interpret.prompt import VERSION

    for one in found:
        if one.control is not None:
            continue
        by = (parsed.labels_of or one.judge) if one.method in ("detection", "fuzzing") else ""
        rows = [
            Scored(own.latent, by, one.judge, one.method, VERSION, own.value, own.answered, own.missing)
            for own in one.features
        ]
        write_scores(opened.folders[one.sae], rows)


def summary(drawn: dict[str, Drawn], found: list[Score]) -> str:
    """A table a judge and method, what the features are from, and what the columns mean."""
    header = ["autoencoder", "method", "contexts", "score", "chance", "AUC", "features", "asked again", "missing"]
    rows = [_row(one) for one in found]
    judges = dict.fromkeys(one.judge for one in found)
    lines = [f"judge: {', '.join(judges)}", table(header, rows)]
    lines += [judging.origin(name, one) for name, one in drawn.items()]
    return "\n".join(lines)


def _row(one: Score) -> list[str]:
    control = {None: "own", "shuffled": "shuffled", "constant": "own, constant answer"}[one.control]
    figures = [_interval(one.mean), _number(one.chance), _interval(one.auc)]
    return [one.sae, one.method, control, *figures, str(len(one.features)), str(one.malformed), str(one.missing)]


def _interval(mean: Mean) -> str:
    if mean.value != mean.value:
        return "–"
    bounds = f" [{mean.low:.3f}, {mean.high:.3f}]" if mean.low == mean.low else ""
    return f"{mean.value:.3f}{bounds}"


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"
