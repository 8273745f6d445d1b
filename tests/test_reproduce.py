"""Claims re-tested: verdicts, rows that survive, plans that fit, measures in closed form, judges on made evidence."""

import argparse
import itertools
import json
import math
import random
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import run_folder
from monosem.cli import reproduce as command
from monosem.reproduce import measure, page, picture, plan, price, recording, reproduction, study, verdict, work
from monosem.reproduce.arm import Arm, Family, Trial
from monosem.reproduce.claim import Claim, Evidence, Finding, Line, Plot, Table
from monosem.reproduce.data import Data, Dataset
from monosem.reproduce.hierarchical import STUDY, cost, dead, monotone, one_for_all, rank, subset, truncation
from monosem.reproduce.ledger import Ledger
from monosem.reproduce.recording import MODEL
from monosem.reproduce.reproduction import reproduce
from monosem.reproduce.request import Request
from monosem.reproduce.result import Result, judged, not_tested, report
from monosem.reproduce.row import Rows
from monosem.reproduce.scale import Scale
from monosem.reproduce.study import Study
from monosem.reproduce.synthetic import SITE, SPARSE, WINDOW, Synthetic
from monosem.sae import SAE, BatchTopK, DenseEncoder, TopK
from monosem.shapes import InputError
from monosem.shapes.codes import Codes
from monosem.training.run import run_windows

SOURCE = Synthetic(lambda generator, count: torch.zeros(count, 8), n_windows=1, seed=0)
KEYS = {"id", "claim", "kind", "scale", "verdict", "seeds", "interval", "measured", "control", "command"}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")


# Verdicts -----------------------------------------------------------------------------------------------------------


def test_the_interval_is_student_s():
    found = verdict.interval([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    alone = verdict.interval([1.0])
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


@pytest.mark.parametrize(
    ("differences", "bound", "expected"),
    [
        ([0.02, 0.021, 0.019], 0.0, "confirmed"),
        ([-0.02, -0.021, -0.019], 0.0, "contradicted"),
        ([0.02, -0.021, 0.019], 0.0, "undecided"),
        ([-0.005, -0.004, -0.006], -0.01, "confirmed"),
        ([-0.005, -0.004, -0.006], 0.0, "contradicted"),
        ([0.02, 0.0201, 0.0199, 0.02, -0.001], 0.0, "confirmed"),
        ([0.02, 0.0201, 0.0199, 0.02, -0.021], 0.0, "undecided"),
        ([0.02, 0.0201], 0.0, "undecided"),
        ([0.02], 0.0, "undecided"),
        ([0.0, 0.0, 0.0], 0.0, "undecided"),
    ],
)
def test_a_verdict_follows_from_the_side_of_the_interval(differences, bound, expected):
    assert verdict.above(differences, bound) == expected
    assert verdict.below([-value for value in differences], -bound) == expected


def test_with_fewer_than_five_seeds_a_decided_claim_has_one_sign():
    rng = random.Random(0)
    decided = 0
    for _ in range(3000):
        values = [rng.gauss(0.5, 1) for _ in range(rng.choice([3, 4]))]
        if verdict.above(values) != "undecided":
            decided += 1
            assert len({value > 0 for value in values}) == 1
    assert decided > 100


def test_a_claim_of_several_parts_needs_all_and_falls_with_one():
    assert verdict.every(["confirmed", "confirmed"]) == "confirmed"
    assert verdict.every(["confirmed", "undecided"]) == "undecided"
    assert verdict.every(["confirmed", "undecided", "contradicted"]) == "contradicted"
    assert verdict.every([]) == "undecided"


# Rows ---------------------------------------------------------------------------------------------------------------


def row(**changes):
    return {"claim": "A", "arm": "x", "seed": 0, "scale": "small", "digest": "d", "measured": {"v": 1}, **changes}


def test_rows_come_back_and_are_found_by_everything_that_decides_them(tmp_path):
    rows = Rows(tmp_path / "out" / "name.rows.jsonl")
    rows.append([row(), row(seed=1, measured={"v": 2})])
    for again in (rows, Rows(rows.path)):
        assert again.find("x", 1, "d") == {"v": 2}
        assert again.find("x", 1, "other") is None
        assert again.find("y", 1, "d") is None
        assert again.has("A", "x", 0, "d")
        assert not again.has("B", "x", 0, "d")


def test_a_line_cut_short_by_a_kill_does_not_count_and_is_written_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    Rows(path).append([row()])
    with path.open("a") as file:
        file.write('{"claim": "A", "arm": "cut')
    rows = Rows(path)
    assert len(rows.all) == 1
    rows.append([row(seed=1)])
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [0, 1]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row()) + "\n[]\n")
    with pytest.raises(InputError, match="line 2"):
        Rows(path)


# Plans --------------------------------------------------------------------------------------------------------------

NEEDS = {
    "A": {("data", "d", None): 10.0, ("run", "x", 0): 5.0},
    "B": {("data", "d", None): 10.0, ("run", "x", 0): 5.0, ("run", "y", 0): 20.0},
    "C": {("run", "z", 0): 12.0},
    "D": {},
}


