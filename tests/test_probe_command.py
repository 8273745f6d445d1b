"""The commands probe and attribute: tables, JSON, what is stored, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import run_folder
from monosem.interpret.probing_control import UNTRAINED
from monosem.interpret.probing_file import probings
from monosem.lm import LanguageModel
from monosem.sae import load, save
from monosem.shapes.exclusion import Exclusion

CONTROLS = (UNTRAINED, "activations", "")


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
    assert status == 0, err
    assert "not measurable here: a linear probe of the activations finds 0 letters" in out
    assert "no class has 10 examples to learn from" in out
    assert "reading examples" not in err
    status, out, _ = call("probe", "run", "--task", "first-letter", "--shots", "1", "--json")
    found = json.loads(out)["resid_post.1"]
    assert [found[kind]["measurable"] for kind in ("absorption", "probing")] == [False, False]
    assert sum(map(sum, found["absorption"]["counts"].values())) == found["absorption"]["settings"]["words"] > 0


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """The number of examples in every pass of the model."""
    sizes, capture = [], LanguageModel.capture

    def counted(self, tokens, sites):
        sizes.append(len(tokens))
        return capture(self, tokens, sites)

    monkeypatch.setattr(LanguageModel, "capture", counted)
    return sizes


def test_results_are_kept_beside_the_autoencoders_and_examples_are_not_read_twice(call, place, passes):
    asked = ("probe", "run", "--data", "own.jsonl", "--k", "1", "--seed", "3")
    status, _, err = call(*asked)
    assert status == 0, err
    read = sum(passes)
    assert read >= 120
    _, out, _ = call(*asked, "--json")
    assert sum(passes) == read, "the model did not run"
    shown = json.loads(out)["resid_post.1"]["probing"]
    for name in ("topk", "topk+untrained"):
        kept = probings(place / "run" / "saes" / name)["own.jsonl"]
        assert kept["probing"]["rows"] == [row for row in shown["rows"] if row["subject"] in (name, *CONTROLS)]
        assert kept["provenance"]["sae"]["info"]["site"] == "resid_post.1"
        assert kept["provenance"]["command"].startswith("monosem")
        assert "NaN" not in (place / "run" / "saes" / name / "probing.json").read_text()
    _, out, _ = call("inspect", "run/saes/topk")
    assert "accuracy of topk, k = 1: " in out


def test_results_of_another_precision_are_not_kept_and_it_is_said(call, place):
    file = place / "run" / "saes" / "topk" / "probing.json"
    file.unlink(missing_ok=True)
    status, _, err = call("probe", "run/saes/topk", "--data", "own.jsonl", "--k", "1", "--dtype", "bfloat16")
    assert status == 0
    assert "not stored beside the autoencoders: --dtype is not that of training" in err
    assert not file.exists()


def test_too_few_examples_are_refused_before_anything_is_read(call, passes):
    run_folder.assert_refused(
        call("probe", "run", "--data", "own.jsonl", "--examples", "20"), "no class has 10 examples"
    )
    assert passes == []


def bent(place: Path, name: str, **info: object) -> None:
    """A copy of the run in which an autoencoder says something else of itself."""
    shutil.copytree(place / "run", place / name)
    folder = place / name / "saes" / "topk+untrained"
    sae = load(folder)
    sae.info |= info
    save(sae, folder)


def test_what_was_measured_is_shown_although_another_place_is_refused(call, place):
    bent(place, "half", site="resid_post.0", exclusion=Exclusion(first=99).describe())
    status, out, err = call("probe", "half", "--data", "own.jsonl", "--k", "1")
    assert status == 0, err
    assert "topk: latents" in out
    assert "resid_post.0: no token is left" in out
    assert "own.jsonl" in probings(place / "half" / "saes" / "topk")
    run_folder.assert_refused(
        call("probe", "half", "--data", "own.jsonl", "--site", "resid_post.0"), "no token is left"
    )


def test_a_k_above_the_latents_that_fire_is_said(call):
    status, out, _ = call("probe", "run/saes/topk", "--data", "own.jsonl", "--k", "1,5000")
    assert status == 0
    assert "5000" not in out
    assert "topk: only " in out


def test_attribute_prints_tables_and_json(call):
    words = ["--prompt", "seven birds sang about", "--target", " rain"]
    status, out, err = call("attribute", "run", *words, "--top", "3")
    assert status == 0, err
    assert "logit of ' rain' after" in out
    assert "topk+untrained: the strongest 3 of 4 active features" in out
    assert "topk: random token" in out
    status, out, _ = call(
        "attribute", "run", *words, "--against", " river", "--method", "gradient", "--sae", "topk", "--json"
    )
    (found,) = json.loads(out)["saes"].values()
    assert abs(found["rounding"]) < 1e-4
    assert found["against"] == " river"
    assert len(found["features"]) == 10
    assert {found["random"]["target"], found["random"]["against"]}.isdisjoint({" rain", " river"})
    assert abs(found["random"]["rounding"]) < 1e-4
    assert found["random"]["n_features"] == found["n_features"]
    assert all(one["to_random"] != one["value"] for one in found["features"])


def test_a_refused_autoencoder_is_named(call, place):
    bent(place, "bent", site="mlp_in.1")
    answer = call("attribute", "bent", "--prompt", "seven birds", "--target", " rain")
    run_folder.assert_refused(answer, "topk+untrained: decoder rows at mlp_in.1")


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
        (["attribute", "run", "--prompt", "a", "--target", " rain", "--seed", "-1"], "--seed -1: give 0 or more"),
        (["probe", "run", "--data", "own.jsonl", "--seed", "-1"], "--seed -1: give 0 or more"),
        (["probe", "run", "--task", "first-letter", "--shots", "-1"], "--shots at least 0"),
    ],
    ids=["no task", "both", "k 0", "no k", "no examples", "no sae", "two tokens", "top 0", "seed", "seed 2", "shots"],
)
def test_commands_refuse_bad_input(call, arguments, message):
    run_folder.assert_refused(call(*arguments), message)
