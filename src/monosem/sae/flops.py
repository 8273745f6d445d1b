"""What an autoencoder costs: parameters, and multiply-adds of a token (arXiv 2505.22255, eq. 7)."""

from __future__ import annotations

from typing import NamedTuple

from monosem.sae.autoencoder import SAE
from monosem.sae.compose import Group, groups
from monosem.sae.encoder import Encoder
from monosem.sae.grouped import GroupedEncoder
from monosem.sae.kron import KronEncoder
from monosem.sae.rule import BatchTopK, Rule, TopK


class Cost(NamedTuple):
    """Multiply-adds of a forward pass for one token; comparisons of the selection are not counted."""

    encoder: int
    products: int
    decoder: int
    skip: int = 0

    @property
    def total(self) -> int:
        return sum(self)


def cost(sae: SAE, k: int | None = None) -> Cost:
    """Encoder rows · d_in, m·n·h products of pre-latents, k · d_out, and d_in · d_out of a skip connection.

    `k`: active latents, by default `active`.
    """
    return encoder_cost(sae.encoder, sae.d_out, active(sae) if k is None else k)._replace(skip=_skip(sae))


def encoder_cost(encoder: Encoder, d_out: int, k: int) -> Cost:
    """The same, of an encoder that would be used with k active latents."""
    parts = list(encoder) if isinstance(encoder, GroupedEncoder) else [encoder]
    products = sum(part.n_latents for part in parts if isinstance(part, KronEncoder))
    return Cost(sum(part.weight.numel() for part in parts), products, k * d_out)


def dense_cost(d_in: int, n_latents: int, d_out: int, k: int) -> Cost:
    """The same, of the dense TopK encoder of the same sizes."""
    return Cost(d_in * n_latents, 0, k * d_out)


def active(sae: SAE) -> int:
    """Active latents a token: exact for TopK, mean for BatchTopK; for other rules the mean that training ended with.

    Of a composition the sum of its groups. All latents of a group for which that was not stored.
    """
    known = zip(groups(sae), known_active(sae), strict=True)
    return round(sum(group.n_latents if count is None else count for group, count in known))


def known_active(sae: SAE) -> list[float | None]:
    """Active latents a token of each group: its rule's k, or the mean that its training ended with; None if unknown."""
    parts, rules = groups(sae), sae.rules
    if len(rules) < len(parts):  # stitched: one rule for all
        rules = rules * len(parts)
    return [_known(group, rule) for group, rule in zip(parts, rules, strict=True)]


def multiplier(sae: SAE, k: int | None = None) -> float:
    """How many times the tokens of a dense TopK autoencoder of the same sizes cost the same: below 1 it is dearer."""
    k = active(sae) if k is None else k
    dense = dense_cost(sae.d_in, sae.n_latents, sae.d_out, k)._replace(skip=_skip(sae))
    return dense.total / cost(sae, k).total


def encoder_share(sae: SAE) -> float:
    """Encoder rows over those of a dense encoder: 1/m + 1/n for a KronSAE, so 1 + 1/n at m = 1."""
    return encoder_cost(sae.encoder, sae.d_out, 0).encoder / (sae.d_in * sae.n_latents)


def parameters(sae: SAE) -> dict[str, int]:
    """Numbers learned, by part."""
    encoder = sum(weight.numel() for weight in sae.encoder.parameters())
    decoder = sae.W_dec.numel() + sae.b_dec.numel()
    rule = sum(weight.numel() for weight in sae.rule.parameters())
    parts = {"encoder": encoder, "decoder": decoder, "rule": rule} | ({"skip": _skip(sae)} if _skip(sae) else {})
    return parts | {"total": sum(parts.values())}


def _known(group: Group, rule: Rule) -> float | None:
    return float(rule.k) if isinstance(rule, (TopK, BatchTopK)) else group.info.get("training", {}).get("l0")


def _skip(sae: SAE) -> int:
    """The skip connection's weights, which are also its multiply-adds."""
    return 0 if sae.W_skip is None else sae.W_skip.numel()
