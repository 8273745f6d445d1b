"""Sparse probing: perfect and useless latents, the logistic regression beneath, labelled text, and the commands."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import run_folder
import tiny
from monosem.interpret import Labelled, sparse_probing
from monosem.interpret.probing import ProbeRow, Probing, probed, strongest
from monosem.interpret.probing_data import corpora, examples, read_labelled
from monosem.interpret.probing_example import Latents, Read, read_examples
from monosem.interpret.probing_logistic import fit, fit_all
from monosem.interpret.probing_score import graded, mean, share
from monosem.lm import LanguageModel
from monosem.sae import SAE, BatchTopK, DenseEncoder, ReLU, TopK
from monosem.shapes.exclusion import Exclusion
from monosem.text import load_corpus, split
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


# Logistic regression


def blobs(n: int = 120, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(n, generator=generator) < 0.3
    return torch.randn(n, 3, generator=generator) + y[:, None] * torch.tensor([1.0, -0.5, 0.0]), y


@pytest.mark.parametrize("balanced", [False, True], ids=["plain", "balanced"])
def test_logistic_regression_is_at_its_optimum(balanced):
    x, y = blobs()
    found = fit(x, y, balanced=balanced)
    weight = found.weight.clone().requires_grad_()
    bias = found.bias.clone().requires_grad_()
    costs = torch.ones(len(y), dtype=torch.float64)
    if balanced:
        costs = torch.where(y, len(y) / (2 * y.sum()), len(y) / (2 * (~y).sum()))
    errors = binary_cross_entropy_with_logits(x.double() @ weight + bias, y.double(), weight=costs, reduction="sum")
    (errors + weight.square().sum() / 2).backward()
    assert weight.grad.abs().max() < 1e-2
    assert bias.grad.abs() < 1e-2
    torch.testing.assert_close(found.scores(x), x.double() @ found.weight + found.bias)


def test_one_class_cannot_be_fitted():
    with pytest.raises(ValueError, match="both classes"):
        fit(torch.zeros(4, 1), torch.zeros(4, dtype=torch.bool))


def test_probes_of_many_classes_separate_them_and_l1_makes_few_weights():
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(300) % 3
    y = torch.nn.functional.one_hot(label, 3).bool()
    x = torch.cat([y * 3.0, torch.randn(300, 9, generator=generator)], 1)
    plain, sparse = fit_all(x, y), fit_all(x, y, l1=0.05)
    for probe in (plain, sparse):
        assert graded((probe.scores(x) > 0).flatten(), y.flatten()).accuracy > 0.97
        assert (probe.weight.argmax(1) == torch.arange(3)).all()
    assert sparse.weight[:, 3:].abs().sum() < 0.2 * plain.weight[:, 3:].abs().sum()
    assert torch.equal(fit_all(x, y).weight, plain.weight)


# Scores


def test_scores_by_hand():
    true = torch.tensor([True, True, True, False, False])
    found = graded(torch.tensor([True, True, False, True, False]), true)
    assert (found.accuracy, found.f1, found.n) == (pytest.approx(0.6), pytest.approx(4 / 6), 5)
    assert graded(torch.zeros(5, dtype=torch.bool), ~true & true).f1 == 0.0
    found = mean([1.0, 2.0, 3.0], math.inf)
    assert found.value == 2.0
    assert found.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert found.low == 0.0, "cut"
    assert mean([1.0, 2.0, 3.0], 3.5).high == 3.5
    assert math.isnan(mean([1.0]).low)
    assert math.isnan(mean([]).value)
    # Wilson's interval for 8 of 10
    assert share(0.8, 10)[1:] == pytest.approx((0.4901, 0.9433), abs=1e-4)


def test_columns_are_chosen_by_the_difference_of_means():
    x = torch.tensor([[1.0, 0, 5, 2], [1, 1, 5, 2], [0, 4, 5, 1], [0, 5, 5, 1]])
    assert strongest(x, torch.tensor([True, True, False, False]), 3).tolist() == [1, 0, 3]


# The table


def read(columns: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...]) -> Read:
    count = len(labels)
    train = torch.rand(count, generator=torch.Generator().manual_seed(9)) < 0.7
    own = Labelled([[0]] * count, labels, classes, train, False, "planted", {})
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(8))
    latents = torch.arange(columns.shape[1]) * 10
    return Read(own, x, {"sae": Latents(latents, columns)}, {"sae": 1.0}, 1.0, 0)


def row(found: Probing, kind: str, k: int) -> ProbeRow:
    (only,) = [one for one in found.rows if (one.kind, one.k) == (kind, k)]
    return only


def test_a_perfect_latent_is_found_and_noise_is_at_chance():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    noise = torch.rand(600, 40, generator=generator)
    found = probed(read(torch.cat([noise, torch.nn.functional.one_hot(labels, 3) * 2.0], 1), labels, ("a", "b", "c")))
    perfect = row(found, "latents", 1)
    assert (perfect.accuracy.value, perfect.f1.value) == (1.0, 1.0)
    assert [one.chosen for one in perfect.classes] == [[400], [410], [420]]
    assert row(found, "latents", 5).accuracy.value == 1.0
    for kind, k in (("random latents", 1), ("shuffled labels", 5), ("dimensions", 2), ("all dimensions", 0)):
        assert abs(row(found, kind, k).accuracy.value - 0.5) < 0.12, kind
    always = row(found, "always yes", 0)
    assert always.accuracy.value == 0.5
    assert always.f1.value == pytest.approx(2 / 3)
    only_noise = probed(read(noise, labels, ("a", "b", "c")))
    assert abs(row(only_noise, "latents", 1).accuracy.value - 0.5) < 0.12


def test_two_classes_are_one_problem_with_wilsons_interval():
    labels = torch.arange(200) % 2
    found = probed(read(labels[:, None].float(), labels, ("no", "yes")), ks=(1,))
    perfect = row(found, "latents", 1)
    assert [one.name for one in perfect.classes] == ["no"]
    n = perfect.classes[0].score.n
    assert perfect.accuracy == share(1.0, n)
    assert found.settings["skipped classes"] == []
    json.dumps(found.to_json())


def test_small_classes_are_skipped_and_named():
    labels = torch.cat([torch.arange(300) % 3, torch.full((5,), 3)])
    found = probed(read(torch.rand(305, 2), labels, ("a", "b", "c", "few")), ks=(1,))
    assert found.settings["skipped classes"] == ["few"]
    assert set(found.settings["classes"]) == {"a", "b", "c"}
    assert "no class has 10 examples" in refused(probed, read(torch.rand(20, 2), torch.arange(20) % 2, ("a", "b")))
    assert "give examples of at least two" in refused(probed, read(torch.rand(90, 2), torch.zeros(90).long(), ("a",)))


def test_an_autoencoder_without_a_firing_latent_is_at_chance():
    labels = torch.arange(200) % 2
    found = probed(read(torch.zeros(200, 0), labels, ("no", "yes")), ks=(1,))
    assert row(found, "latents", 1).accuracy.value == 0.5


# Reading examples


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


# Labelled text


def test_a_labelled_file_is_split_within_labels(tmp_path, lm):
    rows = [{"text": f"cat {i}", "label": "a"} for i in range(20)] + [
        {"text": f"rain {i}", "label": True} for i in range(9)
    ]
    rows += [{"text": "cat 3", "label": "a"}, {"text": "  ", "label": "a"}]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    own = read_labelled(lm.tokenizer, path, each=15, length=2)
    assert own.classes == ("a", "True")
    assert own.labels.bincount().tolist() == [15, 9]
    assert [int(own.train[own.labels == one].sum()) for one in (0, 1)] == [12, 8]
    assert max(map(len, own.ids)) == 2


def test_corpora_give_only_what_training_leaves_out(tmp_path, lm):
    names = {}
    for index, label in enumerate(("one", "two")):
        names[label] = str(tmp_path / f"{label}.txt")
        (tmp_path / f"{label}.txt").write_text("\n\n".join(tiny.corpus(50, 8, index).documents))
    own = corpora(lm.tokenizer, names, each=30, held_out=0.2, seed=5)
    assert own.labels.bincount().tolist() == [10, 10]
    held = {text for name in names.values() for text in split(load_corpus(name), 0.2).held_out}
    assert {lm.tokenizer.decode(ids) for ids in own.ids} == held


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: expected an object"),
        ('{"text": "a", "label": "x"}\n[1]', "line 2: expected an object"),
        ('{"text": "a"}', "'label'"),
        ('{"text": 3, "label": "x"}', "'text'"),
        ('{"text": "a", "label": "x"}', "1 labels, give 2 to 26"),
        ("\n".join(f'{{"text": "a", "label": "{i}"}}' for i in range(27)), "27 labels"),
    ],
    ids=["no json", "a list", "no label", "no text", "one label", "many labels"],
)
def test_bad_files_are_refused(tmp_path, lm, text, message):
    path = tmp_path / "own.jsonl"
    path.write_text(text)
    assert message in refused(read_labelled, lm.tokenizer, path)
    assert "cannot be read" in refused(read_labelled, lm.tokenizer, tmp_path / "none.jsonl")


# Commands


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    settings = {**run_folder.SETTINGS, **run_folder.inputs(folder), "tokens": 640, "sae": "topk,topk+untrained"}
    run_folder.train_inside(folder, settings, "run")
    rows = [{"text": f"the cat sat {i}", "label": "cat"} for i in range(60)]
    rows += [{"text": f"seven birds sang {i}", "label": "bird"} for i in range(60)]
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def call(place, monkeypatch, capsys):
    return run_folder.caller(place, monkeypatch, capsys)


def test_probe_prints_a_table_and_json(call):
    status, out, err = call("probe", "run", "--data", "own.jsonl", "--k", "1")
    assert status == 0, err
    for word in ("topk: latents", "topk+untrained: latents", "random directions: latents", "always yes", "cat 96+24"):
        assert word in out
    status, out, _ = call("probe", "run/saes/topk", "--data", "own.jsonl", "--k", "1", "--json")
    rows = json.loads(out)["resid_post.1"]["probing"]["rows"]
    assert rows[0]["subject"] == "topk"
    assert rows[0]["accuracy"]["value"] > 0.5


def test_first_letters_of_a_small_vocabulary_are_not_measurable(call):
    status, out, err = call("probe", "run", "--task", "first-letter", "--shots", "1")
    assert (status, out) == (2, "")
    assert "no class has 10 examples" in err
    assert len(err.splitlines()) == 1


def test_attribute_prints_tables_and_json(call):
    words = ["--prompt", "seven birds sang about", "--target", " rain"]
    status, out, err = call("attribute", "run", *words, "--top", "3")
    assert status == 0, err
    assert "logit of ' rain' after" in out
    assert "topk+untrained: the strongest 3 of 4 active features" in out
    status, out, _ = call(
        "attribute", "run", *words, "--against", " river", "--method", "gradient", "--sae", "topk", "--json"
    )
    (found,) = json.loads(out)["saes"].values()
    assert abs(found["rounding"]) < 1e-4
    assert found["against"] == " river"
    assert len(found["features"]) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "run"], "give either --task"),
        (["probe", "run", "--task", "corpus", "--data", "own.jsonl"], "give either --task"),
        (["probe", "run", "--data", "own.jsonl", "--k", "0"], "give at least one latent"),
        (["probe", "run", "--data", "own.jsonl", "--k", ""], "give at least one latent"),
        (["probe", "run", "--data", "own.jsonl", "--examples", "0"], "give at least 1 each"),
        (["probe", "run", "--data", "own.jsonl", "--sae", "none"], "the autoencoders are"),
        (["attribute", "run", "--prompt", "a", "--target", " mat"], "give one token"),
        (["attribute", "run", "--prompt", "a", "--target", " rain", "--top", "0"], "give at least 1 feature"),
    ],
    ids=["no task", "both", "k 0", "no k", "no examples", "no sae", "two tokens", "top 0"],
)
def test_commands_refuse_bad_input(call, arguments, message):
    run_folder.assert_refused(call(*arguments), message)
