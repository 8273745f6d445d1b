"""Training beside a frozen core: residuals, the baselines they are compared with, and what stays as it was."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

import run_folder
from monosem.sae import BatchTopK, TopK, boosted, flops, groups, load, save, stitch, without
from monosem.sae.hierarchical import Hierarchical
from monosem.sae.matryoshka import Matryoshka
from monosem.sae.penalty import L1, NoPenalty, TargetL0
from monosem.shapes import InputError, Site
from monosem.shapes.route import Left, Route
from monosem.training import Grid, Interrupted, TrainConfig, memory, train
from monosem.training.calibration import calibrate
from monosem.training.core import Core, CoreStream, active_latents, core_of, unexplained
from monosem.training.guard import Guard
from monosem.training.model import load_model
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


def assert_same(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in one.state_dict().items())


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


def test_the_residuals_threshold_keeps_k_on_the_calibration_tokens(trained):
    both = trained[0]["batch_topk"]
    found = groups(both)[1].info["calibration"]
    # One of 768 activations may stand so near the next that units of the core change their order.
    assert found["l0_after"] == pytest.approx(3, abs=1.5 / 256)
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


@pytest.mark.slow
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


@pytest.fixture
def harming(config, world):
    """Settings of a residual that harms general text at once, after another one and before a third."""
    own = {"general": str(world / "text.txt"), "general_tokens": 300, "harm": 0.0, "tokens": 640, "lr": 0.3}
    return dataclasses.replace(config, sae=("batch_topk+scratch", "topk", "hierarchical"), dead_after=64, **own)


def test_harm_of_a_residual_is_said_once(harming, tmp_path, caplog):
    train(harming, tmp_path / "run")
    said = [line.split()[0] for line in caplog.messages if "harm = 0.0% is allowed" in line]
    assert said == ["topk", "hierarchical"]
    scratch = [line for line in lines(tmp_path / "run") if line["sae"] == "batch_topk+scratch"]
    assert scratch[0]["general_drop"] > 0


def test_a_run_that_harm_ends_has_logged_everything_and_goes_on_bit_for_bit(harming, tmp_path):
    whole = train(harming, tmp_path / "whole")
    stopping = dataclasses.replace(harming, on_harm="stop")
    with pytest.raises(InputError, match=r"^topk explains .*; hierarchical explains .*; stopped after a checkpoint"):
        train(stopping, tmp_path / "parts")
    assert [int(path.name) for path in (tmp_path / "parts" / "checkpoints").iterdir()] == [7]
    logged = [(line["step"], line["sae"]) for line in lines(tmp_path / "parts")]
    assert logged == [(7, name) for name in harming.sae]
    again = train(harming, tmp_path / "parts")
    for name, sae in whole.items():
        assert_same(sae, again[name])
    assert len(lines(tmp_path / "parts")) == len(lines(tmp_path / "whole"))


def test_baselines_alone_never_end_a_run(harming, tmp_path):
    names = ("batch_topk+scratch", "topk+untrained")
    saes = train(dataclasses.replace(harming, sae=names, on_harm="stop", tokens=320), tmp_path / "run")
    assert set(saes) == set(names)


def test_the_guard_reads_in_batches(batch, config, monkeypatch):
    (acts, core), sizes = batch, []
    one, x = job(config, batch), acts[SITE].float()
    watch = Guard(Core(core, ""), x, x, dataclasses.replace(config, batch=24, tokens=24))
    one.step(x, 0.0, 64, torch.tensor(1.0), acts[Left(SITE)])
    seen = type(one.sae).forward
    monkeypatch.setattr(type(one.sae), "forward", lambda self, x: (sizes.append(len(x)), seen(self, x))[1])
    look = watch.look(one)
    assert sizes == [24, 24, 16]
    left = (acts[Left(SITE)] - seen(one.sae.eval(), x).detach()).square().sum()
    found = 1 - float(left / (x - x.mean(0)).square().sum())
    assert look.figures["general_explained_variance"] == pytest.approx(found, rel=1e-5)


def test_where_the_core_explains_nothing_the_absolute_loss_is_looked_at(batch, config, caplog):
    acts, core = batch
    nothing = copy.deepcopy(core)
    nothing.W_dec.data.zero_()
    x = acts[SITE].float()
    nothing.b_dec.data.copy_(x.mean(0) * nothing.scale)
    watch = Guard(Core(nothing, ""), x, x, dataclasses.replace(config, harm=0.0))
    assert abs(watch.core) < 1e-4
    one = job(config, batch)
    one.step(x, 0.0, 64, torch.tensor(1.0), acts[Left(SITE)])
    look = watch.look(one)
    assert look.figures["general_drop"] == pytest.approx(watch.core - look.figures["general_explained_variance"])


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"general": "news"}, "general = news is watched beside a core"),
        ({"domain": "law"}, "domain = law names what is trained beside a core"),
        ({"core_k": 3}, "core_k = 3 is for baselines beside a core"),
    ],
    ids=["general", "domain", "core_k"],
)
def test_settings_of_a_core_are_refused_without_one_before_anything_is_read(config, tmp_path, setting, line):
    with pytest.raises(InputError, match=line):
        train(dataclasses.replace(config, core=None, model="nowhere", **setting), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("setting", [{"domain": "core"}, {"text": "core.txt"}], ids=["named", "by text"])
def test_a_group_that_the_core_has_already_is_refused_before_anything_is_read(config, tmp_path, setting):
    with pytest.raises(InputError, match="the core has a group 'core' already: name the new latents otherwise"):
        train(dataclasses.replace(config, model="nowhere", **setting), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


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
    lm = load_model(config)
    need = memory.needed({"one": config}, lm)
    weights = sum(4 * weight.numel() for weight in core_of(config).sae.state_dict().values())
    assert need.core == weights + round(1.5 * config.batch * F * 4)
    assert "for the core" in str(need)
    assert memory.needed({"one": dataclasses.replace(config, core=None)}, lm).core == 0


def test_what_does_not_fit_is_counted_beside_the_core():
    need = memory.Need({"one": 10, "two": 10, "three": 10}, step=5, stream=5, core=20)
    assert memory._to_drop(need, 50) == 1


@pytest.fixture(scope="module")
def cores(world):
    """Cores of other rules and objectives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONOSEM_CACHE", str(world / "cache"))
        patch.setenv("MONOSEM_PROGRESS", "off")
        settings = {**run_folder.SETTINGS, "model": str(world / "model"), "text": str(world / "text.txt")}
        settings |= {"budgets": "1,4", "budget_weights": "1,3", "widths": "16,48", "lr": 3e-3}
        names = ["jumprelu", "relu", "hierarchical", "batch_topk+matryoshka"]
        train(TrainConfig.from_dict({**settings, "sae": names}), world / "cores")
        yield {name: world / "cores" / "saes" / name for name in names}


