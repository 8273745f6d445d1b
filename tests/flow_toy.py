"""The toy network of identity test 8: where every feature comes from is known, and known exactly.

Directions are orthonormal. One block lies between resid_post.0 and resid_post.1: attention writes what its triggers in
the stream say, the MLP writes a·q'_i where the stream carries a·q_i, and what its own triggers say. Persisting features
are read from the stream, unchanged; processed ones along (q_i + q'_i)/√2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

import tiny
from monosem.flow import Suite
from monosem.lm import LanguageModel
from monosem.sae import SAE, DenseEncoder, JumpReLU
from monosem.shapes import Site
from monosem.text import Windows

D, EACH, THRESHOLD = 128, 12, 0.5
CODES = {"persisted": 1, "processed": 3, "mlp_born": 2, "attn_born": 4}
"""The co-activation group of each kind of feature."""


class Toy(NamedTuple):
    """The network, its dictionaries, and the kind of every latent at resid_post.1."""

    lm: LanguageModel
    suite: Suite
    kinds: list[str]


class _Linear(nn.Module):
    """x · reads, rectified, along `writes`."""

    def __init__(self, reads: Tensor, writes: Tensor) -> None:
        super().__init__()
        self.register_buffer("reads", reads)
        self.register_buffer("writes", writes)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.reads.T).relu() @ self.writes


class _Attention(nn.Module):
    def __init__(self, reads: Tensor, writes: Tensor) -> None:
        super().__init__()
        self.o_proj = _Linear(reads, writes)

    def forward(self, x: Tensor) -> Tensor:
        return self.o_proj(x)


class _Block(nn.Module):
    def __init__(self, attention: tuple[Tensor, Tensor], mlp: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.self_attn, self.post_attention_layernorm, self.mlp = _Attention(*attention), nn.Identity(), _Linear(*mlp)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(x)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Stack(nn.Module):
    def __init__(self, embedding: Tensor, blocks: list[_Block]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding.from_pretrained(embedding)
        self.layers, self.norm = nn.ModuleList(blocks), nn.Identity()


class Network(nn.Module):
    """With the names of a Llama, and no memory: a token's activations depend on that token alone."""

    def __init__(self, embedding: Tensor, blocks: list[_Block], unembedding: Tensor) -> None:
        super().__init__()
        self.config = LlamaConfig(
            vocab_size=len(embedding), hidden_size=D, num_hidden_layers=len(blocks), num_attention_heads=4
        )
        self.model = _Stack(embedding, blocks)
        self.lm_head = nn.Linear(D, len(embedding), bias=False)
        self.lm_head.weight = nn.Parameter(unembedding)

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, input_ids: Tensor, **_) -> CausalLMOutputWithPast:
        x = self.model.embed_tokens(input_ids)
        for block in self.model.layers:
            x = block(x)
        return CausalLMOutputWithPast(logits=self.lm_head(self.model.norm(x)))


def toy(seed: int = 0) -> Toy:
    """12 features of each kind; the latents of resid_post.1 are shuffled."""
    generator = torch.Generator().manual_seed(seed)
    # Axes in random order: the cosine of two directions is 0, not 1e-9 of which half would be matches.
    basis = torch.eye(D)[torch.randperm(D, generator=generator)]
    persisted, q, written, born, attended, trigger, heard = basis[: 7 * EACH].split(EACH)
    blocks = [
        _Block((basis[:0], basis[:0]), (basis[:0], basis[:0])),
        _Block((heard, attended), (torch.cat([q, trigger]), torch.cat([written, born]))),
    ]
    embedding = _embedding(torch.cat([persisted, q, trigger, heard]), generator)
    network = Network(embedding, blocks, torch.randn(len(embedding), D, generator=generator) * 0.3)
    rows = torch.cat([persisted, (q + written) / 2**0.5, born, attended])
    order = torch.randperm(len(rows), generator=generator)
    saes = {
        "resid_post.0": torch.cat([persisted, q]),
        "attn_out.1": attended,
        "mlp_out.1": torch.cat([written, born]),
        "resid_post.1": rows[order],
    }
    suite = Suite({Site.parse(site): _autoencoder(site, columns) for site, columns in saes.items()})
    lm = LanguageModel(network, tiny.tokenizer(), name="toy")
    return Toy(lm, suite, [list(CODES)[int(i) // EACH] for i in order])


def windows(count: int = 6, length: int = 20, seed: int = 0) -> Windows:
    """Random tokens, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, 200, (count, length), generator=generator, dtype=torch.int32)
    return Windows(tokens, torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool), {"corpus": "toy"})


def _embedding(directions: Tensor, generator: torch.Generator, vocabulary: int = 320) -> Tensor:
    """Every token carries a fifth of the directions, with amplitudes in [1, 2]."""
    amplitude = 1 + torch.rand(vocabulary, len(directions), generator=generator)
    return (amplitude * (torch.rand(vocabulary, len(directions), generator=generator) < 0.2)) @ directions


def _autoencoder(site: str, rows: Tensor) -> SAE:
    """Tied weights, one threshold for all."""
    sae = SAE(DenseEncoder(D, len(rows)), JumpReLU(len(rows)), info={"site": site})
    with torch.no_grad():
        sae.encoder.weight.copy_(rows)
        sae.encoder.bias.zero_()
        sae.W_dec.copy_(rows)
        sae.rule.threshold.fill_(THRESHOLD)
    return sae.eval()
