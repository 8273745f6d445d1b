"""The experiments on SAE Boost's claims: the drawn world, thresholds, verdicts on made evidence, whole studies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import run_folder
from monosem.activations import Rows
from monosem.reproduce.boost import (
    SCALES,
    STUDY,
    budget,
    forgetting,
    gain,
    kept,
    kron,
    nested,
    preservation,
    rate,
    recorded,
    redundancy,
    second,
    several,
    stitching,
    sweep,
    tradeoff,
    world,
)
from monosem.reproduce.boost import core as cores
from monosem.reproduce.boost.arm import EXTENDED, RIVALS
from monosem.reproduce.boost.core import best
from monosem.reproduce.boost.learning import config
from monosem.reproduce.boost.reading import evaluations, specificity
from monosem.reproduce.boost.text import Beginning, Part, sample
from monosem.reproduce.boost.threshold import at_l0, l0, with_last_at
from monosem.reproduce.claim import Evidence
from monosem.reproduce.reproduction import reproduce
from monosem.reproduce.request import Request
from monosem.reproduce.synthetic import SITE, Synthetic
from monosem.reproduce.verdict import interval
from monosem.sae import SAE, DenseEncoder, TopK, boosted, groups, load, without
from monosem.shapes import InputError

SMALL, MEDIUM, LARGE = SCALES["small"], SCALES["medium"], SCALES["large"]
TOKENS = 20_000
TINY = replace(
    SMALL,
    settings={"n_latents": 16, "k": 2, "tokens": 6 * 64, "batch": 64},
    held_out=512,
    rates=(1e-2, 3e-2),
    extra={
        **SMALL.extra,
        "core": {"n_latents": 48, "k": 4, "tokens": 12 * 64},
        "ks": [1, 3],
        "unique": [100, 300],
        "calibration": 512,
    },
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# The drawn world -----------------------------------------------------------------------------------------------------


def test_general_text_has_six_directions_and_a_domain_four_and_three_of_its_own():
    general, first = world.rates("general"), world.rates("first")
    assert len(general) == 160 + 2 * 40
    assert float(general[:160].sum()) == pytest.approx(6)
    assert not general[160:].any()
    assert float(first[:160].sum()) == pytest.approx(4)
    assert float(first[160:200].sum()) == pytest.approx(3)
    assert not first[200:].any()
    assert float(world.rates("second")[200:].sum()) == pytest.approx(3)
    assert float(general[0] / general[99]) == pytest.approx(100**0.7)
    assert float(first[160] / first[168]) == pytest.approx(9**0.5)


@pytest.mark.parametrize("text", world.TEXTS)
def test_directions_come_as_often_as_their_rates_say(text):
    rates = world.rates(text)
    found = world.present(text, generator(), TOKENS).double().mean(0)
    error = (found - rates).abs()
    assert (error <= 4.5 * (rates * (1 - rates) / TOKENS).sqrt()).all()


def test_tokens_are_offset_directions_and_noise():
    known = world.world(3)
    torch.testing.assert_close(known.directions.norm(dim=1), torch.ones(240))
    assert float(known.offset.norm()) == pytest.approx(2)
    assert not torch.equal(known.directions, world.world(4).directions)
    x = world.drawing(known, "first")(generator(), TOKENS)
    strengths = (1 + 0.3 * torch.randn(10**6, generator=generator())).abs()
    mean = known.offset + float(strengths.mean()) * (world.rates("first").float() @ known.directions)
    assert float((x.mean(0) - mean).norm()) < 0.05
    energy = world.rates("first") * strengths.square().mean() - (world.rates("first") * strengths.mean()).square()
    assert float((x - x.mean(0)).square().sum(1).mean()) == pytest.approx(float(energy.sum()) + 64 * 0.02**2, rel=0.02)


def test_texts_and_parts_share_no_tokens():
    here = world.ground(TINY, 1)
    first = here.domain("first")
    parts = [here.general.held_out, here.general.validation, first.held_out, first.validation]
    parts = [part.acts for part in parts] + [
        text.source.rows(np.arange(text.source.n_windows)).acts[SITE] for text in (here.general, first)
    ]
    rows = torch.cat(parts)
    assert len(torch.unique(rows, dim=0)) == len(rows)
    assert torch.equal(world.ground(TINY, 1).general.held_out.acts, here.general.held_out.acts)
    assert first.source.n_windows == 2  # 384 tokens


def test_a_beginning_has_exactly_its_tokens():
    source = Synthetic(lambda generator, count: torch.randn(count, 4, generator=generator), 4, 0)
    short = Beginning(source, 300, 256)
    assert short.n_windows == 2
    rows = short.rows(np.array([1, 0]))
    assert isinstance(rows, Rows)
    assert len(rows.windows) == 300
    assert torch.equal(rows.acts[SITE][44:], source.rows(np.array([0])).acts[SITE])


# Thresholds and figures ----------------------------------------------------------------------------------------------


def random_sum(seed):
    core, residual, x = stitching.random_parts(seed)
    return boosted(core, {"residual": residual}).requires_grad_(False), x


def test_thresholds_give_the_l0_asked_for_of_a_whole_and_of_a_residual():
    both, x = random_sum(1)
    batches = list(x.split(512))
    found = with_last_at(both, batches, 2.5)
    count = found.codes(x).dense()[:, groups(found)[1].latents].count_nonzero()
    assert int(count) == 2.5 * len(x)
    assert torch.equal(found.rules[0].cut, both.rules[0].cut)
    assert float(found.rules[1].cut) != float(both.rules[1].cut)
    core = without(both, "residual")
    assert l0(at_l0(core, batches, 7.25), batches) == pytest.approx(7.25, abs=1e-4)
    assert l0(core, batches) != pytest.approx(7.25, abs=0.1)


def test_a_sum_is_cut_at_k():
    x = torch.randn(64, 8, generator=generator())
    parts = []
    for latents, k in ((16, 3), (12, 5)):
        sae = SAE(DenseEncoder(8, latents), TopK(latents, k), subtract_b_dec=False).eval()
        sae.initialise(x, generator(latents))
        sae.b_dec.data.zero_()
        parts.append(sae)
    both = boosted(parts[0], {"new": parts[1]})
    short = sweep.cut(both, 2)
    codes, whole = short.codes(x).dense(), both.codes(x).dense()
    assert torch.equal(codes[:, :16], whole[:, :16])
    assert torch.equal(codes[:, 16:].count_nonzero(1), whole[:, 16:].count_nonzero(1).clamp_max(2))
    assert both.rules[1].k == 5


def test_explained_variance_and_rates_are_those_of_the_text():
    both, x = random_sum(2)
    x = x[:512]
    found = evaluations({"sum": both}, Part(x, torch.ones(8, 64, dtype=torch.bool)))["sum"]
    left = (x - both(x)).double().square().sum() / (x.double() - x.double().mean(0)).square().sum()
    assert found.metrics["explained_variance"] == pytest.approx(1 - float(left), abs=1e-6)
    assert found.metrics["l0"] == pytest.approx(float(both.codes(x).l0().double().mean()))
    assert len(found.terms["explained_variance"].num) == 8
    assert float(found.density[3]) == pytest.approx(float((both.encode(x)[:, 3] > 0).double().mean()))


def test_specificity_is_the_share_of_firing_on_the_domain():
    both, x = random_sum(3)
    part = Part(x[:64], torch.ones(1, 64, dtype=torch.bool))
    one = evaluations({"sum": both}, part)["sum"]
    new = groups(both)[0].n_latents
    assert specificity(one, one, new) == pytest.approx(0.5)
    never = replace(one, density=torch.zeros_like(one.density))
    assert specificity(one, never, new) == pytest.approx(1)
    assert specificity(never, never, new) is None


# Verdicts ------------------------------------------------------------------------------------------------------------


def arm(domain, general, *, ce=None, verdict="preserved", special=0.6):
    figures = {"domain": {"ev": domain, "l0": 8.0}, "general": {"ev": general, "l0": 6.0}}
    if ce is not None:
        for text in figures.values():
            text |= {"ce": ce, "ce_clean": 1.0}
    return {**figures, "preserved": {"verdict": verdict, "added_ce": None}, "specificity": special}


def evidence(kind, make, scale=SMALL, seeds=(0, 1, 2), **more):
    """The same trial of every domain; `make` is called with numbers that vary a little over seeds."""
    rates = {"core": {"0.003": {"general": 0.5}, "0.01": {"general": 0.6}, "0.03": {"general": 0.4}}}
    found = {("rates", None): rates}
    for seed in seeds:
        for domain in [*scale.extra["domains"], *scale.extra["wide"]]:
            found[f"{kind}_{domain}", seed] = {"arms": make(0.001 * seed), **more}
    return Evidence(replace(scale, seeds=seeds), {**found, **{("rates", seed): rates for seed in seeds}})


def gains(boost, more_k=0.6, general=0.62, ce=None):
    def make(shift):
        saes = {"core": 0.55, "more_k": more_k, "general": general, "boost": boost}
        losses = dict.fromkeys(saes, ce) if ce is None else {**dict.fromkeys(saes, 2.0), "boost": ce}
        return {name: arm(ev + shift * (name == "boost"), 0.8, ce=losses[name]) for name, ev in saes.items()}

    aligned = {text: {"alignment": 0.8, "energy_ratio": 0.1} for text in ("domain", "general")}
    return lambda scale=SMALL: evidence("gain", make, scale, alignment=aligned)


@pytest.mark.parametrize(
    ("boost", "ce", "verdict"),
    [
        pytest.param(0.7, None, "confirmed", id="better than all"),
        pytest.param(0.61, None, "undecided", id="no better than a general residual"),
        pytest.param(0.58, None, "contradicted", id="worse than more latents active"),
        pytest.param(0.7, 1.5, "confirmed", id="better in both"),
        pytest.param(0.7, 2.5, "undecided", id="worse in cross-entropy"),
    ],
)
def test_a_gain_has_to_beat_all_three_controls(boost, ce, verdict):
    found = gain.gained(gains(boost, ce=ce)())
    assert found.verdict == verdict
    assert gain.gained_widely(gains(boost, ce=ce)(MEDIUM)).verdict == verdict
    assert found.interval[0] < boost - 0.62 + 0.001 < found.interval[1]


def test_one_seed_decides_nothing():
    found = gains(0.7)()
    alone = Evidence(replace(SMALL, seeds=(0,)), found.found)
    assert gain.gained(alone).verdict == "undecided"


@pytest.mark.parametrize(
    ("verdicts", "tokens", "verdict"),
    [
        pytest.param(["preserved"] * 3, 1, "confirmed", id="preserved"),
        pytest.param(["preserved", "preserved", "undecided"], 1, "undecided", id="not in all seeds"),
        pytest.param(["damaged"] * 3, 1, "undecided", id="damaged by few tokens"),
        pytest.param(["damaged"] * 3, 10**8, "contradicted", id="damaged by many tokens"),
        pytest.param(["preserved"] * 2, 1, "undecided", id="two seeds"),
    ],
)
def test_damage_by_few_tokens_is_not_held_against_the_claim(verdicts, tokens, verdict):
    assert preservation.verdict({"a": ["preserved"] * len(verdicts), "b": verdicts}, tokens) == verdict


def test_preservation_is_read_from_the_trials():
    found = preservation.judge(gains(0.7)())
    assert found.verdict == "confirmed"
    assert found.interval == pytest.approx((0.0, 0.0))


def rivals(domain=0.6, general=0.7, **tuned):
    """Boost at 0.7 and 0.8; every baseline at other figures, the fine-tuned core's general EV by calibration."""

    def make(shift):
        saes = {"core": arm(0.55, 0.8), "boost": arm(0.7 + shift, 0.8), "more_k": arm(0.6, 0.82)}
        for name in RIVALS:
            for at in ("", "@general", "@equal"):
                saes[name + at] = arm(domain + 2 * shift, general + shift)
        return saes | {f"finetuned{at}": arm(0.8, value + shift) for at, value in tuned.items()}

    return evidence("rivals", make)


