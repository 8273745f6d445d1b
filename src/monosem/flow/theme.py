"""Which features fire on a theme: rates on its tokens against those of other text, and seeds for steering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from monosem.flow.node import Node
from monosem.flow.sample import Sample
from monosem.flow.suite import Suite
from monosem.lm import LanguageModel
from monosem.sae import SAE
from monosem.shapes import InputError, Site

OFTEN = 0.1
"""Share of the theme's texts that a seed has to fire on (a choice found in public code for arXiv 2502.03032)."""
CLEAR = 3.0
"""z that a feature needs to count as one of the theme."""
_BATCH = 16


class Rates(NamedTuple):
    """Of every latent the share of tokens and of texts that it fires on."""

    tokens: Float64[Tensor, " F"]
    texts: Float64[Tensor, " F"]
    count: int
    """Tokens read."""


class Fired(NamedTuple):
    """One text: the token, within the text itself, and the latent of every firing, and how many tokens there are."""

    place: int
    tokens: Int64[Tensor, " N"]
    latents: Int64[Tensor, " N"]
    length: int


def rates(lm: LanguageModel, site: Site, sae: SAE, texts: Sequence[Sample]) -> Rates:
    """What the plain model has on the tokens of these texts; what is before them does not count."""
    tokens, inside = torch.zeros(2, sae.n_latents, dtype=torch.float64)
    count = 0
    for one in fired(lm, site, sae, texts):
        own = torch.bincount(one.latents, minlength=sae.n_latents)
        tokens += own
        inside += own > 0
        count += one.length
    return Rates(tokens / max(count, 1), inside / max(len(texts), 1), max(count, 1))


def distinction(theme: Rates, other: Rates) -> Float64[Tensor, " F"]:
    """z = (p_t − p_o) / √(p (1 − p) (1/n_t + 1/n_o)) of every latent, p pooled over both."""
    pooled = (theme.tokens * theme.count + other.tokens * other.count) / (theme.count + other.count)
    spread = (pooled * (1 - pooled) * (1 / theme.count + 1 / other.count)).sqrt().clamp_min(1e-12)
    return (theme.tokens - other.tokens) / spread


def seeds(
    lm: LanguageModel, suite: Suite, site: Site, theme: Sequence[Sample], other: Sequence[Sample], count: int = 3
) -> list[Node]:
    """Latents of one site that tell the theme best, among those that fire on a tenth of its texts.

    Raises `InputError` where none does.
    """
    own, others = (rates(lm, site, suite[site].eval(), texts) for texts in (theme, other))
    z = torch.where(own.texts >= OFTEN, distinction(own, others), -torch.inf)
    z[suite.direction(site).dead.cpu()] = -torch.inf
    best = z.topk(min(count, len(z)))
    found = [Node(site, latent) for latent, value in zip(best.indices.tolist(), best.values.tolist()) if value > CLEAR]
    if not found:
        raise InputError(f"no latent of {site} fires more on the theme than on other text: name latents instead")
    return found


@torch.no_grad()
def fired(lm: LanguageModel, site: Site, sae: SAE, texts: Sequence[Sample]) -> Iterator[Fired]:
    """Every text that has tokens, in any order."""
    order = [place for place in range(len(texts)) if texts[place].ids]
    order.sort(key=lambda place: len(texts[place].before) + len(texts[place].ids))
    for start in range(0, len(order), _BATCH):
        places = order[start : start + _BATCH]
        rows = [torch.tensor([*texts[place].before, *texts[place].ids]) for place in places]
        # Padding comes behind, where no token that counts sees it; it repeats a token of the text itself.
        longest = max(map(len, rows))
        tokens = torch.stack([torch.cat([row, row[-1:].expand(longest - len(row))]) for row in rows])
        acts = lm.capture(tokens, [site])[site]
        for place, row, act in zip(places, rows, acts):
            first = max(1, len(texts[place].before))
            found, latents, _ = sae.codes(act[first : len(row)].to(sae.W_dec)).entries()
            yield Fired(place, found.cpu(), latents.cpu(), len(row) - first)
