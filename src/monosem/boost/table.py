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
from monosem.boost.rival import GRAFTED
from monosem.evaluation import Evaluation, evaluate
from monosem.lm import LanguageModel
from monosem.progress import remark
from monosem.sae import SAE, groups
from monosem.sae.compose import Group
from monosem.shapes import InputError
from monosem.text import Windows
from monosem.training.recipe import recipe

CORE, ALL, GENERAL = "core", "all domains", "general"
MORE = "more_latents"
"""How names of the core at a larger L0 begin."""
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
    firsts = {domain: _first(domain, saes) for domain in domains}
    found: dict[str, dict[str, Evaluation]] = {}
    for text, windows in texts.items():
        chosen = {name: sae for name, sae in saes.items() if text == general or _matters(name, text, firsts)}
        remark(f"measuring {len(chosen)} autoencoders on {text}")
        found[text] = evaluate(chosen, lm, windows, loss_windows=loss_windows, command=command)
    core = saes[CORE]
    rows = [_row(name, core, sae, found, general) for name, sae in saes.items()]
    whole = saes.get(ALL) or saes[firsts[next(iter(domains))]]
    alignment = {text: _aligned(aligned(core, whole, lm, windows)) for text, windows in texts.items()}
    features = {
        domain: new_features(core, saes[name], lm, texts[domain], found[domain][name], found[general][name], domain)
        for domain, name in firsts.items()
    }
    first = next(iter(found.values()))[CORE]
    origin = {key: first.provenance[key] for key in ("model", "site", "command", "versions") if key in first.provenance}
    origin["texts"] = {text: one[CORE].provenance["text"] for text, one in found.items()}
    origin["tokens"] = {text: one[CORE].n_tokens for text, one in found.items()}
    origin["loss"] = {text: one[CORE].provenance["loss"] for text, one in found.items()}
    return Result(dict(domains), general, rows, alignment, features, origin)


def _first(domain: str, saes: Mapping[str, SAE]) -> str:
    """The first residual of a domain."""
    of_domain = (name for name, sae in saes.items() if name.startswith(f"{domain}/") and _is_sum(sae, domain))
    return next(of_domain)


def _is_sum(sae: SAE, domain: str) -> bool:
    return any(group.name == domain for group in groups(sae))


def parts_of(core: SAE, sae: SAE) -> list[Group]:
    """The core as one group, and every group that is new beside it; one group for what is not made of the core."""
    old = len(groups(core))
    if len(groups(sae)) > old:
        return [Group(CORE, 0, core.n_latents, {}), *groups(sae)[old:]]
    if held := sae.info.get("held_latents"):
        return [Group(CORE, 0, held, {}), Group("new", held, sae.n_latents - held, sae.info)]
    return [Group(CORE, 0, sae.n_latents, sae.info)]


def _matters(name: str, text: str, firsts: Mapping[str, str]) -> bool:
    return "/" not in name or name.startswith((f"{text}/", f"{GENERAL}/")) or name in firsts.values()


def _row(name: str, core: SAE, sae: SAE, found: Mapping[str, Mapping[str, Evaluation]], general: str) -> dict[str, Any]:
    domain = name.split("/")[0] if "/" in name else None
    parts = parts_of(core, sae)
    texts = {text: _figures(ones[CORE], ones[name], parts) for text, ones in found.items() if name in ones}
    if name != CORE:
        texts[general]["preserved"] = preserved(found[general][CORE], found[general][name]).to_json()
    new = parts[1:]
    row: dict[str, Any] = {
        "name": name,
        "domain": domain,
        "kind": _kind(name, sae),
        "n_latents": sae.n_latents,
        "groups": [_group(group) for group in parts],
        "redundancy": {group.name: redundancy(core.W_dec, sae.W_dec[group.latents]) for group in new},
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
    if domain == GENERAL or word.startswith(MORE):
        return "control"
    if word.startswith(GRAFTED):
        return "baseline"
    (kind,) = sae.info["training"]["config"]["sae"]
    made = recipe(kind)
    if made.control not in ("trained", "held_core") or made.role == "scratch":
        return "control"
    return "baseline" if made.role not in (None, "residual") else "residual"


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