@pytest.mark.parametrize(
    ("budget", "chosen", "left"),
    [
        (1, ["D"], {"A": 15, "B": 35, "C": 12}),
        (12, ["D", "C"], {"A": 15, "B": 35}),
        (27, ["D", "C", "A"], {"B": 20}),
        (46.9, ["D", "C", "A"], {"B": 20}),
        (47, ["D", "C", "A", "B"], {}),
    ],
)
def test_whole_claims_are_taken_cheapest_first_and_shared_work_counts_once(budget, chosen, left):
    assert plan.fit(NEEDS, budget) == (chosen, left)


# A study that trains in no time --------------------------------------------------------------------------------------


class Trainer:
    """In the place of training: an autoencoder's figure is a function of its name and seed."""

    def __init__(self):
        self.trained, self.stop_before = [], None

    def __call__(self, source, site, arms, *, device="cpu", label="training"):
        if self.stop_before is not None and len(self.trained) >= self.stop_before:
            raise KeyboardInterrupt
        self.trained += [(name, config.seed) for name, config in arms.items()]
        return {name: SimpleNamespace(name=name, seed=config.seed, lr=config.lr) for name, config in arms.items()}


def figure(sae, data, scale):
    value = {"good": 0.9, "plain": 0.8}.get(sae.name, 0.5) + 0.001 * sae.seed
    return {"value": value, "lr": sae.lr, "curve": [value, value + 0.01]}


def better(evidence):
    found = verdict.interval(evidence.paired("good", "plain", lambda one: one["value"]))
    many = Line("many", [float(k) for k in range(1, 26)], [0.5] * 25, dashed=True)
    line = Line("good", [1.0, 2.0], evidence.measured("good", evidence.scale.seeds[0])["curve"], [0.8, 0.8], [1.0, 1.0])
    return Finding(
        verdict.above(found.values),
        (found.low, found.high),
        {"difference": found.mean, "nothing": math.nan},
        {"plain": evidence.values("plain", lambda one: one["value"])},
        [Table("Every k", ["k", "EV"], [["1", "0.1234"], ["2", "0.5678"]], folded=True)],
        [Plot("curve", "Curve", "What it shows.", "k", "EV", [line, many], True, 1.5)],
        "A note.",
    )


ARMS = (Arm("good", "topk", "one"), Arm("plain", "topk", "one"))
TIMING = Trial("clock", lambda scale, seed: {"ms": 1.0}, lambda scale: 30.0, lambda scale: {"shape": 1}, seeded=False)


def tiny_study():
    x = torch.zeros(4, 8)
    data = Dataset(
        open=lambda scale, seed: Data(SOURCE, SITE, x, x, {"data": "none"}),
        width=lambda scale: 8,
        predict=lambda scale: 0.0,
        seeded=False,
    )
    claims = (
        Claim("A1", "good beats plain", "difference of values", better, arms=lambda scale: ARMS),
        Claim("A2", "the same again", "difference of values", better, arms=lambda scale: ARMS),
        Claim(
            "A3",
            "it is quick",
            "milliseconds",
            lambda evidence: Finding("confirmed", None, evidence.measured("clock"), {}),
            kind="timing",
            trials=lambda scale: (TIMING,),
        ),
        Claim("A4", "no", "nothing", better, untestable=lambda scale: "needs a judge model"),
    )
    small = Scale("small", {"n_latents": 16, "k": 2, "tokens": 640, "batch": 64}, "none", (0, 1, 2), 5.0, 4)
    return Study(
        "tiny",
        "0000.00000",
        "Tiny",
        claims,
        {"small": small, "medium": replace(small, name="medium", seeds=(0, 1, 2, 3))},
        {"one": Family(lambda scale: ARMS[1], lambda found: found["lr"])},
        {"none": data},
        (figure,),
    )


@pytest.fixture
def trainer(monkeypatch):
    fake = Trainer()
    monkeypatch.setattr(work, "together", fake)
    monkeypatch.setattr(price.Prices, "_stepped", lambda prices, config, x: (0.0, None))
    monkeypatch.setattr(price.Prices, "_evaluated", lambda prices, sae: 0.0)
    monkeypatch.setattr(picture, "available", lambda: False)
    monkeypatch.setattr(reproduction, "open_study", lambda name: tiny_study())
    return fake


def run(folder, **changes):
    said = []
    result = reproduce(Request("tiny", out=folder, **changes), said.append)
    return result, "\n".join(said)


def read(folder):
    return [json.loads(line) for line in (folder / "tiny.rows.jsonl").read_text().splitlines()]


def test_a_study_writes_rows_result_and_page(tmp_path, trainer):
    result, said = run(tmp_path)
    assert "plan: claims A1, A2, A3; 7 runs and 3 to choose learning rates, 4,224 training tokens" in said
    assert json.loads((tmp_path / "tiny.json").read_text()) == result
    assert set(result) == {"paper", "claims"}
    assert all(set(claim) == KEYS for claim in result["claims"])
    first, _, third, fourth = result["claims"]
    assert first["verdict"] == "confirmed"
    assert first["seeds"] == [0, 1, 2]
    assert first["interval"] == pytest.approx([0.1, 0.1])
    assert first["measured"]["nothing"] is None
    assert first["measured"]["definition"] == "difference of values"
    assert first["command"] == "monosem reproduce tiny --scale small --claims A1"
    assert (third["kind"], third["verdict"], third["seeds"], third["interval"]) == ("timing", "confirmed", [], None)
    assert (fourth["verdict"], fourth["measured"]["reason"]) == ("not tested", "needs a judge model")


