"""Many autoencoders in one pass: each is what it would be alone, has its own name, and fits or is refused."""

import argparse
import ctypes
import gc
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import run_folder
import tiny
from monosem.activations import Store, record, recorded
from monosem.cli import flag, main, report
from monosem.lm.pattern import matching, parts, routes, spelled_out
from monosem.sae import find, load
from monosem.shapes import InputError, Site
from monosem.shapes.route import Route
from monosem.text import windows
from monosem.training import Grid, Interrupted, Job, TrainConfig, checkpoint, diverged, memory, open_run, train
from monosem.training import loop as loop_module
from monosem.training.grid import grid_from_toml
from monosem.training.log import read
from monosem.training.run import prepare
from monosem.training.start import new_job

HERE = [Route(Site("resid_post", 1))]
SMALL = TrainConfig(n_latents=48, k=4, tokens=640, batch=32)


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    settings = {**run_folder.SETTINGS, "tokens": 320, "distinct_tokens": 600, "checkpoint_every": 1000}
    return TrainConfig(**settings, **run_folder.inputs(tmp_path))


@pytest.fixture(scope="module")
def lm():
    return tiny.llama()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not torch.equal(found[name], value)]


# Names and values


def test_what_varies_is_in_the_name_and_nothing_else():
    grid = Grid(replace(SMALL, sae=("topk", "kron")), k=(4, 8), seed=(1,), lr=(1e-3, 3e-5), base=(2, 4))
    arms = grid.arms(HERE)
    assert list(arms)[:4] == ["topk-k4-lr0.001", "topk-k4-lr3e-05", "topk-k8-lr0.001", "topk-k8-lr3e-05"]
    assert list(arms)[4:6] == ["kron-k4-lr0.001-base2", "kron-k4-lr0.001-base4"]
    assert len(arms) == 4 + 8
    one = arms["kron-k8-lr3e-05-base4"]
    assert (one.sae, one.site, one.k, one.lr, one.base, one.seed) == (("kron",), "resid_post.1", 8, 3e-5, 4, 1)
    two_sites = grid.arms([*HERE, Route(Site("out", path="model.layers.0.mlp"))])
    assert next(iter(two_sites)) == "resid_post.1/topk-k4-lr0.001"
    assert list(two_sites)[-1] == "model.layers.0.mlp-out/kron-k8-lr3e-05-base4"
    assert list(Grid(SMALL).arms(HERE)) == ["topk"]
    words = Grid(replace(SMALL, sae=("hierarchical",), k=8), budgets=("pow2", "2,4"), budget_weights=("1/j", "uniform"))
    assert list(words.arms(HERE))[1:3] == [
        "hierarchical-budgets-pow2-budget_weights-uniform",
        "hierarchical-budgets-2_4-budget_weights-1_j",
    ]


def test_controls_have_no_settings_that_make_no_difference_to_them():
    grid = Grid(replace(SMALL, controls=True), k=(4, 8), lr=(1e-3, 1e-2), seed=(0, 1))
    names = list(grid.arms(HERE))
    assert [name for name in names if name.startswith("pca")] == ["pca-k4", "pca-k8"]
    assert len([name for name in names if name.startswith("topk+untrained")]) == 4
    assert len([name for name in names if name.startswith("topk+frozen_decoder")]) == 8


def test_all_share_one_order_that_does_not_depend_on_how_seeds_are_listed():
    arms = Grid(SMALL, seed=(7, 3, 5)).arms(HERE).values()
    assert [(arm.seed, arm.order) for arm in arms] == [(7, 3), (3, 3), (5, 3)]
    assert [arm.order for arm in Grid(replace(SMALL, order_seed=9), seed=(7, 3)).arms(HERE).values()] == [9, 9]
    assert Grid(SMALL, seed=(7,)).shared.order_seed is None
    assert replace(SMALL, seed=7).order == 7
    assert [arm.distinct_tokens for arm in Grid(SMALL, tokens=(640, 1280)).arms(HERE).values()] == [1280, 1280]


