"""Figures of several autoencoders on a text: EV, active latents, what the model then loses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch

from monosem.boost import preserved
from monosem.evaluation import Evaluation, evaluate
from monosem.evaluation.batch import Batch
from monosem.evaluation.by_window import ByWindow, Terms
from monosem.evaluation.density import Density
from monosem.reproduce.arm import Measured
from monosem.reproduce.boost.text import Ground, Part, Text
from monosem.sae import SAE, groups

WINDOWS = 4
CE = "ce_loss_sae"
NOWHERE: dict[str, tuple[str, ...]] = {}
"""Where the model is not run."""


@torch.no_grad()
def evaluations(saes: Mapping[str, SAE], part: Part) -> dict[str, Evaluation]:
    """EV and L0 by window, and how often each latent fires; sums in float64."""
    terms, density = ByWindow(), {name: Density(sae.n_latents) for name, sae in saes.items()}
    keeps = part.keep.split(WINDOWS)
    for keep, acts in zip(keeps, part.acts.split([int(keep.sum()) for keep in keeps]), strict=True):
        terms.read(acts, keep)
        for name, sae in saes.items():
            batch = Batch.of(sae, acts)
            terms.update(name, batch)
            density[name].update(batch)
    return {name: _evaluation(terms.terms(name), density[name]) for name in saes}


def _evaluation(terms: dict[str, Terms], density: Density) -> Evaluation:
    metrics = {key: float(one.num.sum() / one.den.sum()) for key, one in terms.items()}
    tokens = int(terms["l0"].den.sum())
    return Evaluation(metrics, {}, {}, {}, {}, tokens, 0, terms=terms, density=density.densities())


def explained(saes: Mapping[str, SAE], part: Part) -> dict[str, float]:
    """EV of each: 1 − Σ‖x − y‖² / Σ‖x − mean‖², the mean over all these tokens."""
    return {name: one.metrics["explained_variance"] for name, one in evaluations(saes, part).items()}


def with_losses(found: dict[str, Evaluation], saes: dict[str, SAE], text: Text, here: Ground, count: int) -> None:
    """Add the model's cross-entropy over the first `count` windows, in nats; nothing where there is no model."""
    if here.lm is None or text.windows is None:
        return
    losses = evaluate(saes, here.lm, text.windows.first(count))
    for name, one in losses.items():
        ce = {key: value for key, value in one.metrics.items() if key.startswith("ce_loss")}
        found[name] = replace(
            found[name], metrics=found[name].metrics | ce, terms=found[name].terms | {CE: one.terms[CE]}
        )


def measured(
    saes: Mapping[str, SAE],
    domain: Text,
    here: Ground,
    *,
    losses: int = 0,
    inside: Mapping[str, Collection[str]] = NOWHERE,
) -> Measured:
    """Figures by name on held-out text of the `domain` and in `general`; `core` is among the names.

    On `losses` windows of each text the model is run with those that `inside` names for it. Of each: `ev`, `l0`,
    `added` (active latents of all groups but the first), where the model was run `ce` and `ce_clean`; of all but the
    core `preserved`, the verdict on general text, and `specificity` where there are added latents.
    """
    on = {}
    for key, text in (("domain", domain), ("general", here.general)):
        on[key] = evaluations(saes, text.held_out)
        replaced = {name: saes[name] for name in inside.get(key, ())}
        if replaced and losses:
            with_losses(on[key], replaced, text, here, losses)
    found: Measured = {}
    for name, sae in saes.items():
        new = groups(sae)[0].n_latents
        found[name] = {text: _figures(one[name], new) for text, one in on.items()}
        if name != "core":
            found[name]["preserved"] = _preserved(on["general"]["core"], on["general"][name])
        if new < sae.n_latents:
            found[name]["specificity"] = specificity(on["domain"][name], on["general"][name], new)
    return found


def _preserved(core: Evaluation, other: Evaluation) -> dict[str, Any]:
    """The verdict on what was measured of both."""
    common = {key: one for key, one in core.terms.items() if key in other.terms}
    return preserved(replace(core, terms=common), other).to_json()


def _figures(one: Evaluation, new: int) -> dict[str, Any]:
    assert one.density is not None
    figures = {
        "ev": one.metrics["explained_variance"],
        "l0": one.metrics["l0"],
        "added": float(one.density[new:].sum()),
    }
    named = {"ce": CE, "ce_clean": "ce_loss_clean"}
    return figures | {key: one.metrics[metric] for key, metric in named.items() if metric in one.metrics}


def specificity(domain: Evaluation, general: Evaluation, new: int) -> float | None:
    """Mean over added latents that fire of p_domain / (p_domain + p_general), p the share of tokens they fire on."""
    assert domain.density is not None
    assert general.density is not None
    own, other = domain.density[new:], general.density[new:]
    fires = own + other > 0
    return float((own / (own + other))[fires].mean()) if fires.any() else None
