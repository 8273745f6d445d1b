"""Autoencoders with chosen dictionaries, and suites of them, for the tests of flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monosem.flow import Suite
from monosem.lm import LanguageModel
from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, ReLU, TopK
from monosem.shapes import Site
from monosem.text import Windows

MODEL = {"name": "tiny", "fingerprint": "f", "tokenizer": "t", "d_model": 8, "n_layers": 3}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(count: int, width: int, seed: int = 0) -> Tensor:
    rows = torch.randn(count, width, generator=generator(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def autoencoder(
    W_dec: Tensor,
    W_enc: Tensor | None = None,
    *,
    theta: float | Tensor = 0.5,
    rule: str = "jumprelu",
    bias: Tensor | None = None,
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> SAE:
    """Decoder rows as given; encoder rows the same unless given; thresholds in units of codes."""
    n_latents, width = W_dec.shape
    rules = {
        "jumprelu": lambda: JumpReLU(n_latents),
        "batch_topk": lambda: BatchTopK(n_latents, 2),
        "topk": lambda: TopK(n_latents, 2),
        "relu": lambda: ReLU(n_latents),
    }
    sae = SAE(DenseEncoder(width, n_latents), rules[rule](), info={"model": MODEL, **(info or {})}, **options)
    with torch.no_grad():
        sae.W_dec.copy_(W_dec)
        sae.encoder.weight.copy_(W_dec if W_enc is None else W_enc)
        if bias is not None:
            sae.encoder.bias.copy_(bias)
        if isinstance(sae.rule, JumpReLU):
            sae.rule.threshold.copy_(torch.as_tensor(theta).expand(n_latents))
        if isinstance(sae.rule, BatchTopK):
            sae.rule.cut.fill_(float(theta))
    return sae.eval()


def suite(**saes: SAE | Tensor) -> Suite:
    """`suite(resid_post_1=..., mlp_out_2=...)`; a bare dictionary is an autoencoder with these decoder rows."""
    made = {}
    for name, one in saes.items():
        kind, _, layer = name.rpartition("_")
        made[Site(kind, int(layer))] = one if isinstance(one, SAE) else autoencoder(one)
    for site, sae in made.items():
        sae.info["site"] = str(site)
    return Suite(made)


A, B, C = Site("resid_post", 1), Site("resid_post", 2), Site("resid_post", 3)
WHERE = [Site("resid_post", layer) for layer in range(3)]


def text(rows: int = 5, length: int = 12) -> Windows:
    tokens = torch.randint(2, 300, (rows, length), generator=generator(3)).int()
    return Windows(tokens, torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool), {"name": "random"})


def of_model(lm: LanguageModel, rule: str = "jumprelu", **exclusion) -> Suite:
    saes = {}
    for site in WHERE:
        width = 60
        acts = lm.capture(text(20).tokens, [site])[site][:, 1:].reshape(-1, 32)
        sae = autoencoder(unit(width, 32, site.layer), rule=rule, theta=0.4, info={"exclusion": exclusion})
        sae.scale = sae.code_scale = float((32 / acts.square().sum(1).mean()) ** 0.5)
        with torch.no_grad():
            sae.b_dec.copy_(acts.mean(0) * sae.scale)
            if isinstance(sae.rule, JumpReLU):
                sae.rule.threshold.add_(torch.linspace(-0.2, 0.2, width))
        saes[f"resid_post_{site.layer}"] = sae
    return suite(**saes)
