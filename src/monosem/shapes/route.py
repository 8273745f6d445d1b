"""From where to where an autoencoder goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from monosem.shapes.site import Site


class Left(NamedTuple):
    """What a frozen autoencoder leaves unexplained of a site."""

    site: Site


class Route(NamedTuple):
    """The site that is read and what is explained instead of it: another site, or what is left of one; None: itself."""

    site: Site
    target: Site | Left | None = None

    @property
    def explained(self) -> Site:
        """The site whose activations, or what is left of them, are the target."""
        target = self.site if self.target is None else self.target
        return target.site if isinstance(target, Left) else target


def sites_of(routes: Iterable[Route]) -> list[Site]:
    """Every site that is read or predicted, once."""
    return list(dict.fromkeys(site for route in routes for site in (route.site, route.explained)))
