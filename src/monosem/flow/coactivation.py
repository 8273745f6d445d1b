"""Groups by activations: for every active feature, which of its matches are active on the same token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.activations.live import PASS_WINDOWS
from monosem.flow.group import Groups, counted, group_of
from monosem.flow.match import Matcher
from monosem.flow.predecessor import Predecessors, predecessors
from monosem.flow.suite import Suite
from monosem.lm import LanguageModel
from monosem.progress import progress
from monosem.shapes import InputError, Site
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows


class Seen(NamedTuple):
    """Kept tokens of some windows: which window each is in, where, and its activations by site."""

    windows: Int64[Tensor, " N"]
    positions: Int64[Tensor, " N"]
    acts: dict[Site, Float[Tensor, "N D"]]


@torch.no_grad()
def groups(
    suite: Suite,
    lm: LanguageModel,
    windows: Windows,
    matcher: Matcher,
    layers: Sequence[int],
    *,
    tokens: int | None = None,
    shuffled: bool = False,
    seed: int = 0,
) -> dict[int, Groups]:
    """The eight groups of section 5.1 and appendix A.1 of arXiv 2502.03032, by layer; one pass of the model for all.

    `tokens`: as many kept tokens of every window, drawn with `seed` (None: all). `shuffled`: the control in which
    origins are read at other tokens of the same windows. Tokens that the rule of any autoencoder leaves out do not
    count. Raises `InputError` for layers that cannot be followed back.
    """
    found = {layer: predecessors(suite, layer, matcher) for layer in dict.fromkeys(layers)}
    sites = list(dict.fromkeys(site for layer in found for site in involved(suite, layer)))
    counts = {layer: [torch.zeros(0, 8, dtype=torch.int64)] for layer in found}
    totals = {layer: torch.zeros(suite.n_latents(one.site), 8, dtype=torch.int64) for layer, one in found.items()}
    rng = np.random.default_rng(seed)
    with progress("groups by activations", windows.tokens.numel(), "tok") as bar:
        for start in range(0, len(windows.tokens), PASS_WINDOWS):
            part = slice(start, start + PASS_WINDOWS)
            seen = _seen(suite, lm, windows, part, sites, tokens, rng)
            order = torch.from_numpy(rng.permutation(len(seen.windows))) if shuffled else None
            for layer, one in found.items():
                total, by_window = _counts(suite, one, seen, order, len(windows.tokens[part]))
                totals[layer] += total
                counts[layer].append(by_window)
            bar.advance(windows.tokens[part].numel())
    return {
        layer: Groups(one.site, one.matcher, one.available, totals[layer], torch.cat(counts[layer]))
        for layer, one in found.items()
    }


def involved(suite: Suite, layer: int) -> list[Site]:
    """A residual site and its origins."""
    site = Site("resid_post", layer)
    return [site, *suite.before(site).values()]


def kept(suite: Suite, special: Bool[Tensor, "W T"], acts: dict[Site, Float[Tensor, "W T D"]]) -> Bool[Tensor, "W T"]:
    """Tokens that no autoencoder's rule leaves out."""
    out = torch.zeros_like(special)
    for site in acts:
        out |= Exclusion.of(suite[site].info, str(site)).mask(special, acts).to(out.device)
    return ~out


def _seen(
    suite: Suite,
    lm: LanguageModel,
    windows: Windows,
    part: slice,
    sites: Sequence[Site],
    tokens: int | None,
    rng: np.random.Generator,
) -> Seen:
    acts = lm.capture(windows.tokens[part], sites)
    keep = kept(suite, windows.special[part], acts)
    if tokens is not None:
        keep = torch.stack([chosen(row, tokens, rng) for row in keep])
    which, positions = keep.nonzero(as_tuple=True)
    return Seen(
        which, positions, {site: act[which.to(act.device), positions.to(act.device)] for site, act in acts.items()}
    )


def chosen(keep: Bool[Tensor, " T"], count: int, rng: np.random.Generator) -> Bool[Tensor, " T"]:
    """Up to `count` of the kept tokens of a window."""
    if count < 1:
        raise InputError(f"{count} tokens of a window were asked for: give at least 1")
    places = keep.nonzero()[:, 0].numpy()
    picked = torch.zeros_like(keep)
    picked[torch.from_numpy(rng.permutation(places)[:count])] = True
    return picked


def _counts(
    suite: Suite, one: Predecessors, seen: Seen, order: Int64[Tensor, " N"] | None, n_windows: int
) -> tuple[Int64[Tensor, "F 8"], Int64[Tensor, "W 8"]]:
    rows, latents = _entries(suite, one.site, seen)
    active = {kind: _active(suite, match.target, seen, order) for kind, match in one.matches.items()}
    codes = group_of(one.matches, active, rows, latents)
    return counted(latents, codes, suite.n_latents(one.site)), counted(seen.windows[rows], codes, n_windows)


def _entries(suite: Suite, site: Site, seen: Seen) -> tuple[Int64[Tensor, " E"], Int64[Tensor, " E"]]:
    rows, latents, values = suite[site].codes(seen.acts[site].to(suite[site].W_dec)).entries()
    return rows[values > 0].cpu(), latents[values > 0].long().cpu()


def _active(suite: Suite, site: Site, seen: Seen, order: Int64[Tensor, " N"] | None) -> Bool[Tensor, "N G"]:
    rows, latents = _entries(suite, site, seen)
    active = torch.zeros(len(seen.windows), suite.n_latents(site), dtype=torch.bool)
    active[rows, latents] = True
    return active if order is None else active[order]
