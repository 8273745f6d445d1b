"""How far features can be told from others: by a judge that reads, by sentence embeddings, or by tokens alone.

  monosem score runs/first --judge embedding
  monosem score runs/first --judge lexical
  monosem score runs/first --judge local:HuggingFaceTB/SmolLM2-1.7B-Instruct --method detection,intruder
  monosem score runs/first --features 200 --judge endpoint:https://api.openai.com/v1#gpt-4o-mini --dry-run

detection: does the label say in which passages the feature fires, without marks? fuzzing: are these marks right?
Both are balanced accuracies. intruder: which of five marked passages does not belong? embedding: are contexts in which
a feature fires more like each other than like others (AUC)? lexical: on how few kinds of tokens does it fire? Of its
three figures read bits_below_chance, where higher is more specific; token_entropy follows how often a feature fires.

A judge says nothing where it is not able: one whose features score like random directions, or like its own shuffled
contexts, has measured itself. Sentence embeddings know topics and hardly syntax, and small models do not read well
enough: on SmolLM2-135M neither tells trained from untrained autoencoders.

Positives are from ten groups by strength as evenly as the text allows, half of the silent contexts are such that a
similar feature fires, where there are so many; the last lines say how it came out. Contexts that a label was made from
are not judged. Every table has its controls: contexts shuffled among features, one answer to everything, and random
directions where no autoencoder is untrained (train --controls adds those of a run). Scores of different judges, or of
other contexts, are never merged. [95 % interval] over the features drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from monosem.cli import flag, judging, subject
from monosem.cli.features import gather
from monosem.cli.output import say, show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.evaluation import FeatureStatistics
    from monosem.interpret import Cached, Drawn, Mean, Score

METHODS = ("detection", "fuzzing", "intruder")
SILENT = ("embedding", "lexical")


def arguments(parser: argparse.ArgumentParser) -> None:
    judging.arguments(
        parser,
        "who judges: endpoint:URL#MODEL, local:NAME, embedding or lexical",
        "  embedding, lexical   no language model: all-MiniLM-L6-v2 out of a wheel; tokens alone",
    )
    parser.add_argument("--method", help=f"of a judge that reads, with commas (default: {','.join(METHODS)})")
    parser.add_argument(
        "--labels-of",
        metavar="JUDGE",
        help="judge labels that another judge gave, named as monosem label names it (default: its own)",
    )
    parser.add_argument(
        "--beside",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="beside autoencoders none of which is untrained, score random directions too (default: yes)",
    )


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    methods = _methods(parsed)
    judge = None if parsed.judge in SILENT else judging.open_judge(parsed)
    if judge is None and parsed.dry_run:
        line = f"{parsed.judge} asks nobody and costs nothing"
        return show(parsed, {"judge": parsed.judge, "estimate": {}, "scores": []}, line)
    opened = subject.open_subject(parsed, choice=subject.Choice(parsed.site, parsed.sae))
    judging.remark(opened)
    statistics = gather(opened)
    drawn = {name: judging.drawn(parsed, sae, statistics[name]) for name, sae in opened.saes.items()}
    for name, (sae, own) in _beside(parsed, opened, statistics).items():
        statistics[name], drawn[name] = own, judging.drawn(parsed, sae, own)
    cost: dict[str, Any] = {}
    line = ""
    if judge is None:
        found = _kept(parsed, opened, _silent(parsed, opened, drawn, statistics))
    else:
        cost, line, found = _asking(parsed, judge, opened, drawn, methods)
    value = {"judge": parsed.judge if judge is None else judge.name, "estimate": cost}
    text = line if parsed.dry_run else summary(drawn, found)
    return show(parsed, value | {"scores": [one.to_json() for one in found]}, text)


def _methods(parsed: argparse.Namespace) -> list[str]:
    """Raises `InputError` for an unknown method, and for flags that the judge has no use for."""
    if parsed.judge in SILENT:
        for name in ("method", "labels_of", "max_tokens", "price"):
            if getattr(parsed, name) is not None:
                word = name.replace("_", "-")
                raise InputError(f"--{word} is of judges that are asked, and {parsed.judge} is not: leave it out")
    asked = list(dict.fromkeys(one.strip() for one in (parsed.method or ",".join(METHODS)).split(",")))
    if wrong := [one for one in asked if one not in METHODS]:
        raise InputError(f"--method {wrong[0]} is unknown: use {', '.join(METHODS)}")
    return asked


def _beside(
    parsed: argparse.Namespace, opened: subject.Subject, statistics: dict[str, FeatureStatistics]
) -> dict[str, Any]:
    """Random directions for every site at which no autoencoder is untrained, and where they fire."""
    from monosem.interpret import untrained
    from monosem.interpret.probing_control import UNTRAINED

    places = subject.places(opened.saes) if parsed.beside else {}
    found = {}
    for place, saes in places.items():
        if not any("untrained" in part for name in saes for part in name.split("/")[-1].split("+")):
            name, first = next(iter(saes.items()))
            key = UNTRAINED if len(places) == 1 else f"{UNTRAINED} at {place}"
            found[key] = untrained(first, statistics[name], opened.lm, opened.windows, seed=parsed.seed)
    return found


def _silent(
    parsed: argparse.Namespace,
    opened: subject.Subject,
    drawn: dict[str, Drawn],
    statistics: dict[str, FeatureStatistics],
) -> Iterator[Score]:
    """Scores by a judge that answers no questions."""
    from monosem.interpret import SentenceEncoder, coherence, lexical
    from monosem.lm.spelling import Spelling

    if parsed.judge == "lexical":
        for name, one in drawn.items():
            yield from lexical(statistics[name], one, sae=name)
        return
    encode, spelling = SentenceEncoder.embedded(device=opened.lm.device), Spelling(opened.lm.tokenizer)
    for name, one in drawn.items():
        yield from coherence(encode, one, spelling, judge=f"embedding:{encode.name}", sae=name)


def _asking(
    parsed: argparse.Namespace,
    judge: Cached,
    opened: subject.Subject,
    drawn: dict[str, Drawn],
    methods: list[str],
) -> tuple[dict[str, Any], str, list[Score]]:
    """The estimate of everything, and, unless it was all that was wanted, every score; labels first."""
    from monosem.interpret import labels, usable, write_labels
    from monosem.interpret.agenda import Agenda
    from monosem.lm.spelling import Spelling

    by = parsed.labels_of or judge.name
    known = {
        name: usable(labels(opened.folders[name]) if opened.own and name in opened.folders else {}, one, by)
        for name, one in drawn.items()
    }
    alone = [name for name in drawn if name not in opened.saes]
    agenda = Agenda(
        judge, drawn, methods, known, Spelling(opened.lm.tokenizer), complete=bool(parsed.labels_of), alone=alone
    )
    cost, line = judging.announce(parsed, judge, agenda.questions())
    if parsed.dry_run:
        return cost, line, []
    for name, given in agenda.label():
        if given.missing:
            say(f"{name}: {given.missing} features without a label that could be read")
        if opened.own and name in opened.folders:
            write_labels(opened.folders[name], given.labels)
    return cost, line, _kept(parsed, opened, agenda.scores())


def _kept(parsed: argparse.Namespace, opened: subject.Subject, scores: Iterator[Score]) -> list[Score]:
    """Every score, each written beside its autoencoder's labels as soon as it is there."""
    from monosem.interpret import write_results
    from monosem.interpret.prompt import VERSION

    found = []
    for one in scores:
        found.append(one)
        if opened.own and one.sae in opened.folders:
            by = (parsed.labels_of or one.judge) if one.method in ("detection", "fuzzing") else ""
            write_results(opened.folders[one.sae], [one], VERSION, by)
    return found


