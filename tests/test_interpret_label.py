"""The commands that label and score features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import planted
import run_folder
from monosem.cli import score as score_command
from monosem.interpret import METHODS, Label, labels, scores, summaries, write_labels

SAES = ("topk", "topk+untrained")
SETTINGS = {**run_folder.SETTINGS, "sae": "topk,topk+untrained", "n_latents": 24}
SIZES = ("--windows", "60", "--examples", "6", "--least", "4", "--features", "6")


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
    assert "questions, about" in answer.out
    assert "by --price" in answer.out
    assert answer.err == ""
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
    answer = call("score", "run", *SIZES, "--judge", "endpoint:http://h#m", "--method", "guess")
    run_folder.assert_refused(answer, "use detection, fuzzing, intruder")


def test_each_score_on_disk_is_the_one_of_the_table(call, server, trained):
    clear(trained)
    run = ("score", "run", "--judge", judge(server), *SIZES, "--sae", "topk", "--json")
    rows = json.loads(call(*run).out)["scores"]
    own = {
        (one["method"], each["latent"]): each["value"]
        for one in rows
        for each in one["features"]
        if not one["control"] and one["sae"] == "topk"
    }
    folder = trained / "run/saes/topk"
    assert {(one.method, one.latent): one.value for one in scores(folder)} == own
    assert len(set(own.values())) > 1
    controls = {(one["sae"], one["method"], one["control"]) for one in summaries(folder)}
    assert controls == {("topk", method, control) for method in METHODS for control in (None, "shuffled", "constant")}


def test_labels_made_from_contexts_that_are_judged_are_not_used(call, server, trained):
    clear(trained)
    call("label", "run", "--judge", judge(server), *SIZES, "--sae", "topk")
    folder = trained / "run/saes/topk"
    write_labels(folder, [one._replace(origin="other") for (one,) in labels(folder).values()])
    said = call(
        "score",
        "run",
        "--judge",
        judge(server),
        *SIZES,
        "--sae",
        "topk",
        "--labels-of",
        judge(server),
        "--method",
        "detection",
    )
    assert said.status == 2
    assert "no feature that was drawn has a label" in said.err


def test_random_directions_stand_beside_what_has_no_control(call, trained):
    found = json.loads(call("score", "run", "--judge", "lexical", *SIZES, "--sae", "topk", "--json").out)["scores"]
    assert {one["sae"] for one in found} == {"topk", "random directions"}
    before = sorted((trained / "cache/random").iterdir())
    again = json.loads(call("score", "run", "--judge", "lexical", *SIZES, "--sae", "topk", "--json").out)["scores"]
    assert (again, sorted((trained / "cache/random").iterdir())) == (found, before)
    alone = call("score", "run", "--judge", "lexical", *SIZES, "--sae", "topk", "--no-beside")
    assert "random directions" not in alone.out
    both = call("score", "run", "--judge", "lexical", *SIZES)
    assert "random directions" not in both.out


def test_random_directions_are_labelled_and_judged_too(call, server, trained):
    clear(trained)
    text = call("score", "run", "--judge", judge(server), *SIZES, "--sae", "topk", "--method", "detection").out
    rows = [line for line in text.splitlines() if line.startswith("random directions  ")]
    assert len(rows) == 1
    assert "6 of 6" in rows[0]
    assert "random directions: 6 of" in text


def test_features_without_a_label_are_counted(call, server, trained):
    clear(trained)
    server.answer = lambda system, user: "" if "stands for" in system and user.count("<<") % 2 else words(system, user)
    run = ("--judge", judge(server), *SIZES, "--sae", "topk")
    found = json.loads(call("label", "run", *run, "--json").out)["saes"]["topk"]
    lost = found["missing"]
    assert 0 < lost < 6
    assert (found["malformed"], len(found["labels"])) == (lost, 6 - lost)
    assert f"{lost} without a label that could be read" in call("label", "run", *run).out
    text = call("score", "run", *run, "--method", "detection", "--no-beside")
    assert f"{lost} features without a label" in text.err
    (row,) = (line for line in text.out.splitlines() if line.startswith("topk ") and " own  " in line)
    assert f"{6 - lost} of 6" in row
    assert ("no shuffled contexts for detection of topk" in text.out) == (6 - lost < 5)


def test_results_are_stored_where_a_flag_changes_nothing(call, server, trained):
    clear(trained)
    folder = trained / "run/saes/topk"
    run = ("label", "run", "--judge", judge(server), *SIZES, "--sae", "topk")
    (trained / "other.txt").write_text((trained / "text.txt").read_text().replace("cat", "mat"))
    assert "not stored: --text differ from training" in call(*run, "--text", "other.txt").err
    assert labels(folder) == {}
    assert "not stored: --dtype" in call(*run, "--dtype", "bfloat16").err
    assert labels(folder) == {}
    answer = call(*run, "--device", "cpu", "--dtype", "float32")
    assert "not stored" not in answer.err
    assert len(labels(folder)) == 6


def test_a_feature_is_labelled_once_and_without_contexts_to_judge(call, server, trained):
    clear(trained)
    run = ("--judge", judge(server), "--sae", "topk", "--json")
    sizes = ("--windows", "60", "--examples", "500", "--least", "500")
    drawn = json.loads(call("label", "run", *run, *SIZES).out)["saes"]["topk"]["drawn"]
    found = json.loads(call("label", "run", str(drawn[0]), str(drawn[0]), *run, *sizes).out)
    assert [one["latent"] for one in found["saes"]["topk"]["labels"]] == [drawn[0]]
    assert "none of" in call("label", "run", *run, *sizes).err


def test_what_a_table_is_from_is_said(call, trained):
    text = call("score", "run", "--judge", "lexical", *SIZES, "--sae", "topk", "--no-beside").out
    found = json.loads(call("score", "run", "--judge", "lexical", *SIZES, "--sae", "topk", "--json").out)
    own = found["scores"][0]["drawn"]
    assert f"in {own['tokens']:,} tokens" in text
    assert f"{own['positives']:.0f} positives a feature, {own['strong_positives']:.0%} from its stronger half" in text
    assert f"{own['hard_negatives']:.0%} of the silent ones hard" in text
    assert own["hard_by"] == "decoder"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--judge", "lexical", "--method", "detection"], "--method is of judges that are asked"),
        (["--judge", "embedding", "--labels-of", "x"], "--labels-of is of judges that are asked"),
        (["--judge", "embedding", "--max-tokens", "9"], "--max-tokens is of judges that are asked"),
        (["--judge", "local:x", "--max-tokens", "9"], "--max-tokens is for endpoints"),
        (["--judge", "embeding"], "embedding and lexical"),
        (["--judge", "endpoint:http://h#m", "--price", "nan,2"], "--price nan,2"),
        (["--judge", "endpoint:http://h#m", "--price", "cheap"], "--price cheap"),
        (["--judge", "endpoint:http://h#m", "--price=-1,2"], "--price -1,2"),
        (["--judge", "lexical", "--seed", "-1"], "seed -1: give 0 or more"),
        (["--judge", "lexical", "--width", "0"], "width 0: give at least 1"),
        (["--judge", "lexical", "--width", "99"], "windows have 16 tokens"),
        (["--judge", "endpoint:http://[::1/v1#m"], "needs an address"),
    ],
)
def test_flags_that_fit_nothing_are_one_line(call, flags, message):
    run_folder.assert_refused(call("score", "run", *SIZES, *flags), message)


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
