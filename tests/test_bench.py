"""The scripts behind the claims to speed run and say what they measured."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import run_folder

BENCH = Path(__file__).parent.parent / "bench"


def bench(script, *arguments):
    command = [sys.executable, BENCH / script, *map(str, arguments)]
    environment = os.environ | {"MONOSEM_PROGRESS": "off", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def result(d_model, **more):
    shape = {"d_model": d_model, "n_latents": 64, "k": 4, "batch": 32, "threads": 2, "repeats": 9}
    about = {"machine": "x86_64", "torch": "2", "versions": {"sae-lens": "6"}, "step": {"sae_lens": "everything"}}
    times = {"encoder_product_ms": 10.0, "ours_ms": 16.0, "ours_over_product": 1.6, "ours_peak_MiB": 100}
    return shape | about | times | more


def test_table_writes_data_text_and_picture(tmp_path):
    lens = {"sae_lens_ms": 81.0, "sae_lens_over_product": 8.05, "sae_lens_over_ours": 5.03, "sae_lens_peak_MiB": 250}
    for number, one in enumerate([result(8), result(16), result(8, **lens, not_measured={"eai_sparsify": "why"})]):
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
    bench("table.py", *sorted(tmp_path.glob("?.json")), "--write", tmp_path / "out" / "speed")
    found = json.loads((tmp_path / "out" / "speed.json").read_text())["results"]
    assert [one["d_model"] for one in found] == [8, 16]
    text = (tmp_path / "out" / "speed.md").read_text()
    assert "| monosem | 16 | 1.60 | 1.00 | 100 | 1.00 |" in text
    assert "| sae-lens | 81 | 8.05 | 5.03 | 250 | 2.50 |" in text
    assert "Not measured: eai-sparsify, Adam (why)." in text
    assert "(speed.svg)" in text
    drawn = {"".join(one.itertext()).strip() for one in ElementTree.parse(tmp_path / "out" / "speed.svg").iter()}
    assert {"sae-lens", "monosem", "8.1", "1.6", "D 8, F 64, k 4, B 32", "D 16, F 64, k 4, B 32"} <= drawn


@pytest.mark.slow
def test_peers_measures_what_can_be_imported():
    shape = ("--d-model", 32, "--n-latents", 128, "--k", 4, "--batch", 64, "--threads", 1, "--repeats", 1)
    found = json.loads(bench("peers.py", *shape, "--only", "ours,sae_lens", "--json"))
    assert found["ours_ms"] > found["encoder_product_ms"] > 0
    assert found["ours_over_product"] > 1
    assert found["ours_process_MiB"] > found["ours_peak_MiB"] >= 0
    assert ("sae_lens" in found["not_measured"]) != ("sae_lens_ms" in found)


@pytest.mark.slow
def test_end_to_end_accounts_for_all_of_its_time():
    small = ("--windows", 8, "--repeats", 1, "--threads", 1, "--saes", 2, "--n-latents", 512)
    found = json.loads(bench("end_to_end.py", *small, "--json"))
    for name in ("one", "several"):
        assert sum(found[f"{name}_{part}_share"] for part in ("model", "stream", "step")) == pytest.approx(1, abs=2e-3)
    assert found["several_step_share"] > found["one_step_share"] > 0
    assert found["tokens"] == 2048


@pytest.mark.slow
def test_together_compares_one_pass_with_runs_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    named = run_folder.flags(
        {**run_folder.inputs(tmp_path), "sites": "resid_post.{0,1}", "k": "2,4", "dtype": "float32"}
    )
    small = ("--n-latents", 48, "--tokens", 320, "--batch", 32, "--block", 8, "--window", 16, "--threads", 1)
    found = json.loads(bench("together.py", *named, *small, "--json"))
    assert found["saes"] == 4
    assert found["said_MiB"] >= 0
    for activations in ("store", "live"):
        assert found[f"{activations}_alone_s"] > found[f"{activations}_together_s"] > 0
        ratio = found[f"{activations}_alone_s"] / found[f"{activations}_together_s"]
        assert found[f"{activations}_alone_over_together"] == pytest.approx(ratio, rel=0.2)
