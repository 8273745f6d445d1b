"""Training beside a frozen core: residuals, the baselines they are compared with, and what stays as it was."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import run_folder
from monosem.sae import BatchTopK, TopK, boosted, groups, load, save, without
from monosem.shapes import InputError, Site
from monosem.shapes.route import Left, Route
from monosem.training import Grid, Interrupted, TrainConfig, train
from monosem.training.core import CoreStream, active_latents, core_of, unexplained
from monosem.training.recipe import blank, effective, recipe
from monosem.training.run import prepare
from monosem.training.start import first_batch, new_job

D, F, M = 32, 48, 16
SITE = Site.parse("resid_post.1")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model, a text, a BatchTopK core trained on it, and another text of other words."""
    folder = tmp_path_factory.mktemp("boost")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONOSEM_CACHE", str(folder / "cache"))
        patch.setenv("MONOSEM_PROGRESS", "off")
        named = run_folder.inputs(folder)
        lines = [line.upper().replace("THE", "of") for line in (folder / "text.txt").read_text().split("\n\n")]
        (folder / "domain.txt").write_text("\n\n".join(lines))
        config = TrainConfig.from_dict({**run_folder.SETTINGS, **named, "sae": ["batch_topk"], "calibrate": True})
        train(config, folder / "core")
        yield folder


@pytest.fixture
def config(world, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(world / "cache"))
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    named = {"model": str(world / "model"), "text": str(world / "domain.txt"), "core": str(world / "core")}
    own = {"sae": ["batch_topk"], "n_latents": M, "k": 3, "tokens": 1600, "calibrate": True, "lr": 3e-3}
    return TrainConfig.from_dict({**run_folder.SETTINGS, **named, **own})


@pytest.fixture
def batch(config):
    """One batch of the domain with what the core leaves of it, and the core."""
    prepared = prepare(config)
    stream = CoreStream(prepared.source, prepared.core, batch=64, block=8, seed=0)
    return first_batch(stream), prepared.core.sae


def job(config, batch, name="batch_topk", **changes):
    return new_job(name, dataclasses.replace(config, sae=(name,), **changes), batch[0], torch.device("cpu"))


def test_the_stream_gives_what_the_core_leaves_in_float32(batch):
    acts, core = batch
    x = acts[SITE].float()
    assert torch.equal(acts[Left(SITE)], x - core(x))
    half = unexplained(core, x.bfloat16(), x.bfloat16())
    assert half.dtype == torch.float32
    assert torch.equal(half, x.bfloat16().float() - core(x.bfloat16().float()))


def test_a_residual_starts_centred_with_codes_of_the_size_of_the_error(config, batch):
    acts, _ = batch
    x, e = acts[SITE].float(), acts[Left(SITE)]
    sae = job(config, batch).sae
    pre = sae.pre_acts(x)
    torch.testing.assert_close(pre.mean(0), torch.zeros(M), atol=1e-4, rtol=0)
    size = (e * sae.out_scale).square().mean().sqrt()
    rows = sae.encoder.weight.norm(dim=1)
    spread = ((x - x.mean(0)) * sae.scale).square().mean().sqrt()
    torch.testing.assert_close(rows, (size / spread).expand(M), rtol=1e-5, atol=0)
    assert not sae.b_dec.any()
    centred = ((e - e.mean(0)) * sae.out_scale).square().sum(1).mean()
    torch.testing.assert_close(centred, torch.tensor(float(D)), rtol=1e-5, atol=0)


def test_its_gradient_is_that_of_the_whole_with_the_core_detached(config, batch):
    acts, core = batch
    x, e = acts[SITE].float(), acts[Left(SITE)]
    one = job(config, batch, aux=0.0)
    sae = one.sae
    loss = one.objective(sae, x * sae.scale, None, e * sae.out_scale)
    loss.total.backward()
    whole = x - core(x).detach() - sae(x)
    want = whole.square().sum(1).mean() / (D / sae.out_scale**2)
    for weight in (sae.W_dec, sae.encoder.weight, sae.encoder.bias):
        (grad,) = torch.autograd.grad(want, weight, retain_graph=True)
        torch.testing.assert_close(weight.grad, grad, rtol=1e-4, atol=1e-6)
    assert sae.b_dec.grad is None


