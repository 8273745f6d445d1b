"""Where several autoencoders are evaluated together: one site, and one rule for the tokens left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from monosem.activations.exclusion import Exclusion
from monosem.lm import LanguageModel
from monosem.sae import SAE
from monosem.shapes import InputError, Site


class Place(NamedTuple):
    """The site and the rule, as stored with the autoencoders."""

    site: Site
    exclusion: Exclusion


def shared_place(saes: Mapping[str, SAE], lm: LanguageModel) -> Place:
    """Raises `InputError` unless all autoencoders belong to one site of this model, with one rule."""
    if not saes:
        raise InputError("no autoencoder was given: give at least one")
    sites = {name: lm.site(_stored(name, sae, "site")) for name, sae in saes.items()}
    rules = {name: _exclusion(name, sae) for name, sae in saes.items()}
    first = next(iter(saes))
    for name, sae in saes.items():
        if sites[name] != sites[first]:
            raise InputError(
                f"{first} reads {sites[first]} and {name} reads {sites[name]}: evaluate one site at a time"
            )
        if rules[name] != rules[first]:
            raise InputError(
                f"{first} and {name} leave out different tokens ({rules[first]}; {rules[name]}): "
                "evaluate them one at a time"
            )
        _check_width(name, sae, sites[name], lm)
    return Place(sites[first], rules[first])


def _check_width(name: str, sae: SAE, site: Site, lm: LanguageModel) -> None:
    width = lm.width(site)
    if (sae.d_in, sae.d_out) != (width, width):
        raise InputError(
            f"{name} maps width {sae.d_in} to {sae.d_out}, but {site} of {lm.name} has width {width}: "
            "use the model and site it was trained on"
        )


def _stored(name: str, sae: SAE, key: str) -> Any:
    if key not in sae.info:
        raise InputError(f"{name} does not say its {key}: set sae.info[{key!r}]")
    return sae.info[key]


def _exclusion(name: str, sae: SAE) -> Exclusion:
    stored = _stored(name, sae, "exclusion")
    try:
        return Exclusion(**stored)
    except TypeError:
        known = ", ".join(Exclusion().describe())
        raise InputError(f"{name} stores the exclusion rule {stored!r}: expected the keys {known}") from None
