"""The words a person may use for a site."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from monosem.lm.family import Family, Point
from monosem.shapes import InputError, Site


def resolve(text: str | Site, points: Mapping[Site, Point], model: Any, family: Family, name: str) -> Site:
    """The site that `text` names: one of `points` (paths from the model), or the end of a module of `model`.

    Else `InputError`, with the reason if the family lacks the kind, or with the nearest that there are.
    """
    found = text if isinstance(text, Site) else _read(text, model)
    if found in points:
        return found
    if found is not None and found.path is not None and _has(model, found.path):
        return next((site for site, point in points.items() if point == (found.path, found.kind)), found)
    raise InputError(f"{name} has no site {str(text)!r}: {_instead(str(text), found, points, model, family)}")


def _read(text: str, model: Any) -> Site | None:
    """A name, or the path of a module, which means its output."""
    try:
        return Site.parse(text)
    except InputError:
        return Site("out", path=text) if _has(model, text) else None


def _has(model: Any, path: str) -> bool:
    try:
        return bool(path) and model.get_submodule(path) is not None
    except AttributeError:
        return False


def _instead(text: str, found: Site | None, points: Mapping[Site, Point], model: Any, family: Family) -> str:
    """Why there is no such site, and what there is; `found` is how `text` was read."""
    if found is not None and found.kind in family.lacks:
        return f"{family.lacks[found.kind]}; a block has {', '.join(family.points)}"
    path = text if found is None else found.path or ""
    if path.partition(".")[0] in dict(model.named_children()):
        return f"it has no such module, the nearest are {', '.join(_modules(path, model))}"
    if not points:
        example = f"{family.blocks}.{0 if found is None else found.layer or 0}"
        return (
            f"sites of {family.title} models have no names here, give the path of a module, "
            f"such as {example} for its output or {example}:in for its input"
        )
    return f"the nearest are {', '.join(_nearest(text if found is None else str(found), list(points)))}"


def _modules(path: str, model: Any) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    return difflib.get_close_matches(path, names, n=3, cutoff=0.0)


def _nearest(text: str, sites: list[Site]) -> list[str]:
    """The same kind in the nearest layers the model has, or the sites that are spelled most like `text`."""
    kind, _, layer = text.partition(".")
    same = [site for site in sites if site.kind == kind and site.layer is not None]
    if same and layer.isdecimal():
        wanted = int(layer)
        return [str(site) for site in sorted(same, key=lambda site: abs((site.layer or 0) - wanted))[:3]]
    names = [str(site) for site in sites]
    return difflib.get_close_matches(text, names, n=3, cutoff=0.0)