def test_arms_that_claims_share_are_trained_once_and_get_a_row_for_each(tmp_path, trainer):
    run(tmp_path)
    assert len(trainer.trained) == len(set(trainer.trained)) == 9
    rows = read(tmp_path)
    found = [(one["claim"], one["arm"], one["seed"]) for one in rows]
    assert len(found) == len(set(found))
    expected = {("tuning", f"one@{rate:g}", 99) for rate in (3e-4, 1e-3, 3e-3)} | {("A3", "clock", None)}
    expected |= set(itertools.product(("A1", "A2"), ("good", "plain"), (0, 1, 2)))
    assert set(found) == expected
    assert all(one["settings"]["lr"] == 3e-3 for one in rows if one["claim"] == "A1")
    assert {"scale", "command", "versions", "threads", "digest"} <= set(rows[0])


def test_a_second_run_only_writes_the_page_again(tmp_path, trainer):
    result, _ = run(tmp_path)
    before = (tmp_path / "tiny.rows.jsonl").read_bytes()
    text = (tmp_path / "tiny.md").read_text()
    trainer.trained.clear()
    (tmp_path / "tiny.md").unlink()
    again, said = run(tmp_path)
    assert trainer.trained == []
    assert "0 runs" in said
    assert again == result
    assert (tmp_path / "tiny.rows.jsonl").read_bytes() == before
    assert (tmp_path / "tiny.md").read_text() == text


@pytest.mark.parametrize("passes", [0, 1, 2, 3])
def test_what_a_kill_interrupts_continues_without_repeating_a_pass(tmp_path, trainer, passes):
    sizes = [3, 2, 2, 2]
    trainer.stop_before = sum(sizes[:passes])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len(trainer.trained) == sum(sizes[:passes])
    trainer.stop_before = None
    result, _ = run(tmp_path)
    assert len(trainer.trained) == len(set(trainer.trained)) == sum(sizes)
    assert result["claims"][0]["verdict"] == "confirmed"
    assert len(read(tmp_path)) == 3 + 2 * 6 + 1


def test_other_settings_are_other_rows(tmp_path, trainer):
    run(tmp_path)
    trainer.trained.clear()
    result, _ = run(tmp_path, settings={"k": 3}, claims="A1")
    assert len(trainer.trained) == 9
    assert result["claims"][0]["command"] == "monosem reproduce tiny --scale small --k 3 --claims A1"


def test_other_seeds_reuse_the_rows_they_share(tmp_path, trainer):
    run(tmp_path, claims="A1")
    trainer.trained.clear()
    run(tmp_path, claims="A1", seeds=(1, 2, 3))
    assert trainer.trained == [("good", 3), ("plain", 3)]


def test_claims_beyond_the_budget_are_not_tested_and_say_what_they_would_take(tmp_path, trainer):
    result, said = run(tmp_path, minutes=0.4)
    third = result["claims"][2]
    assert third["verdict"] == "not tested"
    assert third["measured"]["predicted_minutes"] == 0.5
    assert "left out: A3 would add 0.5 minutes" in said
    assert result["claims"][0]["verdict"] == "confirmed"


def test_when_the_time_is_used_up_no_further_pass_begins(tmp_path, trainer, monkeypatch):
    now = itertools.count()
    monkeypatch.setattr(reproduction, "time", SimpleNamespace(monotonic=lambda: 200.0 * next(now)))
    result, said = run(tmp_path)
    assert "used up" in said
    first = result["claims"][0]
    assert (first["verdict"], first["measured"]["reason"]) == ("not tested", "not finished")
    assert 3 < len(trainer.trained) < 9


def test_claims_that_are_not_asked_for_are_not_run(tmp_path, trainer):
    result, _ = run(tmp_path, claims="A3")
    assert trainer.trained == []
    assert [claim["measured"].get("reason") for claim in result["claims"]][:3] == ["not asked for"] * 2 + [None]


def test_a_claim_asked_for_later_takes_over_what_another_has_measured(tmp_path, trainer):
    run(tmp_path, claims="A1")
    trainer.trained.clear()
    result, _ = run(tmp_path, claims="A2")
    assert trainer.trained == []
    assert [claim["verdict"] for claim in result["claims"]][:2] == ["confirmed"] * 2
    assert sum(one["claim"] == "A2" for one in read(tmp_path)) == 6