@pytest.mark.parametrize(
    ("own", "other", "verdict"),
    [
        pytest.param(0.7, 0.72, "confirmed", id="forgets"),
        pytest.param(0.7, 0.79, "undecided", id="hardly forgets at one calibration"),
        pytest.param(0.7, 0.85, "contradicted", id="gains at one calibration"),
    ],
)
def test_forgetting_counts_under_both_calibrations(own, other, verdict):
    found = forgetting.judge(rivals(**{"": own, "@general": other}))
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("domain", "general", "verdict"),
    [
        pytest.param(0.6, 0.85, "confirmed", id="worse on the domain"),
        pytest.param(0.75, 0.7, "confirmed", id="worse in general"),
        pytest.param(0.75, 0.85, "contradicted", id="better on both"),
        pytest.param(0.7, 0.85, "undecided", id="the same on the domain"),
    ],
)
def test_a_baseline_has_to_be_worse_on_one_axis(domain, general, verdict):
    found = tradeoff.judge(rivals(domain, general))
    assert found.verdict == verdict
    assert {line.label for line in found.plots[0].lines} >= {"SAE Boost", "fine-tuned core"}


@pytest.mark.parametrize(
    ("least", "verdict"),
    [
        pytest.param(0.75, "confirmed", id="shrinks"),
        pytest.param(0.8, "contradicted", id="flat"),
        pytest.param(0.85, "contradicted", id="rises"),
    ],
)
def test_harm_has_to_shrink_with_tokens(least, verdict):
    def make(shift):
        levels = np.linspace(least, 0.8, 4)
        saes = {budget.name(n): arm(0.6, ev) for n, ev in zip(SMALL.extra["unique"], levels, strict=True)}
        return {"core": arm(0.5, 0.8), **saes}

    found = budget.judge(evidence("budget", make))
    assert found.verdict == verdict
    assert [plot.lines[0].x for plot in found.plots] == [[300, 1_000, 10_000, 100_000]] * 2


