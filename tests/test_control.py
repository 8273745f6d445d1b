"""Controls (arXiv 2602.14111): what is held stays to the last bit, the rest learns; principal components; --reinit."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import run_folder
from monosem.activations import store_identity
from monosem.evaluation import evaluate
from monosem.lm import LanguageModel
from monosem.sae import BatchTopK, flops, load
from monosem.shapes import InputError, Site
from monosem.training import TrainConfig, loop, train
from monosem.training.control import BESIDE, CONTROLS, SoftFrozenDecoder
from monosem.training.interruption import Interrupted
from monosem.training.job import Job
from monosem.training.log import read
from monosem.training.recipe import make, make_control, recipe, with_controls
from monosem.training.run import prepare, run_windows

D, F = 12, 24
SMALL = TrainConfig(n_latents=F, k=4, batch=32, tokens=32 * 20, dead_after=64, base=2, extension=3, widths="6,12,24")
CPU = torch.device("cpu")
KINDS = ("topk", "batch_topk", "jumprelu", "relu", "hierarchical", "matryoshka", "kron", "kron+hierarchical")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")


def batch(seed: int = 0, rows: int = 32) -> Tensor:
    """Correlated, and far from zero mean."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(D, D, generator=torch.Generator().manual_seed(1000))
    return torch.randn(rows, D, generator=generator) @ mix + 2


def started(name: str, **values) -> Job:
    config = replace(SMALL, **values)
    return Job(name, *make(name, config, batch()), config, CPU, make_control(name))


def stepped(job: Job, steps: range, lr: float = 1e-2) -> None:
    for step in steps:
        x = batch(step)
        job.step(x, lr, 32 * step, (x - x.mean(0)).square().sum())
        job.refresh_dead(32 * step)


def weights(sae) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in sae.state_dict().items()}


def moved(job: Job, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in weights(job.sae).items() if not torch.equal(tensor, before[name])}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


# Names ---------------------------------------------------------------------------------------------------------------


def test_a_control_is_one_more_word():
    assert recipe("topk").control == "trained"
    assert recipe("frozen_decoder") == recipe("topk+frozen_decoder")
    assert recipe("kron+untrained+hierarchical") == ("kron", "topk", "hierarchical", "untrained", None)
    assert recipe("pca") == ("dense", "topk", "reconstruction", "pca", None)
    for word, kind in CONTROLS.items():
        name = f"extended_random+{word}" if word == "held_core" else word
        assert type(make_control(name)) is kind


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pca+frozen_decoder", "'pca.frozen_decoder' names two of one kind, pca and frozen_decoder: keep one"),
        ("topk+untrained+frozen_encoder", "names two of one kind, untrained and frozen_encoder"),
        ("kron+pca", "an encoder and a number of latents of their own: write pca alone"),
        ("jumprelu+pca", "write pca alone"),
        ("topk+frozen", "unknown autoencoder .* one of trained, untrained, frozen_decoder, soft_frozen_decoder"),
    ],
)
def test_a_control_of_what_has_no_such_part_is_refused_in_one_line(name, message):
    with pytest.raises(InputError, match=message) as caught:
        recipe(name)
    assert "\n" not in str(caught.value)


def test_principal_components_are_at_most_as_many_as_dimensions():
    with pytest.raises(InputError, match=f"pca: k = {D + 1} components were asked for, activations have {D}"):
        make("pca", replace(SMALL, k=D + 1), batch())
    assert make("pca", replace(SMALL, k=D), batch())[0].n_latents == 2 * D


def test_controls_stand_beside_every_autoencoder_asked_for():
    asked = replace(SMALL, sae=("topk", "kron+hierarchical", "relu+frozen_encoder"), controls=True)
    expected = (
        *asked.sae,
        *(f"topk+{word}" for word in BESIDE),
        *(f"kron+hierarchical+{word}" for word in BESIDE),
        "pca",
    )
    assert with_controls(asked).sae == expected
    assert with_controls(with_controls(asked)) == with_controls(asked)
    assert with_controls(replace(asked, controls=False)).sae == asked.sae
    assert {*BESIDE, "trained", "pca", "held_core"} == CONTROLS.keys()


# What is held --------------------------------------------------------------------------------------------------------

