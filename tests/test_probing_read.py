"""What a model makes of labelled examples: pooled, kept on disk, and encoded by whatever autoencoder comes next."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import tiny
from monosem.interpret import Labelled, probing_activation, sparse_probing
from monosem.interpret.probing import ProbeRow, Probing
from monosem.interpret.probing_control import UNTRAINED, read_beside
from monosem.interpret.probing_data import examples
from monosem.interpret.probing_example import Read, read_examples, read_with
from monosem.lm import LanguageModel
from monosem.sae import SAE, BatchTopK, DenseEncoder, ReLU, TopK
from monosem.shapes.exclusion import Exclusion
from refusal import refused

D, F = 32, 48
SITE = "resid_post.1"


def autoencoder(rule=None, **exclusion) -> SAE:
    info = {"site": SITE, "exclusion": Exclusion(**exclusion).describe()}
    sae = SAE(DenseEncoder(D, F), rule or TopK(F, 6), info=info)
    generator = torch.Generator().manual_seed(1)
    sae.initialise(torch.randn(256, D, generator=generator) * 3 + 1, generator)
    if isinstance(sae.rule, BatchTopK):
        sae.rule.cut.fill_(1.0)
    return sae.eval()


def row(found: Probing, kind: str, k: int) -> ProbeRow:
    (only,) = [one for one in found.rows if (one.kind, one.k) == (kind, k) and one.subject in ("sae", "activations")]
    return only


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny.llama()


TEXTS = {
    "a": ["the cat sat", "seven birds sang about rain and river stones", "rain"],
    "b": ["pale northern light", "on a mat"],
}


@pytest.mark.parametrize("rule", [TopK(F, 6), BatchTopK(F, 6), ReLU(F)], ids=["fixed", "ragged", "dense"])
@pytest.mark.parametrize("last", [False, True], ids=["mean", "last"])
def test_examples_are_pooled_over_kept_tokens(lm, rule, last):
    sae = autoencoder(rule)
    own = examples(lm.tokenizer, TEXTS, "texts", {})._replace(last=last)
    found = read_examples({"sae": sae}, lm, own, batch=3)
    dense = torch.zeros(len(own.ids), F)
    dense[:, found.latents["sae"].latents] = found.latents["sae"].values
    norms = []
    for number, ids in enumerate(own.ids):
        x = lm.capture(torch.tensor([[1, *ids]]), [SITE])[lm.site(SITE)][0, 1:]
        with torch.no_grad():
            acts = sae.encode(x) * sae.W_dec.norm(dim=1) / sae.out_scale
        x, acts = (x[-1], acts[-1]) if last else (x.mean(0), acts.mean(0))
        norms.append(float(x.square().sum()))
        torch.testing.assert_close(found.x[number], x * found.scale, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(dense[number], acts * found.scale, atol=1e-4, rtol=1e-4)
    assert found.scale == pytest.approx(math.sqrt(D / np.mean(norms)), rel=1e-4)
    assert found.left_out == 0
    assert (dense != 0).any(0).sum() == len(found.latents["sae"].latents)


def test_examples_without_a_kept_token_are_left_out_and_counted(lm):
    own = examples(lm.tokenizer, TEXTS, "texts", {})
    shortest = min(map(len, own.ids))
    found = read_examples({"sae": autoencoder(first=1 + shortest)}, lm, own)
    assert found.left_out == sum(len(ids) == shortest for ids in own.ids) > 0
    assert len(found.x) == len(found.examples.ids) == len(own.ids) - found.left_out
    assert "no token is left" in refused(read_examples, {"sae": autoencoder(first=99)}, lm, own)


def test_probing_a_model_finds_what_its_words_say(lm):
    texts = {
        "cat": [f"the cat sat {'on ' * i}" for i in range(60)],
        "birds": [f"seven birds sang {'on ' * i}" for i in range(60)],
    }
    own = examples(lm.tokenizer, texts, "cats or birds", {}, length=6)
    found = sparse_probing({"sae": autoencoder(), "other": autoencoder(TopK(F, 3))}, lm, own, ks=(1, 2))
    subjects = [one.subject for one in found.rows if one.kind == "latents"]
    assert subjects == ["sae", "sae", "other", "other", "random directions", "random directions"]
    assert row(found, "all dimensions", 0).accuracy.value == 1.0
    assert max(one.accuracy.value for one in found.rows if one.kind == "latents") == 1.0
    assert found.settings["l0"]["sae"] == pytest.approx(6)
    assert found.settings["l0"]["random directions"] == pytest.approx(6)
    again = sparse_probing({"sae": autoencoder(), "other": autoencoder(TopK(F, 3))}, lm, own, ks=(1, 2))
    assert again.to_json() == found.to_json()


# Kept activations


@pytest.fixture
def passes(lm, monkeypatch) -> list[int]:
    """The number of examples in every pass of the model."""
    sizes, capture = [], LanguageModel.capture

    def counted(self, tokens, sites):
        sizes.append(len(tokens))
        return capture(self, tokens, sites)

    monkeypatch.setattr(LanguageModel, "capture", counted)
    monkeypatch.setattr(probing_activation, "BLOCK", 2)
    return sizes


def own(lm: LanguageModel, last: bool) -> Labelled:
    return examples(lm.tokenizer, TEXTS, "texts", {})._replace(last=last)


def assert_same(a: Read, b: Read) -> None:
    torch.testing.assert_close(a.x, b.x)
    assert list(a.latents) == list(b.latents)
    for name, latents in a.latents.items():
        assert torch.equal(latents.latents, b.latents[name].latents)
        torch.testing.assert_close(latents.values, b.latents[name].values)
    assert (a.l0, a.left_out) == (pytest.approx(b.l0), b.left_out)


@pytest.mark.parametrize("last", [False, True], ids=["mean", "last"])
def test_what_was_read_is_not_read_again_for_any_autoencoder(lm, tmp_path, passes, last):
    given, first, second = own(lm, last), autoencoder(), autoencoder(TopK(F, 3))
    plain = read_examples({"sae": second}, lm, given)
    passes.clear()
    read_examples({"sae": first}, lm, given, keep=tmp_path)
    assert sum(passes) == len(given.ids)
    found = read_examples({"sae": second}, lm, given, keep=tmp_path)
    assert sum(passes) == len(given.ids), "the model did not run"
    assert_same(found, plain)


def test_an_interrupted_reading_continues(lm, tmp_path, passes, monkeypatch):
    given, sae, counted = own(lm, True), autoencoder(), LanguageModel.capture

    def stopped(self, tokens, sites):
        if len(passes) == 2:
            raise KeyboardInterrupt
        return counted(self, tokens, sites)

    monkeypatch.setattr(LanguageModel, "capture", stopped)
    with pytest.raises(KeyboardInterrupt):
        read_examples({"sae": sae}, lm, given, keep=tmp_path)
    monkeypatch.setattr(LanguageModel, "capture", counted)
    found = read_examples({"sae": sae}, lm, given, keep=tmp_path)
    assert sum(passes) == len(given.ids), "nothing was read twice"
    assert_same(found, read_examples({"sae": sae}, lm, given))


def test_what_is_kept_is_kept_apart_and_read_again_where_it_is_damaged(lm, tmp_path, passes):
    given, sae = own(lm, False), autoencoder()
    read_examples({"sae": sae}, lm, given, keep=tmp_path)
    for other in (own(lm, True), given._replace(ids=[one[:1] for one in given.ids])):
        passes.clear()
        read_examples({"sae": sae}, lm, other, keep=tmp_path)
        assert sum(passes) == len(given.ids)
    passes.clear()
    read_examples({"sae": autoencoder(first=2)}, lm, given, keep=tmp_path)
    assert sum(passes) == len(given.ids), "another rule leaves other tokens out"
    for path in tmp_path.rglob("00001.safetensors"):
        path.write_bytes(b"nothing")
    passes.clear()
    found = read_examples({"sae": sae}, lm, given, keep=tmp_path)
    assert sum(passes) == 2, "one block"
    assert_same(found, read_examples({"sae": sae}, lm, given))


def test_another_autoencoder_reads_the_activations_of_single_tokens(lm):
    given, other = own(lm, True), autoencoder(BatchTopK(F, 3)).train()
    read = read_examples({"sae": autoencoder()}, lm, given)
    assert_same(read_with(other, "other", read), read_examples({"other": other}, lm, given))
    assert other.training, "as it was"
    texts = read_examples({"sae": autoencoder()}, lm, own(lm, False))
    assert "only means were kept" in refused(read_with, other, "other", texts)


# Transcoders


def transcoder(lm: LanguageModel, site: str, target: str) -> SAE:
    """One that was never trained, in the units of what it reads and predicts."""
    seen = lm.capture(torch.tensor([lm.tokenizer(tiny.TEXT)["input_ids"]]), [site, target])
    x, y = (seen[lm.site(one)][0, 1:] for one in (site, target))
    info = {"site": site, "target": target, "exclusion": Exclusion().describe()}
    encoder = DenseEncoder(x.shape[1], F)
    sae = SAE(encoder, TopK(F, 6), d_out=y.shape[1], subtract_b_dec=False, info=info)
    sae.initialise(x, torch.Generator().manual_seed(1), y)
    return sae.eval()


@pytest.mark.parametrize(
    ("site", "target", "d_in"), [("mlp_in.1", "mlp_out.1", D), ("attn_z.1", "resid_post.1", 48)], ids=["mlp", "widths"]
)
def test_a_transcoder_is_probed_beside_random_directions(lm, site, target, d_in, tmp_path):
    given, sae = own(lm, False), transcoder(lm, site, target)
    saes, read = read_beside({"trans": sae}, lm, given, keep=tmp_path)
    squares, count = 0.0, 0
    for ids in given.ids:
        seen = lm.capture(torch.tensor([[1, *ids]]), [site, target])
        squares += float(seen[lm.site(target)][0, 1:].square().sum())
        count += len(ids)
    assert read.unit == pytest.approx(math.sqrt(D * count / squares), rel=1e-4)
    assert read.unit != pytest.approx(read.scale, rel=0.05)
    x = seen[lm.site(site)][0, 1:]
    values = (sae.encode(x) * sae.W_dec.norm(dim=1) / sae.out_scale * read.unit).mean(0).detach()
    found = torch.zeros(F).index_copy_(0, read.latents["trans"].latents, read.latents["trans"].values[-1])
    torch.testing.assert_close(found, values, atol=1e-4, rtol=1e-4)
    control = saes[UNTRAINED]
    assert (control.d_in, control.d_out, control.info["target"]) == (d_in, D, target)
    assert read.l0[UNTRAINED] == pytest.approx(read.l0["trans"])
    firing = [float(own.values[own.values > 0].mean()) for own in read.latents.values()]
    assert 0.1 < firing[1] / firing[0] < 10, "in one unit"


def test_a_transcoder_has_a_table_of_probes(lm):
    texts = {name: [f"{name} {'on ' * i}" for i in range(60)] for name in ("the cat sat", "seven birds sang")}
    given = examples(lm.tokenizer, texts, "cats or birds", {}, length=6)
    found = sparse_probing({"trans": transcoder(lm, "mlp_in.1", "mlp_out.1")}, lm, given, ks=(1,))
    subjects = [one.subject for one in found.rows if one.kind == "latents"]
    assert subjects == ["trans", UNTRAINED]
    assert max(one.accuracy.value for one in found.rows if one.kind == "latents") > 0.9


def test_too_few_examples_are_said_before_anything_is_read(lm, passes):
    found = sparse_probing({"sae": autoencoder()}, lm, own(lm, False))
    assert "no class has 10 examples" in found.gate
    assert passes == []
