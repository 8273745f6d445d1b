"""Tiny models with an autoencoder at every site that features of two layers can come from."""

from __future__ import annotations

import torch

from monosem.flow import Suite
from monosem.lm import LanguageModel
from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, KronEncoder, TopK
from monosem.shapes import Site
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows

D, F = 32, 64
SITES = tuple(Site.parse(f"{kind}.{layer}") for layer in (0, 1, 2) for kind in ("attn_out", "mlp_out", "resid_post"))


def windows(count: int = 2, length: int = 12, seed: int = 1) -> Windows:
    """Random tokens; none is special, and the rule leaves out the first of each window."""
    tokens = torch.randint(2, 300, (count, length), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    return Windows(tokens, torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool), {"corpus": "random"})


def suite(lm: LanguageModel, kind: str = "batch_topk") -> Suite:
    acts = lm.capture(windows(32, 9, seed=9).tokens.long(), SITES)
    return Suite({site: _autoencoder(kind, site, acts[site][:, 1:].reshape(-1, D).float()) for site in SITES})


def _autoencoder(kind: str, site: Site, acts: torch.Tensor) -> SAE:
    generator = torch.Generator().manual_seed(SITES.index(site))
    encoder = KronEncoder(D, F, heads=8, base=2, extension=4) if kind == "kron" else DenseEncoder(D, F)
    rule = {"batch_topk": BatchTopK(F, 5), "jumprelu": JumpReLU(F)}.get(kind, TopK(F, 6))
    sae = SAE(encoder, rule, info={"site": str(site), "exclusion": Exclusion().describe()})
    sae.initialise(acts, generator)
    with torch.no_grad():
        sae.encoder.bias.copy_(torch.randn(sae.encoder.bias.shape, generator=generator) * 0.1)
        if isinstance(rule, BatchTopK):
            rule.cut.fill_(0.8)
        if isinstance(rule, JumpReLU):
            rule.threshold.copy_(torch.rand(F, generator=generator) + 0.4)
    return sae.eval()
