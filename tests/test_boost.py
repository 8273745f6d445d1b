"""Boosting from end to end: identities of gains and harm, verdicts, rivals, the command and what it writes."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import run_folder
from monosem.boost import BASELINES, beside, boost, gains, grafted, more_latents, preserved, redundancy
from monosem.boost.alignment import Alignment
from monosem.boost.redundancy import chance, nearest
from monosem.boost.table import specificity
from monosem.evaluation import Evaluation, evaluate
from monosem.evaluation.by_window import Terms
from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, ReLU, TopK, added, boosted, groups, load, save
from monosem.shapes import InputError
from monosem.training import TrainConfig, train

D, F, M = 10, 20, 6


def filled(encoder, rule, seed, **options):
    sae = SAE(encoder, rule, info={"site": "resid_post.0"}, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in sae.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
    if isinstance(rule, BatchTopK):
        rule.cut.fill_(0.4)
    if isinstance(rule, JumpReLU):
        rule.threshold.data.abs_()
    return sae.eval()


def core(rule=None):
    return filled(DenseEncoder(D, F), rule or BatchTopK(F, 4), 0)


def residual(seed):
    sae = filled(DenseEncoder(D, M), BatchTopK(M, 2), seed, subtract_b_dec=False)
    sae.b_dec.data.zero_()
    return sae


@pytest.fixture
def x():
    return torch.randn(200, D, generator=torch.Generator().manual_seed(5)) + 0.3


@torch.no_grad()
def test_harm_is_twice_the_alignment_short_of_the_energy(x):
    one, a = core(), residual(1)
    found = Alignment(["a"])
    found.update(x - one(x), {"a": a(x)})
    variation = float((x - x.mean(0)).square().sum())
    ev = [1 - float((x - sae(x)).square().sum()) / variation for sae in (one, boosted(one, {"a": a}))]
    assert ev[1] - ev[0] == pytest.approx((2 * found.along["a"] - found.energy["a"]) / variation, abs=1e-5)
    figures = found.figures("a")
    assert (figures["alignment"] < 0.5) == (ev[1] < ev[0])
    assert figures["energy_ratio"] == pytest.approx(found.energy["a"] / float((x - one(x)).square().sum()), rel=1e-5)


@torch.no_grad()
def test_two_residuals_meet_in_their_inner_product(x):
    one, a, b = core(), residual(1), residual(2)
    both = boosted(one, {"a": a, "b": b})
    e, outputs = x - one(x), added(both, x)
    found = Alignment(["a", "b"])
    found.update(e, outputs)
    errors = (e - outputs["a"] - outputs["b"], e - outputs["a"], e - outputs["b"])
    energy = [float(part.square().sum()) for part in errors]
    (conflict,) = found.conflicts()
    left = float(e.square().sum())
    assert energy[0] == pytest.approx(energy[1] + energy[2] - left + conflict["conflict"] * left, rel=1e-4)


def test_what_residuals_add_is_the_difference_to_the_core(x):
    one, a, b = core(), residual(1), residual(2)
    outputs = added(boosted(one, {"a": a, "b": b}), x)
    torch.testing.assert_close(outputs["a"], a(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["b"], b(x), rtol=1e-4, atol=1e-5)


def test_an_alignment_without_a_firing_is_not_defined():
    found = Alignment(["a"])
    found.update(torch.zeros(3, D), {"a": torch.zeros(3, D)})
    assert found.figures("a") == {"energy_ratio": None, "alignment": None}


def test_gains_in_every_reading():
    was = {"explained_variance": 0.5, "ce_loss_sae": 3.0, "ce_loss_clean": 2.0}
    now = {"explained_variance": 0.6, "ce_loss_sae": 2.4, "ce_loss_clean": 2.0}
    found = gains(was, now)
    assert found == pytest.approx(
        {"ev": 0.1, "ev_relative": 0.2, "unexplained_removed": 0.2, "ce": 0.6, "ce_damage_removed": 0.6}
    )
    assert gains({"explained_variance": 0.5}, {"explained_variance": 0.4})["ce"] is None
    assert gains({"explained_variance": 0.0}, {"explained_variance": 0.4})["ev_relative"] is None


def judged(drops, nats=None, level=0.8, windows=60, seed=0):
    """Two evaluations of the same windows, the second lower by about `drops` and `nats`."""
    rng = np.random.default_rng(seed)
    den = np.full(windows, 10.0)
    ev = den * (level + 0.02 * rng.standard_normal(windows))

    def one(values, losses):
        terms = {"explained_variance": Terms(values, den)}
        if losses is not None:
            terms["ce_loss_sae"] = Terms(losses, den)
        metrics = {"explained_variance": float(values.sum() / den.sum())}
        return Evaluation(metrics, {}, {}, {}, {}, windows, 0, terms=terms)

    loss = 30 + rng.standard_normal(windows)
    noise = 0.01 * rng.standard_normal(windows)
    other = None if nats is None else loss + 10 * nats + noise
    return preserved(one(ev, None if nats is None else loss), one(ev - den * level * drops + noise, other))


def test_general_text_is_preserved_damaged_or_undecided():
    assert judged(0.002).verdict == "preserved"
    assert judged(0.03).verdict == "damaged"
    assert judged(0.01).verdict == "undecided"
    assert judged(-0.05).verdict == "preserved"
    assert judged(0.002, nats=0.002).verdict == "preserved"
    assert judged(0.002, nats=0.05).verdict == "damaged"
    assert judged(0.002, nats=0.01).verdict == "undecided"
    found = judged(0.03, nats=0.05)
    assert found.drop.low < 0.03 < found.drop.high
    assert found.added_ce.value == pytest.approx(0.05, abs=0.01)


def test_of_a_core_that_explains_nothing_the_absolute_loss_is_judged():
    found = judged(0.002, level=0.02)
    assert not found.relative
    assert found.drop.value == pytest.approx(0.02 * 0.002, abs=5e-4)


def test_redundancy_is_the_nearest_row_of_the_core():
    one, a = core(), residual(1)
    a.W_dec.data[0] = 3 * one.W_dec[7]
    a.W_dec.data[1] = -one.W_dec[7]
    cosines, places = nearest(a.W_dec, one.W_dec)
    assert cosines[0] == pytest.approx(1, abs=1e-5)
    assert places[0] == 7
    assert cosines[1] < 0.99
    found = redundancy(one.W_dec, a.W_dec)
    assert found["nearest"][-1] > found["nearest"][0]
    wide = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    most = math.sqrt(2 * math.log(4096) / 64)
    assert 0.75 * most < float(chance(wide, 200).median()) < most


def test_specificity_of_firing_rates():
    domain, general = torch.tensor([0.2, 0.1, 0.0, 0.0]).double(), torch.tensor([0.0, 0.1, 0.3, 0.0]).double()
    found = specificity(domain, general)
    assert found[:3].tolist() == pytest.approx([1, 0.5, 0])
    assert found[3].isnan()


def test_more_latents_of_the_core_are_active_at_a_lower_threshold(x):
    for rule in (BatchTopK(F, 4), JumpReLU(F)):
        one = core(rule)
        more = more_latents(one, [x], 9)
        assert float((more.encode(x) != 0).sum(1).float().mean()) == pytest.approx(9, abs=0.01)
        assert torch.equal(more.W_dec, one.W_dec)
    assert more_latents(core(TopK(F, 4)), [x], 9).rule.k == 9
    fraction = more_latents(core(), [x], 6.5)
    assert float((fraction.encode(x) != 0).sum(1).float().mean()) == pytest.approx(6.5, abs=0.01)


def test_a_core_without_k_or_thresholds_cannot_be_given_more_latents(x):
    assert more_latents(core(ReLU(F)), [x], 9) is None
    stuck = core(JumpReLU(F))
    stuck.rule.threshold.data[3] = -0.1
    assert more_latents(stuck, [x], 9) is None


def test_grafting_takes_over_the_latents_that_changed_most(x):
    one = core()
    tuned = core()
    with torch.no_grad():
        tuned.W_dec[3] = -tuned.W_dec[3]
        tuned.W_dec[11] += 0.8 * torch.randn(D, generator=torch.Generator().manual_seed(1))
        tuned.encoder.weight[3] += 0.5
        tuned.b_dec += 0.2
    both = grafted(one, tuned, 2, [x], 3)
    group = groups(both)[1]
    assert group.n_latents == 2
    torch.testing.assert_close(both.W_dec[F], tuned.W_dec[3])
    torch.testing.assert_close(both.pre_acts(x)[:, F], tuned.pre_acts(x)[:, 3], rtol=1e-4, atol=1e-4)
    assert torch.equal(both.encode(x)[:, :F], one.encode(x))
    topk = grafted(core(TopK(F, 4)), core(TopK(F, 4)), 5, [x], 2)
    assert float((topk.encode(x)[:, F:] != 0).sum(1).float().mean()) == pytest.approx(2, abs=0.02)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, texts, a core, and a boosting for two domains with all baselines, through the Python function."""
    folder = tmp_path_factory.mktemp("boost")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONOSEM_CACHE", str(folder / "cache"))
        patch.setenv("MONOSEM_PROGRESS", "off")
        named = run_folder.inputs(folder)
        lines = (folder / "text.txt").read_text().split("\n\n")
        for name, write in (("upper", str.upper), ("title", str.title)):
            (folder / f"{name}.txt").write_text("\n\n".join(write(line).replace("THE", "of") for line in lines))
        config = TrainConfig.from_dict({**run_folder.SETTINGS, **named, "sae": ["batch_topk"], "calibrate": True})
        train(config, folder / "core")
        yield folder


