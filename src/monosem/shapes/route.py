"""From where to where an autoencoder goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from monosem.shapes.site import Site


class Route(NamedTuple):
    """The site that is read and, of a transcoder, the site that is predicted; None: the site itself."""

    site: Site
    target: Site | None = None


def sites_of(routes: Iterable[Route]) -> list[Site]:
    """Every site that is read or predicted, once."""
    return list(dict.fromkeys(site for route in routes for site in route if site is not None))
