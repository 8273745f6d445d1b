"""Labels and scores on disk."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from dataclasses import replace
from threading import Barrier, Thread

import pytest

from monosem.interpret import (
    Drawn,
    Label,
    Sampling,
    Score,
    Scored,
    labels,
    scores,
    summaries,
    write_labels,
    write_results,
    write_scores,
)
from monosem.interpret.scoring import FeatureScore
from monosem.shapes import InputError
from refusal import refused


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


ONE = Label(3, "rivers", "a", 1, "o", {})
OLD = (
    "CREATE TABLE label (latent INTEGER, judge TEXT, prompt INTEGER, origin TEXT, text TEXT NOT NULL, "
    "PRIMARY KEY (latent, judge, prompt))",
    "CREATE TABLE score (latent INTEGER, labeller TEXT, judge TEXT, method TEXT, prompt INTEGER, value REAL, "
    "answered INTEGER, missing INTEGER, PRIMARY KEY (latent, labeller, judge, method, prompt))",
)


def old(folder, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "labels.sqlite")) as file, file:
        for statement in (*OLD, *statements):
            file.execute(statement)


def test_a_file_of_the_version_before_is_read_and_then_brought_up(tmp_path):
    label = "INSERT INTO label VALUES (3, 'a', 1, 'o', 'rivers')"
    old(
        tmp_path, label, "INSERT INTO score VALUES (3, 'a', 'j', 'detection', 1, 0.75, 8, 0)", "PRAGMA user_version = 1"
    )
    before = (tmp_path / "labels.sqlite").read_bytes()
    assert labels(tmp_path) == {3: [ONE._replace(scores={"detection by j": 0.75})]}
    assert scores(tmp_path) == [Scored(3, "a", "j", "detection", 1, 0.75, 8, 0, "")]
    assert summaries(tmp_path) == []
    assert (tmp_path / "labels.sqlite").read_bytes() == before
    new = Scored(3, "a", "j", "detection", 1, 0.5, 8, 0, "{}")
    write_scores(tmp_path, [new])
    assert scores(tmp_path) == [Scored(3, "a", "j", "detection", 1, 0.75, 8, 0, ""), new]
    assert labels(tmp_path) == {3: [ONE._replace(scores={"detection by j": 0.5})]}


def test_a_file_whose_making_was_interrupted_is_made(tmp_path):
    old(tmp_path)
    assert labels(tmp_path) == {}
    assert scores(tmp_path) == []
    write_labels(tmp_path, [ONE])
    assert labels(tmp_path) == {3: [ONE]}


def test_several_that_write_the_first_label_at_once_all_do(tmp_path):
    for place in range(12):
        folder = tmp_path / str(place)
        folder.mkdir()
        gate, failed = Barrier(6), []

        def write(latent, folder=folder, gate=gate, failed=failed):
            gate.wait()
            try:
                write_labels(folder, [ONE._replace(latent=latent)])
            except InputError as error:
                failed.append(error)

        threads = [Thread(target=write, args=(latent,)) for latent in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert sorted(labels(folder)) == list(range(6))


def test_what_fails_in_the_middle_is_not_written(tmp_path):
    write_labels(tmp_path, [ONE])
    with pytest.raises(ZeroDivisionError):
        write_labels(tmp_path, (ONE._replace(text="lakes", latent=1 // place) for place in (1, 0)))
    assert labels(tmp_path) == {3: [ONE]}


def result(value: float, control=None, sampling: Sampling | None = None) -> Score:
    drawn = Drawn([], 5, 9, 8, sampling=sampling or Sampling())
    return Score("sae", "detection", "j", control, 0.5, [FeatureScore(3, value, 8, 0)], drawn=drawn)


def test_controls_are_kept_with_the_table_and_never_as_scores_of_a_feature(tmp_path):
    write_labels(tmp_path, [ONE])
    write_results(tmp_path, [result(0.75), result(0.5, "shuffled"), result(0.4, "constant")], 1, "a")
    assert [one.value for one in scores(tmp_path)] == [0.75]
    assert labels(tmp_path)[3][0].scores == {"detection by j": 0.75}
    rows = summaries(tmp_path)
    assert [(one["control"], one["mean"]["value"]) for one in rows] == [
        (None, 0.75),
        ("shuffled", 0.5),
        ("constant", 0.4),
    ]
    assert {(one["labeller"], one["prompt"], one["judge"], one["drawn"]["seed"]) for one in rows} == {("a", 1, "j", 5)}


def test_scores_of_other_contexts_stand_beside_each_other(tmp_path):
    small = Sampling(positives=16, negatives=16)
    write_results(tmp_path, [result(0.75)], 1)
    write_results(tmp_path, [result(0.5, sampling=small)], 1)
    write_results(tmp_path, [result(0.7)], 1)
    found = {one.value: json.loads(one.settings) for one in scores(tmp_path)}
    assert {value: own["sampling"]["positives"] for value, own in found.items()} == {0.5: 16, 0.7: 64}
    assert {own["seed"] for own in found.values()} == {5}
    other = replace(result(0.9), drawn=replace(result(0.9).drawn, windows=7, hard_by="firing"))
    write_results(tmp_path, [other], 1)
    assert len(scores(tmp_path)) == len(summaries(tmp_path)) == 3