HELD = {
    "trained": set(),
    "frozen_decoder": {"W_dec"},
    "soft_frozen_decoder": set(),
    "frozen_encoder": {"encoder.weight", "encoder.bias"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("control", HELD)
def test_what_is_held_stays_to_the_last_bit_and_the_rest_learns(kind, control):
    job = started(f"{kind}+{control}")
    before = weights(job.sae)
    stepped(job, range(1, 9))
    assert moved(job, before) == before.keys() - HELD[control]
    held = {name for name, weight in job.sae.named_parameters() if not weight.requires_grad}
    assert held == HELD[control]
    optimised = {id(weight) for group in job.optimiser.param_groups for weight in group["params"]}
    learning = {id(weight) for name, weight in job.sae.named_parameters() if name not in HELD[control]}
    assert optimised == learning
    assert job.summary()["grad_norm"] > 0


def test_the_gradient_norm_is_that_of_what_learns():
    job = started("topk+frozen_decoder", clip=1e-3)
    seen = []
    norm = torch.nn.utils.get_total_norm
    job.optimiser.register_step_pre_hook(
        lambda *_: seen.append(norm([job.sae.encoder.weight.grad, job.sae.encoder.bias.grad, job.sae.b_dec.grad]))
    )
    stepped(job, range(1, 2))
    assert seen[0].item() == pytest.approx(1e-3, rel=1e-3)
    assert job.sae.W_dec.grad is None
    assert job.sums[7] > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_is_what_an_autoencoder_starts_as(kind):
    job = started(f"{kind}+untrained")
    start = weights(make(kind, SMALL, batch())[0])
    stepped(job, range(1, 9))
    changed = moved(job, start)
    assert changed == ({"rule.cut"} if kind == "batch_topk" else set()), "a running threshold is measured, not learned"
    if isinstance(job.sae.rule, BatchTopK):
        x = torch.cat([batch(seed) for seed in range(100, 110)])
        assert job.sae.eval().codes(x).l0().float().mean() == pytest.approx(4, abs=0.6)
    summary = job.summary()
    assert summary["grad_norm"] == 0
    assert summary["l0"] > 0
    assert not [weight for weight in job.sae.parameters() if weight.grad is not None]


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_a_frozen_encoder_gives_the_same_codes_for_ever(kind):
    """Also when it would see its input without a bias that learns."""
    plain = make(kind, SMALL, batch())[0].eval()
    assert plain.subtract_b_dec
    job, x = started(f"{kind}+frozen_encoder"), batch(50)
    torch.testing.assert_close(job.sae.encode(x), plain.encode(x), rtol=1e-4, atol=1e-5)
    before = job.sae.encode(x)
    stepped(job, range(1, 20))
    assert torch.equal(job.sae.encode(x), before)
    assert (job.sae.b_dec - plain.b_dec).abs().max() > 1e-2


@pytest.mark.parametrize("unit_decoder", [True, False])
@pytest.mark.parametrize("kind", ["topk", "kron+hierarchical"])
def test_a_soft_frozen_row_stays_in_its_cone_after_every_step(kind, unit_decoder):
    job, free = (
        started(f"{kind}+{control}", unit_decoder=unit_decoder, clip=1e9)
        for control in ("soft_frozen_decoder", "trained")
    )
    start = job.sae.W_dec.detach().clone()
    least = []
    for step in range(1, 30):
        for one in (job, free):
            stepped(one, range(step, step + 1), lr=0.05)
        least.append(functional.cosine_similarity(job.sae.W_dec, start).min().item())
    assert min(least) >= 0.8 - 1e-5
    assert min(least) < 0.8 + 1e-5, "some row is at the edge"
    assert functional.cosine_similarity(free.sae.W_dec, start).min() < 0.7
    norms = job.sae.W_dec.norm(dim=1)
    assert ((norms - 1).abs().max() < 1e-5) == unit_decoder


def test_the_cone_takes_a_row_to_its_nearest_direction_and_keeps_its_norm():
    control = SoftFrozenDecoder()
    sae, _ = make("topk", SMALL, batch())
    control.hold(sae)
    start = sae.W_dec.detach().clone()
    wild = torch.randn(F, D, generator=torch.Generator().manual_seed(3)) * torch.linspace(0.1, 5, F)[:, None]
    inside = start + 0.1 * wild / wild.norm(dim=1, keepdim=True)
    wild[0] = inside[0]
    sae.W_dec.data.copy_(wild)
    control.bound(sae)
    assert torch.equal(sae.W_dec[0], inside[0])
    torch.testing.assert_close(sae.W_dec.norm(dim=1), wild.norm(dim=1))
    outside = functional.cosine_similarity(wild, start) < 0.8
    assert outside.sum() > F // 2
    torch.testing.assert_close(functional.cosine_similarity(sae.W_dec, start)[outside], torch.full((F,), 0.8)[outside])
    # Nearest: in the plane of row and start, on the row's side.
    angle = torch.acos(functional.cosine_similarity(wild, start)) - torch.acos(torch.tensor(0.8))
    turned = torch.acos(functional.cosine_similarity(sae.W_dec, wild).clamp(-1, 1))
    torch.testing.assert_close(turned[outside], angle[outside], rtol=1e-3, atol=1e-3)


# Principal components ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtract", [None, False])
def test_principal_components_are_the_best_linear_reconstruction_of_rank_k(subtract):
    job = started("pca", k=3, n_latents=7, subtract_b_dec=subtract)
    stepped(job, range(1, 21))
    sae = job.sae.eval()
    seen = torch.cat([batch(step) for step in range(1, 21)]).double()
    mean = seen.mean(0)
    _, _, rows = torch.linalg.svd(seen - mean, full_matrices=False)
    x = batch(77).double()
    expected = mean + (x - mean) @ rows[:3].T @ rows[:3]
    torch.testing.assert_close(sae(x.float()).double(), expected, rtol=1e-4, atol=1e-4)
    assert (sae.n_latents, sae.K) == (6, 3)
    assert set(sae.codes(x.float()).l0().tolist()) == {3}
    assert not moved(started("pca", k=3), weights(make("pca", replace(SMALL, k=3), batch())[0]))


def test_principal_components_follow_the_stream_and_are_exact_at_its_end():
    job = started("pca", k=3)
    for last in (1, 2, 3, 4, 19, 20):
        seen = int(job.control.count[1])
        stepped(job, range(seen + 1, last + 1))
        fitted = last if last == 20 else 1 << (last.bit_length() - 1)
        mean = torch.cat([batch(step) for step in range(1, fitted + 1)]).mean(0)
        torch.testing.assert_close(job.sae.b_dec / job.sae.scale, mean, rtol=1e-4, atol=1e-4)


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    settings = run_folder.SETTINGS | {"tokens": 960, "distinct_tokens": 900}
    return TrainConfig(**settings, **run_folder.inputs(tmp_path))


@pytest.mark.slow
def test_a_run_with_controls_trains_saves_logs_and_evaluates_all(config, tmp_path):
    saes = train(replace(config, controls=True, sae=("topk", "kron"), base=4, extension=4), tmp_path / "run")
    names = [f"{kind}{word}" for kind in ("topk", "kron") for word in ("", *(f"+{word}" for word in BESIDE))]
    assert set(saes) == {*names, "pca"}
    for name, sae in saes.items():
        again = load(tmp_path / "run" / "saes" / name)
        assert_same(weights(again), weights(sae))
        assert all(weight.requires_grad for weight in again.parameters())
        assert sae.info["training"]["config"]["sae"] == [name]
    assert {line["sae"] for line in read(tmp_path / "run" / "metrics.jsonl")} == set(saes)
    lm = prepare(config).lm
    found = evaluate(saes, lm, run_windows(config, lm, "held_out"), loss_windows=2)
    assert {round(one.metrics["l0"]) for one in found.values()} == {4}
    assert found["topk"].metrics["explained_variance"] > found["topk+untrained"].metrics["explained_variance"] + 0.05
    assert saes["pca"].n_latents == 8


def test_a_resumed_control_equals_an_uninterrupted_one(config, tmp_path, monkeypatch):
    config = replace(config, controls=True, sae=("batch_topk",), tokens=640)
    expected = train(config, tmp_path / "whole")
    advance = loop.Loop._advance

    def interrupted(self, *arguments):
        advance(self, *arguments)
        if self.step == 13:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Loop, "_advance", interrupted)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "parts")
    monkeypatch.setattr(loop.Loop, "_advance", advance)
    found = train(config, tmp_path / "parts")
    assert found.keys() == expected.keys()
    for name, sae in found.items():
        assert_same(weights(sae), weights(expected[name]))


