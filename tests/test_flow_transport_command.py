"""`monosem skip`: from a run folder of a tiny model to tables, files and refusals."""

from __future__ import annotations

import json

import pytest

import tiny
from flow_dictionary import WHERE, of_model
from monosem.cli import main
from monosem.cli import skip as command
from monosem.flow import Cosine, Suite, skip_layers, with_own_thresholds
from monosem.flow.shortcut import through
from monosem.sae import save
from monosem.shapes.exclusion import Exclusion
from monosem.training.config import TrainConfig
from monosem.training.run import first_windows, run_windows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model with its text, and residual autoencoders of three layers with two rules."""
    root = tmp_path_factory.mktemp("skip")
    lm = tiny.llama(4)
    lm.model.save_pretrained(root / "model")
    lm.tokenizer.save_pretrained(root / "model")
    (root / "text.txt").write_text("\n\n".join(tiny.corpus(200).documents))
    config = TrainConfig(
        site="resid_post.1", model=str(root / "model"), text=str(root / "text.txt"), window=32, dtype="float32",
        device="cpu", batch=64,
    )  # fmt: skip
    for rule in ("batch_topk", "topk"):
        for site, sae in of_model(lm, rule, **Exclusion().describe()).items():
            sae.info |= {"model": lm.identity(), "training": {"config": config.describe()}}
            save(sae, root / rule / "saes" / str(site))
    return root


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))


def asked(folder, *more, run="batch_topk"):
    sizes = ["--windows", "3", "--loss-windows", "2", "--calibration", "3", "--threads", "1"]
    return ["skip", str(folder / run), *sizes, *more]


def test_tables_and_figures(folder, tmp_path, capsys):
    out = tmp_path / "skip.json"
    assert main(asked(folder, "--quantiles", "0.5", "--values", "sum", "--k", "2", "--matches", "--out", str(out))) == 0
    shown = capsys.readouterr().out
    for word in (
        "layer skipped",
        "ΔCE, nats",
        "cosine, nearest 50%",
        "sum top 2, values kept",
        "random permutation",
        "*",
    ):
        assert word in shown
    found = json.loads(out.read_text())
    assert found["complete"] is True
    assert len(found["passages"]) == 2 * (8 + 1 + 2)
    assert 85 < found["n_tokens"] <= 3 * 31
    assert {(one["a"], one["b"]) for one in found["contrasts"]} >= {("permutation, folded", "cosine, folded")}
    assert [one["matcher"] for one in found["matches"]][-1] == "random permutation"
    assert found["matches"][0]["error"] < found["matches"][-1]["error"]


def test_figures_are_those_of_the_library_with_thresholds_of_every_latent(folder, capsys):
    assert main(asked(folder, "--layers", "2", "--thresholds", "rate", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    suite = Suite.load(folder / "batch_topk")
    config = TrainConfig.from_dict(suite.info(WHERE[0])["training"]["config"])
    lm = tiny.llama(4)
    train = first_windows(run_windows(config, lm, "train"), 3).tokens
    acts = lm.capture(train, WHERE)
    rated = {site: with_own_thresholds(suite[site], acts[site][:, 1:].reshape(-1, 32).split(64)) for site in WHERE[1:]}
    windows = first_windows(run_windows(config, lm, "held_out"), 3)
    (expected,) = skip_layers(Suite(rated), lm, windows, [through(Cosine())], loss_windows=2).passages
    (given,) = [one for one in found["passages"] if one["way"] == "cosine, folded"]
    assert given["explained_variance"] == pytest.approx(expected.ev, abs=1e-5)
    assert given["delta_ce"]["value"] == pytest.approx(expected.delta_ce.value, abs=1e-5)
    assert given["target"] == "resid_post.2"


def test_autoencoders_without_thresholds_need_other_ones(folder, capsys):
    assert main(asked(folder, run="topk")) == 2
    assert "TopK autoencoders have no thresholds to fold by" in capsys.readouterr().err
    assert main(asked(folder, "--thresholds", "median", "--weights", "dec", "--loss-windows", "0", run="topk")) == 0
    assert "ΔCE" not in capsys.readouterr().out
    assert main(asked(folder, "--thresholds", "rate", run="topk")) == 2
    assert "only BatchTopK has one threshold" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layers", "7"], "layer 7 cannot be skipped: layers with autoencoders before and behind are [1, 2]"),
        (["--layers", "x"], "--layers x: give numbers"),
        (["--quantiles", "2"], "--quantiles 2: give shares between 0 and 1"),
        (["--values", "dec-out"], "--values dec-out: expected some of enc-enc"),
        (["--windows", "0"], "--windows 0: give at least 1"),
        (["--out", "skip.txt"], "the name has to end in .json"),
    ],
)
def test_bad_input_is_one_line(folder, flags, said, capsys):
    assert main(asked(folder, *flags)) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_what_was_read_before_an_interruption_is_shown(folder, capsys, monkeypatch):
    import monosem.flow

    whole = monosem.flow.skipped

    def interrupted(*arguments, **options):
        for number, part in enumerate(whole(*arguments, **options, batch=1)):
            if number == 2:
                raise KeyboardInterrupt
            yield part

    monkeypatch.setattr(monosem.flow, "skipped", interrupted)
    assert main(asked(folder, "--json")) == 130
    found = json.loads(capsys.readouterr().out)
    assert found["complete"] is False
    assert found["provenance"]["windows"] == 2
    assert found["n_tokens"] == 2 * 31


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["skip", "--help"])
    assert command.__doc__.splitlines()[0] in capsys.readouterr().out