@pytest.mark.parametrize(
    ("name", "penalty", "nesting"),
    [
        ("jumprelu", TargetL0, {}),
        ("relu", L1, {}),
        ("hierarchical", NoPenalty, Hierarchical((1, 4), (1.0, 3.0)).describe()),
        ("batch_topk+matryoshka", NoPenalty, Matryoshka((16, 48)).describe()),
    ],
    ids=["jumprelu", "relu", "hierarchical", "matryoshka"],
)
def test_a_fine_tuned_core_keeps_penalty_objective_and_thresholds(cores, config, batch, name, penalty, nesting):
    one = job(config, batch, "finetuned", core=str(cores[name]))
    assert type(one.objective.penalty) is penalty
    assert one.objective.nesting.describe() == nesting
    assert_same(one.sae, load(cores[name]))
    if penalty is TargetL0:
        assert one.objective.penalty.target == active_latents(one.config)
        assert one.objective.penalty.unit > 0


def test_a_fine_tuned_jumprelu_core_stays_sparse(cores, config, tmp_path):
    tuned = dataclasses.replace(config, core=str(cores["jumprelu"]), sae=("finetuned",), tokens=3200)
    (sae,) = train(tuned, tmp_path / "run").values()
    k = active_latents(tuned)
    assert 3 <= k <= 5
    assert lines(tmp_path / "run")[-1]["l0"] < 1.5 * k
    assert sae.info["calibration"]["l0_after"] == pytest.approx(k, rel=0.1)


def test_a_composition_can_be_fine_tuned(config, trained, tmp_path):
    both = trained[0]["batch_topk"]
    save(both, tmp_path / "both")
    again = dataclasses.replace(config, core=str(tmp_path / "both"), sae=("finetuned",), tokens=640)
    kept = memory.needed({"one": again}, load_model(again)).saes["one"]
    (sae,) = train(again, tmp_path / "run").values()
    weights = sum(weight.numel() for weight in sae.parameters())
    assert kept == 4 * 3 * weights + 8 * (F + M + 1)
    assert sae.n_latents == F + M
    assert sae.info["calibration"]["l0_after"] == pytest.approx(4 + 3, rel=0.1)
    assert error(sae, heldout(config)) < error(both, heldout(config))


def test_everything_beside_a_core_says_which(trained, world):
    digest = core_of(TrainConfig(core=str(world / "core"))).sha256
    for sae in trained[0].values():
        assert sae.info["core"] == {"name": "batch_topk", "sha256": digest, "n_latents": F}


def test_what_extends_a_core_says_how_many_latents_are_the_cores(trained):
    extended = {name for name, sae in trained[0].items() if sae.info.get("held_latents") == F}
    assert extended == {name for name in trained[0] if "extended" in name}