def test_finished_claims_of_another_scale_stay_on_the_page(tmp_path, trainer):
    run(tmp_path, claims="A1")
    result, _ = run(tmp_path, claims="A1", scale="medium")
    found = [(claim["id"], claim["scale"]) for claim in result["claims"] if claim["verdict"] == "confirmed"]
    assert found == [("A1", "medium"), ("A2", "medium"), ("A1", "small"), ("A2", "small")]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(20, [["good", "plain"]] * 3 + [["clock"]]), (19, [["good"], ["plain"]] * 3 + [["clock"]])],
)
def test_a_pass_holds_runs_of_one_seed_for_a_limited_time(tmp_path, seconds, expected):
    scale = replace(tiny_study().scales["small"], pass_minutes=seconds / 60)
    ledger = Ledger(tiny_study(), scale, Rows(tmp_path / "rows.jsonl"))
    runs = ledger.runs(ledger.study.claims[0]) + ledger.runs(ledger.study.claims[2])
    found = plan.passes(ledger, SimpleNamespace(run=lambda one: 10.0), runs)
    assert [[one.name for one in group] for group in found] == expected


def test_a_twin_has_other_weights_and_order_on_the_same_data(tmp_path):
    ledger = Ledger(STUDY, SMALL, Rows(tmp_path / "rows.jsonl"))
    first, twin = (
        next(run for run in ledger.runs(truncation.CLAIM) if run.key == (name, 2)) for name in ("topk_32", "topk_twin")
    )
    assert (ledger.config(first, 1e-3).seed, ledger.config(twin, 1e-3).seed) == (2, 1002)
    assert plan.data_seed(STUDY, first) == plan.data_seed(STUDY, twin) == 2
    found = plan.passes(ledger, SimpleNamespace(run=lambda one: 1.0), [first, twin])
    assert [[one.name for one in group] for group in found] == [["topk_32"], ["topk_twin"]]


def test_a_model_that_runs_while_training_is_paid_for_at_every_seed(tmp_path):
    prices = SimpleNamespace(run=lambda one: 1.0, data=lambda name: 7.0)
    for activations, readings in (("store", {None}), ("live", {0, 1, 2, 99})):
        scale = tiny_study().scales["small"].changed({"activations": activations})
        ledger = Ledger(tiny_study(), scale, Rows(tmp_path / "rows.jsonl"))
        found = plan.parts(ledger, prices, ledger.runs(ledger.study.claims[0]))
        assert {seed for kind, _, seed in found if kind == "data"} == readings
        assert sum(found.values()) == 9 + 7 * len(readings)


def test_a_price_is_that_of_real_steps_and_each_kind_of_arm_is_tried_once(tmp_path, monkeypatch):
    tried = []

    def stepped(prices, config, x):
        tried.append((config.k, *x.shape))
        return float(config.k), None

    monkeypatch.setattr(price.Prices, "_stepped", stepped)
    monkeypatch.setattr(price.Prices, "_evaluated", lambda prices, sae: 0.5)
    monkeypatch.setattr(price, "multiplier", lambda sae: 1.5)
    made = tiny_study()
    scale = replace(made.scales["small"], held_out=4096)
    ledger = Ledger(made, scale, Rows(tmp_path / "rows.jsonl"))
    prices = price.Prices(ledger)
    good, plain = ledger.runs(made.claims[0])[:2]
    assert prices.run(good) == pytest.approx(10 * 2 + 1.0)
    assert prices.run(plain) == prices.run(good)
    assert prices.run(ledger.grid("one")[0]) == pytest.approx(2 * 2 + 1.0)
    assert tried == [(2, 64, 8)]
    wider = good._replace(work=replace(good.work, settings={"k": 4, "equal": "flops"}))
    assert prices.run(wider) == pytest.approx(1.5 * 10 * 4 + 1.0)
    assert prices.tokens(wider) == 960
    assert prices.run(ledger.runs(made.claims[2])[0]) == 30.0


def test_a_price_comes_from_running_the_arm_and_every_measure_on_noise(tmp_path):
    scale = replace(SMALL.changed({"n_latents": 64, "k": 8, "tokens": 2560, "batch": 64}), held_out=4096)
    ledger = Ledger(STUDY, scale, Rows(tmp_path / "rows.jsonl"))
    prices = price.Prices(ledger)
    run = next(one for one in ledger.runs(STUDY.claims[0]) if one.name == "batch_topk_8")
    start = time.perf_counter()
    predicted = prices.run(run)
    assert 0 < predicted < 60 * (time.perf_counter() - start)
    assert prices.tokens(run) == 2560


# The page -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(trainer, monkeypatch):
    monkeypatch.setattr(picture, "available", lambda: True)


def test_the_page_has_every_figure_its_definition_and_its_picture(tmp_path, drawn):
    run(tmp_path, claims="A1")
    text = (tmp_path / "tiny.md").read_text()
    for part in (
        "| 2 | 0.5678 |",
        "difference of values",
        "needs a judge model",
        "A note.",
        "0.0030",
        "95 % t interval",
    ):
        assert part in text
    assert "![Curve](tiny-small-a1-curve.svg)" in text
    drawn = (tmp_path / "tiny-small-a1-curve.svg").read_text()
    assert "prefers-color-scheme:dark" in drawn
    assert "currentColor" in drawn
    assert picture._INK not in drawn


