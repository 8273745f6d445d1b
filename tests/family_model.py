"""A tiny random model of every family, and its forward pass written out site by site without any of monosem's code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

import tiny
from monosem.lm import LanguageModel

D = 32
SMALL = {
    "vocab_size": len(tiny.tokenizer()),
    "hidden_size": D,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 12}  # 4 heads of 12 are wider than the stream
SLIDING = {"sliding_window": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


class Block(NamedTuple):
    """Modules of a block; empty where there is none."""

    before_attn: str
    attn: str
    map: str
    after_attn: str
    before_mlp: str
    mlp: str
    after_mlp: str


LLAMA = Block("input_layernorm", "self_attn", "o_proj", "", "post_attention_layernorm", "mlp", "")
SANDWICH = Block(
    "input_layernorm",
    "self_attn",
    "o_proj",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "mlp",
    "post_feedforward_layernorm",
)
AFTER = Block("", "self_attn", "o_proj", "post_attention_layernorm", "", "mlp", "post_feedforward_layernorm")
GPT2 = Block("ln_1", "attn", "c_proj", "", "ln_2", "mlp", "")
NEOX = Block("input_layernorm", "attention", "dense", "", "post_attention_layernorm", "mlp", "")


class Case(NamedTuple):
    """A model of a family, and what sets its forward pass apart."""

    model: str
    settings: dict[str, Any]
    block: Block = LLAMA
    blocks: str = "model.layers"
    embed: str = "model.embed_tokens"
    norm: str = "model.norm"
    eps: float = 1e-6
    scale: float = 1.0
    gain: float = 0.0
    parallel: bool = False
    softcap: float | None = None


NEOX_PATHS = {"blocks": "gpt_neox.layers", "embed": "gpt_neox.embed_in", "norm": "gpt_neox.final_layer_norm"}
GEMMA = {"scale": math.sqrt(D), "gain": 1.0}

CASES = {
    "llama": Case("Llama", WIDE | {"attention_bias": True, "mlp_bias": True}),
    "smollm3": Case("SmolLM3", GROUPED | {"no_rope_layers": [1, 0, 1]}),
    "mistral": Case("Mistral", WIDE | SLIDING),
    "mixtral": Case("Mixtral", GROUPED | SLIDING | {"num_local_experts": 4}, eps=1e-5),
    "qwen2": Case("Qwen2", GROUPED),
    "qwen2_moe": Case("Qwen2Moe", GROUPED | EXPERTS | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [0]}),
    "qwen3": Case("Qwen3", WIDE),
    "qwen3_moe": Case("Qwen3Moe", WIDE | EXPERTS),
    "gemma": Case("Gemma", WIDE | {"tie_word_embeddings": True}, **GEMMA),
    "gemma2": Case("Gemma2", WIDE | SLIDING | {"query_pre_attn_scalar": 12}, SANDWICH, softcap=30.0, **GEMMA),
    "gemma3_text": Case("Gemma3Text", WIDE | SLIDING | {"query_pre_attn_scalar": 12}, SANDWICH, **GEMMA),
    "gemma3": Case(
        "Gemma3",
        WIDE | SLIDING | {"query_pre_attn_scalar": 12},
        SANDWICH,
        blocks="model.language_model.layers",
        embed="model.language_model.embed_tokens",
        norm="model.language_model.norm",
        **GEMMA,
    ),
    "olmo2": Case("Olmo2", GROUPED, AFTER, eps=1e-5),
    "olmo3": Case("Olmo3", GROUPED | SLIDING, AFTER, eps=1e-5),
    "phi3": Case("Phi3", GROUPED, eps=1e-5),
    "gpt2": Case("GPT2", SMALL, GPT2, "transformer.h", "transformer.wte", "transformer.ln_f", 1e-5),
    "gpt_neox": Case("GPTNeoX", SMALL, NEOX, eps=1e-5, parallel=True, **NEOX_PATHS),
    "gpt_neox sequential": Case("GPTNeoX", SMALL | {"use_parallel_residual": False}, NEOX, eps=1e-5, **NEOX_PATHS),
}

CLASSES = {"Gemma3Text": "Gemma3ForCausalLM", "Gemma3": "Gemma3ForConditionalGeneration", "GPT2": "GPT2LMHeadModel"}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 8, "patch_size": 4}


def configuration(name: str) -> Any:
    case = CASES[name]
    if name == "gemma3":
        text = transformers.Gemma3TextConfig(**case.settings)
        return transformers.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
    settings = dict(case.settings)
    if name == "gpt2":
        renamed = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
        settings = {renamed.get(key, key): value for key, value in settings.items() if key != "intermediate_size"}
    return getattr(transformers, f"{case.model}Config")(**settings)


def make(name: str) -> LanguageModel:
    """The model of a case with gains, biases and weights spread, so that nothing in it is an identity or a zero."""
    torch.manual_seed(0)
    case = CASES[name]
    model = getattr(transformers, CLASSES.get(case.model, f"{case.model}ForCausalLM"))(configuration(name))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    return LanguageModel(model, tiny.tokenizer(), name=f"tiny-{name}")


def windows(rows: int = 2, length: int = 9) -> Tensor:
    return torch.randint(2, 300, (rows, length), generator=torch.Generator().manual_seed(1))


Edits = Mapping[str, Callable[[Tensor], Tensor]]


@torch.no_grad()
def by_hand(case: Case, model: Any, tokens: Tensor, edits: Edits | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """Activations at every site by name, and logits, with the sites in `edits` replaced as the pass comes by.

    Attention's mixing of positions and the inside of the MLP are the model's own; all between them is written out.
    """
    calls = _attention_calls(case, model, tokens)
    seen: dict[str, Tensor] = {}

    def site(place: str, value: Tensor) -> Tensor:
        seen[place] = (edits or {}).get(place, lambda act: act)(value)
        return seen[place]

    x = site("embed", model.get_submodule(case.embed).weight[tokens] * case.scale)
    if case.model == "GPT2":
        x = x + model.transformer.wpe.weight[: tokens.shape[1]]
    for layer, block in enumerate(model.get_submodule(case.blocks)):
        x = _block(case, block, calls[layer], x, lambda kind, value, layer=layer: site(f"{kind}.{layer}", value))
    logits = norm(case, model.get_submodule(case.norm), x) @ model.lm_head.weight.T
    return seen, logits if case.softcap is None else case.softcap * (logits / case.softcap).tanh()


def _block(case: Case, block: Any, call: Any, x: Tensor, site: Callable[[str, Tensor], Tensor]) -> Tensor:
    names, part = case.block, lambda path, value: norm(case, block.get_submodule(path), value) if path else value
    x = site("resid_pre", x)
    attention = block.get_submodule(names.attn)
    z = site("attn_z", mixed(attention, names.map, part(names.before_attn, x), call))
    attn = site("attn_out", part(names.after_attn, mapped(attention.get_submodule(names.map), z)))
    mid = x if case.parallel else site("resid_mid", x + attn)
    h = mid
    if names.before_mlp:
        before = block.get_submodule(names.before_mlp)
        h = gained(case, before, site("mlp_norm", unit(case, mid)))
    out = block.get_submodule(names.mlp)(site("mlp_in", h))
    out = site("mlp_out", part(names.after_mlp, out))
    return site("resid_post", mid + out + (attn if case.parallel else 0))


def unit(case: Case, x: Tensor) -> Tensor:
    if case.block in (GPT2, NEOX):
        x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + case.eps).sqrt()


def gained(case: Case, module: Any, x: Tensor) -> Tensor:
    y = x * (case.gain + module.weight)
    return y + module.bias if case.block in (GPT2, NEOX) else y


def norm(case: Case, module: Any, x: Tensor) -> Tensor:
    return gained(case, module, unit(case, x))


def mapped(module: Any, z: Tensor) -> Tensor:
    """The output map of attention: a Linear, or GPT-2's transposed one."""
    W = module.weight if isinstance(module, transformers.pytorch_utils.Conv1D) else module.weight.T
    return z @ W + (0 if getattr(module, "bias", None) is None else module.bias)


def mixed(attention: Any, path: str, x: Tensor, call: Any) -> Tensor:
    """Attention over `x` [B, T, D] without its output map: all heads side by side."""
    args, kwargs = call
    args, kwargs = ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})
    with _without(attention, path):
        return attention(*args, **kwargs)[0]


@contextmanager
def _without(module: Any, path: str) -> Iterator[None]:
    kept = getattr(module, path)
    setattr(module, path, nn.Identity())
    try:
        yield
    finally:
        setattr(module, path, kept)


def _attention_calls(case: Case, model: Any, tokens: Tensor) -> list[Any]:
    """What the model passes to attention in each layer: masks and rotations."""
    calls: list[Any] = []
    handles = [
        block.get_submodule(case.block.attn).register_forward_pre_hook(
            lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
        )
        for block in model.get_submodule(case.blocks)
    ]
    model(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return calls
