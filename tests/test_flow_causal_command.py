"""`monosem deactivate`: from a run folder of a tiny model to tables, files and refusals."""

from __future__ import annotations

import csv
import json

import pytest

import flow_causal_suite as made
import tiny
from monosem.cli import main
from monosem.sae import save
from monosem.training.config import TrainConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model with its text, and the autoencoders of all sites."""
    root = tmp_path_factory.mktemp("deactivate")
    lm = tiny.llama()
    lm.model.save_pretrained(root / "model")
    lm.tokenizer.save_pretrained(root / "model")
    (root / "text.txt").write_text("\n\n".join(tiny.corpus(200).documents))
    config = TrainConfig(
        site="resid_post.1",
        model=str(root / "model"),
        text=str(root / "text.txt"),
        window=32,
        dtype="float32",
        device="cpu",
    )
    for site, sae in made.suite(lm).items():
        sae.info |= {"model": lm.identity(), "training": {"config": config.describe()}}
        save(sae, root / "suite" / "saes" / str(site))
    return root


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))


def asked(folder, *more):
    sizes = ["--layers", "1", "--texts", "3", "--tokens", "2", "--features", "5", "--length", "16", "--threads", "1"]
    return ["deactivate", str(folder / "suite"), *sizes, *more]


def test_figures_files_and_table(folder, tmp_path, capsys):
    files = ["--out", str(tmp_path / "figures.json"), "--out", str(tmp_path / "trials.csv")]
    assert main(asked(folder, "--r=0,1", "--losses", "1", *files)) == 0
    shown = capsys.readouterr().out
    for word in ("cosine", "exhaustive", "other token", "random direction", "nowhere", "single-source"):
        assert word in shown
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["complete"] is True
    assert figures["layers"] == [1]
    by = {(one["method"], one["r"]): one for one in figures["outcomes"]}
    assert by["cosine", 1.0]["change"]["value"] == 0
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert len(rows) == figures["trials"]
    removed = [row for row in rows if row["method"] == "cosine" and row["r"] == "0.0" and row["group"] == row["subset"]]
    assert len(removed) == by["cosine", 0.0]["targets"]
    assert all((row["new"] == "") == (row["group"] == "0") for row in rows)


@pytest.mark.slow
def test_groups_of_all_tokens_and_what_scores_foretell(folder, tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert main(asked(folder, "--matchers", "top1", "--identify", "--out", str(path))) == 0
    assert "s(MLP) AUC" in capsys.readouterr().out
    found = json.loads(path.read_text())["identification"]["1"]
    assert found["occurrences"] > 100
    assert set(found["auc"]) == {"resid", "mlp", "attn"}
    assert sum(share["value"] for share in found["shares"].values()) == pytest.approx(1)


def test_one_json_object(folder, capsys):
    assert main(asked(folder, "--matchers", "random,top1", "--direct", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["design"]["recompute"] is False
    assert found["design"]["exhaustive"] is False
    assert {one["method"] for one in found["outcomes"]} <= {
        "random of top 5",
        "cosine",
        "random active",
        "random direction",
    }
    assert found["text"]["windows"] == 3


def test_an_interruption_shows_what_is_there_and_continues(folder, capsys, monkeypatch):
    from monosem.flow import deactivating

    clean, ran = deactivating.clean_pass, []

    def interrupted(*given):
        ran.append(given)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return clean(*given)

    monkeypatch.setattr(deactivating, "clean_pass", interrupted)
    assert main(asked(folder, "--json")) == 130
    said = capsys.readouterr()
    assert json.loads(said.out)["complete"] is False
    assert json.loads(said.out)["text"]["windows"] == 2
    assert "run the same command again" in said.err
    assert main(asked(folder, "--json")) == 0
    assert len(ran) == 4
    assert json.loads(capsys.readouterr().out)["complete"] is True


def test_pearson_reads_the_text_of_training(folder, capsys):
    assert main(asked(folder, "--matchers", "pearson,top1", "--json")) == 0
    methods = {one["method"] for one in json.loads(capsys.readouterr().out)["outcomes"]}
    assert "pearson" in methods


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--matchers", "exhaustive"], "give at least one beside exhaustive"),
        (["--matchers", "top2"], "--matchers top2 is unknown: use top1"),
        (["--matchers", "top1,top1"], "each once"),
        (["--r", "none"], "give numbers with commas"),
        (["--layers", "9"], "layer 9 cannot be followed back"),
        (["--layers", "x"], "give numbers with commas"),
        (["--texts", "0"], "--texts 0: give at least 1"),
        (["--features", "0"], "features = 0"),
        (["--length", "2"], "--length 2: give at least 3"),
        (["--out", "table.xlsx"], "has to end in .json"),
        (["--text", "/nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, more, said):
    assert main(asked(folder, *more)) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_autoencoders_that_do_not_say_their_text_are_refused(tmp_path, capsys):
    suite = made.suite(tiny.llama())
    folders = [save(sae, tmp_path / str(site)) for site, sae in suite.items()]
    assert main(["deactivate", *map(str, folders)]) == 2
    assert "do not say how they were trained" in capsys.readouterr().err