def summary(drawn: dict[str, Drawn], found: list[Score]) -> str:
    """A table a judge and method, what the features are from, and what the columns mean."""
    from monosem.interpret import MIXED
    from monosem.interpret.scoring import unmixed

    header = ["autoencoder", "method", "contexts", "score", "chance", "AUC", "features", "asked again", "missing"]
    judges = dict.fromkeys(one.judge for one in found)
    lines = [f"judge: {', '.join(judges)}", table(header, [_row(one) for one in found])]
    lines += [judging.origin(name, one) for name, one in drawn.items()]
    rows = {one.sae for one in found}
    lines += [
        f"no row for {name}: none of its features has a label of that judge" for name in drawn if name not in rows
    ]
    lines += [
        f"no shuffled contexts for {one.method} of {one.sae}: they need {MIXED} features, {len(one.features)} could be "
        "asked about"
        for one in unmixed(found)
    ]
    return "\n".join(lines)


def _row(one: Score) -> list[str]:
    control = {None: "own", "shuffled": "shuffled", "constant": "own, constant answer"}[one.control]
    if one.judge == "lexical" and one.control:
        control = "random tokens"
    figures = [_interval(one.mean), _number(one.chance), _interval(one.auc)]
    features = f"{one.valued} of {one.asked}"
    return [one.sae, one.method, control, *figures, features, str(one.malformed), str(one.missing)]


def _interval(mean: Mean) -> str:
    if mean.value != mean.value:
        return "–"
    bounds = f" [{mean.low:.3f}, {mean.high:.3f}]" if mean.low == mean.low else ""
    return f"{mean.value:.3f}{bounds}"


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"