def test_a_budget_in_between_is_undecided():
    assert budget.verdict(interval([0.0, 0.0005, 0.003])) == "undecided"


@pytest.mark.parametrize(
    ("rise", "fall", "verdict"),
    [
        pytest.param(0.01, -0.05, "confirmed", id="as published"),
        pytest.param(0.01, 0.05, "undecided", id="more specific"),
        pytest.param(-0.01, -0.05, "contradicted", id="explains less"),
    ],
)
def test_with_k_variance_rises_and_specificity_falls(rise, fall, verdict):
    def make(shift):
        saes = {"core": arm(0.5, 0.8), "frozen": arm(0.52, 0.8)}
        for k in SMALL.extra["ks"]:
            for kind in (sweep.BATCH, sweep.FIXED, sweep.MORE, sweep.NESTED):
                saes[f"{kind}_{k}"] = arm(0.6 + rise * k + shift * k, 0.8, special=0.7 + fall * k)
        return saes

    assert sweep.judge(evidence("sweep", make)).verdict == verdict


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        pytest.param(-0.005, "confirmed", id="matches"),
        pytest.param(-0.02, "contradicted", id="worse"),
    ],
)
def test_one_residual_has_to_match_at_every_k(gap, verdict):
    def make(shift):
        saes = {"core": arm(0.5, 0.8)}
        for k in SMALL.extra["ks"]:
            saes |= {f"{kind}_{k}": arm(0.6, 0.8) for kind in (sweep.BATCH, sweep.FIXED)}
            saes[f"{sweep.NESTED}_{k}"] = arm(0.6 + (gap if k == 12 else 0) + shift, 0.8)
        return saes

    assert nested.judge(evidence("sweep", make)).verdict == verdict


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [
        pytest.param(0.02, "confirmed", id="little lost"),
        pytest.param(0.08, "undecided", id="more than a third lost"),
        pytest.param(0.2, "contradicted", id="below the core"),
    ],
)
def test_residuals_add_up_if_less_than_a_third_is_lost(loss, verdict):
    names = SMALL.extra["domains"]
    both = several.label(names)

    def figures(shift):
        table = {
            text: {"core": 0.5, "first": 0.5, "second": 0.5, both: 0.6 + shift - loss} | {text: 0.6 + shift}
            for text in (*names, "general")
        }
        conflict = [{"a": "first", "b": "second", "conflict": 0.1}]
        return {"ev": table, "conflict": dict.fromkeys(names, conflict)}

    found = several.judge(Evidence(SMALL, {("several", seed): figures(0.001 * seed) for seed in SMALL.seeds}))
    assert found.verdict == verdict