def test_a_control_is_the_same_alone_and_beside_others(config, tmp_path):
    beside = train(replace(config, controls=True, tokens=320), tmp_path / "beside")
    for name in ("topk", "topk+soft_frozen_decoder", "topk+frozen_encoder", "pca"):
        alone = train(replace(config, sae=(name,), tokens=320), tmp_path / name)
        assert_same(weights(alone[name]), weights(beside[name]))


def test_active_latents_of_rules_without_a_number_are_those_training_ended_with(config, tmp_path):
    saes = train(replace(config, sae=("jumprelu", "relu", "topk"), tokens=640), tmp_path / "run")
    lines = {line["sae"]: line for line in read(tmp_path / "run" / "metrics.jsonl")}
    for name in ("jumprelu", "relu"):
        assert flops.active(saes[name]) == round(lines[name]["l0"]) < 48
        assert flops.active(load(tmp_path / "run" / "saes" / name)) == flops.active(saes[name])
    assert flops.active(saes["topk"]) == 4
    del saes["relu"].info["training"]["l0"]
    assert flops.active(saes["relu"]) == 48


@pytest.mark.slow
def test_the_command_line_puts_controls_into_every_table(config, tmp_path):
    wanted = {key: getattr(config, key) for key in ("model", "text", *run_folder.SETTINGS)}
    done = run_folder.monosem(tmp_path, "train", *run_folder.flags(wanted | {"run": "run"}), "--controls", "--json")
    assert done.returncode == 0, done.stderr
    names = {"topk", *(f"topk+{word}" for word in BESIDE), "pca"}
    assert json.loads(done.stdout)["saes"].keys() == names
    shown = run_folder.monosem(tmp_path, "evaluate", "run", "--windows", "8", "--loss-windows", "4", "--json")
    assert json.loads(shown.stdout).keys() == names
    done = run_folder.monosem(tmp_path, "report", "run", "--windows", "8", "--loss-windows", "4")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert not [name for name in names if name not in page]
    done = run_folder.monosem(tmp_path, "train", *run_folder.flags(wanted | {"run": "random", "reinit": 3}))
    assert done.returncode == 0, done.stderr
    found = run_folder.monosem(tmp_path, "evaluate", "random", "--windows", "4", "--loss-windows", "2", "--json")
    assert "other weights" not in found.stderr
    assert "(re-initialised, seed 3)" in json.loads(found.stdout)["topk"]["provenance"]["model"]["name"]
    refused = run_folder.monosem(tmp_path, "train", "--sae", "pca+frozen_decoder", "--run", "other")
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].count("names two of one kind") == 1