@pytest.fixture
def config(world, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(world / "cache"))
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    own = {"sae": ["batch_topk"], "n_latents": 16, "k": 3, "lr": 3e-3, "tokens": 1600, "calibrate": True}
    settings = {**run_folder.SETTINGS, **own, "general": str(world / "text.txt")}
    return beside(world / "core", TrainConfig.from_dict(settings))


def texts(world, *names):
    return [str(world / f"{name}.txt") for name in names]


def test_model_and_site_come_from_the_core(config, world):
    assert config.model == str(world / "model")
    assert config.site == "resid_post.1"
    assert config.window == 16
    assert config.dtype == "float32"


@pytest.mark.slow
def test_boosting_measures_all_methods_on_all_texts(config, world, tmp_path):
    found = boost(config, texts(world, "upper", "title"), tmp_path / "run", baselines=True, windows=20, loss_windows=6)
    written = json.loads((tmp_path / "run" / "boost.json").read_text())
    rows = {row["name"]: row for row in written["rows"]}
    for domain in ("upper", "title"):
        named = {f"{domain}/{name}" for name in ("batch_topk", "more_latents", "grafted", *BASELINES)}
        assert named <= set(rows)
        assert {name for name, row in rows.items() if domain in row["texts"]} >= named | {"core", "general/batch_topk"}
    assert set(rows["upper/batch_topk"]["texts"]) == {"upper", "title", "general"}
    assert set(rows["upper/finetuned"]["texts"]) == {"upper", "general"}
    kinds = {name.split("/", 1)[-1]: row["kind"] for name, row in rows.items()}
    assert kinds["batch_topk+scratch"] == kinds["more_latents"] == "control"
    assert kinds["finetuned"] == kinds["grafted"] == kinds["batch_topk+extended_active"] == "baseline"
    assert rows["upper/batch_topk"]["kind"] == "residual"
    assert rows["general/batch_topk"]["kind"] == "control"
    assert rows["all domains"]["kind"] == "sum"
    assert [group["name"] for group in rows["all domains"]["groups"]] == ["core", "upper", "title"]
    one = rows["upper/batch_topk"]["texts"]["upper"]
    assert sum(one["l0_by_group"].values()) == pytest.approx(one["l0"], rel=1e-9)
    assert one["gains"]["ev"] > 0
    assert rows["upper/batch_topk"]["texts"]["general"]["preserved"]["drop"]["value"] == pytest.approx(
        1
        - rows["upper/batch_topk"]["texts"]["general"]["explained_variance"]
        / rows["core"]["texts"]["general"]["explained_variance"]
    )
    assert "upper/finetuned@general" in rows
    assert [group["name"] for group in rows["upper/batch_topk+extended_random"]["groups"]] == ["core", "new"]
    total = load(tmp_path / "run" / "saes" / "boosted")
    assert [group.name for group in groups(total)] == ["core", "upper", "title"]
    assert total.info["text"] == load(world / "core").info["text"]
    for feature in written["features"]["upper"]:
        assert feature["latent"] >= F or feature["latent"] >= 48
        assert 0 <= feature["specificity"] <= 1
        assert feature["contexts"]
    assert found.sum.n_latents == 48 + 32
    again = boost(config, texts(world, "upper", "title"), tmp_path / "run", baselines=True, windows=20, loss_windows=6)
    assert again.result.rows == found.result.rows


