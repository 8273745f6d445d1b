"""A tiny model with an autoencoder at every site of three layers, for the tests of steering."""

from __future__ import annotations

import functools

import torch

import tiny
from monosem.flow import Suite
from monosem.lm import LanguageModel
from monosem.sae import SAE, DenseEncoder, JumpReLU, TopK
from monosem.shapes import Site
from monosem.shapes.exclusion import Exclusion

D, F = 32, 64
SITES = [Site(kind, layer) for layer in range(3) for kind in ("attn_out", "mlp_out", "resid_post")]


@functools.cache
def lm() -> LanguageModel:
    return tiny.llama()


@functools.cache
def suite(rule: str = "jumprelu", first: int = 1) -> Suite:
    tokens = torch.randint(2, 300, (32, 9), generator=torch.Generator().manual_seed(9))
    acts = lm().capture(tokens, SITES)
    return Suite({site: _sae(site, acts[site][:, 1:].reshape(-1, D), rule, first) for site in SITES})


def _sae(site: Site, acts: torch.Tensor, rule: str, first: int) -> SAE:
    generator = torch.Generator().manual_seed(SITES.index(site))
    identity = {**lm().identity(), "fingerprint": "tiny"}
    info = {"site": str(site), "exclusion": Exclusion(first=first).describe(), "model": identity}
    sae = SAE(DenseEncoder(D, F), JumpReLU(F) if rule == "jumprelu" else TopK(F, 6), info=info)
    sae.initialise(acts, generator)
    with torch.no_grad():
        sae.encoder.bias.copy_(torch.randn(F, generator=generator) * 0.1)
        if isinstance(sae.rule, JumpReLU):
            sae.rule.threshold.copy_(torch.rand(F, generator=generator) + 0.3)
    return sae.eval()


def ids(rows: int = 2, length: int = 7, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, 300, (rows, length), generator=torch.Generator().manual_seed(seed))
