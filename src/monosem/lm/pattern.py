"""Several sites in one text: names and patterns with commas between them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from monosem.shapes import KINDS, InputError, Site
from monosem.shapes.route import Route

if TYPE_CHECKING:
    from monosem.lm.model import LanguageModel


def matching(text: str, lm: LanguageModel) -> list[Site]:
    """The sites that `text` names, each once, in the order in which the model computes them.

    Between commas stands a site as `lm.site` understands it or a pattern: `*` is any characters, `?` one, `[0-5]` one
    of these, `{6,12}` one of the words; it is compared with the names of `lm.sites()` and with those TransformerLens
    gives them. Modules given by their path come last. Raises `InputError` for a name or a pattern without a site.
    """
    known = lm.sites()
    found = [site for part in parts(text) for word in spelled_out(part) for site in _sites(word, known, lm)]
    if not found:
        raise InputError(f"site = {text!r} names nothing: write KIND.LAYER such as resid_post.12")
    place = {site: number for number, site in enumerate(known)}
    return sorted(dict.fromkeys(found), key=lambda site: place.get(site, len(place)))


def routes(site: str, target: str | None, lm: LanguageModel) -> list[Route]:
    """From every site that `site` names to `target`: a site, or a kind such as `mlp_out` for that of the same layer.

    Raises `InputError` for sites the model lacks and for a target that is not computed after its site.
    """
    return [Route(one, _target(target, one, lm)) for one in matching(site, lm)]


def parts(text: str) -> list[str]:
    """What stands between the commas that are not inside braces."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|[^,])+", text) if part.strip()]


def spelled_out(pattern: str) -> list[str]:
    """The pattern with each word of its braces: `mlp_out.{6,12}` is `mlp_out.6` and `mlp_out.12`."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [one for word in match[1].split(",") for one in spelled_out(f"{before}{word.strip()}{after}")]


def _sites(word: str, known: list[Site], lm: LanguageModel) -> list[Site]:
    if not set(word) & set("*?["):
        return [lm.site(word)]
    found = [
        site for site in known if any(fnmatchcase(name, word) for name in (str(site), site.transformer_lens or ""))
    ]
    if not found:
        kinds = ", ".join(dict.fromkeys(site.kind for site in known))
        raise InputError(
            f"no site of {lm.name} matches {word!r}: layers run from 0 to {lm.n_layers - 1}, kinds are {kinds}"
        )
    return found


def _target(text: str | None, site: Site, lm: LanguageModel) -> Site | None:
    if text is None:
        return None
    same_layer = text in KINDS and text != "embed" and site.layer is not None
    target = lm.site(f"{text}.{site.layer}" if same_layer else text)
    known = lm.sites()
    if target in known and site in known and known.index(target) < known.index(site):
        raise InputError(f"target {target} is computed before {site}: a transcoder predicts what comes after its site")
    return None if target == site else target
