"""The command line as a person meets it: the whole path on a tiny model, and every kind of bad input."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import run_folder
import tiny
from monosem.cli import COMMANDS
from monosem.sae import load
from monosem.training.config import settings

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, a text and a finished run of two autoencoders, trained through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    named = run_folder.inputs(folder)
    shape = {"vocab_size": 320, "hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 2}
    LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2)).save_pretrained(folder / "wide")
    tiny.tokenizer().save_pretrained(folder / "wide")
    arguments = run_folder.flags({**run_folder.SETTINGS, **named, "sae": "topk,jumprelu"})
    done = run_folder.monosem(folder, "train", *arguments, "--run", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["saes"] == {"topk": "run/saes/topk", "jumprelu": "run/saes/jumprelu"}
    return folder


@pytest.fixture
def call(place, monkeypatch, capsys):
    return run_folder.caller(place, monkeypatch, capsys)


def test_evaluate_prints_a_table_and_stores_json(call, place):
    status, out, _ = call("evaluate", "run", "--windows", "12", "--loss-windows", "4")
    assert status == 0
    assert "topk" in out
    assert "EV" in out
    stored = json.loads((place / "run/saes/topk/evaluation.json").read_text())
    status, out, _ = call("evaluate", "run/saes/topk", "--windows", "12", "--loss-windows", "4", "--json")
    assert status == 0
    assert json.loads(out)["topk"]["metrics"] == stored["metrics"]
    assert stored["provenance"]["site"] == "resid_post.1"


def test_losses_can_be_left_out(call):
    status, out, err = call("evaluate", "run", "--windows", "6", "--loss-windows", "0")
    assert status == 0, err
    assert "–" in out


def test_results_with_other_text_are_not_stored(call, place):
    (place / "other.txt").write_text("\n\n".join(tiny.corpus(documents=90, seed=5).documents))
    call("evaluate", "run", "--windows", "6")
    call("features", "run", "--windows", "6")
    stored = {path: path.read_bytes() for path in (place / "run").rglob("*.json")}
    stored |= {path: path.read_bytes() for path in (place / "run").rglob("features.safetensors")}
    for command in ("evaluate", "features", "report"):
        assert call(command, "run", "--windows", "5", "--text", "other.txt")[0] == 0
    assert {path: path.read_bytes() for path in stored} == stored


def test_more_windows_than_are_stored_are_read(call, place):
    from monosem.evaluation import FeatureStatistics

    call("features", "run", "--windows", "6", "--refresh")
    call("features", "run", "--windows", "9")
    assert FeatureStatistics.load(place / "run/saes/topk/features.safetensors").n_windows == 9


def test_features_lists_and_details(call, place):
    status, out, _ = call("features", "run", "--windows", "20", "--json")
    assert status == 0
    listed = json.loads(out)["features"]
    assert listed == [] or listed[0]["feature"].isdecimal()
    status, out, _ = call("features", "run", "3", "5", "--sae", "jumprelu", "--json")
    assert status == 0
    features = json.loads(out)["features"]
    assert [feature["feature"] for feature in features] == [3, 5]
    assert len(features[0]["promotes"]) == 10
    assert (place / "run/saes/topk/features.safetensors").exists()
    status, out, _ = call("features", "run", "3")
    assert "promotes" in out


def test_report_is_one_page(call, place):
    status, out, _ = call("report", "run", "--windows", "20", "--loss-windows", "2", "--features", "2", "--json")
    assert status == 0
    page = (place / json.loads(out)["report"]).read_text()
    assert page.startswith("<!doctype html>")
    assert "resid_post.1" in page


def test_record_reuses_the_store_that_training_made(call):
    settings = {"model": "model", "text": "text.txt", "window": 16, "dtype": "float32", "tokens": 300}
    status, out, err = call("record", *run_folder.flags(settings), "--site", "resid_post.1", "--json")
    assert status == 0, err
    assert "recording" not in err, "training has recorded these windows already"
    result = json.loads(out)
    assert result["identity"]["sites"] == ["resid_post.1"]
    assert result["exclusion"]["max_norm"]["resid_post.1"] > 0
    status, out, _ = call("inspect", result["folder"], "--json")
    assert json.loads(out)["kind"] == "store of activations"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("run", "run"), ("run/saes/topk", "autoencoder"), ("run/saes/topk/features.safetensors", "feature statistics")],
)
def test_inspect_says_what_things_are(call, path, kind):
    call("features", "run", "--windows", "20")
    status, out, _ = call("inspect", path, "--json")
    assert status == 0
    assert json.loads(out)["kind"] == kind
    assert call("inspect", path)[0] == 0


def test_settings_from_a_file_and_flags_that_win(call, place):
    (place / "settings.toml").write_text(
        'model = "model"\ntext = "text.txt"\nwindow = 16\nn_latents = 20\nk = 2\nlr = 0.01\n'
    )
    status, _, err = call(
        "train", "--config", "settings.toml", "--site", "blocks.1.hook_resid_post", "--tokens", "1k", "--batch", "50",
        "--k", "3", "--dtype", "float32", "--run", "filed",
    )  # fmt: skip
    assert status == 0, err
    sae = load(place / "filed")
    assert (sae.n_latents, sae.rule.k, sae.info["site"]) == (20, 3, "resid_post.1")
    assert sae.info["training"]["config"]["lr"] == 0.01
    (place / "small.toml").write_text("tokens = 1000")
    status, _, err = call(
        "train", "--config", "small.toml", "--batch", "256", "--model", "model", "--text", "none.txt",
        "--site", "resid_post.1", "--run", "small",
    )  # fmt: skip
    assert (status, "none.txt" in err) == (2, True), "flags and file are put together before they have to fit"


BAD = {
    "unknown site": (["train", "--site", "resid_pots.1"], "resid_po"),
    "layer that is not there": (["train", "--site", "resid_post.7"], "resid_post.2"),
    "k above n_latents": (["train", "--k", "99", "--n-latents", "10"], "k = 99 does not fit 10 latents"),
    "unknown autoencoder": (["train", "--sae", "topp"], "unknown autoencoder 'topp'"),
    "empty text": (["train", "--text", "empty.txt"], "empty.txt"),
    "unknown text": (["train", "--text", "newz"], "news"),
    "unknown model": (["train", "--model", "no-such-model"], "no-such-model"),
    "unknown setting in a file": (["train", "--config", "bad.toml"], "unknown setting 'latents'"),
    "unknown autoencoder of a run": (["features", "run", "--sae", "relu"], "it has topk, jumprelu"),
    "feature out of range": (["features", "run", "48"], "indices run from 0 to 47"),
    "no run": (["evaluate", "nothing"], "holds no autoencoder"),
    "a pickle": (["inspect", "ae.pt"], "pickle"),
    "altered weights": (["evaluate", "altered"], "truncated or altered"),
    "another run's folder": (["train", "--run", "run", "--k", "3"], "holds a run with"),
    "wrong width": (["evaluate", "run", "--model", "wide"], "width"),
    "nothing to resume": (["train", "--resume", "nothing"], "does not exist"),
    "two folders": (["train", "--resume", "run", "--run", "other"], "name two folders"),
    "settings beside --resume": (["train", "--resume", "run", "--lr", "0.1"], "give no others"),
    "a rate below zero": (["train", "--lr", "-1"], "lr = -1"),
    "no windows": (["evaluate", "run", "--windows", "0"], "at least 1"),
    "budgets that are no numbers": (["evaluate", "run", "--k", "4,x"], "give whole numbers"),
    "a budget below one": (["evaluate", "run/saes/topk", "--k", "0"], "cannot be measured at --k 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(call, place, case):
    arguments, message = BAD[case]
    _bad_things(place)
    if arguments[0] == "train" and "--resume" not in arguments:
        given = {flag.removeprefix("--").replace("-", "_") for flag in arguments if flag.startswith("--")}
        defaults = {**run_folder.SETTINGS, "model": "model", "text": "text.txt", "run": "bad-run"}
        arguments += run_folder.flags({key: value for key, value in defaults.items() if key not in given})
    before = sorted(path for path in (place / "run").rglob("*") if path.is_file())
    status, out, err = call(*arguments)
    lines = [line for line in err.splitlines() if not line.startswith("run folder")]
    assert status == 2
    assert out == ""
    assert len(lines) == 1, err
    assert lines[0].startswith("monosem: ")
    assert message in lines[0]
    assert "Traceback" not in err
    assert sorted(path for path in (place / "run").rglob("*") if path.is_file()) == before


def _bad_things(place):
    (place / "empty.txt").write_text("")
    (place / "bad.toml").write_text("latents = 3")
    (place / "ae.pt").write_bytes(b"\x80\x04.")
    if not (place / "altered").exists():
        shutil.copytree(place / "run/saes/topk", place / "altered")
        weights = place / "altered/weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])


def test_a_run_in_use_by_another_process_is_refused(call, place):
    holder = (
        "import sys, time; from pathlib import Path; from monosem.disk import lock\n"
        "with lock(Path('held')): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder], cwd=place, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        settings = {**run_folder.SETTINGS, "model": "model", "text": "text.txt", "run": "held"}
        status, _, err = call("train", *run_folder.flags(settings))
        assert status == 2
        assert f"in use by process {process.pid}" in err
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_full_disk_loses_nothing(place, tmp_path):
    """A small file system fills up in the middle of a run; the last checkpoint stays whole."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs more rights than this machine gives")
    try:
        arguments = run_folder.flags({**run_folder.SETTINGS, "tokens": 20_000, "keep": 100, "n_latents": 200})
        done = run_folder.monosem(
            place, "train", *arguments, "--model", "model", "--text", "text.txt", "--run", str(disk / "run")
        )
        assert done.returncode == 2
        assert "the disk is full" in done.stderr.splitlines()[-1]
        from monosem.training import checkpoint

        saved = checkpoint.load(disk / "run" / "checkpoints")
        assert saved is not None
        assert saved.step >= 10
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_every_setting_and_command_is_documented_in_help(call):
    status, out, _ = call("train", "--help")
    assert status == 0
    for name, *_, text in settings():
        assert f"--{name.replace('_', '-')}" in out
        assert text.split()[0] in out
    _, out, _ = call("--help")
    assert all(command in out for command in COMMANDS)


@pytest.mark.slow
def test_results_do_not_change_with_the_process(call, place):
    """The same command here and in a process of its own gives the same weights, bit for bit."""
    arguments = run_folder.flags({**run_folder.SETTINGS, "model": "model", "text": "text.txt", "tokens": 640})
    assert call("train", *arguments, "--run", "one")[0] == 0
    done = run_folder.monosem(place, "train", *arguments, "--run", "two")
    assert done.returncode == 0, done.stderr
    one, two = (load(place / name).state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_module_runs_as_a_program(place):
    done = subprocess.run(
        [sys.executable, "-m", "monosem", "--version"], capture_output=True, text=True, env=os.environ, cwd=place
    )
    assert done.stdout.startswith("monosem 0.")