def test_pictures_that_the_page_no_longer_shows_are_deleted_and_no_others(tmp_path, drawn):
    for name in ("tiny-small-a9-old.svg", "other-small-a9-old.svg"):
        (tmp_path / name).write_text("<svg/>")
    run(tmp_path, claims="A1")
    assert not (tmp_path / "tiny-small-a9-old.svg").exists()
    assert (tmp_path / "other-small-a9-old.svg").exists()


def test_a_page_without_matplotlib_has_no_pictures(tmp_path, trainer):
    run(tmp_path)
    assert "![" not in (tmp_path / "tiny.md").read_text()
    assert not list(tmp_path.glob("*.svg"))


def test_a_bar_in_a_cell_does_not_open_a_column_and_numbers_stand_right():
    lines = page.markdown(Table("", ["a", "b"], [["x|y", "1"], ["z", "–"]])).splitlines()
    assert lines == ["| a | b |", "| :-- | --: |", "| x\\|y | 1 |", "| z | – |"]


# Measures -----------------------------------------------------------------------------------------------------------

SMALL = STUDY.scales["small"]


def autoencoder(k=4, d=6, n=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sae = SAE(DenseEncoder(d, n), TopK(n, k))
    sae.initialise(torch.randn(200, d, generator=generator), generator)
    sae.info = {"training": {"config": {"k": k}}}
    return sae.eval()


def held_out(x, **changes):
    return Data(SOURCE, SITE, x, x, {}, **changes)


@torch.no_grad()
def test_the_curve_is_explained_variance_of_each_budget_and_goes_on_where_nothing_was_trained():
    sae = autoencoder()
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(1)).double()
    sae = sae.double()
    scale = SMALL.changed({"k": 4, "n_latents": 24})
    found = measure.curve(sae, held_out(x), scale)
    assert found["k"] == list(range(1, 9))
    assert found["trained"] == 4
    total = (x - x.mean(0)).square().sum()
    for k, explained, active in zip(found["k"], found["ev"], found["l0"]):
        pre = sae.pre_acts(x).relu()
        top = pre.topk(k, dim=1)
        recon = sae.decode(torch.zeros_like(pre).scatter(1, top.indices, top.values))
        assert explained == pytest.approx(float(1 - (x - recon).square().sum() / total), abs=2e-6)
        assert active == pytest.approx(float((top.values > 0).sum(1).double().mean()), abs=1e-6)
    assert measure.curve(sae, held_out(x), SMALL)["k"] == [1, 2, 3, 4]


@torch.no_grad()
def test_an_autoencoder_whose_count_varies_has_one_entry_at_its_real_l0():
    sae = autoencoder()
    rule = BatchTopK(24, 4)
    rule.cut.fill_(0.4)
    varying = SAE(sae.encoder, rule, scale=sae.scale)
    varying.W_dec, varying.b_dec, varying.info = sae.W_dec, sae.b_dec, sae.info
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(1))
    found = measure.curve(varying.eval(), held_out(x), SMALL)
    active = (varying.pre_acts(x) > 0.4).sum(1).double().mean()
    assert (found["k"], found["trained"]) == ([4], 4)
    assert found["l0"] == [pytest.approx(float(active), abs=1e-6)]


@torch.no_grad()
def test_dead_latents_are_those_silent_on_the_held_out_tokens():
    sae = autoencoder(k=10)
    sae.encoder.bias[:6] = -100
    sae.encoder.weight[6:12] *= 0.05
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    found = measure.dead(sae, held_out(x), SMALL)
    pre = sae.pre_acts(x).relu()
    for key, k in (("dead", 10), ("dead_few", 8)):
        top = pre.topk(k, dim=1)
        alive = torch.unique(top.indices[top.values > 0])
        assert found[key] == pytest.approx(1 - len(alive) / 24)
    assert found["dead"] >= 6 / 24


@torch.no_grad()
def test_crowding_is_the_mean_of_the_largest_cosines():
    sae = autoencoder(d=6, n=6)
    sae.W_dec.copy_(torch.eye(6))
    sae.W_dec[1] = torch.tensor([0.6, 0.8, 0, 0, 0, 0])
    expected = (0.6 + 0.6) / 6
    assert measure.crowding(sae, held_out(torch.zeros(1, 6)), SMALL)["crowding"] == pytest.approx(expected, abs=1e-6)


def test_token_entropy_counts_token_types():
    values = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    codes = Codes(values, torch.tensor([[0, 1], [0, 1], [0, 2], [0, 2]]), 4)
    entropy = measure.token_entropy([codes], torch.tensor([5, 5, 7, 9]))
    assert entropy.tolist() == pytest.approx([1.5, 0.0, 0.0, 0.0])


def test_a_score_by_rank_is_a_mean_over_tokens_active_there():
    codes = Codes(torch.tensor([[2.0, 1.0], [3.0, 0.0]]), torch.tensor([[0, 1], [2, 0]]), 3)
    found = measure.by_rank([codes], torch.tensor([1.0, 5.0, 3.0], dtype=torch.float64))
    assert found.tolist() == [2.0, 5.0]


