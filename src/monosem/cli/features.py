"""What features do: where they fire, what they promote, what fires on a prompt, which belong to a word.

  monosem features runs/first                           the strongest features, one line each
  monosem features runs/first 17 4711                   contexts and tokens of two features
  monosem features runs/first --prompt "The capital of France is"
  monosem features runs/first --search Paris            features that fire on a word, beside it, or promote it
  monosem features runs/first --search "19\\d\\d" --regex
  monosem features runs/demo/saes/topk 17 --json

The first call reads held-out text once and keeps every activation in features.safetensors beside the autoencoder;
--prompt reads the prompt alone, after the token that begins a text in training (--no-lead: without it).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monosem.cli import flag, subject
from monosem.cli.output import show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.evaluation import Context, FeatureStatistics, Hit
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
    parser.add_argument("--search", metavar="WORD", help="find features by a word; case does not count")
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

    flag.use_threads(parsed)
    _check_asked(parsed)
    if parsed.prompt is not None:
        return _run_prompt(parsed)
    opened = subject.open_subject(parsed)
    name = _chosen(parsed, opened.saes)
    sae = opened.saes[name]
    for index in parsed.index:
        if not 0 <= index < sae.n_latents:
            raise InputError(f"feature {index} does not exist in {name}: indices run from 0 to {sae.n_latents - 1}")
    statistics = gather(opened, refresh=parsed.refresh)[name]
    if parsed.search is not None:
        return _run_search(parsed, name, sae, opened.lm, statistics)
    known = labels(opened.folders[name])
    if not parsed.index:
        strongest = strongest_latents(statistics, parsed.list)
        rows = [_row(index, statistics, sae, opened.lm) for index in strongest]
        header = ["feature", "density", "mean", "max", "promotes", "suppresses"]
        if any(index in known for index in strongest):
            header.append("label")
            texts = [known[index][0].text if index in known else "" for index in strongest]
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


def _run_prompt(parsed: argparse.Namespace) -> None:
    from monosem.evaluation import read_prompt

    part, lm = subject.open_saes(parsed)
    name = _chosen(parsed, part.saes)
    sae, statistics = part.saes[name], _stored(part.folders[name], part.saes[name])
    found = read_prompt(sae, lm, parsed.prompt, top=parsed.top, lead=parsed.lead)
    shown = sorted({firing.latent for token in found.tokens for firing in token.firings})
    about = {latent: _about(latent, words, statistics, sae) for latent, words in _promotes(sae, lm, shown).items()}
    value = {"sae": name, **found.to_json(), "features": about}
    show(parsed, value, _prompt_text(name, value, lm.name, statistics is not None))


def _stored(folder: Path, sae: SAE) -> FeatureStatistics | None:
    """Statistics kept from an earlier call; None where there are none."""
    from monosem.evaluation import FeatureStatistics

    path = folder / "features.safetensors"
    found = FeatureStatistics.load(path) if path.exists() else None
    return found if found is not None and found.n_latents == sae.n_latents else None


def _promotes(sae: SAE, lm: LanguageModel, latents: list[int], n: int = 5) -> dict[int, list[str]]:
    """The tokens each latent promotes; none where its rows are not directions of the residual stream."""
    from monosem.evaluation import promoted, promotes
    from monosem.lm.spelling import Spelling

    if not latents or not promotes(sae, lm):
        return {latent: [] for latent in latents}
    spelling, found = Spelling(lm.tokenizer), promoted(sae, lm, latents, min(n, lm.vocab_size)).top_ids.tolist()
    return {latent: [spelling.word(token) for token in row] for latent, row in zip(latents, found, strict=True)}


def _about(latent: int, words: list[str], statistics: FeatureStatistics | None, sae: SAE) -> dict[str, Any]:
    density = None if statistics is None else statistics.density(latent)
    return {"density": density, "promotes": words} | _standing(sae, latent)


def _standing(sae: SAE, latent: int) -> dict[str, Any]:
    """Head, base and extension of a latent of a KronSAE; group and number there of one of a composition."""
    from monosem.report.parent import factors
    from monosem.sae import origin

    found = factors(sae, latent)
    place = {} if found is None else {"factors": found._asdict()}
    return place | ({"origin": "/".join(map(str, origin(sae, latent)))} if "groups" in sae.info else {})


def _prompt_text(name: str, value: dict[str, Any], model: str, densities: bool) -> str:
    """A line a token, and under it a line a feature."""
    width = max(len(repr(token["text"])) for token in value["tokens"])
    lines = [f"{name} at {value['site']} of {model}"]
    for token in value["tokens"]:
        said = f"excluded: {token['excluded']}" if token["excluded"] else f"{token['l0']} active"
        lines.append(f"{token['position']:4}  {token['text']!r:{width}}  {said}")
        lines += [_firing(firing, value["features"][firing["latent"]]) for firing in token["firings"]]
    if not densities:
        lines.append("no densities: monosem features without --prompt gathers them once")
    return "\n".join(lines)


def _firing(firing: dict[str, Any], about: dict[str, Any]) -> str:
    density = "" if about["density"] is None else f"{about['density']:.3%}"
    words = "  ".join(map(repr, about["promotes"]))
    return f"      {_name(firing['latent'], about):>8}  {firing['value']:8.2f}  {density:>8}  {words}".rstrip()


def _name(latent: int, about: dict[str, Any]) -> str:
    """The number of a latent, and where it stands in a KronSAE or a composition."""
    places = [", ".join(map(str, about["factors"].values()))] if "factors" in about else []
    places += [about["origin"]] if "origin" in about else []
    return " ".join([str(latent), *(f"({place})" for place in places)])


def _run_search(
    parsed: argparse.Namespace, name: str, sae: SAE, lm: LanguageModel, statistics: FeatureStatistics
) -> None:
    from monosem.evaluation import search_features

    hits = search_features(statistics, sae, lm, parsed.search, regex=parsed.regex, n=parsed.list)
    value = {"sae": name, "search": parsed.search, "regex": parsed.regex, "tokens": statistics.n_tokens}
    found = [hit._asdict() | {"density": statistics.density(hit.latent)} | _standing(sae, hit.latent) for hit in hits]
    header = ["feature", "why", "mean on it", "elsewhere", "of all", "density", "promoted"]
    rows = [_hit_row(hit, one) for hit, one in zip(hits, found, strict=True)]
    note = (
        f"mean activation over the word's tokens and over all others, of {statistics.n_tokens:,} read; of all: share "
        "of the feature's whole activation that is on the word"
    )
    show(parsed, value | {"features": found}, f"{table(header, rows)}\n{note}")


def _hit_row(hit: Hit, about: dict[str, Any]) -> list[str]:
    promoted = "" if hit.rank is None else f"{hit.promoted!r} rank {hit.rank}"
    means = [f"{hit.mean_on:.3f}", f"{hit.mean_off:.4f}", f"{hit.share:.0%}"]
    return [_name(hit.latent, about), hit.reason, *means, f"{about['density']:.3%}", promoted]


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
    } | _standing(sae, index)


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
        _name(index, feature),
        f"{feature['density']:.2%}",
        f"{feature['mean']:.2f}",
        f"{feature['max']:.2f}",
        *tokens,
    ]


def _text(feature: dict[str, Any]) -> str:
    lines = [
        f"feature {_name(feature['feature'], feature)}: fires on {feature['density']:.3%} of tokens, "
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