def test_only_the_residual_has_an_optimiser(config, batch):
    one, (_, core) = job(config, batch), batch
    owned = {id(weight) for group in one.optimiser.param_groups for weight in group["params"]}
    assert not owned & {id(weight) for weight in core.parameters()}
    assert id(one.sae.b_dec) not in owned
    assert not any(weight.requires_grad for weight in core.parameters())


@pytest.fixture(scope="module")
def trained(world):
    """Everything that is trained beside a core, in one run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONOSEM_CACHE", str(world / "cache"))
        patch.setenv("MONOSEM_PROGRESS", "off")
        settings = {**run_folder.SETTINGS, "model": str(world / "model"), "text": str(world / "domain.txt")}
        settings |= {"core": str(world / "core"), "n_latents": M, "k": 3, "tokens": 3200, "calibrate": True, "lr": 3e-3}
        settings["sae"] = [
            "batch_topk",
            "kron+batch_topk",
            "hierarchical",
            "batch_topk+frozen_decoder",
            "batch_topk+scratch",
            "batch_topk+extended_random",
            "batch_topk+extended_random+held_core",
            "batch_topk+extended_active",
            "finetuned",
        ]
        before = load(world / "core").state_dict()
        saes = train(TrainConfig.from_dict(settings), world / "beside")
        core = load(world / "core")
        assert all(torch.equal(before[name], core.state_dict()[name]) for name in before)
        yield saes, core


def heldout(config):
    prepared = prepare(dataclasses.replace(config, core=None))
    return prepared.source.rows(np.arange(prepared.source.n_windows)).acts[SITE].float()


@torch.no_grad()
def error(sae, x):
    return float((x - sae(x)).square().sum())


@pytest.mark.parametrize("name", ["batch_topk", "kron+batch_topk", "hierarchical", "batch_topk+frozen_decoder"])
def test_residuals_are_saved_as_a_sum_that_explains_more_than_the_core(trained, config, name):
    (saes, core), x = trained, heldout(config)
    both = saes[name]
    assert [group.name for group in groups(both)] == ["core", "domain"]
    assert torch.equal(without(both, "domain")(x), core(x))
    assert error(both, x) < 0.98 * error(core, x)
    assert both.info["core"]["n_latents"] == F
    assert both.info["exclusion"] == core.info["exclusion"]
    assert both.info["text"] != core.info["text"]


def test_the_residuals_threshold_keeps_exactly_k_on_the_calibration_tokens(trained):
    both = trained[0]["batch_topk"]
    found = groups(both)[1].info["calibration"]
    assert found["l0_after"] == pytest.approx(3, abs=1e-9)
    assert found["training_tokens"] == 8 * 32


def test_baselines_have_the_latents_of_both_and_one_joint_rule(trained):
    saes, _ = trained
    for name in ("batch_topk+scratch", "batch_topk+extended_random", "batch_topk+extended_active"):
        assert saes[name].n_latents == F + M
        assert isinstance(saes[name].rule, BatchTopK)
        assert saes[name].rule.k == 4 + 3
    assert saes["finetuned"].n_latents == F
    assert saes["finetuned"].rule.k == 4


def test_the_held_core_keeps_every_bit_and_new_latents_learn(trained):
    (saes, core), name = trained, "batch_topk+extended_random"
    held, free = saes[f"{name}+held_core"], saes[name]
    assert torch.equal(held.W_dec[:F], core.W_dec)
    assert torch.equal(held.encoder.weight[:F], core.encoder.weight)
    assert torch.equal(held.encoder.bias[:F], core.encoder.bias)
    assert torch.equal(held.b_dec, core.b_dec)
    assert not torch.equal(free.W_dec[:F], core.W_dec)
    assert not torch.equal(held.W_dec[F:], free.W_dec[F:])


def test_a_fine_tuned_core_moves_and_explains_the_domain_better(trained, config):
    (saes, core), x = trained, heldout(config)
    assert error(saes["finetuned"], x) < error(core, x)
    assert not torch.equal(saes["finetuned"].W_dec, core.W_dec)


def test_extended_cores_start_as_the_core_with_random_or_busy_latents(config, batch):
    acts, core = batch
    x = acts[SITE].float()
    random = job(config, batch, "batch_topk+extended_random").sae
    active = job(config, batch, "batch_topk+extended_active").sae
    for sae in (random, active):
        assert torch.equal(sae.W_dec[:F], core.W_dec)
        torch.testing.assert_close(sae.pre_acts(x)[:, :F], core.pre_acts(x))
    busiest = (core.encode(x) != 0).sum(0).sort(descending=True, stable=True).indices[:M]
    assert torch.equal(active.encoder.weight[F:], core.encoder.weight[busiest])
    cosine = torch.cosine_similarity(active.W_dec[F:], core.W_dec[busiest])
    assert ((cosine > 0.999) & (cosine < 1)).all()
    torch.testing.assert_close(random.pre_acts(x)[:, F:].mean(0), torch.zeros(M), atol=1e-4, rtol=0)


def test_a_fine_tuned_core_starts_as_the_core(config, batch):
    acts, core = batch
    sae = job(config, batch, "finetuned").sae.eval()
    assert torch.equal(sae(acts[SITE].float()), core(acts[SITE].float()))


def test_a_killed_run_beside_a_core_continues_bitwise(config, tmp_path, monkeypatch):
    from monosem.training.loop import Loop

    grid = Grid(dataclasses.replace(config, sae=("batch_topk", "batch_topk+extended_random+held_core"), tokens=960))
    whole = train(grid, tmp_path / "whole")
    save_, stop = Loop.save, []

    def saving(self, *args):
        save_(self, *args)
        if not stop:
            stop.append(self.step)
            raise Interrupted(2, "here")

    monkeypatch.setattr(Loop, "save", saving)
    with pytest.raises(Interrupted):
        train(grid, tmp_path / "parts")
    again = train(grid, tmp_path / "parts")
    for name, sae in whole.items():
        assert all(torch.equal(a, b) for a, b in zip(sae.state_dict().values(), again[name].state_dict().values()))


def test_a_boosted_autoencoder_can_be_the_core_of_the_next(config, trained, tmp_path):
    both = trained[0]["batch_topk"]
    save(both, tmp_path / "both")
    again = dataclasses.replace(config, core=str(tmp_path / "both"), domain="second", tokens=4800)
    assert active_latents(again) == 4 + 3
    (twice,) = train(again, tmp_path / "run").values()
    assert [group.name for group in groups(twice)] == ["core", "domain", "second"]
    assert error(twice, heldout(config)) < error(both, heldout(config))


def test_seeds_and_budgets_make_a_grid_on_one_stream(config, tmp_path):
    saes = train(Grid(dataclasses.replace(config, tokens=640), k=(1, 4), seed=(0, 1)), tmp_path / "run")
    assert sorted(saes) == [f"batch_topk-k{k}-seed{seed}" for k in (1, 4) for seed in (0, 1)]
    alone = train(dataclasses.replace(config, tokens=640, k=4, seed=1, order_seed=0), tmp_path / "alone")
    twin = saes["batch_topk-k4-seed1"].state_dict()
    assert all(torch.equal(one, twin[name]) for name, one in alone["batch_topk"].state_dict().items())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"site": "resid_post.0"}, "the core reads resid_post.1 and explains resid_post.1, asked for resid_post.0"),
        ({"sae": ("pca",)}, "is no control beside a core"),
        ({"sae": ("kron+extended_random",)}, "the core's latents have a row each"),
        ({"sae": ("topk+finetuned", "batch_topk+finetuned")}, "write finetuned alone"),
        ({"sae": ("batch_topk+held_core",)}, "only what extends a core"),
        ({"core": "nowhere"}, "nowhere holds no autoencoder"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else None,
)
def test_what_cannot_be_trained_beside_a_core_is_refused_in_one_line(config, tmp_path, changes, line):
    with pytest.raises(InputError, match=line) as caught:
        train(dataclasses.replace(config, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_role_without_a_core_is_refused(config, tmp_path):
    with pytest.raises(InputError, match="is trained beside a core: give its folder as core"):
        train(dataclasses.replace(config, core=None, sae=("batch_topk+extended_random",)), tmp_path / "run")


def test_the_cores_own_k_is_used_where_none_is_given(config, world):
    assert active_latents(config) == 4
    assert active_latents(dataclasses.replace(config, core_k=9)) == 9
    assert effective("batch_topk+scratch", config).k == 7
    assert blank("finetuned", config, D).n_latents == F
    assert recipe("batch_topk+extended_random").role == "extended_random"
    assert isinstance(blank("hierarchical", config, D, D).rule, TopK)
    assert core_of(dataclasses.replace(config, core=None)) is None


def test_the_run_remembers_which_core_it_was_beside(config, tmp_path, world):
    copy = load(world / "core")
    save(copy, tmp_path / "core")
    short = dataclasses.replace(config, core=str(tmp_path / "core"), tokens=640, checkpoint_every=5)
    train(short, tmp_path / "run")
    head = json.loads((tmp_path / "run" / "run.json").read_text())
    assert head["config"]["core"] == str(tmp_path / "core")
    (tmp_path / "run" / "run.json").write_text(json.dumps(head | {"status": "training"}))
    copy.W_dec.data.mul_(1.5)
    save(copy, tmp_path / "core")
    with pytest.raises(InputError, match="is not what it was when the run began"):
        train(short, tmp_path / "run")


def test_routes_name_what_is_explained():
    assert Route(SITE).explained == SITE
    assert Route(SITE, Left(SITE)).explained == SITE
    assert Route(SITE, Site.parse("mlp_out.1")).explained == Site.parse("mlp_out.1")
    assert boosted is not None


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_guard_reads_general_text_as_if_training_ended_now(config, world, tmp_path):
    general = str(world / "text.txt")
    watched = dataclasses.replace(config, general=general, general_tokens=300, tokens=640, calibrate=False)
    (both,) = train(watched, tmp_path / "run").values()
    log = lines(tmp_path / "run")
    prepared = prepare(watched)
    x, core = prepared.guard._x, load(world / "core")
    assert 280 < len(x) <= 300
    variation = float((x - x.mean(0)).square().sum())
    assert prepared.guard.core == pytest.approx(1 - error(core, x) / variation, rel=1e-5)
    found = 1 - error(both, x) / variation
    assert log[-1]["general_explained_variance"] == pytest.approx(found, rel=1e-5)
    assert log[-1]["general_drop"] == pytest.approx((prepared.guard.core - found) / prepared.guard.core, rel=1e-4)


def test_harm_is_said_once_or_ends_the_run(config, world, tmp_path, caplog):
    settings = {"general": str(world / "text.txt"), "general_tokens": 300, "harm": 0.0, "tokens": 640, "k": M}
    watched = dataclasses.replace(config, sae=("topk+untrained", "topk"), **settings)
    train(watched, tmp_path / "warned")
    said = [line for line in caplog.messages if "harm = 0.0% is allowed" in line]
    assert len([line for line in said if line.startswith("topk+untrained explains")]) == 1
    stopping = dataclasses.replace(watched, on_harm="stop")
    with pytest.raises(InputError, match="stopped after a checkpoint"):
        train(stopping, tmp_path / "stopped")
    assert [int(path.name) for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == [7]
    assert sorted(train(watched, tmp_path / "stopped")) == ["topk", "topk+untrained"]


def test_general_text_is_watched_only_beside_a_core(config, world, tmp_path):
    with pytest.raises(InputError, match="is watched beside a core"):
        train(dataclasses.replace(config, core=None, general=str(world / "text.txt")), tmp_path / "run")


@pytest.mark.slow
def test_a_transcoder_is_boosted_at_its_target(world, config, tmp_path):
    settings = {**run_folder.SETTINGS, "model": str(world / "model"), "text": str(world / "text.txt"), "tokens": 1600}
    settings |= {"site": "mlp_in.1", "target": "mlp_out.1", "skip": True}
    (core,) = train(TrainConfig.from_dict(settings), tmp_path / "core").values()
    place = {"core": str(tmp_path / "core"), "site": "mlp_in.1", "target": "mlp_out.1", "tokens": 6400}
    (both,) = train(dataclasses.replace(config, **place), tmp_path / "run").values()
    assert both.info["target"] == "mlp_out.1"
    assert both.W_skip is not None
    prepared = prepare(dataclasses.replace(config, **place, general=None))
    rows = prepared.source.rows(np.arange(20))
    x, y = (rows.acts[Site.parse(site)].float() for site in ("mlp_in.1", "mlp_out.1"))
    with torch.no_grad():
        left = [float((y - sae(x)).square().sum()) for sae in (core, both)]
    assert left[1] < left[0]
    assert torch.equal(without(both, "domain")(x), core(x))


def test_the_memory_of_the_core_is_counted(config):
    from monosem.training import memory
    from monosem.training.model import load_model

    lm = load_model(config)
    need = memory.needed({"one": config}, lm)
    weights = sum(4 * weight.numel() for weight in core_of(config).sae.state_dict().values())
    assert need.core == weights + round(1.5 * config.batch * F * 4)
    assert "for the core" in str(need)
    assert memory.needed({"one": dataclasses.replace(config, core=None)}, lm).core == 0
