"""The training loop: alone or together, interrupted or not, whole or in parts, always the same weights."""

import itertools
import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch

import run_folder
from monosem.sae import load, multiplier
from monosem.shapes import InputError
from monosem.training import Grid, Interrupted, TrainConfig, checkpoint, job, open_run, together, train
from monosem.training import loop as loop_module
from monosem.training.log import read
from monosem.training.recipe import make
from monosem.training.run import prepare
from monosem.training.schedule import learning_rate

ALL = ("topk", "batch_topk", "jumprelu", "relu")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    return TrainConfig(**run_folder.SETTINGS, **run_folder.inputs(tmp_path), sae=ALL)


def weights(saes):
    return {f"{name}.{key}": value for name, sae in saes.items() for key, value in sae.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different


def test_training_improves_and_saves_what_it_returns(config, tmp_path):
    saes = train(config, tmp_path / "run")
    lines = read(tmp_path / "run" / "metrics.jsonl")
    for name, sae in saes.items():
        mine = [line for line in lines if line["sae"] == name]
        assert [line["step"] for line in mine] == [*range(7, 101, 7), 100]
        assert mine[-1]["mse"] < 0.85 * mine[0]["mse"]
        assert_same(weights({name: load(tmp_path / "run" / "saes" / name)}), weights({name: sae}))
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(48), rtol=1e-5, atol=0)
        assert sae.info["site"] == "resid_post.1"
        assert sae.info["transformer_lens"] == "blocks.1.hook_resid_post"
        assert sae.info["training"]["tokens"] == 3200
        assert sae.info["training"]["distinct_tokens"] < 2600
    assert [line["l0"] for line in lines if line["sae"] == "topk"][-1] == 4
    assert open_run(tmp_path / "run") == (Grid(replace(config, device="cpu")), "finished")
    assert len(checkpoint.steps(tmp_path / "run" / "checkpoints")) == config.keep
    with pytest.raises(InputError, match="finished"):
        train(config, tmp_path / "run")


def test_each_autoencoder_is_the_same_as_if_trained_alone(config, tmp_path):
    config = replace(config, tokens=960)
    beside = train(config, tmp_path / "beside")
    for name in ALL:
        alone = train(replace(config, sae=(name,)), tmp_path / name)
        assert_same(weights(alone), weights({name: beside[name]}))


KRON = {"sae": ("topk", "kron+hierarchical"), "equal": "flops", "base": 4, "extension": 4, "tokens": 1600}
"""88 steps of Kron to 50 of TopK, for the same multiply-adds."""
RESUMED = {
    "store": ({"tokens": 1280}, [13, 14, 31], 40),
    "live": ({"activations": "live", "tokens": 1280}, [13, 14, 31], 40),
    "kron+hierarchical, equal flops": (KRON, [14, 61], 88),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_equals_an_uninterrupted_one(config, tmp_path, monkeypatch, case):
    changed, stopped, steps = RESUMED[case]
    config = replace(config, **changed)
    expected = train(config, tmp_path / "whole")
    stops = iter(stopped)
    stop = next(stops)
    advance = loop_module.Loop._advance

    def interrupted(self, log, bar):
        advance(self, log, bar)
        if self.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop_module.Loop, "_advance", interrupted)
    for _ in stopped:
        with pytest.raises(Interrupted, match=f"after step {stop} of {steps}") as caught:
            train(config, tmp_path / "parts")
        assert caught.value.signal_number == signal.SIGTERM
        stop = next(stops, None)
    found = train(config, tmp_path / "parts")
    assert_same(weights(found), weights(expected))
    clock = {"tokens_per_s", "step_seconds"}
    lines = [
        [{k: v for k, v in line.items() if k not in clock} for line in read(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "parts")
    ]
    assert lines[0] == lines[1]


def test_equal_flops_end_at_steps_of_their_own_and_budgets_are_logged(config, tmp_path):
    config = replace(config, **KRON, budgets="1,3,4")
    saes = train(config, tmp_path / "run")
    lines = {name: [line for line in read(tmp_path / "run" / "metrics.jsonl") if line["sae"] == name] for name in saes}
    last = {"topk": 50, "kron+hierarchical": 88}
    for name, mine in lines.items():
        assert [line["step"] for line in mine] == sorted({*range(7, last[name] + 1, 7), last[name]})
        assert mine[-1]["tokens"] == last[name] * 32 == saes[name].info["training"]["tokens"]
        assert 0 < mine[-1]["lr"] < config.lr / 5, "each schedule ends with its run"
    kron = lines["kron+hierarchical"]
    assert 1600 * multiplier(saes["kron+hierarchical"]) // 32 == 88
    assert kron[-1]["loss"] < 0.9 * kron[0]["loss"]
    for line in kron:
        # Powers of two and both ends of the budgets; the last is all codes.
        explained = [line[f"explained_variance_at_{k}"] for k in (1, 4)]
        assert "explained_variance_at_3" not in line
        assert explained[1] == pytest.approx(line["explained_variance"], abs=1e-5)
        assert explained[0] < explained[1]
        assert 0 <= line["clamped_share"] < 0.5
    assert not any("clamped_share" in line or "explained_variance_at_1" in line for line in lines["topk"])
    info = saes["kron+hierarchical"].info
    assert info["budgets"]["J"] == [1, 3, 4]
    assert info["budgets"]["rank_weights"] == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3])
    assert "budgets" not in saes["topk"].info


