"""Known features: worlds as they are said to be, measures in closed form, verdicts on made evidence."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch.nn import functional

from monosem.reproduce.claim import Evidence
from monosem.reproduce.data import Data
from monosem.reproduce.ground_truth import SCALES, STUDY, about, control, gap, nesting, possible, rate
from monosem.reproduce.ground_truth.arm import (
    CONTROLS,
    KINDS,
    RULES,
    easy,
    easy_name,
    hard,
)
from monosem.reproduce.ground_truth.arm import controls as controls_of
from monosem.reproduce.ground_truth.detection import detection, f1
from monosem.reproduce.ground_truth.overview import is_control
from monosem.reproduce.ground_truth.recovery import compared, recovery
from monosem.reproduce.ground_truth.world import (
    EASY,
    HARD,
    World,
    activations,
    dataset,
    loadings,
    opened,
    present,
    rates,
)
from monosem.reproduce.picture import available, svg
from monosem.reproduce.reproduction import reproduce
from monosem.reproduce.request import Request
from monosem.reproduce.synthetic import SITE, Synthetic
from monosem.reproduce.verdict import interval
from monosem.sae import SAE, DenseEncoder, TopK
from monosem.training.recipe import recipe

SMALL, MEDIUM = SCALES["small"], SCALES["medium"]
TOY = World(16, 8, 2.0, (0.5, 0.25), 1.0, 1.0, 2, 0.6)
TOKENS = 40_000
STUDY_PATH = "monosem.reproduce.ground_truth.STUDY"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def toy():
    """The loadings of a small world and what is in many of its tokens."""
    loading = loadings(TOY, generator())
    return loading, present(TOY, loading, generator(1), TOKENS)


# Worlds --------------------------------------------------------------------------------------------------------------


def test_rates_fall_by_zipf_and_sum_to_the_mean_number_of_features():
    found = rates(HARD)
    assert len(found) == HARD.features == 2048
    assert float(found.sum()) == pytest.approx(HARD.active)
    roots = found[::4]
    assert float(roots[0] / roots[100]) == pytest.approx((HARD.offset + 100) / HARD.offset)
    assert float(found[1] / found[0]) == pytest.approx(0.5)
    assert 0.12 < float(found.max()) < 0.13
    assert 2e-4 < float(found.min()) < 3e-4
    assert (rates(EASY) == EASY.active / EASY.features).all()


def test_features_come_as_often_as_their_rates_say(toy):
    _, presence = toy
    expected = rates(TOY)
    error = (presence.double().mean(0) - expected).abs()
    assert (error < 4.5 * (expected * (1 - expected) / TOKENS).sqrt()).all()


def test_a_child_comes_only_with_its_root(toy):
    _, presence = toy
    root, *children = presence.reshape(TOKENS, TOY.roots, 3).unbind(2)
    for child, chance in zip(children, TOY.children, strict=True):
        assert not (child & ~root).any()
        share = float(child.sum() / root.sum())
        assert share == pytest.approx(chance, abs=0.01)


def test_roots_come_together_as_their_loadings_say(toy):
    loading, presence = toy
    roots, expected = presence[:, ::3].double(), rates(TOY)[::3]
    correlation = TOY.shared * loading @ loading.T
    first, second = divmod(int((correlation - 2 * torch.eye(TOY.roots)).argmax()), TOY.roots)
    for a, b in ((first, second), (0, 1)):
        rho = float(correlation[a, b])
        below = norm.ppf([1 - float(expected[a]), 1 - float(expected[b])])
        both = 1 - norm.cdf(below).sum() + multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf(below)
        assert float((roots[:, a] * roots[:, b]).mean()) == pytest.approx(both, abs=4.5 * (both / TOKENS) ** 0.5)
    assert float(correlation[first, second]) > 0.3


def test_roots_of_the_easy_world_are_independent():
    presence = present(EASY, loadings(EASY, generator()), generator(1), TOKENS).double()
    correlation = torch.corrcoef(presence.T)
    correlation.fill_diagonal_(0)
    assert float(correlation.abs().max()) < 5.5 / TOKENS**0.5


def test_a_token_is_the_sum_of_what_is_in_it_with_strengths_of_mean_one():
    presence = torch.rand(5_000, 3, generator=generator()) < 0.5
    x = activations(presence, torch.eye(3), generator(1))
    assert ((x > 0) == presence).all()
    strengths = x[presence].double()
    assert float(strengths.mean()) == pytest.approx(1, abs=0.03)
    assert float(strengths.log().std()) == pytest.approx(0.5, abs=0.02)


def test_data_are_other_atoms_for_every_seed_and_the_probe_is_what_its_labels_say():
    scale = replace(SMALL, held_out=256)
    zero, again, one = (opened(TOY, scale, seed) for seed in (0, 0, 1))
    assert torch.equal(zero.held_out, again.held_out)
    assert not torch.equal(zero.truth["features"], one.truth["features"])
    assert not torch.equal(zero.held_out, zero.validation)
    silent = zero.truth["present"].sum(1) == 0
    assert silent.any()
    assert (zero.truth["probe"][silent] == 0).all()
    assert (zero.truth["probe"][~silent].norm(dim=1) > 0).all()


# Measures ------------------------------------------------------------------------------------------------------------

ATOMS = functional.normalize(torch.randn(40, 32, generator=generator(5)), dim=1)
RATES = torch.linspace(1, 0.025, 40, dtype=torch.float64)


def test_a_dictionary_of_the_atoms_recovers_all_in_any_order_and_length():
    rows = 3 * ATOMS[torch.randperm(40, generator=generator())]
    found = compared(rows, ATOMS, RATES)
    for name in ("recovered", "one_to_one", "of_firings", "of_frequent", "rows", "mmcs"):
        assert found[name] == pytest.approx(1), name
    assert found["by_rate"] == [1.0] * 10
    assert found["mmcs_chance"] < 0.6


def test_a_direction_turned_around_is_no_feature():
    assert compared(-ATOMS, ATOMS, RATES)["recovered"] == 0


def test_random_directions_recover_nothing_and_are_as_near_as_chance():
    rows = torch.randn(1000, 32, generator=generator(9))
    found = compared(rows, ATOMS, RATES)
    assert found["recovered"] == found["one_to_one"] == found["rows"] == 0
    assert found["mmcs"] == pytest.approx(found["mmcs_chance"], abs=0.03)


def test_shares_of_a_dictionary_of_the_ten_most_frequent_atoms():
    found = compared(ATOMS[:10], ATOMS, RATES)
    assert found["recovered"] == 0.25
    assert found["of_frequent"] == 1
    assert found["of_firings"] == pytest.approx(float(RATES[:10].sum() / RATES.sum()), abs=1e-6)
    assert found["by_rate"] == [1, 1, 0.5, 0, 0, 0, 0, 0, 0, 0]
    rare = compared(ATOMS[-10:], ATOMS, RATES)
    assert (rare["recovered"], rare["of_frequent"]) == (0.25, 0)


def test_a_row_between_two_atoms_counts_for_one_feature_only():
    near = torch.tensor([[1.0, 0.3], [1.0, -0.3]])
    found = compared(torch.tensor([[1.0, 0.0]]), near, torch.tensor([0.5, 0.5]).double())
    assert (found["recovered"], found["one_to_one"]) == (1, 0.5)


def test_f1_of_every_latent_and_feature():
    active = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]]).bool()
    known = torch.tensor([[1, 0], [1, 0], [0, 0], [0, 0]]).bool()
    expected = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(f1(active, known), expected)


def exact(atoms):
    """An autoencoder whose latents are orthogonal atoms."""
    sae = SAE(DenseEncoder(atoms.shape[1], len(atoms)), TopK(len(atoms), 2), subtract_b_dec=False)
    with torch.no_grad():
        sae.encoder.weight.copy_(atoms)
        sae.W_dec.copy_(atoms)
    return sae.eval()


def test_an_autoencoder_of_the_true_features_detects_them_all():
    presence = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0]]).bool()
    atoms = torch.eye(4)
    truth = {"features": atoms, "rates": torch.tensor([4.0, 3.0, 3.0, 0.0]).double(), "present": presence}
    truth["probe"] = activations(presence, atoms, generator())
    data = Data(Synthetic(lambda g, n: torch.zeros(n, 4), 1, 0), SITE, atoms, atoms, {}, truth=truth)
    with torch.no_grad():
        assert detection(exact(atoms), data, SMALL) == {"f1": 1.0}
        assert recovery(exact(atoms), data, SMALL)["recovered"] == 1
        # Without a latent of its own, feature 0 is told best by feature 1's: once of twice, and once of its twice.
        blind = exact(atoms * torch.tensor([0.0, 1.0, 1.0, 1.0]))
        assert detection(blind, data, SMALL)["f1"] == pytest.approx(0.6 + 0.4 * 0.5, abs=1e-6)
        nothing = data._replace(truth={})
        assert detection(exact(atoms), nothing, SMALL) == recovery(exact(atoms), nothing, SMALL) == {}


# Arms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_every_arm_is_a_recipe_with_a_family_that_is_tuned(scale):
    for claim in STUDY.claims:
        arms = STUDY.arms(scale, claim)
        assert len({arm.name for arm in arms}) == len(arms)
        for arm in arms:
            assert recipe(arm.sae)
            assert STUDY.families[arm.family].representative(scale).data == arm.data
            scale.config(arm, 0, 1e-3)
    config = scale.config(hard("relu", scale), 0, 1e-3)
    assert config.l1 == scale.extra["l1"]["hard"]
    assert scale.config(easy("relu", scale), 0, 1e-3).n_latents == EASY.features


def test_every_kind_and_every_control_is_in_the_first_claim():
    names = {arm.name for arm in STUDY.arms(MEDIUM, gap.CLAIM)}
    assert names >= {*KINDS, *controls_of("topk"), *controls_of("batch_topk"), "pca"}
    assert [name for name in names if not is_control(name) and name not in KINDS] == []
    assert {word.rpartition("+")[2] for word in names if is_control(word)} == {*CONTROLS, "pca"}


# Judges --------------------------------------------------------------------------------------------------------------


def found_with(recovered, ev=0.7, of_frequent=0.3, by_rate=(0.9, 0.4, 0.1, 0, 0, 0, 0, 0, 0, 0)):
    same = dict.fromkeys(("one_to_one", "of_firings", "rows", "mmcs", "mmcs_chance", "f1"), recovered)
    return {
        **same,
        "recovered": recovered,
        "of_frequent": of_frequent,
        "by_rate": list(by_rate),
        "dead": 0.0,
        "trained": 8,
        "k": [8],
        "ev": [ev],
        "l0": [8.0],
    }


def evidence(figures):
    """The same figures in three seeds, apart by a hair."""
    scale = replace(MEDIUM, seeds=(0, 1, 2))
    made = {}
    for name, one in figures.items():
        for seed in scale.seeds:
            made[name, seed] = {**one, "recovered": one["recovered"] + 1e-5 * seed, "ev": [one["ev"][0] + 1e-5 * seed]}
    return Evidence(scale, made)


@pytest.mark.parametrize(
    ("ev", "share", "expected"),
    [(0.7, 0.3, "confirmed"), (0.4, 0.3, "contradicted"), (0.7, 0.6, "contradicted"), (0.7, 0.5, "undecided")],
)
def test_much_variance_and_few_features(ev, share, expected):
    found = gap.judge(evidence({name: found_with(0.1, ev, share) for name in gap.NAMES}))
    assert found.verdict == expected
    assert len(found.tables[0].rows) == len(gap.NAMES)
    assert all(len(row) == len(found.tables[0].header) for row in found.tables[0].rows)


def controlled(trained, other, ev=0.7, best="frozen_encoder"):
    figures = {name: found_with(trained) for name in ("topk", "batch_topk")}
    for kind in ("topk", "batch_topk"):
        for name in controls_of(kind):
            figures[name] = found_with(other, ev if name.endswith(best) else 0.2)
    return evidence(figures)


def test_training_against_controls():
    assert control.more_features(controlled(0.2, 0.1)).verdict == "confirmed"
    assert control.more_features(controlled(0.2, 0.2)).verdict == "undecided"
    assert control.more_features(controlled(0.2, 0.3)).verdict == "contradicted"
    assert control.same_variance(controlled(0.2, 0.1, 0.68)).verdict == "confirmed"
    assert control.same_variance(controlled(0.2, 0.1, 0.6)).verdict == "contradicted"
    near = control.same_variance(controlled(0.2, 0.1, 0.68, "soft_frozen_decoder"))
    assert near.measured["topk"]["mean"] == pytest.approx(0.02)


def test_recovery_by_rate():
    names = (*KINDS, "topk+soft_frozen_decoder")
    assert rate.fall(found_with(0.1)) == pytest.approx(1.4 / 5)
    falling = {name: found_with(0.1) for name in names}
    assert rate.judge(evidence(falling)).verdict == "confirmed"
    rising = falling | {"relu": found_with(0.1, by_rate=[0] * 9 + [0.5])}
    assert rate.judge(evidence(rising)).verdict == "contradicted"
    assert rate.judge(evidence(falling | {"kron": found_with(0, by_rate=[0] * 10)})).verdict == "confirmed"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.02, 0.0201, 0.0199), "confirmed"),
        ((-0.02, -0.0201, -0.0199), "confirmed"),
        ((0.005, 0.0051, 0.0049), "contradicted"),
        ((0.02, -0.02, 0.0), "undecided"),
        ((0.02, 0.02), "undecided"),
    ],
)
def test_a_change_in_either_direction(values, expected):
    assert nesting.changed(interval(values)) == expected


def test_nested_objectives_against_their_plain_ones():
    plain = {name: found_with(0.1) for name in ("topk", "batch_topk", "kron")}
    nested = dict.fromkeys(("hierarchical", "matryoshka", "batch_topk+matryoshka", "kron+hierarchical"), 0.2)
    made = plain | {name: found_with(value) for name, value in nested.items()}
    assert nesting.judge(evidence(made)).verdict == "confirmed"
    assert nesting.judge(evidence(made | {"matryoshka": found_with(0.1)})).verdict == "contradicted"
    assert nesting.judge(evidence(made | {"matryoshka": found_with(0.0)})).verdict == "confirmed"


def test_where_recovery_is_possible():
    good = {easy_name(name): found_with(0.95) for name in RULES}
    good |= {easy_name(name): found_with(0.1) for name in (*controls_of("topk"), "pca")}
    assert possible.judge(evidence(good)).verdict == "confirmed"
    assert possible.judge(evidence(good | {"easy_relu": found_with(0.1)})).verdict == "confirmed"
    assert possible.judge(evidence(good | {"easy_jumprelu": found_with(0.5)})).verdict == "contradicted"
    assert possible.judge(evidence(good | {"easy_pca": found_with(0.95)})).verdict == "contradicted"


def test_arms_that_explain_less_than_nothing_are_named_instead_of_drawn():
    figures = {name: found_with(0.1) for name in gap.NAMES} | {"pca": found_with(0.0, ev=-1.4)}
    (plot,) = gap.judge(evidence(figures)).plots
    assert [line.label for line in plot.lines] == [name for name in gap.NAMES if name != "pca"]
    assert "below 0: pca (-1.40)" in plot.caption
    assert "Not shown" not in gap.judge(evidence({name: found_with(0.1) for name in gap.NAMES})).plots[0].caption


@pytest.mark.skipif(not available(), reason="matplotlib is not installed")
def test_points_are_drawn_without_lines_between_them():
    made = evidence({name: found_with(0.1) for name in gap.NAMES})
    (plot,) = gap.judge(made).plots
    text = svg(plot)
    assert all(name in text for name in gap.NAMES)
    assert "stroke-dasharray" not in text


# The study -----------------------------------------------------------------------------------------------------------


def test_worlds_are_described_on_the_page():
    text = about(MEDIUM)
    assert "2,048 features in 96 dimensions" in text
    assert "128 features in 64 dimensions, 4 of them in a token in the mean; independent, of one rate" in text


@pytest.mark.slow
def test_the_study_runs_from_plan_to_page(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    extra = {"easy": {"n_latents": 16}, "l1": {"hard": 1.0, "easy": 1.0}}
    tiny = replace(SMALL, held_out=256, rates=(3e-3,), tuning_share=1.0, extra=extra)
    monkeypatch.setattr("monosem.reproduce.ground_truth.world.PROBE", 256)
    worlds = {"hard": dataset(TOY), "easy": dataset(World(16, 16, 2.0))}
    monkeypatch.setattr(STUDY_PATH, replace(STUDY, scales={"small": tiny}, data=worlds))
    settings = {"n_latents": 16, "k": 2, "tokens": 128, "batch": 64}
    request = Request("ground_truth", claims="G3,G6", settings=settings, seeds=(0,), out=tmp_path)
    found = {claim["id"]: claim for claim in reproduce(request, lambda text: None)["claims"]}
    assert [found[claim]["verdict"] for claim in ("G3", "G6")] == ["undecided", "undecided"]
    assert found["G3"]["control"].keys() == {*controls_of("topk"), *controls_of("batch_topk")}
    assert found["G1"]["verdict"] == "not tested"
    assert "easy_topk+soft_frozen_decoder" in (tmp_path / "ground_truth.md").read_text()
    rows = (tmp_path / "ground_truth.rows.jsonl").read_text()
    reproduce(request, lambda text: None)
    assert (tmp_path / "ground_truth.rows.jsonl").read_text() == rows
