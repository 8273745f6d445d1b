"""Every family, on a tiny random model of it, against a forward pass written out by hand."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import GPTJConfig, GPTJForCausalLM, OPTConfig, OPTForCausalLM

import tiny
from family_model import CASES, by_hand, make, mapped, windows
from monosem.activations import Exclusion, Live, Store, record
from monosem.cli import main
from monosem.lm import FAMILIES, LanguageModel
from monosem.shapes import KINDS, InputError, Site
from monosem.text import windows as text_windows
from monosem.training import TrainConfig, train

EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
ROOT = Path(__file__).parent.parent

model = functools.cache(make)


@pytest.fixture(params=list(CASES))
def name(request) -> str:
    return request.param


def pushed(act: Tensor) -> Tensor:
    return 0.5 * act + torch.linspace(-1, 1, act.shape[-1])


def at(kind: str, layer: int = 1) -> str:
    return kind if kind == "embed" else f"{kind}.{layer}"


# ---- every family


def test_every_row_of_the_table_has_a_case():
    types = {name: model(name).model.config.get_text_config().model_type for name in CASES}
    assert set(types.values()) == set(FAMILIES)
    for name, model_type in types.items():
        assert model(name).family.title == FAMILIES[model_type].title


def test_streams_are_the_hidden_states(name):
    lm, tokens = model(name), windows()
    with torch.no_grad():
        states = lm.model(input_ids=tokens, output_hidden_states=True).hidden_states
    acts = lm.capture(tokens, [f"{kind}.{layer}" for kind in ("resid_pre", "resid_post") for layer in range(3)])
    assert len(states) == lm.n_layers + 1
    for layer, state in enumerate(states[:-1]):
        torch.testing.assert_close(acts[Site("resid_pre", layer)], state, **EXACT)
        if layer:
            torch.testing.assert_close(acts[Site("resid_post", layer - 1)], state, **EXACT)
    last = acts[Site("resid_post", lm.n_layers - 1)]
    torch.testing.assert_close(lm.model.get_submodule(lm.family.norm)(last), states[-1], **EXACT)
    assert not torch.allclose(last, states[-1], atol=0.01)


def test_what_is_added_to_the_stream_adds_up(name):
    lm = model(name)
    acts = {str(site): act for site, act in lm.capture(windows(), lm.sites()).items()}
    for layer in range(lm.n_layers):
        pre, attn, out, post = (acts[f"{kind}.{layer}"] for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
        torch.testing.assert_close(post, pre + attn + out, rtol=0, atol=1e-5)
        if not CASES[name].parallel:
            torch.testing.assert_close(acts[f"resid_mid.{layer}"], pre + attn, **EXACT)
            torch.testing.assert_close(post, acts[f"resid_mid.{layer}"] + out, **EXACT)


def test_every_site_equals_the_computation_by_hand(name):
    lm, tokens = model(name), windows()
    want, logits = by_hand(CASES[name], lm.model, tokens)
    acts = lm.capture(tokens, lm.sites())
    assert [str(site) for site in acts] == list(want)
    for site, act in acts.items():
        torch.testing.assert_close(act, want[str(site)], msg=lambda text, site=site: f"{site}: {text}", **CLOSE)
        assert act.shape[-1] == lm.width(site)
    torch.testing.assert_close(lm.logits(tokens), logits, **CLOSE)


def test_the_heads_give_the_raw_output_of_attention_by_the_output_map(name):
    lm, block = model(name), CASES[name].block
    attention = f"{lm.family.blocks}.1.{block.attn}"
    acts = lm.capture(windows(), ["attn_z.1", attention])
    z, raw = acts.values()
    torch.testing.assert_close(mapped(lm.model.get_submodule(f"{attention}.{block.map}"), z), raw, rtol=0, atol=1e-5)
    if block.after_attn:
        assert lm.site(attention).path == attention
        assert not torch.allclose(raw, lm.capture(windows(), ["attn_out.1"])[Site("attn_out", 1)], atol=0.1)


def test_a_written_site_changes_the_logits_as_by_hand(name):
    lm, tokens = model(name), windows()
    plain = lm.logits(tokens)
    for kind in dict.fromkeys(site.kind for site in lm.sites()):
        for write in (pushed, torch.zeros_like):
            _, want = by_hand(CASES[name], lm.model, tokens, {at(kind): write})
            with torch.no_grad(), lm.hooks({at(kind): write}):
                got = lm.logits(tokens)
            torch.testing.assert_close(got, want, msg=lambda text, kind=kind: f"{kind}: {text}", **CLOSE)
            assert (got - plain).abs().max() > 0.01, kind


def test_writing_several_sites_of_a_block_at_once_is_as_by_hand(name):
    lm, tokens = model(name), windows()
    edits = {at(kind): pushed for kind in reversed(dict.fromkeys(site.kind for site in lm.sites()))}
    want, logits = by_hand(CASES[name], lm.model, tokens, edits)
    with torch.no_grad(), lm.hooks(edits):
        acts = lm.capture(tokens, ["resid_post.2", "mlp_in.2"])
        got = lm.logits(tokens)
    for site, act in acts.items():
        torch.testing.assert_close(act, want[str(site)], **CLOSE)
    torch.testing.assert_close(got, logits, **CLOSE)


def test_writing_back_what_was_read_changes_nothing(name):
    lm, tokens = model(name), windows()
    plain = lm.logits(tokens)
    for site in lm.sites():
        with torch.no_grad(), lm.hooks({site: torch.clone}):
            got = lm.logits(tokens)
        exact = EXACT if site.kind != "mlp_norm" else {"rtol": 0, "atol": 1e-4}
        torch.testing.assert_close(got, plain, msg=lambda text, site=site: f"{site}: {text}", **exact)


def test_generating_with_a_key_value_cache_reads_and_writes_as_one_pass_does(name):
    lm, prompt, site = model(name), windows(1, 5), at("resid_post")
    settings = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 4, "do_sample": False}
    settings |= {"eos_token_id": None, "pad_token_id": 1}
    kinds, seen = dict.fromkeys(site.kind for site in lm.sites()), {}
    fns = {at(kind, 2): seen.setdefault(at(kind, 2), []).append for kind in kinds}
    with torch.no_grad(), lm.hooks({site: pushed} | fns):
        tokens = lm.model.generate(prompt, **settings)[:, :-1]
        want = lm.logits(tokens).argmax(-1)
        acts = lm.capture(tokens, fns)
    assert torch.equal(want[0, 4:-1], tokens[0, 5:])
    for place, act in acts.items():
        steps = seen[str(place)]
        assert [step.shape[1] for step in steps[:4]] == [5, 1, 1, 1]
        torch.testing.assert_close(torch.cat(steps[:4], 1), act, msg=lambda text, at=place: f"{at}: {text}", **CLOSE)


def test_in_bfloat16_every_site_is_bfloat16_and_near(name):
    exact = model(name)
    lm = make(name)
    lm.model.to(torch.bfloat16)
    tokens = windows(1, 3)
    acts, want = lm.capture(tokens, lm.sites()), exact.capture(tokens, lm.sites())
    for site, act in acts.items():
        assert act.dtype == torch.bfloat16
        if CASES[name].model not in ("Mixtral", "Qwen2Moe", "Qwen3Moe"):  # rounding may choose other experts
            assert (act.float() - want[site]).norm() < 0.1 * want[site].norm(), site
    plain = lm.logits(tokens)
    with torch.no_grad(), lm.hooks({site: torch.clone for site in lm.sites() if site.kind != "mlp_norm"}):
        torch.testing.assert_close(lm.logits(tokens), plain, **EXACT)


def test_gradients_reach_what_was_written(name):
    lm, tokens = model(name), windows(1, 4)
    for kind in dict.fromkeys(site.kind for site in lm.sites()):
        vector = torch.zeros(lm.width(at(kind)), requires_grad=True)
        with lm.hooks({at(kind): lambda act, v=vector: act + v}):
            lm.logits(tokens).square().mean().backward()
        assert vector.grad is not None
        assert vector.grad.norm() > 0, kind


def test_names_paths_and_sizes(name):
    lm = model(name)
    assert (lm.d_model, lm.n_layers, lm.vocab_size) == (32, 3, len(tiny.tokenizer()))
    assert lm.width("attn_z.0") == (48 if "head_dim" in CASES[name].settings else 32)
    assert set(lm.family.points) | set(lm.family.lacks) | {"embed"} == set(KINDS)
    for site in lm.sites():
        assert lm.site(str(site)) == lm.site(site.transformer_lens) == site
        lm.model.get_submodule(lm.module_path(site))
    assert lm.site(f"{CASES[name].blocks}.2") == lm.site(f"{CASES[name].blocks}.2:out") == Site("resid_post", 2)
    assert lm.site(f"{CASES[name].blocks}.2:in") == Site("resid_pre", 2)
    assert lm.site(CASES[name].embed) == Site("embed")


def test_directions_have_logits(name):
    """A small step from a stream of zero mean and unit scale, where the final norm is its gain."""
    lm = model(name)
    x = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(4))
    x = (x - x.mean()) / x.std(correction=0)
    ends = []
    for sign in (1, 0):
        with torch.no_grad(), lm.hooks({"resid_post.2": lambda act, sign=sign: sign * x}):
            logits = lm.logits(windows(1, 1))[0, 0]
        cap = CASES[name].softcap
        ends.append(logits if cap is None else cap * (logits / cap).atanh())
    torch.testing.assert_close(lm.unembed(x[0])[0], ends[0] - ends[1], rtol=1e-3, atol=1e-3)


# ---- sites that a family does not have


@pytest.mark.parametrize(
    ("name", "site", "reason"),
    [
        ("gpt_neox", "resid_mid.1", "read the same stream and are added together"),
        ("gpt_neox", "blocks.1.hook_resid_mid", "use_parallel_residual"),
        ("olmo2", "mlp_norm.0", "no norm stands before the MLP"),
    ],
)
def test_a_missing_kind_is_refused_with_the_reason_and_what_there_is(name, site, reason):
    lm = model(name)
    with pytest.raises(InputError, match=reason) as caught:
        lm.site(site)
    assert f"a block has {', '.join(lm.family.points)}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "resid_mid.1" in [str(site) for site in model("gpt_neox sequential").sites()]


def test_the_raw_output_before_a_norm_stays_reachable():
    lm, tokens = model("gemma2"), windows()
    site = lm.site("model.layers.1.mlp")
    assert site == Site("out", path="model.layers.1.mlp") != lm.site("mlp_out.1")
    raw, added = lm.capture(tokens, [site, "mlp_out.1"]).values()
    norm = lm.model.get_submodule("model.layers.1.post_feedforward_layernorm")
    torch.testing.assert_close(norm(raw), added, **EXACT)


# ---- any other model


@functools.cache
def gptj() -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "rotary_dim": 4}
    config = GPTJConfig(**sizes, n_positions=64, bos_token_id=0, eos_token_id=1)
    return LanguageModel(GPTJForCausalLM(config), tiny.tokenizer(), name="tiny-gptj")


def test_another_family_is_read_and_written_by_module_path():
    lm, tokens = gptj(), windows()
    block, last = "transformer.h.1", "transformer.h.1.mlp.fc_out"
    with torch.no_grad():
        states = lm.model(input_ids=tokens, output_hidden_states=True).hidden_states
    acts = lm.capture(tokens, [f"{block}:in", f"{last}:in", last, block])
    assert [str(site) for site in acts] == [f"{block}:in", f"{last}:in", f"{last}:out", f"{block}:out"]
    before, hidden, added, after = acts.values()
    torch.testing.assert_close(before, states[1], rtol=0, atol=1e-6)
    module = lm.model.get_submodule(last)
    torch.testing.assert_close(hidden @ module.weight.T + module.bias, added, rtol=0, atol=1e-5)
    torch.testing.assert_close(lm.model.transformer.ln_f(after), states[-1], rtol=0, atol=1e-6)
    assert [lm.width(site) for site in acts] == [32, 48, 32, 32]
    new = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), lm.hooks({block: lambda act: new}):
        want = lm.model.lm_head(lm.model.transformer.ln_f(new))
        torch.testing.assert_close(lm.logits(tokens), want, rtol=0, atol=1e-6)
    with torch.no_grad(), lm.hooks({f"{last}:in": torch.zeros_like}):
        (got,) = lm.capture(tokens, [last]).values()
    torch.testing.assert_close(got, module.bias.expand_as(got), rtol=0, atol=1e-6)
    assert (lm.d_model, lm.n_layers, lm.vocab_size, lm.sites()) == (32, 2, 320, [])


def test_a_path_is_parsed_from_its_own_name():
    for text in ("transformer.h.1.mlp:in", "h.0:out"):
        site = Site.parse(text)
        assert str(site) == text
        assert (site.layer, site.transformer_lens) == (None, None)
    assert Site.parse("h.0:out").meaning == "output of the module h.0"
    assert gptj().site("transformer.h.1.mlp") == Site("out", path="transformer.h.1.mlp")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resid_post.1", r"gptj models have no names here.* such as transformer\.h\.1 for its output"),
        ("embed", r"gptj models have no names here"),
        ("", r"gptj models have no names here"),
        ("transformer.h.7.mlp", r"no such module, the nearest are .*transformer\.h\.\d\.mlp"),
        ("transformer.h.7.mlp:in", r"no such module, the nearest are .*transformer\.h\.\d\.mlp"),
        ("transformer.h.0.mlp:at", r"no such module"),
        ("transformer", r"is a BaseModelOutputWithPast, not a tensor"),
        ("transformer.h:in", r"goes 0 times through"),
        ("transformer.h.0.mlp.act", r"goes 2 times through"),
        ("transformer.wte:in", r"is of shape \(1, 2\), not a tensor \[B, T, D\]"),
    ],
)
def test_a_path_that_is_no_site_is_refused_in_one_line(text, words):
    lm = gptj()
    lm.model.transformer.h[1].mlp.act = lm.model.transformer.h[0].mlp.act
    with pytest.raises(InputError, match=words) as caught:
        lm.site(text)
    assert "\n" not in str(caught.value)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in lm.model.modules())


def test_activations_of_another_shape_are_refused():
    opt = OPTConfig(vocab_size=320, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4)
    with pytest.raises(InputError, match=r"fc2:out is of shape \(2, 32\), not a tensor \[B, T, D\]"):
        LanguageModel(OPTForCausalLM(opt), tiny.tokenizer()).site("model.decoder.layers.1.fc2")

    class Swapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mT

    lm = make("gpt_neox")
    lm.model.gpt_neox.layers[0].mlp.act = nn.Sequential(Swapped(), Swapped())
    with pytest.raises(InputError, match=r"has shape \(1, 48, 2\) for 1 window of 2 tokens"):
        lm.site("gpt_neox.layers.0.mlp.act.0")
    assert lm.width("gpt_neox.layers.0.mlp.act") == 48


@pytest.mark.parametrize("path", ["transformer.h.1.mlp", "transformer.h.1.mlp.fc_out:in"])
def test_a_module_path_is_recorded_and_streamed_like_any_site(path, tmp_path):
    lm = gptj()
    site = lm.site(path)
    text = text_windows(tiny.corpus(), lm.tokenizer, part="train", length=16)
    store = record(lm, text, [site], n_windows=8, folder=tmp_path / "store")
    again = Store(tmp_path / "store")
    assert again.sites == (site,) == store.sites
    assert again.identity["widths"] == [lm.width(site)]
    live = Live(lm, text, [site], Exclusion(**store.exclusion.describe()))
    which = torch.arange(4).numpy()
    torch.testing.assert_close(again.rows(which).acts[site], live.rows(which).acts[site], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_an_autoencoder_of_a_module_path_trains_and_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    gptj().model.save_pretrained("gptj")
    gptj().tokenizer.save_pretrained("gptj")
    Path("text.txt").write_text("\n\n".join(tiny.corpus(100).documents))
    settings = {"model": "gptj", "dtype": "float32", "text": "text.txt", "window": 32, "site": "transformer.h.1.mlp"}
    settings |= {"tokens": 1024, "batch": 128, "n_latents": 64, "k": 4, "device_map": "auto"}
    (sae,) = train(TrainConfig.from_dict(settings), "run").values()
    assert sae.info["site"] == "transformer.h.1.mlp:out"
    assert sae.info["module_path"] == "transformer.h.1.mlp"
    for command in (["evaluate", "run", "--windows", "2"], ["features", "run", "1", "--windows", "2"]):
        assert main([*command, "--json"]) == 0, capsys.readouterr().err
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["features"][0]["promotes"] == []


def test_an_unknown_family_says_that_its_unembedding_is_not_known():
    with pytest.raises(InputError, match="final norm is not known"):
        gptj().unembed(torch.ones(1, 32))


# ---- documents


def test_the_document_names_every_family():
    text = (ROOT / "docs/families.md").read_text()
    for model_type, family in FAMILIES.items():
        assert f"`{model_type}`" in text
        assert family.title in text
        assert family.note in text


@pytest.mark.slow
def test_the_parity_script_measures_every_case():
    command = [sys.executable, ROOT / "bench/parity.py", "--tiny", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(CASES)
    for errors in found.values():
        assert errors["states"] == 0
        assert 0 < max(errors.values()) < 2e-5
