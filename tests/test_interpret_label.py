"""Labels and scores on disk, and the commands that make and show them."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path

import pytest

import planted
import run_folder
from monosem.cli import score as score_command
from monosem.interpret import METHODS, Label, Scored, labels, scores, write_labels, write_scores
from refusal import refused

SAES = ("topk", "topk+untrained")
SETTINGS = {**run_folder.SETTINGS, "sae": "topk,topk+untrained", "n_latents": 24}
SIZES = ("--windows", "60", "--examples", "6", "--least", "4", "--features", "6")


def test_labels_are_read_as_written_the_latest_first(tmp_path):
    assert labels(tmp_path) == {}
    assert scores(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    write_labels(tmp_path, [Label(3, "rivers", "a", 1, "o", {}), Label(4, "banks", "a", 1, "o", {})])
    write_labels(tmp_path, [Label(3, "water", "b", 1, "o", {})])
    found = labels(tmp_path)
    assert [(one.text, one.judge) for one in found[3]] == [("water", "b"), ("rivers", "a")]
    assert found[4] == [Label(4, "banks", "a", 1, "o", {})]


def test_scores_stand_with_the_label_they_are_of(tmp_path):
    write_labels(tmp_path, [Label(3, "rivers", "a", 1, "o", {}), Label(3, "water", "b", 1, "o", {})])
    rows = [
        Scored(3, "a", "j", "detection", 1, 0.75, 8, 0),
        Scored(3, "a", "k", "detection", 1, 0.5, 8, 0),
        Scored(3, "", "j", "intruder", 1, 0.25, 4, 0),
        Scored(3, "a", "j", "fuzzing", 1, math.nan, 0, 8),
    ]
    write_scores(tmp_path, rows)
    b, a = labels(tmp_path)[3]
    assert a.scores == {"detection by j": 0.75, "detection by k": 0.5, "intruder by j": 0.25}
    assert b.scores == {"intruder by j": 0.25}
    assert scores(tmp_path) == rows[:3]


def test_another_label_loses_the_scores_of_the_one_before(tmp_path):
    first = Label(3, "rivers", "a", 1, "o", {})
    write_labels(tmp_path, [first])
    write_scores(tmp_path, [Scored(3, "a", "j", "detection", 1, 0.75, 8, 0)])
    write_labels(tmp_path, [first])
    assert labels(tmp_path)[3][0].scores == {"detection by j": 0.75}
    write_labels(tmp_path, [first._replace(text="lakes")])
    assert labels(tmp_path)[3] == [first._replace(text="lakes")]


def test_a_file_of_labels_that_is_none_is_one_clear_line(tmp_path):
    (tmp_path / "labels.sqlite").write_bytes(b"something else entirely, and long enough" * 99)
    assert "label again" in refused(labels, tmp_path)
    (tmp_path / "labels.sqlite").unlink()
    with sqlite3.connect(tmp_path / "labels.sqlite") as file:
        file.execute("PRAGMA user_version = 9")
    assert "version 9" in refused(labels, tmp_path)
    file.close()


def test_the_command_knows_every_method():
    assert tuple(METHODS) == score_command.METHODS


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("interpret")
    run_folder.train_inside(folder, {**SETTINGS, **run_folder.inputs(folder)}, "run")
    return folder


@pytest.fixture
def call(trained, monkeypatch, capsys):
    monkeypatch.setenv("MONOSEM_API_KEY", "sk-key")
    return run_folder.caller(trained, monkeypatch, capsys)


@pytest.fixture
def server():
    with planted.endpoint() as served:
        served.answer = words
        yield served


def words(system: str, user: str) -> str:
    """A judge with an answer to everything, by the first letters it reads."""
    if "stands for" in system:
        return f"words like {user.split('<<')[1].split('>>')[0].strip()[:12]}"
    if "does not belong" in system:
        return "2"
    count = sum(line[:1].isdigit() for line in user.splitlines())
    return json.dumps([place % 2 for place in range(count)]) if count else "Yes"


def judge(server) -> str:
    return f"endpoint:{server.url}#words"


def clear(trained) -> None:
    for path in [*trained.glob("run/saes/*/labels.sqlite"), *trained.glob("cache/judges/*")]:
        path.unlink()


def test_labels_are_made_kept_and_shown(call, server, trained):
    clear(trained)
    answer = call("label", "run", "--judge", judge(server), *SIZES, "--json")
    assert answer.status == 0
    found = json.loads(answer.out)
    assert found["judge"] == judge(server)
    assert f"{len(server.requests)} questions" in answer.err.replace(",", "")
    for name in SAES:
        own = found["saes"][name]
        assert len(own["labels"]) == len(own["drawn"]) == 6
        kept = labels(trained / "run/saes" / name)
        assert sorted(kept) == sorted(own["drawn"])
        assert kept[own["drawn"][0]][0].text == own["labels"][0]["text"]
    asked = len(server.requests)
    text = call("label", "run", "--judge", judge(server), *SIZES)
    assert "words like" in text.out
    assert "drawn with seed 0" in text.out
    assert len(server.requests) == asked


def test_named_features_are_labelled(call, server, trained):
    clear(trained)
    drawn = json.loads(call("label", "run", "--judge", judge(server), *SIZES, "--json", "--sae", "topk").out)
    index = drawn["saes"]["topk"]["drawn"][-1]
    found = json.loads(
        call("label", "run", str(index), "--judge", judge(server), *SIZES, "--json", "--sae", "topk").out
    )
    assert [one["latent"] for one in found["saes"]["topk"]["labels"]] == [index]
    run_folder.assert_refused(call("label", "run", "99", "--judge", judge(server), *SIZES), "run from 0 to 23")


def test_scores_come_with_controls_and_label_what_has_no_label(call, server, trained):
    clear(trained)
    answer = call("score", "run", "--judge", judge(server), *SIZES, "--json")
    assert answer.status == 0
    found = json.loads(answer.out)
    rows = {(one["sae"], one["method"], one["control"]): one for one in found["scores"]}
    assert set(rows) == {
        (name, method, control) for name in SAES for method in METHODS for control in (None, "shuffled", "constant")
    }
    assert {one["judge"] for one in found["scores"]} == {judge(server)}
    assert all(one["mean"]["value"] == 0.5 for (_, m, c), one in rows.items() if c == "constant" and m != "intruder")
    for name in SAES:
        kept = labels(trained / "run/saes" / name)
        assert len(kept) == 6
        for (one,) in kept.values():
            assert set(one.scores) == {f"{method} by {judge(server)}" for method in METHODS}
    assert len(server.requests) == found["estimate"]["requests"]


def test_the_table_names_judge_seed_and_controls(call, server, trained):
    answer = call("score", "run", "--judge", judge(server), *SIZES, "--method", "intruder", "--sae", "topk")
    assert answer.status == 0
    assert answer.out.splitlines()[0] == f"judge: {judge(server)}"
    for word in ("shuffled", "constant answer", "drawn with seed 0", "fire too seldom", "0.200"):
        assert word in answer.out
    assert [line for line in answer.out.splitlines() if "detection" in line] == []


def test_a_dry_run_asks_nothing(call, server, trained):
    clear(trained)
    answer = call("score", "run", "--judge", judge(server), *SIZES, "--dry-run", "--price", "1,2")
    assert answer.status == 0
    assert "questions, about" in answer.err
    assert "by --price" in answer.err
    assert server.requests == []
    assert labels(trained / "run/saes/topk") == {}


@pytest.mark.parametrize("name", ["lexical"])
def test_a_judge_that_asks_nobody_scores_too(call, trained, name):
    found = json.loads(call("score", "run", "--judge", name, *SIZES, "--json").out)
    assert {one["judge"] for one in found["scores"]} == {name}
    assert {one["control"] for one in found["scores"]} == {None, "shuffled"}
    methods = {one.method for one in scores(trained / "run/saes/topk") if one.judge == name}
    assert methods == {"token_entropy", "bits_below_chance", "multitoken_ratio"}


def test_labels_of_another_judge_are_judged(call, server, trained):
    clear(trained)
    call("label", "run", "--judge", judge(server), *SIZES, "--sae", "topk")
    other = f"endpoint:{server.url}#other"
    flags = ("--labels-of", judge(server), "--method", "detection", "--json")
    asked = len(server.requests)
    found = json.loads(call("score", "run", "--judge", other, *SIZES, "--sae", "topk", *flags).out)
    assert len(found["scores"]) == 3
    assert {body["model"] for body in server.requests[asked:]} == {"other"}
    for (one,) in labels(trained / "run/saes/topk").values():
        assert (one.judge, list(one.scores)) == (judge(server), [f"detection by {other}"])
    answer = call("score", "run", "--judge", other, *SIZES, "--labels-of", "nobody", "--method", "fuzzing")
    run_folder.assert_refused(answer, "monosem label gives some")


def test_an_interrupted_run_continues(call, server, trained):
    clear(trained)
    server.plan = ["a label"] * 3 + [(404, {}, b"gone")]
    run = ("label", "run", "--judge", judge(server), *SIZES, "--concurrency", "1")
    answer = call(*run)
    assert answer.status == 2
    assert "HTTP 404" in answer.err
    before = len(server.requests)
    assert call(*run).status == 0
    assert len(server.requests) == before + 12 - 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--judge", "embedding"], "answers no questions"),
        (["--judge", "somebody"], "is unknown"),
        (["--judge", "local:nowhere"], "cannot load the model"),
        (["--judge", "endpoint:http://h#m", "--features", "0"], "give at least 1"),
        (["--judge", "endpoint:http://h#m", "--concurrency", "0"], "give at least 1"),
        (["--judge", "endpoint:http://h#m", "--least", "99999", "--examples", "99999"], "--windows"),
    ],
    ids=["embedding", "unknown", "not-local", "features", "concurrency", "least"],
)
def test_bad_input_is_one_line(call, flags, message):
    answer = call("label", "run", *SIZES, *flags)
    assert answer.status == 2
    assert message in answer.err.splitlines()[-1]


def test_an_unknown_method_is_refused(call):
    answer = call("score", "run", *SIZES, "--judge", "lexical", "--method", "guess")
    run_folder.assert_refused(answer, "use detection, fuzzing, intruder")


@pytest.mark.slow
def test_features_and_report_show_labels_with_judge_and_score(call, server, trained):
    clear(trained)
    (trained / "run/saes/topk/features.safetensors").unlink(missing_ok=True)
    assert "label" not in call("features", "run", "--windows", "60", "--json").out
    call("score", "run", "--judge", judge(server), *SIZES, "--sae", "topk", "--method", "detection")
    index, (label,) = next(iter(labels(trained / "run/saes/topk").items()))
    shown = call("features", "run", str(index), "--windows", "60").out
    assert f"label       {label.text} (by {judge(server)}; detection by {judge(server)} " in shown
    write_labels(trained / "run/saes/topk", [Label(latent, "<b>by hand", "me", 1, "", {}) for latent in range(24)])
    found = json.loads(call("features", "run", str(index), "--windows", "60", "--json").out)
    assert [one["judge"] for one in found["features"][0]["labels"]] == ["me", judge(server)]
    assert call("report", "run", "--windows", "60", "--features", "24", "--loss-windows", "0").status == 0
    page = (trained / "run/report.html").read_text()
    assert label.text in page
    assert f"detection by {judge(server)}" in page
    assert "&lt;b&gt;by hand" in page