@pytest.mark.slow
def test_figures_are_those_of_evaluate(config, world, tmp_path):
    from monosem.training.model import load_model
    from monosem.training.run import first_windows, run_windows

    found = boost(config, texts(world, "upper"), tmp_path / "run", windows=12, loss_windows=0)
    rows = {row["name"]: row for row in found.result.rows}
    assert set(rows) == {"core", "upper/more_latents", "upper/batch_topk"}
    lm = load_model(config)
    windows = first_windows(run_windows(config.with_text(texts(world, "upper")[0]), lm, "held_out"), 12)
    alone = evaluate({"one": load(tmp_path / "run" / "runs" / "upper")}, lm, windows, loss_windows=0)["one"]
    assert rows["upper/batch_topk"]["texts"]["upper"]["explained_variance"] == alone.metrics["explained_variance"]
    assert rows["upper/batch_topk"]["texts"]["upper"]["l0"] == alone.metrics["l0"]


@pytest.mark.parametrize(
    ("names", "changes", "line"),
    [
        ([], {}, "no text of a domain"),
        (["upper", "upper"], {}, "two texts would be called 'upper'"),
        (["upper"], {"general": None}, "no general text to watch"),
        (["upper"], {"sae": ("finetuned",)}, "no residual among finetuned"),
        (["core"], {}, "would be called 'core', which is taken"),
        (["general"], {}, "would be called 'general', which is taken"),
    ],
    ids=["none", "twice", "watched", "residual", "core", "general"],
)
def test_bad_requests_are_refused_in_one_line(config, world, tmp_path, names, changes, line):
    with pytest.raises(InputError, match=line) as caught:
        boost(dataclasses.replace(config, **changes), texts(world, *names), tmp_path / "run", windows=4, loss_windows=0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_nothing_is_trained_for_no_windows(config, world, tmp_path):
    with pytest.raises(InputError, match="windows = 0, loss_windows = 0: give at least 1"):
        boost(config, texts(world, "upper"), tmp_path / "run", windows=0, loss_windows=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_finished_run_of_other_settings_is_refused(config, world, tmp_path):
    asked = texts(world, "upper")
    boost(config, asked, tmp_path / "run", windows=4, loss_windows=0)
    with pytest.raises(InputError, match="holds a run with k = 3, asked for 2: choose another folder"):
        boost(dataclasses.replace(config, k=2), asked, tmp_path / "run", windows=4, loss_windows=0)


@pytest.mark.slow
def test_the_command_boosts_and_every_other_command_reads_the_sum(world):
    words = run_folder.flags({"text": "upper.txt", "general": "text.txt", "n-latents": 16, "tokens": 1600, "lr": 3e-3})
    words += run_folder.flags({"batch": 32, "block": 8, "windows": 12, "loss-windows": 4, "run": "one"})
    done = run_folder.monosem(world, "boost", "core", *words)
    assert done.returncode == 0, done.stderr
    assert "upper/batch_topk" in done.stdout
    assert (world / "one" / "report.html").exists()
    run = "one/saes/boosted"
    few = ("--windows", "8", "--loss-windows", "2")
    evaluated = run_folder.monosem(world, "evaluate", run, *few, "--text", "upper.txt")
    assert evaluated.returncode == 0, evaluated.stderr
    shown = run_folder.monosem(world, "features", run, "50", "--windows", "8")
    assert shown.returncode == 0, shown.stderr
    assert "upper/2" in shown.stdout
    told = run_folder.monosem(world, "inspect", run)
    assert told.returncode == 0, told.stderr
    assert "upper" in told.stdout
    page = run_folder.monosem(world, "report", run, *few)
    assert page.returncode == 0, page.stderr
    again = run_folder.monosem(world, "boost", run, *words[:-1], "two", "--general", "text.txt")
    assert again.returncode == 2
    assert "would be called 'upper', which is taken" in again.stderr
    words[words.index("upper.txt")] = "title.txt"
    second = run_folder.monosem(world, "boost", run, *words[:-1], "two")
    assert second.returncode == 0, second.stderr
    total = load(world / "two" / "saes" / "boosted")
    assert [group.name for group in groups(total)] == ["core", "upper", "title"]
    rows = {row["name"]: row for row in json.loads((world / "two" / "boost.json").read_text())["rows"]}
    assert [group["name"] for group in rows["title/batch_topk"]["groups"]] == ["core", "title"]
    assert rows["core"]["n_latents"] == 48 + 16


def test_saving_a_sum_of_sums_keeps_origins(tmp_path):
    both = boosted(boosted(core(), {"a": residual(1)}), {"b": residual(2)})
    again = load(save(both, tmp_path / "sae"))
    assert [group.name for group in groups(again)] == ["core", "a", "b"]


@pytest.mark.slow
def test_a_finished_run_beside_another_core_is_refused(config, world, tmp_path):
    from monosem.training.core import _opened

    copy = load(world / "core")
    save(copy, tmp_path / "core")
    own = dataclasses.replace(config, core=str(tmp_path / "core"))
    boost(own, texts(world, "upper"), tmp_path / "run", windows=4, loss_windows=0)
    copy.W_dec.data.mul_(1.5)
    save(copy, tmp_path / "core")
    _opened.cache_clear()
    with pytest.raises(InputError, match="was trained beside another core"):
        boost(own, texts(world, "upper"), tmp_path / "run", windows=4, loss_windows=0)


@pytest.mark.slow
def test_what_stands_beside_the_sum_survives_a_second_look(config, world, tmp_path):
    asked = texts(world, "upper")
    boost(config, asked, tmp_path / "run", windows=4, loss_windows=0)
    beside_it = tmp_path / "run" / "saes" / "boosted" / "evaluation.json"
    beside_it.write_text("{}")
    boost(config, asked, tmp_path / "run", windows=4, loss_windows=0)
    assert beside_it.exists()


def test_a_relu_core_is_boosted_without_the_control_it_cannot_have(config, world, tmp_path):
    settings = {**run_folder.SETTINGS, "model": config.model, "text": str(world / "text.txt"), "tokens": 640}
    train(TrainConfig.from_dict(settings | {"sae": ["relu"], "l1": 1.0}), tmp_path / "core")
    own = dataclasses.replace(config, core=str(tmp_path / "core"), tokens=640)
    found = boost(own, texts(world, "upper"), tmp_path / "run", windows=4, loss_windows=0)
    assert [row["name"] for row in found.result.rows] == ["core", "upper/batch_topk"]
