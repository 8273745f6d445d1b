"""Labels wherever features are shown: in a search, on a prompt, in attribution, comparison, inspection and reports."""

from __future__ import annotations

import json

import pytest

import run_folder
from monosem.interpret import Label, write_labels
from monosem.interpret.caption import caption, captions, short

JUDGE = "endpoint:http://localhost:8000/v1#qwen/qwen3-14b"


@pytest.mark.parametrize(
    ("judge", "name"),
    [
        (JUDGE, "qwen3-14b"),
        ("local:judge@1a2b3c4d", "judge@1a2b3c4d"),
        ("local:org/model", "model"),
        ("embedding:minilm", "minilm"),
        ("somebody", "somebody"),
    ],
)
def test_a_judge_in_short(judge, name):
    assert short(judge) == name


def label(latent: int, text: str, judge: str = JUDGE) -> Label:
    return Label(latent, text, judge, 1, "o", {})


def test_a_caption_is_one_short_printable_line(tmp_path):
    assert caption(label(3, "rivers\x1b[31m\x07 and\nlakes")) == "rivers [31m and lakes (qwen3-14b)"
    long = caption(label(3, "a" * 99))
    assert long == "a" * 47 + "… (qwen3-14b)"
    write_labels(tmp_path, [label(3, "rivers"), label(4, "banks")])
    write_labels(tmp_path, [label(3, "water", "local:b")])
    assert captions(tmp_path) == {3: "water (b)", 4: "banks (qwen3-14b)"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caption")
    settings = {**run_folder.SETTINGS, **run_folder.inputs(folder), "tokens": 640, "sae": "topk,topk+untrained"}
    run_folder.train_inside(folder, settings, "run")
    write_labels(folder / "run" / "saes" / "topk", [label(index, f"zebras {index}") for index in range(48)])
    return folder


@pytest.fixture
def call(place, monkeypatch, capsys):
    return run_folder.caller(place, monkeypatch, capsys)


READ = ("--windows", "8")


def test_a_search_shows_labels_and_looks_into_them(call):
    status, out, err = call("features", "run", "--search", "rain", *READ)
    assert status == 0, err
    assert "label" in out.splitlines()[0]
    assert "(qwen3-14b)" in out.splitlines()[2]
    assert "its label" not in out
    status, out, err = call("features", "run", "--search", "ZEBRAS 17", *READ, "--json")
    assert status == 0, err
    (hit,) = json.loads(out)["features"]
    assert (hit["latent"], hit["reason"], hit["label"]) == (17, "its label", "zebras 17 (qwen3-14b)")
    status, out, err = call("features", "run", "--search", "zebras (1|2)$", "--regex", *READ, "--json")
    assert [one["latent"] for one in json.loads(out)["features"]] == [1, 2]
    assert (
        len(json.loads(call("features", "run", "--search", "zebras", "--list", "5", *READ, "--json").out)["features"])
        == 5
    )


def test_a_word_that_is_nowhere_or_no_expression_is_still_refused(call):
    run_folder.assert_refused(call("features", "run", "--search", "hippopotamus", *READ), "occurs on none")
    assert call("features", "run", "--search", "(", "--regex", *READ).status == 2
    run_folder.assert_refused(
        call("features", "run/saes/topk+untrained", "--search", "zebras", *READ), "occurs on none"
    )


def test_a_prompt_and_a_list_show_labels(call):
    status, out, err = call("features", "run", "--prompt", "seven birds", "--top", "2")
    assert status == 0, err
    fired = [line for line in out.splitlines() if line.startswith("      ")]
    assert len(fired) % 2 == 0 < len(fired)
    assert all("— zebras" in line and line.endswith("(qwen3-14b)") for line in fired)
    value = json.loads(call("features", "run", "--prompt", "seven birds", "--json").out)
    assert all(one["label"] == f"zebras {latent} (qwen3-14b)" for latent, one in value["features"].items())
    other = call("features", "run/saes/topk+untrained", "--prompt", "seven birds", "--top", "2").out
    assert "zebras" not in other


def test_attribution_shows_labels_of_the_autoencoder_they_are_of(call):
    words = ("--prompt", "seven birds sang about", "--target", " rain", "--top", "3")
    value = json.loads(call("attribute", "run", *words, "--json").out)["saes"]
    for one in value["topk"]["features"]:
        assert one["label"] == f"zebras {one['latent']} (qwen3-14b)"
    assert not any("label" in one for one in value["topk+untrained"]["features"])
    out = call("attribute", "run", *words).out
    assert out.count("(qwen3-14b)") == 3


def test_inspect_counts_labels_by_judge(call):
    out = call("inspect", "run/saes/topk").out
    assert f"{JUDGE}: 48" in out
    assert "zebras 9 (qwen3-14b)" in out
    assert "zebras 11" not in out
    assert "further: 38" in out
    assert "labels" not in json.loads(call("inspect", "run/saes/topk+untrained", "--json").out)


@pytest.mark.slow
def test_comparison_shows_labelled_latents_with_their_nearest(call, place):
    asked = ("compare", "run", *READ, "--loss-windows", "0")
    value = json.loads(call(*asked, "--output", "page.html", "--json").out)
    rows = value["labelled"]
    assert {row["sae"] for row in rows} == {"topk"}
    assert len(rows) == value["matches"][0]["alive"]["a"]
    assert [row["cosine"] for row in rows] == sorted((row["cosine"] for row in rows), reverse=True)
    assert all(row["label"] == f"zebras {row['latent']} (qwen3-14b)" for row in rows)
    assert all(row["nearest label"] is None for row in rows)
    page = (place / "page.html").read_text()
    assert "<em>zebras" in page
    out = call(*asked).out
    assert "labelled latent" in out
    assert f"topk {rows[0]['latent']}: {rows[0]['label']}" in out
