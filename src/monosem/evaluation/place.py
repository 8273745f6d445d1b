"""Where several autoencoders are evaluated together: what they read and predict, and which tokens are left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from monosem.lm import LanguageModel
from monosem.sae import SAE
from monosem.shapes import InputError, Site
from monosem.shapes.exclusion import Exclusion


class Place(NamedTuple):
    """The site that is read and the rule, as stored with the autoencoders; of transcoders the predicted site too."""

    site: Site
    exclusion: Exclusion
    predicted: Site | None = None

    @property
    def target(self) -> Site:
        """The site that is explained and replaced."""
        return self.site if self.predicted is None else self.predicted

    def __str__(self) -> str:
        return str(self.site) if self.predicted is None else f"{self.site} → {self.predicted}"


def shared_place(saes: Mapping[str, SAE], lm: LanguageModel) -> Place:
    """Raises `InputError` unless all read one site of this model and predict one, with one rule."""
    if not saes:
        raise InputError("no autoencoder was given: give at least one")
    places = {name: _place(name, sae, lm) for name, sae in saes.items()}
    first = next(iter(saes))
    for name, sae in saes.items():
        own, other = places[name], places[first]
        if own.site != other.site:
            raise InputError(f"{first} reads {other.site} and {name} reads {own.site}: evaluate one site at a time")
        if own.predicted != other.predicted:
            raise InputError(
                f"{first} predicts {other.target} and {name} predicts {own.target}: evaluate one target at a time"
            )
        if own.exclusion != other.exclusion:
            raise InputError(
                f"{first} and {name} leave out different tokens ({other.exclusion}; {own.exclusion}): "
                "evaluate them one at a time"
            )
        _check_width(name, sae, own, lm)
    return places[first]


def _place(name: str, sae: SAE, lm: LanguageModel) -> Place:
    site = lm.site(_stored(name, sae, "site"))
    predicted = lm.site(sae.info["target"]) if "target" in sae.info else None
    return Place(site, _exclusion(name, sae), predicted)


def _check_width(name: str, sae: SAE, place: Place, lm: LanguageModel) -> None:
    read, predicted = lm.width(place.site), lm.width(place.target)
    if (sae.d_in, sae.d_out) == (read, predicted):
        return
    has = f"{place.site} of {lm.name} has width {read}"
    if place.predicted is not None:
        has += f" and {place.predicted} {predicted}"
    raise InputError(
        f"{name} maps width {sae.d_in} to {sae.d_out}, but {has}: use the model and site it was trained on"
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
