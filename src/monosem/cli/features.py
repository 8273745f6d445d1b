"""What features do: where they fire, what they promote, what fires on a prompt, which belong to a word.

  monosem features runs/first                           the strongest features, one line each
  monosem features runs/first 17 4711                   contexts and tokens of two features
  monosem features runs/first --prompt "The capital of France is"
  monosem features runs/first --search Paris            that fire on a word, beside it, promote it, or are labelled so
  monosem features runs/first --search "19\\d\\d" --regex
  monosem features runs/demo/saes/topk 17 --json

The first call reads held-out text once and keeps every activation in features.safetensors beside the autoencoder;
--prompt reads the prompt alone, after the token that begins a text in training (--no-lead: without it).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from monosem.cli import flag, prompting, searching, subject
from monosem.cli.latent import named, standing
from monosem.cli.output import show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.evaluation import Context, FeatureStatistics
    from monosem.lm import LanguageModel
    from monosem.sae import SAE


def arguments(parser: argparse.ArgumentParser) -> None:
    subject.arguments(parser, windows=128)
    parser.add_argument("index", type=int, nargs="*", help="features to show in full")
    parser.add_argument("--sae", help="which autoencoder of a run (default: the first)")
    parser.add_argument("--prompt", metavar="TEXT", help="show what fires on each token of a text")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="features a token of a prompt (default: 5)")
    parser.add_argument(
        "--lead",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put the token that begins a text in training before a prompt, so that its own first token counts "
        "(default: yes)",
    )
    parser.add_argument("--search", metavar="WORD", help="find features by a word, in labels too; case does not count")
    parser.add_argument("--regex", action="store_true", help="take the word as a regular expression")
    parser.add_argument(
        "--contexts", type=int, default=5, metavar="N", help="strongest contexts a feature (default: 5)"
    )
    parser.add_argument(
        "--list", type=int, default=20, metavar="N", help="features to list when none is named (default: 20)"
    )
    parser.add_argument("--refresh", action="store_true", help="read the text again")
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    from monosem.interpret import labels
    from monosem.interpret.caption import caption

    flag.use_threads(parsed)
    _check_asked(parsed)
    if parsed.prompt is not None:
        part, lm = subject.open_saes(parsed)
        return prompting.run(parsed, part, lm, _chosen(parsed, part.saes))
    opened = subject.open_subject(parsed)
    name = _chosen(parsed, opened.saes)
    sae = opened.saes[name]
    for index in parsed.index:
        if not 0 <= index < sae.n_latents:
            raise InputError(f"feature {index} does not exist in {name}: indices run from 0 to {sae.n_latents - 1}")
    statistics = gather(opened, refresh=parsed.refresh)[name]
    if parsed.search is not None:
        return searching.run(parsed, name, sae, opened.lm, statistics, opened.folders[name])
    known = labels(opened.folders[name])
    if not parsed.index:
        strongest = strongest_latents(statistics, parsed.list)
        rows = [_row(index, statistics, sae, opened.lm) for index in strongest]
        header = ["feature", "density", "mean", "max", "promotes", "suppresses"]
        if any(index in known for index in strongest):
            header.append("label")
            texts = [caption(known[index][0]) if index in known else "" for index in strongest]
            rows = [[*row, text] for row, text in zip(rows, texts, strict=True)]
        show(
            parsed,
            {"sae": name, "features": [dict(zip(header, row, strict=True)) for row in rows]},
            table(header, rows),
        )
        return None
    found = [
        detail(index, statistics, sae, opened.lm, parsed.contexts)
        | {"labels": [one._asdict() for one in known.get(index, ())]}
        for index in parsed.index
    ]
    show(parsed, {"sae": name, "features": found}, "\n\n".join(_text(feature) for feature in found))
    return None


def _check_asked(parsed: argparse.Namespace) -> None:
    texts = [f"--{name}" for name in ("prompt", "search") if getattr(parsed, name) is not None]
    both = texts + ["single features"] * bool(parsed.index)
    if len(both) > 1:
        raise InputError(f"{' and '.join(both)} were asked for at once: ask for one of them")
    if parsed.regex and parsed.search is None:
        raise InputError("--regex was given without --search: give an expression to search for")


def _chosen(parsed: argparse.Namespace, saes: dict[str, SAE]) -> str:
    name = parsed.sae or next(iter(saes))
    if name not in saes:
        raise InputError(f"{parsed.folder} has no autoencoder {name!r}: it has {', '.join(saes)}")
    return name


def gather(opened: subject.Subject, *, refresh: bool = False) -> dict[str, FeatureStatistics]:
    """Feature statistics of every autoencoder, from disk where they cover the windows asked for."""
    from monosem.evaluation import FeatureStatistics, feature_statistics

    paths = {name: folder / "features.safetensors" for name, folder in opened.folders.items()}
    if opened.own and not refresh and all(path.exists() for path in paths.values()):
        stored = {name: FeatureStatistics.load(path) for name, path in paths.items()}
        if all(one.n_windows >= len(opened.windows.tokens) for one in stored.values()):
            return stored
    statistics = {}
    for part in subject.by_site(opened).values():
        statistics |= feature_statistics(part.saes, part.lm, part.windows, command=subject.command())
    if opened.own:
        for name, one in statistics.items():
            one.save(paths[name])
    return statistics


def strongest_latents(statistics: FeatureStatistics, count: int) -> list[int]:
    """By largest mean activation, among latents that fire on between 1 in 10,000 and 1 in 100 tokens."""
    fits = (statistics.densities >= 1e-4) & (statistics.densities <= 1e-2)
    order = np.argsort(-np.where(fits, statistics.means, -np.inf), kind="stable")
    return order[: min(count, int(fits.sum()))].tolist()


def detail(index: int, statistics: FeatureStatistics, sae: SAE, lm: LanguageModel, contexts: int) -> dict[str, Any]:
    """Everything about one feature, JSON-able."""
    from monosem.evaluation import promoted, promotes

    tokens = promoted(sae, lm, [index]) if promotes(sae, lm) else None
    decode = lm.tokenizer.decode
    return {
        "feature": index,
        "density": statistics.density(index),
        "mean": statistics.mean(index),
        "max": statistics.max(index),
        "promotes": [] if tokens is None else [decode([token]) for token in tokens.top_ids[0].tolist()],
        "suppresses": [] if tokens is None else [decode([token]) for token in tokens.bottom_ids[0].tolist()],
        "top": [_context(context, lm) for context in statistics.top(index, contexts)],
    } | standing(sae, index)


def _context(context: Context, lm: LanguageModel) -> dict[str, Any]:
    tokens = [lm.tokenizer.decode([token]) for token in context.tokens]
    return {
        "window": context.window,
        "position": context.position,
        "value": context.value,
        "tokens": tokens,
        "values": context.values,
    }


def _label(one: dict[str, Any]) -> str:
    """What a judge says that a feature stands for, and how that stood up."""
    scores = "".join(f"; {key} {value:.2f}" for key, value in one["scores"].items())
    return f"label       {one['text']} (by {one['judge']}{scores})"


def _row(index: int, statistics: FeatureStatistics, sae: SAE, lm: LanguageModel) -> list[str]:
    feature = detail(index, statistics, sae, lm, 0)
    tokens = [" ".join(repr(token)[1:-1] for token in feature[key][:5]) for key in ("promotes", "suppresses")]
    return [
        named(index, feature),
        f"{feature['density']:.2%}",
        f"{feature['mean']:.2f}",
        f"{feature['max']:.2f}",
        *tokens,
    ]


def _text(feature: dict[str, Any]) -> str:
    lines = [
        f"feature {named(feature['feature'], feature)}: fires on {feature['density']:.3%} of tokens, "
        f"mean {feature['mean']:.2f}, max {feature['max']:.2f}",
        "promotes    " + "  ".join(map(repr, feature["promotes"])),
        "suppresses  " + "  ".join(map(repr, feature["suppresses"])),
        *map(_label, feature["labels"]),
    ]
    for context in feature["top"]:
        peak = max(context["values"], default=0.0)
        marked = "".join(
            f"⟦{token}⟧" if value > peak / 2 else token
            for token, value in zip(context["tokens"], context["values"], strict=True)
        )
        lines.append(f"{context['value']:8.2f}  {' '.join(marked.split())}")
    return "\n".join(lines)