def test_active_latents_of_a_sum_are_those_of_its_groups(cores, config, tmp_path):
    core = load(cores["jumprelu"])
    beside = dataclasses.replace(config, core=str(cores["jumprelu"]), sae=("batch_topk", "jumprelu"), tokens=640)
    saes = train(beside, tmp_path / "run")
    own = core.info["training"]["l0"]
    residual = groups(saes["jumprelu"])[1].info["training"]["l0"]
    for name, sum_ in (("batch_topk", own + 3), ("jumprelu", own + residual)):
        again = dataclasses.replace(config, core=str(tmp_path / "run" / "saes" / name))
        assert active_latents(again) == flops.active(saes[name]) == round(sum_)
    assert flops.active(stitch(saes["jumprelu"])) == round(own + residual)
    del groups(saes["jumprelu"])[1].info["training"]["l0"]
    assert flops.active(saes["jumprelu"]) == round(own + M)
    save(saes["jumprelu"], tmp_path / "unknown")
    with pytest.raises(InputError, match="give the number as core_k"):
        active_latents(dataclasses.replace(config, core=str(tmp_path / "unknown")))


@pytest.mark.parametrize("name", ["finetuned", "batch_topk+extended_random", "batch_topk+extended_random+held_core"])
def test_rows_of_a_core_that_are_not_unit_stay_as_they_are(config, batch, world, tmp_path, name):
    core, x = load(world / "core").fold(), batch[0][SITE].float()
    save(core, tmp_path / "core")
    one = job(config, batch, name, core=str(tmp_path / "core"))
    one.step(x, 1e-6, 64, torch.tensor(1.0))
    torch.testing.assert_close(one.sae.W_dec[:F], core.W_dec, rtol=1e-3, atol=1e-5)
    assert not one.config.unit_decoder
    assert job(config, batch, name).config.unit_decoder
    assert not job(config, batch, name, unit_decoder=False).config.unit_decoder


def test_the_skip_connection_of_a_core_is_kept(world, config, tmp_path):
    settings = {**run_folder.SETTINGS, "model": str(world / "model"), "text": str(world / "text.txt"), "tokens": 640}
    place = {"site": "mlp_in.1", "target": "mlp_out.1"}
    (core,) = train(TrainConfig.from_dict({**settings, **place, "skip": True}), tmp_path / "core").values()
    beside = dataclasses.replace(config, core=str(tmp_path / "core"), **place)
    prepared = prepare(beside)
    acts = first_batch(CoreStream(prepared.source, prepared.core, batch=64, block=8, seed=0))
    names = ("finetuned", "topk+extended_random", "topk+extended_active+held_core")
    started = [job(beside, (acts,), name) for name in names]
    for one in started:
        assert torch.equal(one.sae.W_skip, core.W_skip)
    held, x = started[-1], acts[Site.parse("mlp_in.1")].float()
    held.step(x, 1e-2, 64, torch.tensor(1.0), acts[Site.parse("mlp_out.1")].float())
    assert torch.equal(held.sae.W_skip, core.W_skip)
    assert job(beside, (acts,), "batch_topk", skip=True).sae.W_skip is None


def test_thresholds_of_an_extended_core_start_as_the_cores_and_are_held(cores, config, batch):
    core, x = load(cores["jumprelu"]), batch[0][SITE].float()
    beside = {"core": str(cores["jumprelu"])}
    free = job(config, batch, "jumprelu+extended_active", **beside)
    held = job(config, batch, "jumprelu+extended_active+held_core", **beside)
    new = free.sae.rule.threshold[F:]
    assert torch.equal(free.sae.rule.threshold[:F], core.rule.threshold)
    assert (new == new[0]).all()
    assert int((free.sae.pre_acts(x)[:, F:] >= new[0]).sum()) == 3 * len(x)
    for one in (free, held):
        for step in range(3):
            one.step(x, 1e-2, 64 * (step + 1), torch.tensor(1.0))
    assert torch.equal(held.sae.rule.threshold[:F], core.rule.threshold)
    assert torch.equal(held.sae.W_dec[:F], core.W_dec)
    assert not torch.equal(held.sae.rule.threshold[F:], new)
    assert not torch.equal(free.sae.rule.threshold[:F], core.rule.threshold)


def test_calibration_leaves_held_thresholds(cores, config, batch):
    core, x = load(cores["jumprelu"]), batch[0][SITE].float()
    sae = job(config, batch, "jumprelu+extended_active+held_core", core=str(cores["jumprelu"])).sae
    start = sae.rule.threshold[F:].clone()
    found = calibrate(sae, [x[:32], x[32:]], 9, held=F)
    assert torch.equal(sae.rule.threshold[:F], core.rule.threshold)
    torch.testing.assert_close(sae.rule.threshold[F:], found["factor"] * start)
    assert found["l0_after"] == pytest.approx(9, rel=0.05)


def test_gradients_of_held_rows_are_no_part_of_the_clipped_norm(config, batch):
    x = batch[0][SITE].float()
    one = job(config, batch, "batch_topk+extended_random+held_core", unit_decoder=False)
    one.objective(one.sae, x * one.sae.scale).total.backward()
    weights = (one.sae.W_dec, one.sae.encoder.weight, one.sae.encoder.bias)
    want = sum(weight.grad[F:].square().sum() for weight in weights).sqrt()
    assert want < 0.9 * sum(weight.grad.square().sum() for weight in weights).sqrt()
    one.optimiser.zero_grad()
    one.step(x, 1e-3, 64, torch.tensor(1.0))
    assert one.summary()["grad_norm"] == pytest.approx(float(want), rel=1e-4)
