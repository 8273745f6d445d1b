"""Features by a word: those that fire on it, beside it or promote it, and those that a label says it of."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.cli.latent import labelled, named, standing
from monosem.cli.output import show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.evaluation import FeatureStatistics, Hit
    from monosem.lm import LanguageModel
    from monosem.sae import SAE


def run(
    parsed: argparse.Namespace,
    name: str,
    sae: SAE,
    lm: LanguageModel,
    statistics: FeatureStatistics,
    folder: Path,
) -> None:
    """Show them, best first."""
    from monosem.interpret.caption import captions

    known = captions(folder)
    said = _said(folder, parsed.search, parsed.regex)
    hits = _hits(parsed, sae, lm, statistics, bool(said))
    value = {"sae": name, "search": parsed.search, "regex": parsed.regex, "tokens": statistics.n_tokens}
    # What the text shows comes first, each part up to the number asked for: labels are somebody's word.
    asked = {hit.latent: hit._asdict() for hit in hits}
    more = [latent for latent in said if latent not in asked][: parsed.list]
    asked |= {latent: {"latent": latent, "reason": "its label"} for latent in more}
    found = [
        one | {"density": statistics.density(latent)} | standing(sae, latent) | labelled(latent, known)
        for latent, one in asked.items()
    ]
    header = ["feature", "why", "mean on it", "elsewhere", "of all", "density", "promoted"]
    header += ["label"] if known else []
    rows = [_hit_row(one, bool(known)) for one in found]
    note = (
        f"mean activation over the word's tokens and over all others, of {statistics.n_tokens:,} read; of all: share "
        "of the feature's whole activation that is on the word"
    )
    show(parsed, value | {"features": found}, f"{table(header, rows)}\n{note}")


def _said(folder: Path, word: str, regex: bool) -> list[int]:
    """Features that some label says the word of, or part of one; case does not count."""
    from monosem.evaluation.word import Word
    from monosem.interpret import labels

    Word.of(word, regex)  # refuses what is no word and no expression
    pattern = re.compile(word if regex else re.escape(word), re.IGNORECASE)
    return sorted(latent for latent, found in labels(folder).items() if any(pattern.search(one.text) for one in found))


def _hits(
    parsed: argparse.Namespace, sae: SAE, lm: LanguageModel, statistics: FeatureStatistics, said: bool
) -> list[Hit]:
    """What the text shows; nothing instead of an error where the word is in labels alone."""
    from monosem.evaluation import search_features

    try:
        return search_features(statistics, sae, lm, parsed.search, regex=parsed.regex, n=parsed.list)
    except InputError:
        if said:
            return []
        raise


def _hit_row(one: dict[str, Any], column: bool) -> list[str]:
    promoted = "" if one.get("rank") is None else f"{one['promoted']!r} rank {one['rank']}"
    means = ["–"] * 3
    if "share" in one:
        means = [f"{one['mean_on']:.3f}", f"{one['mean_off']:.4f}", f"{one['share']:.0%}"]
    label = [one.get("label", "")] if column else []
    return [named(one["latent"], one), one["reason"], *means, f"{one['density']:.3%}", promoted, *label]