def test_of_many_domains_each_and_all_are_summed():
    assert several.subsets(["a", "b", "c"])[3:] == [("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
    assert several.subsets(list("abcd")) == [("a",), ("b",), ("c",), ("d",), ("a", "b", "c", "d")]


@pytest.mark.parametrize(
    ("less", "more", "verdict"),
    [
        pytest.param(1e-5, 1.0, "confirmed", id="less"),
        pytest.param(1.0, 1e-5, "contradicted", id="more"),
        pytest.param(0.01, 0.99, "undecided", id="too few latents to say"),
    ],
)
def test_redundancy_is_judged_by_latent_in_every_seed(less, more, verdict):
    table = {"boost": {"median": 0.3}, "random": {"median": 0.31, "less": less, "more": more}}
    table |= {one.name: {"median": 0.32, "less": 1e-9, "more": 1.0} for one in EXTENDED}
    found = redundancy.judge(evidence("rivals", lambda shift: {}, redundancy=table))
    assert found.verdict == verdict
    assert redundancy.against([1e-9, 1e-9], [1.0, 1.0]) == "undecided"


@pytest.mark.parametrize(
    ("ev", "general", "verdict"),
    [
        pytest.param(0.695, 0.8, "confirmed", id="as good"),
        pytest.param(0.67, 0.8, "contradicted", id="explains less"),
        pytest.param(0.7, 0.75, "contradicted", id="harms more"),
    ],
)
def test_a_kron_residual_has_to_match_at_equal_tokens_and_flops(ev, general, verdict):
    def make(shift):
        saes = {"core": arm(0.5, 0.8), "boost": arm(0.7, 0.8), "kron": arm(0.7 + shift, 0.8)}
        return saes | {"kron_flops": arm(ev + shift, general)}

    assert kron.judge(evidence("kron", make)).verdict == verdict


@pytest.mark.parametrize(
    ("twice", "verdict"),
    [
        pytest.param(0.745, "confirmed", id="as good"),
        pytest.param(0.72, "contradicted", id="worse"),
    ],
)
def test_a_second_residual_has_to_match_one_of_twice_the_size(twice, verdict):
    def make(shift):
        return {name: arm(ev + shift * (name == "twice"), 0.8) for name, ev in levels.items()}

    levels = {"core": 0.5, "boost": 0.7, "double": 0.75, "twice": twice}
    assert second.judge(evidence("second", make)).verdict == verdict


# Stitching -----------------------------------------------------------------------------------------------------------


def test_stitching_is_exact_and_a_joint_rule_is_not():
    found = stitching.run(SMALL, None)
    assert found["float64"] < 1e-10
    assert found["float32"] < 1e-5
    assert found["joint"] > 1e-3
    assert stitching.verdict(found) == "confirmed"
    assert stitching.verdict({**found, "float32": 1e-4}) == "contradicted"
    assert stitching.verdict({**found, "joint": 1e-6}) == "undecided"


def test_a_residual_taken_out_of_a_sum_is_what_it_was():
    core, residual, x = stitching.random_parts(4)
    found = stitching.alone(random_sum(4)[0])
    assert float((found(x) - residual(x)).norm() / residual(x).norm()) < 1e-3
    assert not found.b_dec.any()
    other = stitching.differences(core, found, x)
    assert other["float64"] < 1e-10
    assert other["joint"] > 1e-3


# Studies -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_every_trial_of_every_scale_is_described_and_its_arms_can_be_configured(scale):
    names = [trial.name for claim in STUDY.claims for trial in claim.trials(scale)]
    kinds = ("gain", "rivals", "budget", "sweep", "kron", "second")
    expected = {f"{kind}_{domain}" for kind in kinds for domain in scale.extra["domains"]}
    expected |= {f"gain_{domain}" for domain in scale.extra["wide"]} | {"rates", "core", "several", "stitch"}
    assert set(names) == expected
    for claim in STUDY.claims:
        for trial in claim.trials(scale):
            assert trial.settings(scale)["trial"]
    for one in (*sweep.arms(scale), *EXTENDED, *kron.KRON, second.double(scale)):
        assert config(scale, one, 0, 1e-3, Path("core")).k == one.settings.get("k", scale.k)
    assert config(scale, sweep.arms(scale)[0], 0, 1e-3, None).n_latents == scale.extra["core"]["n_latents"]


def test_other_settings_are_kept_elsewhere():
    what = {"what": "core", "seed": 0}
    assert kept.place(SMALL, what) == kept.place(replace(SMALL), what)
    others = [SMALL.changed({"k": 4}), replace(SMALL, rates=(1e-3,)), MEDIUM]
    others.append(replace(SMALL, extra={**SMALL.extra, "core": {**SMALL.extra["core"], "k": 5}}))
    assert len({kept.place(scale, what) for scale in [SMALL, *others]}) == 5


def test_the_rate_with_the_largest_score_is_chosen_and_the_edge_is_said():
    scores = {"0.003": {"domain": 0.5, "general": 0.9}, "0.01": {"domain": 0.6, "general": 0.1}}
    assert best(scores, "domain") == 0.01
    assert best(scores, "general") == 0.003
    table = rate.table(SMALL, {"residual": scores | {"0.03": {"domain": 0.7, "general": 0.5}}})
    assert table.rows == [
        ["residual", "0.5000 / 0.9000", "0.6000 / 0.1000", "0.7000 / 0.5000", "0.03 (edge of the grid)"]
    ]


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The study at a size that runs in seconds, its cache apart."""
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    monkeypatch.setattr("monosem.reproduce.boost.STUDY", replace(STUDY, scales={"small": TINY}))
    return tmp_path


def test_a_core_is_trained_once_with_the_l0_asked_for_and_kept(tiny, monkeypatch):
    here = world.ground(TINY, 5)
    folder = cores.core(TINY, here, 5)
    sae, k = load(folder), TINY.extra["core"]["k"]
    assert l0(sae, sample(here.general.source, here, TINY)) == pytest.approx(k)
    assert folder.is_relative_to(tiny / "cache")
    monkeypatch.setattr("monosem.reproduce.boost.learning.together", None)  # nothing is trained any more
    assert cores.core(TINY, here, 5) == folder
    assert cores.run(TINY, 5)["l0"] == pytest.approx(k, abs=0.5)


def run(folder, claims, seeds, scale="small"):
    request = Request("boost", scale, claims=claims, seeds=seeds, minutes=60, out=folder / "out")
    return {claim["id"]: claim for claim in reproduce(request, lambda text: None)["claims"]}


@pytest.mark.slow
def test_the_study_runs_from_plan_to_page(tiny):
    found = run(tiny, None, seeds=(0, 1, 2))
    tested = {id for id, claim in found.items() if claim["verdict"] != "not tested"}
    assert tested == set(found) - {"C1.wide"}
    assert found["C9"]["verdict"] == "confirmed"
    page = (tiny / "out" / "boost.md").read_text()
    assert "extended, copies, new learn" in page
    assert "boost-small-c6-front-first.svg" in page
    assert found == run(tiny, None, seeds=(0, 1, 2))


@pytest.fixture
def inside(tiny, monkeypatch):
    """A scale with a tiny model, its general text and a domain."""
    monkeypatch.chdir(tiny)
    named = run_folder.inputs(tiny)
    lines = [line.upper() for line in Path(named["text"]).read_text().split("\n\n")]
    Path("domain.txt").write_text("\n\n".join(lines))
    settings = {key: run_folder.SETTINGS[key] for key in ("window", "site", "block", "dtype")}
    return replace(
        TINY,
        data="model",
        settings={**TINY.settings, **settings, **named, "n_latents": 16, "k": 2, "device": "cpu"},
        held_out=160,
        extra={**TINY.extra, "domains": ["domain.txt"], "window": 16, "losses": 4, "unique": [20, 200]},
    )


def test_a_model_that_runs_gives_the_rows_that_were_recorded(inside):
    stored, live = (recorded.ground(inside.changed({"activations": kind}), 0) for kind in ("store", "live"))
    assert stored.exclusion == live.exclusion
    own, other = stored.domain("domain.txt"), live.domain("domain.txt")
    assert own.source.n_windows == other.source.n_windows
    rows = [text.source.rows(np.arange(4)).acts[stored.site] for text in (own, other)]
    torch.testing.assert_close(*rows)
    assert torch.equal(own.held_out.acts, other.held_out.acts)
    assert own.held_out.keep.shape == (10, 16)
    assert own.validation.keep.shape == (5, 16)
    assert not own.held_out.keep[:, 0].any()


@pytest.mark.slow
def test_the_study_runs_inside_a_model(tiny, inside, monkeypatch):
    scale = inside
    monkeypatch.setattr("monosem.reproduce.boost.STUDY", replace(STUDY, scales={"small": scale}))
    found = run(tiny, "C1,C3,C4,C5,C9", seeds=(0, 1, 2))
    assert all(found[id]["verdict"] != "not tested" for id in ("C1", "C3", "C4", "C5", "C9"))
    assert found["C9"]["verdict"] == "confirmed"
    rows = (tiny / "out" / "boost.rows.jsonl").read_text()
    assert '"ce_clean"' in rows
    too_long = replace(scale, held_out=10**6)
    monkeypatch.setattr("monosem.reproduce.boost.STUDY", replace(STUDY, scales={"small": too_long}))
    with pytest.raises(InputError, match=r"held-out windows, .* are needed: give more text"):
        run(tiny, "C1", seeds=(0,))