def test_a_run_resumed_after_its_last_step_says_the_same_about_it(config, tmp_path, monkeypatch):
    config = replace(config, sae=("kron",), tokens=320, base=4, extension=4)
    expected = train(config, tmp_path / "whole")["kron"].info["training"]["clamped_share"]
    assert expected is not None
    advance = loop_module.Loop._advance

    def stopped(self, log, bar):
        advance(self, log, bar)
        if self.step == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop_module.Loop, "_advance", stopped)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "parts")
    assert train(config, tmp_path / "parts")["kron"].info["training"]["clamped_share"] == expected


def test_arms_in_memory_are_what_a_run_trains(config, tmp_path):
    names = ("topk", "kron+hierarchical", "matryoshka+batch_topk")
    config = replace(config, sae=names, tokens=640, base=4, extension=4)
    saes = train(config, tmp_path / "run")
    prepared = prepare(config)
    arms = together(prepared.source, prepared.site, {name: replace(config, sae=(name,)) for name in names})
    assert_same(weights(arms), weights(saes))


def test_lines_written_after_the_checkpoint_are_dropped_on_resume(config, tmp_path):
    folder, config = tmp_path / "run", replace(config, sae=("topk", "jumprelu"), tokens=960)
    expected = train(config, folder)
    before = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([*before, '{"step": 1', ""]))
    (folder / "run.json").write_text(
        json.dumps({**json.loads((folder / "run.json").read_text()), "status": "training"})
    )
    checkpoints = folder / "checkpoints"
    last = checkpoint.steps(checkpoints)[-1]
    (checkpoints / f"{last:09}" / "checkpoint.json").unlink()
    assert_same(weights(train(config, folder)), weights(expected))
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [
        json.loads(line)["step"] for line in before
    ]


def test_accumulated_gradients_equal_those_of_the_whole_batch(config, tmp_path):
    config = replace(config, sae=("topk", "jumprelu", "relu"), tokens=32 * 5, aux=0.0)
    whole = weights(train(config, tmp_path / "whole"))
    parts = weights(train(replace(config, accumulate=4), tmp_path / "parts"))
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="accumulate = 1"):
        replace(config, sae=("batch_topk",), accumulate=2)