@torch.no_grad()
def test_recovery_is_one_where_decoder_rows_are_atoms():
    sae = autoencoder()
    data = held_out(torch.randn(50, 6), truth={"atoms": 3 * sae.W_dec.clone()})
    assert measure.rank_recovery(sae, data, SMALL)["recovery"] == pytest.approx([1.0] * 4, abs=1e-5)
    assert measure.rank_recovery(sae, held_out(torch.randn(50, 6)), SMALL) == {}
    assert measure.rank_entropy(sae, data, SMALL) == {}


# Synthetic data -----------------------------------------------------------------------------------------------------


def test_synthetic_tokens_are_a_function_of_seed_and_window_and_held_out_ones_are_others():
    scale = replace(SMALL.changed({"tokens": 25 * WINDOW}), held_out=1000)
    data, again, other = (SPARSE.open(scale, seed) for seed in (0, 0, 1))
    forward, backward = (data.source.rows(np.array(order)).acts[SITE] for order in ([3, 5], [5, 3]))
    assert torch.equal(forward[:WINDOW], backward[WINDOW:])
    assert torch.equal(data.held_out, again.held_out)
    assert not torch.equal(data.held_out, other.held_out)
    assert not torch.equal(data.truth["atoms"], other.truth["atoms"])
    everything = torch.cat([data.source.rows(np.arange(25)).acts[SITE], data.held_out, data.validation])
    assert len(everything.unique(dim=0)) == len(everything) == 25 * WINDOW + 2000


def test_sparse_codes_have_the_stated_number_of_parts():
    data = SPARSE.open(SMALL, 0)
    atoms = data.truth["atoms"]
    present = 0.3 * 8 / (8 + np.arange(512))
    assert atoms.norm(dim=1).numpy() == pytest.approx(1, abs=1e-5)
    # E s² = 0.5² + 2·0.5·0.5 + 2·0.5² for s = 0.5 + an exponential of mean 0.5; means of s are 1.
    mean = torch.tensor(present) @ atoms.double()
    energy = float(mean @ mean) + float((1.25 * present - present**2).sum())
    assert float(data.held_out.double().square().sum(1).mean()) == pytest.approx(energy, rel=0.02)


# Data from a language model -----------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    settings = {key: run_folder.SETTINGS[key] for key in ("window", "site", "n_latents", "k", "batch", "dtype")}
    settings |= {"tokens": 640, "distinct_tokens": 600, **run_folder.inputs(tmp_path)}
    return Scale("tiny", settings, "model", (0, 1, 2), 5.0, 50)


def test_held_out_activations_are_those_of_other_documents_with_their_tokens(recorded):
    data = MODEL.open(recorded, 0)
    assert MODEL.width(recorded) == 32
    assert data.held_out.shape == data.validation.shape == (50, 32)
    config = recording.settings(recorded)
    lm = recording.model(recorded)
    text = run_windows(config, lm, "held_out")
    acts = lm.capture(text.tokens[:8], [data.site])[data.site]
    rows = [(acts - row).abs().amax(-1).min() for row in torch.cat([data.held_out, data.validation])]
    assert max(rows) < 1e-5
    for row, token in zip(data.held_out, data.tokens):
        where = (acts - row).abs().amax(-1).flatten().argmin()
        assert text.tokens[:8].flatten()[where] == token
    assert data.identity["model"]["fingerprint"] == lm.identity()["fingerprint"]


def test_recording_is_predicted_to_take_time_until_it_is_done(recorded):
    assert MODEL.predict(recorded) > 0
    MODEL.open(recorded, 0)
    assert MODEL.predict(recorded) == 0
    assert MODEL.predict(recorded.changed({"distinct_tokens": 1500})) > 0


def test_too_few_held_out_tokens_are_refused(recorded):
    with pytest.raises(InputError, match="are needed"):
        MODEL.open(replace(recorded, held_out=5000), 0)


# Judges -------------------------------------------------------------------------------------------------------------

SCALE = SMALL.changed({"k": 8, "n_latents": 64}, (0, 1, 2))


def curve(height, k=8, most=None, noise=0.0):
    """EV(k) = height·(1 − 2^−k), the same arm for every seed but for a little noise."""
    ks = list(range(1, (most or k) + 1))
    return {
        "trained": k,
        "k": ks,
        "ev": [height * (1 - 2.0**-one) + noise for one in ks],
        "l0": [float(one) for one in ks],
        "dead": 0.1,
        "dead_few": 0.2,
        "crowding": 0.5,
    }


def evidence(**arms):
    """Arms by name: a function of the seed."""
    return Evidence(SCALE, {(name, seed): make(seed) for name, make in arms.items() for seed in SCALE.seeds})


def shifted(by, height=0.8, **changes):
    return lambda seed: curve(height, noise=by + 1e-4 * seed * (1 if by else 0), most=16) | changes


@pytest.mark.parametrize(("gap", "expected"), [(0.0, "confirmed"), (-0.005, "confirmed"), (-0.03, "contradicted")])
def test_one_for_all_matches_down_to_a_hundredth(gap, expected):
    found = one_for_all.CLAIM.judge(
        evidence(hierarchical=shifted(gap), topk_8=shifted(0), batch_topk_8=lambda seed: batch(8.0))
    )
    assert found.verdict == expected
    assert found.measured["D_topk"]["8"]["mean"] == pytest.approx(gap, abs=2e-4)


