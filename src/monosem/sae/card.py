"""What a notebook shows of an autoencoder: where it belongs, what it is made of, how it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monosem.sae.encoder import ENCODERS
from monosem.sae.rule import RULES
from monosem.shapes import card
from monosem.shapes.exclusion import Exclusion


def sae_card(sae: Any) -> str:
    """One line each, of what was recorded with a `SAE`."""
    info = sae.info
    scale = f"{sae.scale:.4g}" + (f" in, {sae.out_scale:.4g} out" if sae.out_scale != sae.scale else "")
    rows = {
        "where": _where(info),
        "latents": f"{sae.n_latents:,}, from {sae.d_in:,} numbers a token to {sae.d_out:,}",
        **_made_of(sae),
        "trained": _training(info),
        "scale": f"{scale}; codes in {'raw units' if sae.space == 'raw' else f'units of {sae.code_scale:.4g} · x'}",
        "left out": str(Exclusion.of(info)).removeprefix("excluded: ") if "exclusion" in info else "",
    }
    skip = " with a linear skip" if sae.W_skip is not None else ""
    return card.card(f"{info.get('name', 'transcoder' if info.get('target') else 'autoencoder')}{skip}", rows)


def _where(info: dict[str, Any]) -> str:
    site = info.get("site", "no site is stored")
    target = info.get("target") or site
    model = info.get("model", {}).get("name")
    return (site if target == site else f"{site} → {target}") + (f" of {model}" if model else "")


def _made_of(sae: Any) -> dict[str, str]:
    """Encoder and rule, or of a composition those of each group."""
    if len(sae.rules) == 1:
        return {"encoder": _words(ENCODERS, sae.encoder), "rule": _words(RULES, sae.rule)}
    parts = zip(sae.info["groups"], sae.encoder, sae.rules, strict=True)
    return {
        group["name"]: f"{encoder.n_latents:,} latents; {_words(ENCODERS, encoder)}; {_words(RULES, rule)}"
        for group, encoder, rule in parts
    }


def _words(known: Mapping[str, type], part: Any) -> str:
    """`topk, k = 32`."""
    name = next((name for name, kind in known.items() if type(part) is kind), type(part).__name__)
    return ", ".join([name, *(f"{key} = {value}" for key, value in part.config().items())])


def _training(info: dict[str, Any]) -> str:
    training = info.get("training")
    if not training:
        return "not recorded"
    corpus = info.get("text", {}).get("corpus", "an unnamed text")
    return f"{training['tokens']:,} tokens, {training['distinct_tokens']:,} of them distinct, of {corpus}"
