"""Measuring a core and everything trained beside it, each on the texts that matter to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from monosem.boost.alignment import Alignment, aligned
from monosem.boost.feature import new_features
from monosem.boost.gain import gains
from monosem.boost.preserved import preserved
from monosem.boost.redundancy import redundancy
from monosem.boost.result import Result
from monosem.evaluation import Evaluation, evaluate
from monosem.lm import LanguageModel
from monosem.progress import remark
from monosem.sae import SAE, groups
from monosem.sae.compose import Group
from monosem.shapes import InputError
from monosem.text import Windows

CORE, ALL, GENERAL = "core", "all domains", "general"
CONTROLS = ("more_latents", "frozen_decoder", "untrained", "scratch")
"""Words of names that are there to say what a residual is worth."""
METRICS = ("explained_variance", "l0", "ce_loss_sae", "ce_loss_clean", "ce_loss_score", "kl_div", "frac_alive")
SPREAD = (0.05, 0.25, 0.5, 0.75, 0.95)


def measured(
    saes: Mapping[str, SAE],
    texts: Mapping[str, Windows],
    lm: LanguageModel,
    *,
    domains: Mapping[str, str],
    loss_windows: int | None = None,
    command: str | None = None,
) -> Result:
    """Figures of all. `saes` are named `core`, DOMAIN/NAME and `all domains`; the last of `texts` is the general one.

    What was trained for a domain is read on that domain's text, the first residual of each on every domain's, and all
    on general text. Raises `InputError` as `evaluate` does.
    """
    if CORE not in saes:
        raise InputError(f"the core is missing among {', '.join(saes)}: name it {CORE!r}")
    *_, general = texts
    firsts = {domain: next(name for name in saes if _is_residual(name, saes, domain)) for domain in domains}
    found: dict[str, dict[str, Evaluation]] = {}
    for text, windows in texts.items():
        chosen = {name: sae for name, sae in saes.items() if text == general or _matters(name, text, firsts)}
        remark(f"measuring {len(chosen)} autoencoders on {text}")
        found[text] = evaluate(chosen, lm, windows, loss_windows=loss_windows, command=command)
    rows = [_row(name, sae, found, general) for name, sae in saes.items()]
    whole = saes.get(ALL) or saes[firsts[next(iter(domains))]]
    alignment = {text: _aligned(aligned(whole, lm, windows)) for text, windows in texts.items()}
    features = {
        domain: new_features(saes[name], lm, texts[domain], found[domain][name], found[general][name], domain)
        for domain, name in firsts.items()
    }
    first = next(iter(found.values()))[CORE]
    origin = {key: first.provenance[key] for key in ("model", "site", "command", "versions") if key in first.provenance}
    origin["texts"] = {text: one[CORE].provenance["text"] for text, one in found.items()}
    origin["tokens"] = {text: one[CORE].n_tokens for text, one in found.items()}
    origin["loss"] = {text: one[CORE].provenance["loss"] for text, one in found.items()}
    return Result(dict(domains), general, rows, alignment, features, origin)


def _is_residual(name: str, saes: Mapping[str, SAE], domain: str) -> bool:
    return name.startswith(f"{domain}/") and "groups" in saes[name].info


def _matters(name: str, text: str, firsts: Mapping[str, str]) -> bool:
    return "/" not in name or name.startswith((f"{text}/", f"{GENERAL}/")) or name in firsts.values()


def _row(name: str, sae: SAE, found: Mapping[str, Mapping[str, Evaluation]], general: str) -> dict[str, Any]:
    domain = name.split("/")[0] if "/" in name else None
    parts = groups(sae)
    texts = {text: _figures(ones[CORE], ones[name], parts) for text, ones in found.items() if name in ones}
    if name != CORE:
        texts[general]["preserved"] = preserved(found[general][CORE], found[general][name]).to_json()
    new = [group.name for group in parts[1:]]
    row: dict[str, Any] = {
        "name": name,
        "domain": domain,
        "kind": _kind(name, sae),
        "n_latents": sae.n_latents,
        "groups": [_group(group) for group in parts],
        "redundancy": {group: redundancy(sae, group) for group in new},
        "texts": texts,
    }
    if domain in found and domain != general and new and name in found[domain]:
        row["specificity"] = _specificity(found[domain][name], found[general][name], parts)
    return row


def _group(group: Group) -> dict[str, Any]:
    training = group.info.get("training", {})
    own = {"name": group.name, "first": group.first, "n_latents": group.n_latents}
    seen = {key: training.get(key) for key in ("tokens", "distinct_tokens")}
    return own | seen | {"k": training.get("config", {}).get("k")}


def _kind(name: str, sae: SAE) -> str:
    if name in (CORE, ALL):
        return CORE if name == CORE else "sum"
    domain, word = name.split("/", 1)
    if domain == GENERAL or any(part in word for part in CONTROLS):
        return "control"
    return "residual" if "groups" in sae.info and word != "grafted" else "baseline"


def _figures(core: Evaluation, own: Evaluation, parts: list[Group]) -> dict[str, Any]:
    metrics = own.to_json()["metrics"]
    assert own.density is not None
    return {
        **{key: metrics[key] for key in METRICS if key in metrics},
        "ev_error": own.errors.get("explained_variance"),
        "l0_by_group": {group.name: float(own.density[group.latents].sum()) for group in parts},
        "dead_by_group": {group.name: float((own.density[group.latents] == 0).double().mean()) for group in parts},
        "gains": gains(core.to_json()["metrics"], metrics),
    }


def specificity(domain: Float64[Tensor, " m"], general: Float64[Tensor, " m"]) -> Float64[Tensor, " m"]:
    """p_domain / (p_domain + p_general) of firing rates; NaN for a latent that never fires."""
    return domain / (domain + general)


def _specificity(domain: Evaluation, general: Evaluation, parts: list[Group]) -> dict[str, list[float] | None]:
    """Quantiles by group of latents that fire."""
    assert domain.density is not None
    assert general.density is not None
    found: dict[str, list[float] | None] = {}
    for group in parts:
        values = specificity(domain.density[group.latents], general.density[group.latents])
        values = values[~values.isnan()]
        found[group.name] = values.quantile(torch.tensor(SPREAD, dtype=values.dtype)).tolist() if len(values) else None
    return found


def _aligned(one: Alignment) -> dict[str, Any]:
    return {"residuals": {name: one.figures(name) for name in one.names}, "conflicts": one.conflicts()}