# A re-initialised model ----------------------------------------------------------------------------------------------


def test_a_re_initialised_model_has_other_weights_of_the_same_architecture(config):
    load_one = LanguageModel.load
    plain = load_one(config.model, dtype="float32", device="cpu")
    state = torch.get_rng_state()
    first, again, other = (load_one(config.model, dtype="float32", device="cpu", reinit=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert first.fingerprint() == again.fingerprint()
    assert len({one.fingerprint() for one in (plain, first, other)}) == 3
    shapes = [{name: weight.shape for name, weight in one.model.named_parameters()} for one in (plain, first)]
    assert shapes[0] == shapes[1]
    assert "(re-initialised, seed 0)" in first.name
    assert "replaced by those transformers initialises it with" in first.source
    torch.manual_seed(0)
    expected = type(plain.model)(plain.model.config)
    for name, weight in expected.named_parameters():
        assert torch.equal(first.model.get_parameter(name), weight), name
    rounded = load_one(config.model, dtype="bfloat16", device="cpu", reinit=0)
    for name, weight in rounded.model.named_parameters():
        assert torch.equal(weight, first.model.get_parameter(name).bfloat16())
    tokens = torch.arange(2, 12)[None]
    (found,), (usual,) = (one.capture(tokens, ["resid_post.1"]).values() for one in (first, plain))
    assert found.isfinite().all()
    assert not torch.allclose(found, usual)


def test_a_run_on_a_re_initialised_model_says_so_and_shares_no_recording(config, tmp_path):
    run = train(replace(config, reinit=3, tokens=320), tmp_path / "run")["topk"]
    assert "(re-initialised, seed 3)" in run.info["model"]["name"]
    assert run.info["training"]["config"]["reinit"] == 3
    plain, random = (prepare(replace(config, reinit=seed, tokens=320)) for seed in (None, 3))
    assert run.info["model"]["fingerprint"] == random.lm.fingerprint() != plain.lm.fingerprint()
    identities = [
        store_identity(one.lm, one.windows, [Site.parse("resid_post.1")], "float32") for one in (plain, random)
    ]
    assert identities[0] != identities[1]
    with pytest.raises(InputError, match="reinit = -1"):
        replace(config, reinit=-1)
