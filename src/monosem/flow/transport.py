"""Carrying codes to the next layer through a match: x̂_{t+1} from x_t without the layer between them.

f̂ = f/θ_t is carried by T (one 1 for each latent, at its match), multiplied by θ_{t+1} and decoded there
(arXiv 2410.07656, section 5.5; arXiv 2502.03032, appendix F). All of it is linear in f, so it is a decoder for the
codes of the earlier layer.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor

from monosem.flow.folding import parameters
from monosem.flow.match import Match
from monosem.flow.suite import Suite
from monosem.flow.threshold import Thresholds, positive_thresholds
from monosem.sae import SAE, GroupedEncoder
from monosem.sae.function import decode
from monosem.shapes import InputError, Site
from monosem.shapes.codes import Codes


class Carried(NamedTuple):
    """ŷ = Σ f_i rows_i + bias, raw, with f as the earlier autoencoder gives them."""

    rows: Float32[Tensor, "F D"]
    bias: Float32[Tensor, " D"]

    def decode(self, codes: Codes) -> Float32[Tensor, "B D"]:
        return decode(codes, self.rows) + self.bias


@torch.no_grad()
def carried(
    suite: Suite, match: Match, *, folded: bool = True, thresholds: Thresholds | None = None, values: bool = False
) -> Carried:
    """A match of all latents of one layer to the next, as a decoder; contributions of many to one add up.

    Folded, an activation is multiplied by θ_j/θ_i on its way, else it is carried in raw units as it is. With `values`
    T holds the scores instead of ones, and all k matches. What has no match is lost.
    """
    _check_whole(suite, match)
    later = suite[match.target]
    unit = _unit(suite, match.source, folded, thresholds)
    dec = parameters(later, _unit(suite, match.target, folded, thresholds), encoder=False).dec
    rows = torch.zeros(len(match), dec.shape[1])
    for place in range(match.indices.shape[1] if values else 1):
        index, score = match.indices[:, place], match.scores[:, place]
        share = (score if values else torch.ones_like(score)) * (index >= 0)
        rows += share[:, None] * dec[index.clamp_min(0)]
    return Carried(rows / unit[:, None], _bias(later))


@torch.no_grad()
def kept(suite: Suite, source: Site, target: Site | None = None) -> Carried:
    """The earlier layer's own decoder, with the bias of `target` instead of its own if one is given."""
    sae = suite[source]
    return Carried(parameters(sae, _ones(sae), encoder=False).dec, _bias(sae if target is None else suite[target]))


@torch.no_grad()
def mixed(suite: Suite, match: Match, quantile: float, *, thresholds: Thresholds | None = None) -> Carried:
    """Latents whose folded decoder rows are nearest to their match's use the later decoder, the others their own.

    `quantile` is the share of the matched latents that do, by mean squared difference. The bias is the later one, so
    that 1 is the whole match and 0 the earlier decoder with the later bias.
    """
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile {quantile}: give a share between 0 and 1")
    through, own = carried(suite, match, thresholds=thresholds), kept(suite, match.source, match.target)
    here, there = (
        parameters(suite[site], _unit(suite, site, True, thresholds), encoder=False).dec
        for site in (match.source, match.target)
    )
    error = (here - there[match.best.clamp_min(0)]).square().mean(1)
    error[~match.matched] = torch.inf
    near = torch.zeros(len(match), dtype=torch.bool)
    near[error.argsort()[: round(quantile * int(match.matched.sum()))]] = True
    return Carried(torch.where(near[:, None], through.rows, own.rows), own.bias)


@torch.no_grad()
def transcoder(suite: Suite, source: Site, target: Site, decoder: Carried) -> SAE:
    """The same as an autoencoder that reads one site and predicts another: to evaluate, splice and save."""
    sae = suite[source]
    made = SAE(
        copy.deepcopy(sae.encoder),
        copy.deepcopy(sae.rule),
        scale=sae.scale,
        code_scale=sae.code_scale,
        out_scale=1.0,
        subtract_b_dec=False,
        info={**sae.info, "target": str(target)},
    )
    if sae.subtract_b_dec:
        encoders = list(made.encoder) if isinstance(made.encoder, GroupedEncoder) else [made.encoder]
        for encoder in encoders:
            encoder.bias.sub_(encoder.weight @ sae.b_dec)
    made.W_dec.copy_(decoder.rows)
    made.b_dec.copy_(decoder.bias)
    return made.eval()


def _unit(suite: Suite, site: Site, folded: bool, given: Thresholds | None) -> Float32[Tensor, " F"]:
    """What a carried activation is measured in, in units of codes."""
    sae = suite[site]
    return positive_thresholds(suite, site, given) if folded else _ones(sae) * sae.code_scale


def _ones(sae: SAE) -> Float32[Tensor, " F"]:
    return torch.ones(sae.n_latents)


def _bias(sae: SAE) -> Float32[Tensor, " D"]:
    return sae.b_dec.detach().float() / sae.out_scale


def _check_whole(suite: Suite, match: Match) -> None:
    if not torch.equal(match.latents, torch.arange(suite.n_latents(match.source))):
        raise InputError(f"{len(match)} latents of {match.source} were matched: codes are carried by a match of all")
