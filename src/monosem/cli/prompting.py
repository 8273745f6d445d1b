"""What fires on each token of a prompt."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.cli import subject
from monosem.cli.latent import labelled, named, standing
from monosem.cli.output import show

if TYPE_CHECKING:
    from monosem.evaluation import FeatureStatistics
    from monosem.lm import LanguageModel
    from monosem.sae import SAE


def run(parsed: argparse.Namespace, part: subject.Part, lm: LanguageModel, name: str) -> None:
    """Show it for one autoencoder, without any text."""
    from monosem.evaluation import read_prompt
    from monosem.interpret.caption import captions

    sae, statistics = part.saes[name], _stored(part.folders[name], part.saes[name])
    found = read_prompt(sae, lm, parsed.prompt, top=parsed.top, lead=parsed.lead)
    shown = sorted({firing.latent for token in found.tokens for firing in token.firings})
    known = captions(part.folders[name])
    about = {
        latent: _about(latent, words, statistics, sae) | labelled(latent, known)
        for latent, words in _promotes(sae, lm, shown).items()
    }
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
    return {"density": density, "promotes": words} | standing(sae, latent)


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
    label = f"  — {about['label']}" if "label" in about else ""
    return f"      {named(firing['latent'], about):>8}  {firing['value']:8.2f}  {density:>8}  {words}{label}".rstrip()