@pytest.mark.parametrize("name", ["topk", "jumprelu", "relu"])
def test_accumulation_of_one_step_is_exact_to_a_millionth(config, name):

    x = torch.randn(32, 32, generator=torch.Generator().manual_seed(0)) + 1
    grads = []
    for accumulate in (1, 4):
        sae, objective = make(name, replace(config, sae=(name,), accumulate=accumulate), x)
        objective.penalty.advance(torch.tensor(6.0))
        for part in (x * sae.scale).chunk(accumulate):
            (objective(sae.train(), part).total / accumulate).backward()
        grads.append([weight.grad for weight in sae.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(one.abs().max()))


def test_bfloat16_autocast_stays_close(config, tmp_path):
    config = replace(config, sae=("topk",), tokens=1280)
    exact, rounded = (train(replace(config, precision=p), tmp_path / p)["topk"] for p in ("float32", "bfloat16"))
    difference = (exact.W_dec - rounded.W_dec).norm() / exact.W_dec.norm()
    assert 0 < difference < 0.2


def test_divergence_stops_with_its_place_and_keeps_the_last_good_checkpoint(config, tmp_path, monkeypatch):
    step = job.Job.step

    def poisoned(self, x, lr, tokens, *more):
        step(self, x * float("nan") if tokens == 32 * 33 else x, lr, tokens, *more)

    monkeypatch.setattr(job.Job, "step", poisoned)
    message = r"topk diverged between training tokens 896 and 1,120 \(step 35.*lower lr.*is kept in"
    with pytest.raises(InputError, match=message):
        train(replace(config, sae=("topk",)), tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run" / "checkpoints")
    assert saved is not None
    assert saved.step == 30
    assert all(tensor.isfinite().all() for tensor in saved.tensors["topk"].values())


def test_an_altered_checkpoint_is_refused(config, tmp_path):
    folder = tmp_path / "run"
    train(replace(config, sae=("topk",)), folder)
    (folder / "run.json").write_text(
        json.dumps({**json.loads((folder / "run.json").read_text()), "status": "training"})
    )
    weights_file = sorted(folder.glob("checkpoints/*/topk.safetensors"))[-1]
    weights_file.write_bytes(weights_file.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated or altered"):
        train(replace(config, sae=("topk",)), folder)


def test_a_run_whose_text_has_changed_is_not_continued(config, tmp_path, monkeypatch):
    advance = loop_module.Loop._advance

    def stopped(self, log, bar):
        advance(self, log, bar)
        if self.step == 13:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop_module.Loop, "_advance", stopped)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run")
    text = tmp_path / "text.txt"
    text.write_text(text.read_text()[:-200])
    with pytest.raises(InputError, match="is not what it was when the run began"):
        train(config, tmp_path / "run")


def test_bad_input_leaves_no_run_behind(config, tmp_path):
    with pytest.raises(InputError, match="nearest"):
        train(replace(config, site="resid_post.9"), tmp_path / "run")
    assert train(replace(config, sae=("topk",)), tmp_path / "run")


def test_an_altered_checkpoint_description_is_refused(config, tmp_path):
    folder = tmp_path / "run"
    train(replace(config, sae=("topk",)), folder)
    head = sorted(folder.glob("checkpoints/*/checkpoint.json"))[-1]
    for text in ("{}", head.read_text().replace('"cursor": ', '"cursor": 1')):
        head.write_text(text)
        with pytest.raises(InputError, match="does not match its own checksum"):
            checkpoint.load(folder / "checkpoints")


def test_another_run_in_the_folder_is_refused(config, tmp_path):
    train(replace(config, sae=("topk",)), tmp_path / "run")
    with pytest.raises(InputError, match=r"holds a run with k = 4, asked for 5"):
        train(replace(config, sae=("topk",), k=5), tmp_path / "run")


def test_a_folder_in_use_is_refused(config, tmp_path):
    from monosem.disk import lock

    with lock(tmp_path / "run"), pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        train(config, tmp_path / "run")


def test_calibration_sets_mean_l0_and_is_reported(config, tmp_path):
    saes = train(replace(config, sae=("topk", "batch_topk", "jumprelu"), calibrate=True), tmp_path / "run")
    assert saes["topk"].info["calibration"] is None
    for name in ("batch_topk", "jumprelu"):
        report = saes[name].info["calibration"]
        assert report["l0_after"] == pytest.approx(4, rel=0.15)
        assert abs(report["l0_after"] - 4) <= abs(report["l0_before"] - 4) + 0.05


@pytest.mark.parametrize("name", ["jumprelu", "batch_topk"])
@pytest.mark.parametrize("shift", [0.7, 1.3])
def test_calibration_moves_wrong_thresholds_to_the_target(config, name, shift):
    from monosem.training.calibration import calibrate

    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    sae, _ = make(name, replace(config, sae=(name,)), x)
    sae.train()
    sae.codes(x)
    (sae.rule.threshold.data if name == "jumprelu" else sae.rule.cut).mul_(shift)
    report = calibrate(sae, [x[:32], x[32:]], config.k)
    assert (report["l0_before"] - config.k) * (1 - shift) > 0.5 * abs(1 - shift)
    assert report["l0_after"] == pytest.approx(config.k, rel=0.05)
    assert report["factor"] == pytest.approx(1 / shift, rel=0.1)
    assert float(sae.codes(x).l0().float().mean()) == pytest.approx(report["l0_after"])


def test_every_slope_of_a_gate_is_counted_once(config):

    x = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    config = replace(config, sae=("kron",), base=4, extension=4, gate_clamp=1.5)
    one = job.Job("kron", *make("kron", config, x), config, torch.device("cpu"))
    for step in (1, 2, 3):
        one.step(x, 1e-9, 32 * step, torch.tensor(1.0))
    sums = dict(zip(job.SUMS, one.sums.tolist(), strict=True))
    assert sums["gated"] == pytest.approx(32 * sums["l0"])
    assert 0 < sums["clamped"] < sums["gated"]
    assert one.clamped_share is None
    assert one.summary()["clamped_share"] == sums["clamped"] / sums["gated"] == one.clamped_share


def test_the_optimiser_sees_no_decoder_gradient_along_the_rows(config):

    x = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    config = replace(config, sae=("topk",))
    sae, objective = make("topk", config, x)
    one = job.Job("topk", sae, objective, config, torch.device("cpu"))
    seen = []
    one.optimiser.register_step_pre_hook(lambda *_: seen.append(sae.W_dec.grad.clone()))
    before = sae.W_dec.detach().clone()
    one.step(x, 1e-3, 32, torch.tensor(1.0))
    (grad,) = seen
    assert grad.abs().max() > 1e-4
    assert (grad * before).sum(1).abs().max() < 1e-7


def test_the_dead_are_those_silent_for_long_enough(config):

    x = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    config = replace(config, sae=("topk",), dead_after=64)
    sae, objective = make("topk", config, x)
    one = job.Job("topk", sae, objective, config, torch.device("cpu"))
    with torch.no_grad():
        sae.encoder.bias[:5] = -100.0
    for tokens in (32, 64):
        fired = set(sae.codes(x).indices[sae.codes(x).values > 0].tolist())
        one.step(x, 1e-9, tokens, torch.tensor(1.0))
        one.refresh_dead(tokens)
        silent = set(range(48)) - fired
        assert set(one.dead.tolist()) == (silent if tokens == 64 else set())
    assert set(range(5)) <= silent


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_learning_rate_rises_stays_and_falls_to_nothing(schedule):
    config = TrainConfig(tokens=2048 * 100, warmup=0.1, decay=0.2, lr=1.0, schedule=schedule)
    rates = [learning_rate(step, config) for step in range(100)]
    assert 0 < rates[0] < rates[5] < rates[9] < 1
    assert set(rates[10:81]) == {1.0}
    assert all(a > b for a, b in itertools.pairwise(rates[80:]))
    assert 0 < rates[99] < 0.06
    middle = 0.5 if schedule == "linear" else (1 + math.cos(math.pi / 2)) / 2
    assert rates[90] == pytest.approx(middle)


BAD = [
    ({"k": 5000, "n_latents": 100}, "k = 5000 does not fit 100 latents"),
    ({"sae": ("topk", "topk")}, "name each autoencoder once"),
    ({"tokens": 10}, "less than one batch"),
    ({"batch": 10, "accumulate": 3, "tokens": 100}, "does not divide"),
    ({"warmup": 0.9, "decay": 0.5}, "shares of the run"),
    ({"warmup": -0.2}, "warmup = -0.2: expected at least 0 and at most 1"),
    ({"window": 1}, "window = 1"),
    ({"lr": -1.0}, "lr = -1.0"),
    ({"clip": 0.0}, "clip = 0.0"),
    ({"held_out": 2.0}, "held_out = 2.0"),
    ({"dead_after": 0}, "dead_after = 0"),
    ({"distinct_tokens": 0}, "distinct_tokens = 0"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_bad_settings_are_one_line(values, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**values)


def test_settings_from_a_file(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('sae = ["topk", "relu"]\nlr = 1\nsite = "mlp_out.3"\n')
    assert TrainConfig.from_dict(TrainConfig.from_toml(path)) == TrainConfig(
        sae=("topk", "relu"), lr=1.0, site="mlp_out.3"
    )
    for text, message in [
        ("n_latent = 3", r"unknown setting 'n_latent' \(did you mean 'n_latents'\?\)"),
        ('k = "many"', "k = 'many': expected int"),
        ("k = true", "expected int"),
        ('schedule = "sine"', "expected one of linear, cosine"),
        ("k = ", "is not TOML"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            TrainConfig.from_toml(path)


def test_an_unknown_autoencoder_is_said_before_anything_is_loaded(config, tmp_path):
    with pytest.raises(InputError, match="unknown autoencoder 'topp'"):
        train(replace(config, sae=("topp",)), tmp_path / "run")


@pytest.mark.parametrize("length", [0.5, 1.0, 3.0])
def test_gradients_are_clipped_as_torch_clips_them(length):
    config = TrainConfig(n_latents=24, k=3, batch=16, tokens=64)
    one = job.Job("topk", *make("topk", config, torch.randn(16, 8)), config, torch.device("cpu"))
    weights = list(one.sae.parameters())
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
    for weight in weights:
        weight.grad *= length / norm
    twins = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    for weight, twin in zip(weights, twins, strict=True):
        twin.grad = weight.grad.clone()
    assert torch.equal(one._clip(), torch.nn.utils.clip_grad_norm_(twins, config.clip))
    assert all(torch.equal(weight.grad, twin.grad) for weight, twin in zip(weights, twins, strict=True))
