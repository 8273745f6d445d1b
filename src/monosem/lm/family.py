"""Where each family of language models keeps its sites: one row a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Point(NamedTuple):
    """A place at a module of a block (`path` relative to the block, empty for the block itself).

    `in` and `out` are the module's input and output. `stream` is the input of a norm that branches off the
    residual stream: written there, the value also changes the stream that goes past the norm. `normed` is the
    output of a norm before its gain and bias.
    """

    path: str
    where: Literal["in", "out", "stream", "normed"]


class Norm(NamedTuple):
    """The family's norms: y = (offset + weight) · (x - centred · mean) / sqrt(var + eps) + bias.

    `eps` names the module's attribute.
    """

    eps: str
    centred: bool
    offset: float = 0.0


@dataclass(frozen=True)
class Family:
    """Module paths of one family; `points` lists the kinds of site that every block has."""

    blocks: str
    embed: str
    norm: str
    unembed: str
    norms: Norm
    points: dict[str, Point]


FAMILIES = {
    "llama": Family(
        blocks="model.layers",
        embed="model.embed_tokens",
        norm="model.norm",
        unembed="lm_head",
        norms=Norm(eps="variance_epsilon", centred=False),
        points={
            "resid_pre": Point("", "in"),
            "attn_z": Point("self_attn.o_proj", "in"),
            "attn_out": Point("self_attn.o_proj", "out"),
            "resid_mid": Point("post_attention_layernorm", "stream"),
            "mlp_norm": Point("post_attention_layernorm", "normed"),
            "mlp_in": Point("post_attention_layernorm", "out"),
            "mlp_out": Point("mlp", "out"),
            "resid_post": Point("", "out"),
        },
    ),
    "gpt2": Family(
        blocks="transformer.h",
        embed="transformer.wte",
        norm="transformer.ln_f",
        unembed="lm_head",
        norms=Norm(eps="eps", centred=True),
        points={
            "resid_pre": Point("", "in"),
            "attn_z": Point("attn.c_proj", "in"),
            "attn_out": Point("attn.c_proj", "out"),
            "resid_mid": Point("ln_2", "stream"),
            "mlp_norm": Point("ln_2", "normed"),
            "mlp_in": Point("ln_2", "out"),
            "mlp_out": Point("mlp", "out"),
            "resid_post": Point("", "out"),
        },
    ),
}
"""Keyed by `model_type` of the configuration."""