def test_a_grid_is_given_back_by_its_description():
    grid = Grid(replace(SMALL, sae=("topk", "relu"), site="resid_post.*,mlp_out.0"), k=(4, 8), l1=(1, 2.5))
    described = json.loads(json.dumps(grid.describe()))
    assert described["k"] == [4, 8]
    assert described["site"] == "resid_post.*,mlp_out.0"
    assert Grid.from_dict(described) == grid
    assert Grid.from_dict(SMALL.describe()) == Grid(SMALL)


def test_settings_from_a_file_may_be_lists(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('site = ["resid_post.0", "mlp_out.*"]\nk = [2, 4]\nlr = [1, 0.5]\nseed = 3\n')
    grid = Grid.from_dict(grid_from_toml(path))
    assert grid.lists == {"k": (2, 4), "lr": (1.0, 0.5)}
    assert (grid.shared.site, grid.shared.seed) == ("resid_post.0,mlp_out.*", 3)
    path.write_text("k = [2, true]\n")
    with pytest.raises(InputError, match="k = True: expected int"):
        grid_from_toml(path)


REFUSED = [
    ({"window": [16, 32]}, "window = 16, 32: all autoencoders of a run share one window; give one value"),
    ({"model": ["a", "b"]}, "model = a, b: all autoencoders of a run share one model"),
    ({"k": []}, "k = []: give at least one value"),
    ({"k": [4, 4]}, "k = 4, 4: give each value once"),
    ({"base": [2, 4]}, "base = 2, 4: makes no difference to topk; give one value"),
    ({"k": [4, "many"]}, "k = 'many': expected int"),
    ({"k": [4, 64]}, "k = 64 does not fit 48 latents"),
    ({"gate": ["mand", "or"], "sae": ["kron"]}, "gate = 'or': expected one of mand"),
    ({"kk": [4, 64]}, "unknown setting 'kk' (did you mean 'k'?)"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_lists_that_make_no_grid_are_one_line(values, message):
    with pytest.raises(InputError) as refusal:
        Grid.from_dict({**SMALL.describe(), **values}).arms(HERE)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


# Sites


def test_patterns_name_the_sites_of_a_model_in_its_order(lm):
    assert parts("resid_post.{0,2}, mlp_out.1,,") == ["resid_post.{0,2}", "mlp_out.1"]
    assert spelled_out("{a,b}.{1,2}") == ["a.1", "a.2", "b.1", "b.2"]

    def named(text):
        return [str(site) for site in matching(text, lm)]

    assert named("resid_post.*") == ["resid_post.0", "resid_post.1", "resid_post.2"]
    assert named("resid_post.{2,0},mlp_out.?") == [
        "mlp_out.0",
        "resid_post.0",
        "mlp_out.1",
        "mlp_out.2",
        "resid_post.2",
    ]
    assert named("resid_post.[01],blocks.1.hook_resid_post") == ["resid_post.0", "resid_post.1"]
    assert named("blocks.*.hook_mlp_out") == ["mlp_out.0", "mlp_out.1", "mlp_out.2"]
    assert len(named("*")) == len(lm.sites())
    for text, message in [
        ("resid_past.*", r"no site of tiny-llama matches 'resid_past.\*': layers run from 0 to 2, kinds are embed"),
        ("resid_post.{0,9}", "has no site 'resid_post.9'"),
        (",", "names nothing"),
    ]:
        with pytest.raises(InputError, match=message):
            matching(text, lm)


def test_a_transcoder_predicts_what_comes_after_its_site(lm):
    assert routes("resid_mid.{0,1}", "mlp_out", lm) == [
        Route(Site("resid_mid", 0), Site("mlp_out", 0)),
        Route(Site("resid_mid", 1), Site("mlp_out", 1)),
    ]
    assert routes("mlp_out.1", "mlp_out", lm) == [Route(Site("mlp_out", 1))]
    with pytest.raises(InputError, match=r"target resid_post.0 is computed before resid_post.1"):
        routes("resid_post.1", "resid_post.0", lm)


# Alone and beside others


GRID = {"k": (2, 4), "seed": (1, 0)}


@pytest.mark.parametrize("activations", ["store", "live"])
def test_each_autoencoder_of_a_grid_is_the_same_as_alone(config, tmp_path, activations):
    config = replace(config, activations=activations)
    kinds = ("topk", "batch_topk") if activations == "store" else ("topk",)
    grid = Grid(replace(config, site="resid_post.*", sae=kinds), **GRID)
    beside = train(grid, tmp_path / "grid")
    assert len(beside) == 3 * len(kinds) * 4
    own = {name: sae.info["training"]["config"] for name, sae in beside.items()}
    for name in ("resid_post.0/topk-k2-seed1", f"resid_post.2/{kinds[-1]}-k4-seed0"):
        alone = train(TrainConfig.from_dict(own[name]), tmp_path / name.replace("/", "-"))
        (sae,) = alone.values()
        assert_same(sae.state_dict(), beside[name].state_dict())
        assert sae.info["site"] == name.split("/")[0] == beside[name].info["site"]
    seeds = [beside[f"resid_post.1/topk-k4-seed{seed}"] for seed in (0, 1)]
    assert not torch.equal(seeds[0].W_dec, seeds[1].W_dec)
    scalar = replace(config, sae=("topk",), k=4, seed=0)
    (plain,) = train(scalar, tmp_path / "plain").values()
    assert_same(plain.state_dict(), seeds[0].state_dict())


def test_transcoders_of_a_grid_are_the_same_as_alone(config, tmp_path):
    grid = Grid(replace(config, site="resid_mid.{0,1}", target="mlp_out", sae=("topk",), skip=True), seed=(0, 1))
    beside = train(grid, tmp_path / "grid")
    assert {sae.info["target"] for sae in beside.values()} == {"mlp_out.0", "mlp_out.1"}
    name = "resid_mid.1/topk-seed1"
    (alone,) = train(TrainConfig.from_dict(beside[name].info["training"]["config"]), tmp_path / "alone").values()
    assert_same(alone.state_dict(), beside[name].state_dict())


def test_no_file_of_a_run_at_module_paths_has_a_colon_and_names_give_the_site_back(config, tmp_path):
    sites = [Site("in", path="model.layers.0.mlp_in.out"), Site("out", path="model.layers.0"), Site("resid_post", 12)]
    assert [Site.parse(site.file_name.replace("-", ":")) for site in sites] == sites
    ends = ["model.layers.1.mlp.down_proj:in", "model.layers.1.mlp.gate_proj:out"]
    found = train(replace(config, sae=("topk",), site=",".join(ends)), tmp_path / "run")
    assert list(found) == ["model.layers.1.mlp.down_proj-in/topk", "model.layers.1.mlp.gate_proj-out/topk"]
    assert [sae.info["site"] for sae in found.values()] == ends
    assert list(find(tmp_path / "run")) == list(found)
    paths = [path.relative_to(tmp_path) for path in tmp_path.rglob("*")]
    assert sum(path.name.endswith("model.layers.1.mlp.down_proj-in.bin") for path in paths) > 0
    assert not [path for path in paths if ":" in str(path)]


class Seen(Job):
    """A job that notes what it is given."""

    def __init__(self, steps):
        self.config = replace(SMALL, tokens=32 * steps)
        self.last_fired = torch.zeros(1)

    def step(self, x, lr, tokens, sst, target):
        self.x, self.target, self.sst = x, target, sst


def test_jobs_see_the_activations_of_their_own_route():
    here, there = Site("resid_mid", 0), Site("mlp_out", 0)
    acts = {
        site: torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        for seed, site in enumerate((here, there))
    }
    plain, over, transcoder = Seen(5), Seen(2), Seen(5)
    jobs = {Route(here): [plain, over], Route(here, there): [transcoder]}
    assert loop_module.step_all(jobs, acts, 3, 32) == [plain, transcoder]
    assert torch.equal(plain.x, acts[here])
    assert plain.target is None
    assert torch.equal(transcoder.x, acts[here])
    assert torch.equal(transcoder.target, acts[there])
    for job, explained in ((plain, acts[here]), (transcoder, acts[there])):
        assert float(job.sst) == pytest.approx(8 * float(explained.var(0, unbiased=False).sum()), rel=1e-5)
    assert not hasattr(over, "x")


def test_a_token_left_out_at_one_site_is_left_out_at_all(config, tmp_path):
    both = prepare(replace(config, site="resid_post.{0,1}"))
    assert set(both.exclusion.max_norm) == {"resid_post.0", "resid_post.1"}
    store = both.source
    everything = np.arange(store.n_windows)
    norms = store.acts(everything, Site("resid_post", 0)).norm(dim=-1)
    limit = float(norms[~store.exclusion.mask(store.windows.special[: len(norms)], {})].quantile(0.9))
    strict = replace(store.exclusion, max_norm=store.exclusion.max_norm | {"resid_post.0": limit})
    rows = Store(store.folder, store.n_windows, strict).rows(everything)
    assert len({len(acts) for acts in rows.acts.values()}) == 1
    assert len(rows.windows) < len(store.rows(everything).windows)
    assert float(rows.acts[Site("resid_post", 0)].norm(dim=-1).max()) <= limit


# Runs


def test_a_killed_grid_continues_bitwise_and_only_with_its_own_lists(config, tmp_path, monkeypatch):
    grid = Grid(replace(config, site="resid_post.{0,1}", sae=("topk", "jumprelu"), activations="live"), seed=(0, 1))
    expected = train(grid, tmp_path / "whole")
    advance = loop_module.Loop._advance

    def stopped(self, log, bar):
        advance(self, log, bar)
        if self.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop_module.Loop, "_advance", stopped)
    with pytest.raises(Interrupted):
        train(grid, tmp_path / "parts")
    monkeypatch.undo()
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    saved = checkpoint.load(tmp_path / "parts" / "checkpoints")
    assert saved is not None
    assert saved.step == 6
    assert set(saved.saes) == set(expected)
    with pytest.raises(InputError, match=r"holds a run with seed = 0, 1, asked for 0, 2: choose another folder"):
        train(Grid(grid.shared, seed=(0, 2)), tmp_path / "parts")
    found = train(open_run(tmp_path / "parts")[0], tmp_path / "parts")
    for name, sae in expected.items():
        assert_same(found[name].state_dict(), sae.state_dict())
    clock = {"tokens_per_s", "step_seconds"}
    lines = [
        [{k: v for k, v in line.items() if k not in clock} for line in read(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "parts")
    ]
    assert lines[0] == lines[1]
    assert {line["sae"] for line in lines[0]} == set(expected)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run of four autoencoders at two sites, trained through the command line."""
    folder = tmp_path_factory.mktemp("grid")
    settings = {**run_folder.SETTINGS, **run_folder.inputs(folder), "tokens": 320}
    settings |= {"site": "resid_post.{0,2}", "sae": "topk", "k": "2,4"}
    run_folder.train_inside(folder, settings, "run")
    assert [str(path.relative_to(folder)) for path in find(folder / "run").values()] == [
        f"run/saes/resid_post.{layer}/topk-k{k}" for layer in (0, 2) for k in (2, 4)
    ]
    return folder


@pytest.fixture
def call(place, monkeypatch, capsys):
    """Runs a command that succeeds; returns its output."""
    run = run_folder.caller(place, monkeypatch, capsys)

    def output(*arguments):
        answer = run(*arguments)
        assert answer.status == 0, answer.err
        return answer.out

    return output


def test_a_run_of_several_sites_is_evaluated_as_each_of_its_autoencoders_is(call, place):
    whole = json.loads(call("evaluate", "run", "--windows", "6", "--loss-windows", "2", "--json"))
    assert list(whole) == [f"resid_post.{layer}/topk-k{k}" for layer in (0, 2) for k in (2, 4)]
    assert [one["metrics"]["l0"] for one in whole.values()] == [2, 4, 2, 4]
    one = "run/saes/resid_post.2/topk-k4"
    (name,) = alone = json.loads(call("evaluate", one, "--windows", "6", "--loss-windows", "2", "--json"))
    assert alone[name]["metrics"] == whole[name]["metrics"]
    stored = json.loads((place / "run/saes/resid_post.2/topk-k4/evaluation.json").read_text())
    assert stored["provenance"]["site"] == "resid_post.2"
    one_site = json.loads(call("evaluate", "run/saes/resid_post.0", "--windows", "6", "--loss-windows", "2", "--json"))
    assert list(one_site) == ["resid_post.0/topk-k2", "resid_post.0/topk-k4"]
    assert "at resid_post.0, resid_post.2" in call("evaluate", "run", "--windows", "6", "--loss-windows", "0")


def test_report_features_and_inspect_know_nested_names(call, place):
    page = call("report", "run", "--windows", "6", "--loss-windows", "2", "--features", "2", "--json")
    text = (place / json.loads(page)["report"]).read_text()
    assert "resid_post.2/topk-k4" in text
    lines = report._log(place / "run/saes/resid_post.2/topk-k4")
    assert [line["sae"] for line in lines] == ["resid_post.2/topk-k4"] * 2
    one = json.loads(call("report", "run/saes/resid_post.0/topk-k2", "--windows", "6", "--features", "2", "--json"))
    assert (place / one["report"]).parent == place / "run/saes/resid_post.0/topk-k2"
    found = json.loads(call("features", "run", "3", "--windows", "6", "--sae", "resid_post.2/topk-k2", "--json"))
    assert found["sae"] == "resid_post.2/topk-k2"
    assert (place / "run/saes/resid_post.2/topk-k2/features.safetensors").exists()
    run = json.loads(call("inspect", "run", "--json"))
    assert run["config"]["k"] == [2, 4]
    assert set(run["last"]) == set(find(place / "run"))
    assert json.loads(call("inspect", "run/saes/resid_post.0/topk-k2", "--json"))["kind"] == "autoencoder"


def test_autoencoders_are_found_by_their_place_in_the_run_in_the_order_of_training(place):
    assert list(find(place / "run")) == [f"resid_post.{layer}/topk-k{k}" for layer in (0, 2) for k in (2, 4)]
    assert list(find(place / "run/saes/resid_post.0/topk-k4")) == ["resid_post.0/topk-k4"]
    sae = load(place / "run/saes/resid_post.2/topk-k2")
    assert (sae.info["name"], sae.rule.k) == ("resid_post.2/topk-k2", 2)
    assert sae.info["training"]["config"]["k"] == 2
    with pytest.raises(InputError, match="give one of them, such as"):
        load(place / "run")


def test_flags_repeat_and_take_lists(call, capsys):
    given = [
        "--k",
        "2,4",
        "--k",
        "8",
        "--budgets",
        "2,4",
        "--budgets",
        "pow2",
        "--site",
        "embed",
        "--site",
        "mlp_out.*",
    ]
    parser = argparse.ArgumentParser()
    flag.training(parser)
    parsed = parser.parse_args(
        [*given, "--sae", "hierarchical", "--gate", "mand", "--tokens", "3k", "--lr", "1e-3,0.1"]
    )
    grid = flag.grid(parsed)
    assert grid.lists == {"k": (2, 4, 8), "budgets": ("2,4", "pow2"), "lr": (0.001, 0.1)}
    assert (grid.shared.site, grid.shared.tokens, grid.shared.gate) == ("embed,mlp_out.*", 3000, "mand")
    out = call("train", "--help")
    assert "--k K[,…]" in out
    assert "saes/resid_post.12/topk-k16-seed1" in out
    assert main(["train", "--batch", "32,64", "--run", "none"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("monosem: batch = 32, 64: all autoencoders of a run share one batch; give one value")


# Divergence


WILD = {"lr": (1e-3, 1e30), "seed": (0, 1)}
DIVERGED = ["topk-lr1e+30-seed0", "topk-lr1e+30-seed1"]


@pytest.fixture
def wild(config):
    return replace(config, sae=("topk",), unit_decoder=False, checkpoint_every=5, log_every=3, keep=2, warmup=0.0)


def test_one_that_diverges_stops_alone_and_the_others_are_what_they_are_alone(wild, tmp_path):
    found = train(Grid(wild, **WILD), tmp_path / "grid")
    assert list(found) == ["topk-lr0.001-seed0", "topk-lr0.001-seed1"]
    for seed, sae in enumerate(found.values()):
        alone = train(replace(wild, lr=1e-3, seed=seed, order_seed=0), tmp_path / str(seed))["topk"]
        assert_same(sae.state_dict(), alone.state_dict())
    assert list(find(tmp_path / "grid")) == list(found)
    lost = diverged(tmp_path / "grid")
    assert list(lost) == DIVERGED
    one = lost[DIVERGED[0]]
    assert (one.step, one.tokens) == (3, 96)
    assert one.message == (
        f"{DIVERGED[0]} diverged between training tokens 0 and 96 (step 3, loss not finite): lower lr from 1e+30"
    )
    assert json.loads((tmp_path / "grid" / "run.json").read_text())["status"] == "finished"
    lines = [line for line in read(tmp_path / "grid" / "metrics.jsonl") if line["sae"] == DIVERGED[0]]
    assert lines == [{"step": 3, "tokens": 96, "epoch": 0, "sae": DIVERGED[0], "diverged": one.message}]
    last = checkpoint.load(tmp_path / "grid" / "checkpoints")
    assert list(last.saes) == list(last.tensors) == list(found)
    assert list(last.diverged) == DIVERGED


def test_a_run_without_its_diverged_ones_continues_bitwise(wild, tmp_path, monkeypatch):
    expected = train(Grid(wild, **WILD), tmp_path / "whole")
    advance = loop_module.Loop._advance

    def stopped(self, log, bar):
        advance(self, log, bar)
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module.Loop, "_advance", stopped)
        with pytest.raises(Interrupted):
            train(Grid(wild, **WILD), tmp_path / "parts")
    assert list(diverged(tmp_path / "parts")) == DIVERGED
    found = train(Grid(wild, **WILD), tmp_path / "parts")
    assert found.keys() == expected.keys()
    for name, sae in expected.items():
        assert_same(found[name].state_dict(), sae.state_dict())
    assert diverged(tmp_path / "parts") == diverged(tmp_path / "whole")


def test_where_the_longest_diverges_the_run_ends_with_the_longest_of_the_others(wild, tmp_path, monkeypatch):
    step = Job.step

    def poisoned(self, x, lr, tokens, *more):
        bad = self.name == "topk-tokens320" and tokens == 320
        step(self, x * float("nan") if bad else x, lr, tokens, *more)

    monkeypatch.setattr(Job, "step", poisoned)
    found = train(Grid(wild, tokens=(192, 320)), tmp_path / "run")
    assert list(found) == ["topk-tokens192"]
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == 10


def test_weights_spoilt_by_the_last_step_are_never_saved(wild, tmp_path, monkeypatch):
    update = Job._update

    def poisoned(self, lr):
        update(self, lr)
        if self.name == "topk-seed1":
            self.sae.b_dec.data[0] = float("inf")

    monkeypatch.setattr(Job, "_update", poisoned)
    found = train(Grid(replace(wild, tokens=32), seed=(0, 1)), tmp_path / "run")
    assert list(found) == ["topk-seed0"]
    assert "(step 1, weights not finite)" in diverged(tmp_path / "run")["topk-seed1"].message


def test_when_all_diverge_the_run_stops_at_once(wild, tmp_path):
    grid = Grid(replace(wild, lr=1e30), seed=range(6))
    with pytest.raises(InputError) as refusal:
        train(grid, tmp_path / "run")
    message = str(refusal.value)
    assert message.startswith("topk-seed0 diverged between training tokens 0 and 96 (step 3, ")
    assert message.endswith("lower lr from 1e+30; 2 others diverged as well"), "there is no checkpoint to speak of"
    assert max(line["step"] for line in read(tmp_path / "run" / "metrics.jsonl")) == 3
    assert len(diverged(tmp_path / "run")) == 6
    assert not (tmp_path / "run" / "saes").exists()


def test_the_command_ends_with_an_error_and_says_which_are_good(wild, tmp_path, capsys):
    settings = {key: getattr(wild, key) for key in (*run_folder.SETTINGS, "model", "text")} | {"sae": "topk"}
    flags = run_folder.flags({**settings, "lr": "1e-3,1e30"})
    assert main(["train", *flags, "--no-unit-decoder", "--run", str(tmp_path / "run"), "--json"]) == 2
    out, err = capsys.readouterr()
    assert list(json.loads(out)["saes"]) == ["topk-lr0.001"]
    assert list(json.loads(out)["diverged"]) == ["topk-lr1e+30"]
    line = err.splitlines()[-1]
    assert line.startswith("monosem: topk-lr1e+30 diverged between training tokens 0 and ")
    assert line.endswith(f"lower lr from 1e+30; 1 good in {tmp_path / 'run' / 'saes'}")


# Recordings


def test_a_recording_of_more_sites_is_read_as_one_of_fewer(lm, tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path))
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    text = windows(tiny.corpus(), lm.tokenizer, part="train", length=16)
    three = matching("resid_post.*", lm)
    larger = record(lm, text, three, n_windows=40)
    found = recorded(lm, text, [three[1]], n_windows=24)
    assert found.folder == larger.folder
    own = record(lm, text, [three[1]], n_windows=24, folder=tmp_path / "own")
    which = np.arange(24)
    assert torch.equal(found.rows(which).acts[three[1]], own.rows(which).acts[three[1]])
    assert found.exclusion == own.exclusion
    assert recorded(lm, text, [three[1]], n_windows=60).folder != larger.folder, "too short, so a new one"


def test_training_reads_and_extends_a_recording_in_a_folder_of_ones_own(config, tmp_path):
    here = str(tmp_path / "mine")
    first = train(replace(config, site="resid_post.{0,1}", store=here, distinct_tokens=300), tmp_path / "one")
    assert len(first) == 2
    before = Store(here).n_windows
    found = train(replace(config, store=here), tmp_path / "two")["topk"]
    assert Store(here).n_windows > before
    assert not list((tmp_path / "cache").glob("activations/*"))
    assert_same(train(config, tmp_path / "three")["topk"].state_dict(), found.state_dict())
    with pytest.raises(InputError, match=r"holds activations at resid_post.0, resid_post.1, not at resid_post.2"):
        train(replace(config, store=here, site="resid_post.2"), tmp_path / "four")
    with pytest.raises(InputError, match="activations = live reads none"):
        replace(config, store=here, activations="live")


# Memory


def test_a_grid_that_cannot_fit_is_refused_with_what_to_drop(config, tmp_path, monkeypatch, lm):
    grid = Grid(config, seed=range(6))
    need = memory.needed(grid.arms(HERE), lm)
    weights = 48 * (2 * 32 + 1) + 32
    one = 3 * 4 * weights + 8 * (48 + 1)
    assert need.saes == {f"topk-seed{seed}": one for seed in range(6)}
    assert need.step == 2 * 4 * weights + 48 * 32 * 4 + 1.5 * 32 * 48 * 4
    assert need.stream == 2 * 8 * 16 * 32 * 4
    monkeypatch.setattr(memory, "available", lambda device: need.total - one - 1)
    with pytest.raises(InputError) as refusal:
        train(grid, tmp_path / "run")
    message = str(refusal.value)
    assert message.startswith("the run needs 0.3 MiB of memory beside the model (0.2 MiB for 6 autoencoders")
    assert "drop 2 of 6 autoencoders, or lower n_latents" in message
    assert "\n" not in message
    assert not (tmp_path / "run" / "run.json").exists()
    assert not (tmp_path / "cache" / "activations").exists(), "nothing was recorded before"
    monkeypatch.setattr(memory, "available", lambda device: need.total)
    assert len(train(grid, tmp_path / "run")) == 6


def test_only_what_learns_has_moments_and_gradients_and_controls_keep_buffers(lm):
    def need(kind, **settings):
        (one,) = Grid(replace(SMALL, sae=(kind,), aux=0.0, **settings)).arms(HERE).values()
        found = memory.needed({"one": one}, lm)
        return found.saes["one"], found.step

    (kept, step), rows = need("topk"), 4 * 48 * 32
    assert need("topk+frozen_decoder") == (kept - 2 * rows, step - rows)
    assert need("topk+frozen_encoder") == (kept - 2 * (rows + 4 * 48), step - rows - 4 * 48)
    assert need("topk+untrained") == (kept - 2 * (2 * rows + 4 * 80), step - 2 * rows - 4 * 80)
    assert need("topk+soft_frozen_decoder") == (kept + rows, step + 4 * rows)
    pca = 4 * (8 * (2 * 32 + 1) + 32) + 8 * (32 * 32 + 32 + 2) + 8 * 9
    assert need("pca") == (pca, 1.5 * 4 * 32 * 8 + 8 * 32 * (32 + 7 * 32))
    block = 8 * 16 * 32 * 4
    (live,) = Grid(replace(SMALL, activations="live", block=2, window=16)).arms(HERE).values()
    assert memory.needed({"live": live}, lm).stream == 10 * block // 8


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def give_back() -> None:
    """Free memory goes back to the system, so that the process is as large as what it holds."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for the peak of the process")
@pytest.mark.parametrize("kind", ["topk", "topk+soft_frozen_decoder", "topk+frozen_encoder", "kron", "relu", "pca"])
def test_a_step_takes_about_what_is_said(kind, lm, monkeypatch):
    """The growth of the process from before there is an autoencoder to the dearest of four steps."""
    here = HERE[0].site
    config = TrainConfig(
        sae=(kind,), site=str(here), n_latents=8192, k=16, batch=512, block=1, window=2, dead_after=512, log_every=1
    )
    monkeypatch.setattr(lm, "width", lambda site: 768)
    need = memory.needed({"one": config}, lm).total
    x = torch.randn(512, 768, generator=torch.Generator().manual_seed(0))
    jobs = []
    for settings in (replace(config, n_latents=256), config):  # what is only there once is there after the first
        jobs.clear()
        give_back()
        before = resident("VmRSS")
        jobs.append(new_job("one", settings, {here: x}, torch.device("cpu")))
        give_back()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        for step in range(4):
            loop_module.step_all({HERE[0]: jobs}, {here: x}, step, 512 * (step + 1))
            jobs[0].refresh_dead(512 * (step + 1))
    assert 0.6 * need < resident("VmHWM") - before < 1.25 * need


def test_what_is_needed_is_said_before_the_start(config, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MONOSEM_PROGRESS")
    train(replace(config, site="resid_post.{0,1}"), tmp_path / "run")
    said = capsys.readouterr().err
    assert "memory beside the model: " in said
    assert "; not counted: what the model needs of its own when it records\n" in said
    assert said.index("memory beside") < said.index("recording")


def test_what_is_free_is_at_most_what_the_machine_has():
    free = memory.available(torch.device("cpu"))
    assert free is None or 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_progress_line_names_few_autoencoders_and_sums_up_many():
    assert loop_module._noted({"a": 0.5, "b": 0.7}) == {"a EV": 0.5, "b EV": 0.7}
    many = loop_module._noted({str(number): number / 10 for number in range(6)})
    assert many == {"mean EV": 0.25, "least EV": "0 (0)"}
