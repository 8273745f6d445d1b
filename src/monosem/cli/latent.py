"""How commands name a latent: its number, where it stands, and what a judge says that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monosem.sae import SAE


def standing(sae: SAE, latent: int) -> dict[str, Any]:
    """Head, base and extension of a latent of a KronSAE; group and number there of one of a composition."""
    from monosem.report.parent import factors
    from monosem.sae import origin

    found = factors(sae, latent)
    place = {} if found is None else {"factors": found._asdict()}
    return place | ({"origin": "/".join(map(str, origin(sae, latent)))} if "groups" in sae.info else {})


def labelled(latent: int, known: dict[int, str]) -> dict[str, str]:
    """Its label, where it has one."""
    return {"label": known[latent]} if latent in known else {}


def named(latent: int, about: dict[str, Any]) -> str:
    """The number of a latent, and where it stands in a KronSAE or a composition."""
    places = [", ".join(map(str, about["factors"].values()))] if "factors" in about else []
    places += [about["origin"]] if "origin" in about else []
    return " ".join([str(latent), *(f"({place})" for place in places)])
