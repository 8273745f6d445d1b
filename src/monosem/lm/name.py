"""The words a person may use for a site."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from monosem.lm.family import Family
from monosem.shapes import InputError, Site


def resolve(text: str | Site, paths: Mapping[Site, str], family: Family, model: str) -> Site:
    """The site among `paths` (site -> module path) that `text` names; else `InputError` with the nearest."""
    found = text if isinstance(text, Site) else _by_path(text, paths, family) or _parsed(text)
    if found in paths:
        return found
    near = ", ".join(_nearest(str(text) if found is None else str(found), list(paths)))
    raise InputError(f"{model} has no site {str(text)!r}: the nearest are {near}")


def _by_path(path: str, paths: Mapping[Site, str], family: Family) -> Site | None:
    """The site at a module: its output where the table has one, else the first site listed there."""
    here = [site for site, at in paths.items() if at == path]
    out = [site for site in here if site.kind == "embed" or family.points[site.kind].where == "out"]
    return next(iter(out + here), None)


def _parsed(text: str) -> Site | None:
    try:
        return Site.parse(text)
    except InputError:
        return None


def _nearest(text: str, sites: list[Site]) -> list[str]:
    """The same kind in the nearest layers the model has, or the sites that are spelled most like `text`."""
    kind, _, layer = text.partition(".")
    same = [site for site in sites if site.kind == kind and site.layer is not None]
    if same and layer.isdecimal():
        wanted = int(layer)
        return [str(site) for site in sorted(same, key=lambda site: abs((site.layer or 0) - wanted))[:3]]
    names = [str(site) for site in sites]
    return difflib.get_close_matches(text, names, n=3, cutoff=0.0)
