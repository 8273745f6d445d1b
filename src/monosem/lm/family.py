"""Where each family of language models keeps its sites: one row a family."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple


class Point(NamedTuple):
    """A place at a module of a block (`path` relative to the block, empty for the block itself).

    `in` and `out` are the module's input and output. `stream` is the input of a module that branches off the
    residual stream: written there, the value also changes the stream that goes past the module. `normed` is the
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
    """Module paths of one family; `points` lists the kinds of site that every block has.

    `attn_out` and `mlp_out` are what is added to the residual stream, after any norm that follows the sub-layer.
    `lacks` gives the reason for every kind that is not there. `parallel` names the setting of the configuration
    with which attention and MLP read one stream side by side.
    """

    title: str
    blocks: str
    embed: str
    norm: str
    unembed: str
    norms: Norm
    points: dict[str, Point]
    lacks: dict[str, str] = field(default_factory=dict)
    parallel: str | None = None
    note: str = ""


def _block(*, z: str, attn_out: str, norm: str, mlp_out: str) -> dict[str, Point]:
    """A block whose MLP reads the residual stream through `norm`."""
    return {
        "resid_pre": Point("", "in"),
        "attn_z": Point(z, "in"),
        "attn_out": Point(attn_out, "out"),
        "resid_mid": Point(norm, "stream"),
        "mlp_norm": Point(norm, "normed"),
        "mlp_in": Point(norm, "out"),
        "mlp_out": Point(mlp_out, "out"),
        "resid_post": Point("", "out"),
    }


def _decoder(title: str, norms: Norm, points: dict[str, Point], *, note: str = "", **more: Any) -> Family:
    """A family with Llama's names for embedding, blocks, final norm and unembedding."""
    return Family(
        title, "model.layers", "model.embed_tokens", "model.norm", "lm_head", norms, points, note=note, **more
    )


_RMS = Norm(eps="variance_epsilon", centred=False)
_GEMMA = Norm(eps="eps", centred=False, offset=1.0)
_LAYER_NORM = Norm(eps="eps", centred=True)

_LLAMA = _block(z="self_attn.o_proj", attn_out="self_attn.o_proj", norm="post_attention_layernorm", mlp_out="mlp")
_SANDWICH = _block(
    z="self_attn.o_proj",
    attn_out="post_attention_layernorm",
    norm="pre_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
)
_OLMO = {
    "resid_pre": Point("", "in"),
    "attn_z": Point("self_attn.o_proj", "in"),
    "attn_out": Point("post_attention_layernorm", "out"),
    "resid_mid": Point("mlp", "stream"),
    "mlp_in": Point("mlp", "in"),
    "mlp_out": Point("post_feedforward_layernorm", "out"),
    "resid_post": Point("", "out"),
}

_SCALED = "the embedding is multiplied by √d_model, and a norm's gain is 1 + weight"
_NORMED = "attn_out and mlp_out are behind the norms that follow attention and MLP"
_EXPERTS = "mlp_in is what router and experts read, mlp_out the sum of the chosen experts"
_NO_NORM = {"mlp_norm": "no norm stands before the MLP, which reads the residual stream as it is (mlp_in)"}
_AFTER = f"{_NORMED}; the MLP reads the stream without a norm, so that mlp_in reads what resid_mid reads"

FAMILIES = {
    "llama": _decoder("Llama", _RMS, _LLAMA),
    "smollm3": _decoder("SmolLM3", _RMS, _LLAMA),
    "mistral": _decoder("Mistral", _RMS, _LLAMA),
    "mixtral": _decoder("Mixtral", _RMS, _LLAMA, note=_EXPERTS),
    "qwen2": _decoder("Qwen2", _RMS, _LLAMA),
    "qwen2_moe": _decoder("Qwen2-MoE", _RMS, _LLAMA, note=f"{_EXPERTS} and of the shared one"),
    "qwen3": _decoder("Qwen3", _RMS, _LLAMA),
    "qwen3_moe": _decoder("Qwen3-MoE", _RMS, _LLAMA, note=_EXPERTS),
    "gemma": _decoder("Gemma", _GEMMA, _LLAMA, note=_SCALED),
    "gemma2": _decoder("Gemma 2", _GEMMA, _SANDWICH, note=f"{_SCALED}; {_NORMED}"),
    "gemma3_text": _decoder("Gemma 3", _GEMMA, _SANDWICH, note=f"{_SCALED}; {_NORMED}"),
    "olmo2": _decoder("OLMo-2", _RMS, _OLMO, lacks=_NO_NORM, note=_AFTER),
    "olmo3": _decoder("OLMo-3", _RMS, _OLMO, lacks=_NO_NORM, note=_AFTER),
    "phi3": _decoder("Phi-3", _RMS, _LLAMA),
    "gpt2": Family(
        "GPT-2",
        blocks="transformer.h",
        embed="transformer.wte",
        norm="transformer.ln_f",
        unembed="lm_head",
        norms=_LAYER_NORM,
        points=_block(z="attn.c_proj", attn_out="attn.c_proj", norm="ln_2", mlp_out="mlp"),
        note="embed is without the position embedding, which resid_pre.0 includes",
    ),
    "gpt_neox": Family(
        "GPT-NeoX (Pythia)",
        blocks="gpt_neox.layers",
        embed="gpt_neox.embed_in",
        norm="gpt_neox.final_layer_norm",
        unembed="lm_head",
        norms=_LAYER_NORM,
        points=_block(z="attention.dense", attn_out="attention.dense", norm="post_attention_layernorm", mlp_out="mlp"),
        parallel="use_parallel_residual",
        note="parallel blocks (the default) have no resid_mid: resid_post = resid_pre + attn_out + mlp_out",
    ),
}
"""Keyed by `model_type` of the configuration, in a multimodal model by that of its text part."""

_SIDE_BY_SIDE = (
    "attention and MLP of a block read the same stream and are added together ({}), so that nothing lies between them"
)


def family_of(model: Any) -> Family:
    """The row of a Hugging Face model, with the paths and sites that it really has.

    The text part of a multimodal model lies deeper than in a text model. A family without a row has no named
    sites: its modules are reached by path.
    """
    text = model.config.get_text_config()
    family = FAMILIES.get(text.model_type)
    if family is None:
        return Family(text.model_type, _likely_blocks(model, text.num_hidden_layers), "", "", "", _LAYER_NORM, {})
    if text is not model.config:
        family = _moved(family, _path(model, model.get_decoder()))
    if family.parallel and getattr(text, family.parallel):
        points = {kind: point for kind, point in family.points.items() if kind != "resid_mid"}
        family = replace(family, points=points, lacks={"resid_mid": _SIDE_BY_SIDE.format(family.parallel)})
    return family


def _moved(family: Family, root: str) -> Family:
    """The row with its text model at `root`."""
    blocks, embed, norm = (f"{root}.{path.rpartition('.')[2]}" for path in (family.blocks, family.embed, family.norm))
    return replace(family, blocks=blocks, embed=embed, norm=norm)


def _path(model: Any, wanted: Any) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _likely_blocks(model: Any, n_layers: int) -> str:
    """A list of as many modules as there are layers, else the longest list."""
    lists = {name: len(module) for name, module in model.named_modules() if type(module).__name__ == "ModuleList"}
    return max(lists, key=lambda name: (lists[name] == n_layers, lists[name]), default="")