def batch(l0):
    return {"trained": 8, "k": [8], "ev": [0.8 * (1 - 2.0**-8)], "l0": [l0], "dead": 0.0}


def test_batch_topk_is_compared_at_the_l0_it_really_has():
    arms = evidence(hierarchical=shifted(0), topk_8=shifted(0), batch_topk_8=lambda seed: batch(1.0))
    found = one_for_all.CLAIM.judge(arms)
    assert found.verdict == "contradicted"
    assert found.measured["D_batch_topk"]["8"]["mean"] == pytest.approx(0.8 * (2.0**-8 - 0.5), abs=1e-6)


@pytest.mark.parametrize(("gain", "expected"), [(0.05, "confirmed"), (-0.05, "contradicted")])
def test_truncation_is_judged_at_small_budgets_alone(gain, expected):
    def hierarchical(seed):
        made = curve(0.8, most=16, noise=1e-4 * seed)
        return made | {"ev": [value + (gain if k <= 2 else -gain) for k, value in zip(made["k"], made["ev"])]}

    chance = {0: 0.01, 1: -0.01, 2: 0.002}
    found = truncation.CLAIM.judge(
        evidence(
            hierarchical=hierarchical,
            topk_8=shifted(0),
            multi_topk=shifted(0.01),
            topk_twin=lambda seed: curve(0.8, most=16, noise=chance[seed]),
        )
    )
    assert found.verdict == expected
    assert found.control["topk_twin"]["verdict"] == "undecided"
    assert found.control["multi_topk"]["verdict"] == "confirmed"
    assert len(found.tables[1].rows) == 8


@pytest.mark.parametrize(("last", "expected"), [(0.95, "confirmed"), (0.5, "contradicted")])
def test_ranks_are_judged_by_how_much_they_decline(last, expected):
    def arm(end):
        return lambda seed: {"recovery": [1.0] * 4 + [end + 0.001 * seed] * 4 + [None]}

    found = rank.RECOVERY.judge(evidence(hierarchical=arm(last), topk_8=arm(0.8), topk_twin=arm(0.8)))
    assert found.verdict == expected
    assert found.control["twin"]["verdict"] == "undecided"
    assert found.measured["decline"] == pytest.approx(1 - last - 0.001)


def test_a_score_that_rises_as_latents_become_vaguer_is_judged_the_other_way():
    def arm(end):
        return lambda seed: {"entropy": [1.0] * 4 + [end + 0.001 * seed] * 4}

    found = rank.ENTROPY.judge(evidence(hierarchical=arm(2.0), topk_8=arm(3.0), topk_twin=arm(3.0)))
    assert found.verdict == "confirmed"
    assert found.measured["decline"] == pytest.approx(1.001)


@pytest.mark.parametrize(("ratio", "memory", "expected"), [(1.4, 1.04, 0), (1.6, 1.0, 1), (1.0, 1.06, 1)])
def test_cost_needs_time_and_memory(ratio, memory, expected):
    times = {"topk_ms": 1.0, "hierarchical_ms": ratio, "prefixes_ms": 9.0}
    times |= {"hierarchical_ratio": ratio, "prefixes_ratio": 9.0}
    sizes = {"topk": 100.0, "hierarchical": 100 * memory, "prefixes": 900.0}
    shape = {"d_model": 1, "n_latents": 1, "batch": 1, "device": "cpu", "threads": 1}
    trial = shape | {"times": {"128": times}, "memory": {"128": sizes}}
    found = cost.CLAIM.judge(Evidence(SCALE, {("step", None): trial}))
    assert found.verdict == ("confirmed", "contradicted")[expected]


def test_dead_latents_have_to_be_fewer_with_and_without_the_auxiliary_loss():
    def arms(ours, alone):
        return evidence(
            hierarchical=shifted(0, dead=ours),
            topk_8=shifted(0, dead=0.2),
            hierarchical_no_aux=shifted(0, dead=alone),
            topk_8_no_aux=shifted(0, dead=0.4),
        )

    assert dead.CLAIM.judge(arms(0.1, 0.3)).verdict == "confirmed"
    assert dead.CLAIM.judge(arms(0.1, 0.5)).verdict == "contradicted"
    assert dead.CLAIM.judge(arms(0.2, 0.3)).verdict == "undecided"


def test_a_dip_between_trained_budgets_is_seen():
    names = ("stride_8", "pow2", "one_over_j", "ends")
    same = {f"hierarchical_{name}": shifted(0) for name in names}
    assert subset.CLAIM.judge(evidence(hierarchical=shifted(0), **same)).verdict == "confirmed"

    def dipped(seed):
        made = curve(0.8, most=16)
        return made | {"ev": [value - 0.02 * (k == 3) for k, value in zip(made["k"], made["ev"])]}

    found = subset.CLAIM.judge(evidence(hierarchical=shifted(0), **same | {"hierarchical_pow2": dipped}))
    assert found.verdict == "contradicted"
    assert found.measured["pow2"]["verdict"] == "contradicted"
    assert found.measured["stride:8"]["verdict"] == "confirmed"
    assert [row[2] for row in found.tables[0].rows if row[0] == "pow2"] == ["3"]


