"""Where the latents of one residual site may come from: a match at each origin the suite has."""

from __future__ import annotations

from typing import NamedTuple

from monosem.flow.match import Match, Matcher
from monosem.flow.suite import Suite
from monosem.shapes import InputError, Site


class Predecessors(NamedTuple):
    """Matches of every latent of `site`, by origin: `resid`, `mlp`, `attn`."""

    site: Site
    matcher: str
    matches: dict[str, Match]

    @property
    def available(self) -> tuple[str, ...]:
        return tuple(self.matches)


def predecessors(suite: Suite, layer: int, matcher: Matcher) -> Predecessors:
    """Match all latents of `resid_post.layer` at every origin. Raises `InputError` where the suite has none."""
    site = Site("resid_post", layer)
    return Predecessors(
        site, matcher.name, {kind: matcher.match(suite, site, place) for kind, place in origins(suite, layer).items()}
    )


def origins(suite: Suite, layer: int) -> dict[str, Site]:
    """Sites that features of `resid_post.layer` may come from. Raises `InputError` where the suite has none."""
    site = Site("resid_post", layer)
    found = suite.before(site) if site in suite else {}
    if not found:
        raise InputError(f"layer {layer} cannot be followed back: {_lacking(suite, site)}")
    return found


def followed(suite: Suite) -> list[int]:
    """Layers whose residual features can be followed back to at least one origin."""
    return [layer for layer in suite.layers() if suite.before(Site("resid_post", layer))]


def _lacking(suite: Suite, site: Site) -> str:
    good = ", ".join(map(str, followed(suite))) or "none"
    wanted = ", ".join(str(Site(kind, site.layer)) for kind in ("mlp_out", "attn_out"))
    before = f"resid_post.{site.layer - 1}, " if site.layer else ""
    return f"the suite needs {site} and one of {before}{wanted}; layers that have them: {good}"
