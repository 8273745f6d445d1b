"""`monosem record`: texts by flags, and what `--dry-run` says and leaves undone."""

from __future__ import annotations

import json

import pytest

import run_folder
import tiny
from monosem.activations.forecast import forecast
from monosem.cli import main
from monosem.text import windows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    run_folder.inputs(folder)
    (folder / "texts").mkdir()
    (folder / "texts/a.txt").write_text("\n\n".join(tiny.corpus(60, seed=3).documents))
    (folder / "texts/b.md").write_text("\n\n".join(tiny.corpus(60, seed=4).documents))
    (folder / "other.txt").write_text("\n\n".join(tiny.corpus(60, seed=5).documents))
    return folder


@pytest.fixture
def record(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for key, value in run_folder.environment(place).items():
        monkeypatch.setenv(key, value)

    def run(*arguments):
        fixed = ["--model", "model", "--window", "16", "--dtype", "float32", "--site", "resid_post.1"]
        status = main(["record", *fixed, *arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_a_dry_run_says_what_it_takes_and_records_nothing(record, place):
    status, out, err = record("--text", "text.txt", "--tokens", "640", "--dry-run", "--json")
    assert status == 0, err
    said = json.loads(out)
    assert (said["windows"], said["tokens"]) == (40, 640)
    assert said["bytes"] == 40 * 16 * 32 * 4
    assert 0 < said["hours_least"] <= said["hours"] <= said["hours_most"]
    assert said["measured"] == {"passes": 5, "windows": 8}
    assert said["recorded"] == 0
    assert not list((place / "cache").rglob("*.bin"))
    status, out, err = record("--text", "text.txt", "--tokens", "640", "--json")
    assert status == 0, err
    made = json.loads(out)
    assert (made["folder"], made["bytes"], made["windows"]) == (said["folder"], said["bytes"], 40)
    assert sum(path.stat().st_size for path in (place / "cache").rglob("*.bin")) == said["bytes"]
    status, out, _ = record("--text", "text.txt", "--tokens", "800", "--dry-run")
    assert "50 windows of 16 tokens" in out
    assert "40 of these windows are recorded already" in out
    assert "nothing was recorded" in out
    status, out, _ = record("--text", "text.txt", "--tokens", "640", "--dry-run", "--json")
    assert (json.loads(out)["recorded"], json.loads(out)["hours"]) == (40, 0)


def test_a_forecast_is_of_passes_that_were_made(monkeypatch):
    lm = tiny.llama(n_layers=1)
    text = windows(tiny.corpus(), tiny.tokenizer(), part="train", length=16)
    ticks = iter([0.0, 100.0, 0.0, 1.0, 0.0, 2.0, 0.0, 6.0])  # the first pass warms up
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    got = forecast(lm, text, [lm.site("resid_post.0")], 80, batch=8, passes=3)
    assert (got.least, got.seconds, got.most) == (10, 20, 60)


def test_too_little_disk_is_said(record, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert "TOO LITTLE" in record("--text", "text.txt", "--tokens", "640", "--dry-run")[1]


def test_a_folder_and_a_mixture_are_recorded_by_name(record):
    status, out, err = record("--text", "texts", "--tokens", "64", "--json")
    assert status == 0, err
    assert json.loads(out)["identity"]["text"]["corpus"] == "texts"
    status, out, err = record("--text", "text.txt:3,other.txt:1", "--tokens", "320", "--json")
    assert status == 0, err
    assert json.loads(out)["identity"]["text"]["corpus"] == "text.txt:0.75,other.txt:0.25"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "text.txt:1,other.txt:1", "--tokens", "1M"], "the mixture runs out: other.txt gave its"),
        (["--text", "text.txt:1,other.txt"], "'other.txt' has no weight"),
        (["--text", "text.txt", "--chat", "messages"], "text.txt holds text, no messages: leave --chat off"),
        (["--text", "texts", "--chat", "messages"], "texts has no file with messages"),
        (["--text", "owner/name"], "cannot read the dataset owner/name"),
        (["--text", "owner/name", "--dry-run"], "cannot read the dataset owner/name"),
        (["--text", "text.txt", "--assistant-only"], "--assistant-only needs conversations"),
        (["--text", "text.txt", "--take", "0"], "take = 0: expected at least 1"),
    ],
)
def test_bad_input_is_one_line(record, words, message):
    status, out, err = record(*words)
    assert status == 2
    assert not out
    assert message in err.strip().splitlines()[-1]
    assert "Traceback" not in err


def test_a_dry_run_of_a_dataset_reads_its_beginning_alone(record, monkeypatch):
    datasets = pytest.importorskip("datasets")
    read = []

    def rows(*args, **kwargs):
        for text in tiny.corpus(2000, words=30).documents:
            read.append(text)
            yield {"text": text}

    monkeypatch.setattr(datasets, "load_dataset", rows)
    words = ("--text", "owner/name", "--revision", "a" * 40, "--tokens", "100M", "--dry-run", "--json")
    status, out, err = record(*words)
    assert status == 0, err
    assert len(read) < 300
    said = json.loads(out)
    assert said["tokens"] == 100_000_000
    assert said["hours"] > 0