def test_a_fall_below_k_contradicts_and_one_above_is_only_reported():
    def falling(at):
        made = curve(0.8, most=16)
        return made | {"ev": [value - 0.1 * (k > at) for k, value in zip(made["k"], made["ev"])]}

    above = monotone.CLAIM.judge(evidence(hierarchical=lambda seed: falling(8), topk_8=shifted(0)))
    assert above.verdict == "confirmed"
    assert above.measured["fails_above_K"] == "confirmed"
    below = monotone.CLAIM.judge(evidence(hierarchical=lambda seed: falling(6), topk_8=shifted(0)))
    assert below.verdict == "contradicted"
    assert [row[3] for row in above.tables[0].rows] == ["trained"] * 8 + ["extrapolated"] * 8


@pytest.mark.parametrize(("fall", "expected"), [(5e-5, "confirmed"), (2e-4, "contradicted")])
def test_a_fall_counts_from_a_ten_thousandth_on(fall, expected):
    def flat(seed):
        return curve(0.8, most=16) | {"ev": [0.5 + 1e-6 * seed] * 4 + [0.5 - fall] * 12}

    assert monotone.CLAIM.judge(evidence(hierarchical=flat, topk_8=shifted(0))).verdict == expected


def test_every_arm_of_every_claim_has_settings_that_fit_and_a_family():
    for scale in STUDY.scales.values():
        for claim in STUDY.claims:
            for arm in STUDY.arms(scale, claim):
                assert arm.family in STUDY.families
                assert arm.data in STUDY.data
                scale.config(arm, 0, 1e-3)


def test_a_result_without_evidence_is_not_tested(tmp_path):
    ledger = Ledger(STUDY, SMALL, Rows(tmp_path / "none.jsonl"))
    results = judged(ledger, "monosem reproduce hierarchical", {"B1"}, {"B1": 90.0})
    verdicts = {one.claim.id: one.finding for one in results}
    assert verdicts["B1"].measured == {
        "reason": "does not fit the budget: predicted 1.5 minutes more",
        "predicted_minutes": 1.5,
    }
    assert verdicts["B3.entropy"].measured == {"reason": "synthetic data have no tokens"}
    written = report(STUDY, [Result(one.claim, SMALL, not_tested("x"), "") for one in results])
    assert all(claim["verdict"] == "not tested" and claim["seeds"] == [] for claim in written["claims"])


# The command line ---------------------------------------------------------------------------------------------------


def parsed(*words):
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hierarchial"], "did you mean 'hierarchical'"),
        (["hierarchical", "--scale", "huge"], "choose from small, medium, large"),
        (["hierarchical", "--claims", "B1,B99"], "B99"),
        (["hierarchical", "--budget", "0"], "0 minutes"),
        (["hierarchical", "--budget", "-3"], "-3 minutes"),
        (["hierarchical", "--seeds", "1,1"], "different whole numbers"),
        (["hierarchical", "--seeds", "1,x"], "different whole numbers"),
        (["hierarchical", "--seeds", "99"], "kept for choosing learning rates"),
        (["hierarchical", "--k", "5000"], "does not fit"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        command.run(parsed(*words, "--out", str(tmp_path)))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_flags_take_the_place_of_settings(tmp_path):
    request = command.asked(parsed("hierarchical", "--k", "16", "--tokens", "10k", "--model", "mine", "--seeds", "4,5"))
    assert request.settings == {"model": "mine", "k": 16, "tokens": 10_000}
    assert request.seeds == (4, 5)
    assert request.command.startswith("monosem reproduce hierarchical --scale small --model mine")


def test_the_json_of_a_command_is_one_object_and_its_plan_goes_to_standard_error(tmp_path, trainer, capsys):
    command.run(parsed("tiny", "--out", str(tmp_path), "--json"))
    captured = capsys.readouterr()
    assert set(json.loads(captured.out)) == {"paper", "claims"}
    assert "plan: claims" in captured.err
    command.run(parsed("tiny", "--out", str(tmp_path / "again")))
    captured = capsys.readouterr()
    assert captured.out.startswith("planning:")
    assert "plan: claims" in captured.out
    assert "confirmed" in captured.out


def test_the_names_of_studies_are_modules_with_a_study():
    assert study.open_study("hierarchical") is STUDY


@pytest.mark.slow
def test_a_small_study_sees_an_effect_and_does_not_take_chance_for_one(tmp_path):
    changes = {"n_latents": 256, "k": 16, "tokens": 20_000}
    request = Request("hierarchical", "small", "B2,B7", 5, changes, (0, 1, 2), tmp_path)
    result = reproduce(request, lambda line: None)
    claims = {claim["id"]: claim for claim in result["claims"]}
    assert claims["B2"]["verdict"] == "confirmed"
    assert claims["B2"]["control"]["topk_twin"]["verdict"] != "confirmed"
    assert claims["B7"]["verdict"] in {"confirmed", "contradicted", "undecided"}
    assert reproduce(request, lambda line: None) == result
