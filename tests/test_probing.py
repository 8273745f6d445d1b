"""Sparse probing: perfect and useless latents, the logistic regression beneath, labelled text, and the commands."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import tiny
from monosem.interpret import Labelled
from monosem.interpret.probing import ProbeRow, Probing, probed, strongest
from monosem.interpret.probing_data import corpora, read_labelled
from monosem.interpret.probing_example import Latents, Read
from monosem.interpret.probing_logistic import fit, fit_all
from monosem.interpret.probing_score import graded, mean, share
from monosem.sae import SAE, BatchTopK, DenseEncoder, TopK
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
    return Read(own, x, {"sae": Latents(latents, columns)}, {"sae": 1.0}, 1.0, 1.0, 0)


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
    for kind, k in (("random latents", 5), ("shuffled labels", 5), ("dimensions", 2), ("all dimensions", 0)):
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
    nothing = probed(read(torch.rand(20, 2), torch.arange(20) % 2, ("a", "b")))
    assert "no class has 10 examples" in nothing.gate
    assert nothing.rows == []
    assert nothing.to_json()["measurable"] is False
    assert "give examples of at least two" in refused(probed, read(torch.rand(90, 2), torch.zeros(90).long(), ("a",)))


def test_an_autoencoder_without_a_firing_latent_is_at_chance():
    labels = torch.arange(200) % 2
    found = probed(read(torch.zeros(200, 0), labels, ("no", "yes")), ks=(1,))
    assert row(found, "latents", 0).accuracy.value == 0.5


def test_no_row_names_more_latents_than_fire():
    labels = torch.arange(200) % 2
    found = probed(read(torch.rand(200, 3), labels, ("no", "yes")), ks=(1, 3, 50, 5000))
    assert [one.k for one in found.rows if one.kind == "latents"] == [1, 3]
    assert [one.k for one in found.rows if one.kind == "dimensions"] == [1, 3, 4]
    assert found.settings["asked k"] == [1, 3, 50, 5000]
    assert found.settings["firing latents"] == {"sae": 3}


def test_every_autoencoder_has_its_own_controls():
    labels = torch.arange(200) % 2
    one = read(torch.rand(200, 3), labels, ("no", "yes"))
    found = probed(one._replace(latents=dict.fromkeys(("a", "b"), one.latents["sae"])))
    for kind in ("random latents", "shuffled labels"):
        assert [own.subject for own in found.rows if own.kind == kind] == ["a", "b"]


# Labelled text


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny.llama()


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
