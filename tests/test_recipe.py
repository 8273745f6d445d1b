"""Names of autoencoders: every combination of words trains, saves, loads and encodes, or is refused in one line."""

from dataclasses import replace
from itertools import product
from math import floor

import numpy as np
import pytest
import torch

from monosem.activations import Rows, Stream
from monosem.sae import DenseEncoder, KronEncoder, cost, load, multiplier, save
from monosem.sae.hierarchical import Hierarchical
from monosem.sae.matryoshka import Matryoshka
from monosem.shapes import InputError, KronShape, Site
from monosem.training import TrainConfig, together
from monosem.training.control import CONTROLS
from monosem.training.recipe import (
    ENCODER_WORDS,
    OBJECTIVE_WORDS,
    REFUSED,
    RULE_WORDS,
    Recipe,
    budgeted,
    check,
    kron_shape,
    make,
    recipe,
)

D = 16
SITE = Site("resid_post", 1)
SMALL = TrainConfig(n_latents=96, k=4, batch=32, block=4, tokens=64, log_every=2, base=2, extension=3, dead_after=32)
ALONE = [control for control in CONTROLS if control != "held_core"]
NAMES = ["+".join(words) for words in product(ENCODER_WORDS, RULE_WORDS, OBJECTIVE_WORDS, ALONE)]


def is_refused(name: str) -> bool:
    return any(set(pair) <= set(name.split("+")) for pair in REFUSED)


WORKING = [name for name in NAMES if not is_refused(name)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")


class Noise:
    """Activations of 20 windows of 13 tokens, the same every time."""

    sites = (SITE,)
    n_windows = 20

    def rows(self, windows):
        acts = [self.window(int(window)) for window in windows]
        place = np.repeat(windows, 13), np.tile(np.arange(13), len(windows))
        return Rows({SITE: torch.cat(acts)}, *(torch.from_numpy(one) for one in place))

    @staticmethod
    def window(window: int) -> torch.Tensor:
        return torch.randn(13, D, generator=torch.Generator().manual_seed(window)) * 3 + 1


def arms(**names: str) -> dict[str, TrainConfig]:
    return {arm: replace(SMALL, sae=(name,)) for arm, name in names.items()}


def state(sae) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in sae.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


# Words ---------------------------------------------------------------------------------------------------------------


def test_names_mean_points_on_the_axes():
    assert recipe("topk") == recipe("dense") == recipe("reconstruction") == Recipe("dense", "topk", "reconstruction")
    assert recipe("hierarchical") == Recipe("dense", "topk", "hierarchical")
    assert recipe("kron+hierarchical") == recipe("hierarchical+kron") == Recipe("kron", "topk", "hierarchical")
    assert recipe("kron+batch_topk") == Recipe("kron", "batch_topk", "reconstruction")
    assert recipe("matryoshka+batch_topk") == Recipe("dense", "batch_topk", "matryoshka")
    assert recipe("kron+matryoshka") == Recipe("kron", "topk", "matryoshka")


def test_the_refused_are_those_that_cannot_be():
    expected = {
        name
        for encoder, rule, objective, control in product(ENCODER_WORDS, RULE_WORDS, OBJECTIVE_WORDS, ALONE)
        if (encoder == "kron" and rule in ("relu", "jumprelu"))
        or (objective == "hierarchical" and rule != "topk")
        or (control == "pca" and (encoder, rule, objective) != ("dense", "topk", "reconstruction"))
        for name in ["+".join((encoder, rule, objective, control))]
    }
    assert set(NAMES) - set(WORKING) == expected
    assert len(WORKING) == 14 * 5 + 1


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(WORKING)))
def test_refused_combinations_say_why_in_one_line(name):
    with pytest.raises(InputError, match=r"use topk|write pca alone") as caught:
        check(name, SMALL)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("topp", "unknown autoencoder 'topp': join words by +"),
        ("", "unknown autoencoder ''"),
        ("kron+", r"unknown autoencoder 'kron\+'"),
        ("kron hierarchical", "unknown autoencoder"),
        ("topk+relu", "names two of one kind, topk and relu"),
        ("kron+kron", "names two of one kind, kron and kron"),
        ("hierarchical+matryoshka", "names two of one kind, hierarchical and matryoshka"),
        ("dense+kron", "names two of one kind, dense and kron"),
    ],
)
def test_unknown_and_doubled_words_are_refused_in_one_line(name, message):
    with pytest.raises(InputError, match=message) as caught:
        recipe(name)
    assert "\n" not in str(caught.value)


# What the settings make ----------------------------------------------------------------------------------------------


def first_batch() -> torch.Tensor:
    return Noise.window(0)


def test_settings_reach_the_parts():
    config = replace(SMALL, gate="min", gate_clamp=7.0, revival="post", budgets="1,4", budget_weights="3,1")
    sae, objective = make("kron+hierarchical", config, first_batch())
    assert isinstance(sae.encoder, KronEncoder)
    assert sae.encoder.config() == {
        "heads": 16,
        "base": 2,
        "extension": 3,
        "gate": "min",
        "clamp": 7.0,
        "revival": "post",
    }
    assert isinstance(objective.nesting, Hierarchical)
    assert (objective.nesting.budgets, objective.nesting.weights) == ((1, 4), (0.75, 0.25))
    assert (objective.k_aux, objective.aux_coefficient) == (8, 1 / 32)
    _, objective = make("matryoshka", replace(SMALL, widths="12,96", k_aux=5, aux=0.5), first_batch())
    assert isinstance(objective.nesting, Matryoshka)
    assert (objective.nesting.widths, objective.k_aux, objective.aux_coefficient) == ((12, 96), 5, 0.5)


@pytest.mark.parametrize("name", ["topk", "kron"])
def test_which_encoders_see_the_input_without_the_bias(name):
    for asked, expected in ((None, True), (True, True), (False, False)):
        sae, _ = make(name, replace(SMALL, subtract_b_dec=asked), first_batch())
        assert sae.subtract_b_dec == expected
        assert (sae.centre is not None) == expected


def test_heads_are_what_the_latents_leave():
    assert kron_shape(SMALL) == KronShape(16, 2, 3)
    assert kron_shape(replace(SMALL, heads=16)) == KronShape(16, 2, 3)
    assert kron_shape(TrainConfig(n_latents=8192)) == KronShape(1024, 2, 4)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("kron", {"heads": 15}, r"heads 15 × base 2 × extension 3 = 90 latents, n_latents is 96"),
        ("kron", {"n_latents": 97}, r"heads 16 × base 2 × extension 3 = 96 latents, n_latents is 97"),
        ("kron", {"base": 100}, "heads 0 × base 100"),
        ("hierarchical", {"budgets": "4,5"}, r"budgets = 4,5: expected ascending numbers within 1\.\.4"),
        ("hierarchical", {"budgets": "0,4"}, r"within 1\.\.4"),
        ("hierarchical", {"budgets": "2,4", "budget_weights": "1"}, "2 numbers"),
        ("matryoshka", {"widths": "12,97"}, r"within 1\.\.96"),
        ("matryoshka", {"widths": "12,24"}, "n_latents = 96"),
        ("kron+matryoshka", {"widths": "12,32,96"}, "width 32 cuts a head of .* use multiples"),
        ("kron+matryoshka", {"n_latents": 48}, "width 3 cuts a head"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line_before_anything_is_read(name, values, message):
    config = replace(SMALL, **values)
    with pytest.raises(InputError, match=message) as caught:
        check(name, config)
    assert "\n" not in str(caught.value)
    check("topk", config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gate": "and"}, "gate = 'and': expected one of mand, product, raw, min"),
        ({"revival": "nudge"}, "revival = 'nudge': expected one of soft, post"),
        ({"equal": "time"}, "equal = 'time': expected one of tokens, flops"),
        ({"heads": 0}, "heads = 0: expected at least 1"),
        ({"base": 0}, "base = 0: expected at least 1"),
        ({"gate_clamp": 0.0}, "gate_clamp = 0"),
        ({"heads": 2.5}, "heads = 2.5: expected int"),
        ({"unit_decoder": 1}, "unit_decoder = 1: expected bool"),
        ({"sae": "kron+batch_topk", "accumulate": 2}, "accumulate = 1"),
    ],
)
def test_settings_of_a_wrong_kind_are_refused_in_one_line(values, message):
    with pytest.raises(InputError, match=message) as caught:
        TrainConfig.from_dict(values)
    assert "\n" not in str(caught.value)


# Training ------------------------------------------------------------------------------------------------------------


def next_batch() -> torch.Tensor:
    return next(Stream(Noise(), batch=32, block=4, seed=0)).acts[SITE]


WEIGHTS = {"W_dec", "b_dec", "encoder.weight"}
MOVED = {"untrained": set(), "frozen_decoder": WEIGHTS - {"W_dec"}, "frozen_encoder": WEIGHTS - {"encoder.weight"}}


@pytest.mark.parametrize("name", WORKING)
def test_every_combination_trains_saves_loads_and_encodes(name, tmp_path):
    """Two steps; what comes back from disk encodes to the same bits."""
    sae = together(Noise(), SITE, arms(one=name))["one"]
    start, objective = make(name, replace(SMALL, site=str(SITE)), next_batch())
    assert not sae.training
    assert (type(sae.encoder), type(sae.rule)) == (type(start.encoder), type(start.rule))
    control = recipe(name).control
    moved = {key for key, value in state(start).items() if not torch.equal(value, state(sae)[key])}
    assert moved & WEIGHTS == MOVED.get(control, WEIGHTS)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(8 if control == "pca" else 96), rtol=1e-5, atol=0)
    again = load(save(sae, tmp_path / name))
    assert_same(state(again), state(sae))
    x = first_batch()
    assert torch.equal(again.encode(x), sae.encode(x))
    assert torch.equal(again(x), sae(x))
    assert again.info == sae.info
    assert again.info["training"]["tokens"] == 64
    described = objective.nesting.describe()
    assert again.info.get("budgets") == (described if recipe(name).objective == "hierarchical" else None)
    assert again.info.get("widths") == described.get("widths")


def test_every_arm_is_the_same_as_if_trained_alone():
    """With a rate, k, gate and length of its own; the dead are counted by each for itself."""
    some = arms(plain="topk", kron="kron", both="kron+hierarchical", batch="kron+batch_topk", prefix="matryoshka")
    some["kron"] = replace(some["kron"], gate="min", lr=3e-3, tokens=320, log_every=3)
    some["both"] = replace(some["both"], k=6, tokens=192, base=4, extension=4, equal="flops")
    some["plain"] = replace(some["plain"], tokens=128, log_every=1, unit_decoder=False)
    found = together(Noise(), SITE, some)
    for name, config in some.items():
        alone = together(Noise(), SITE, {name: config})[name]
        assert_same(state(found[name]), state(alone))
        assert found[name].info == alone.info
    assert (found["plain"].W_dec.norm(dim=1) - 1).abs().max() > 1e-3
    assert found["kron"].info["training"]["tokens"] == 320


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "arm two has its tokens in order 1, others 0: share order_seed"),
        ({"batch": 16}, "arm two has batch = 16, others 32"),
        ({"block": 2}, "arm two has block = 2, others 4"),
        ({"sae": ("topk", "kron")}, "arm two names 2 autoencoders"),
        ({"sae": ("kron+relu",)}, "use topk or batch_topk"),
        ({"sae": ("kron",), "base": 5}, "heads 6 × base 5"),
    ],
)
def test_arms_that_cannot_share_a_stream_are_refused_in_one_line(changed, message):
    some = arms(one="topk", two="topk")
    some["two"] = replace(some["two"], **changed)
    with pytest.raises(InputError, match=message) as caught:
        together(Noise(), SITE, some)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no arm"):
        together(Noise(), SITE, {})


def test_an_arm_that_diverges_says_which():
    some = arms(fine="topk", wild="topk")
    some["wild"] = replace(some["wild"], lr=1e30, clip=1e30, tokens=320, unit_decoder=False)
    with pytest.raises(InputError, match=r"wild diverged within .* tokens"):
        together(Noise(), SITE, some)


# Equal FLOPs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "extension"), [(1, 4), (2, 4), (4, 8)])
def test_equal_flops_grant_the_tokens_that_cost_the_same(base, extension):
    config = TrainConfig(n_latents=512, k=8, base=base, extension=extension, tokens=1_000_000, batch=32, equal="flops")
    sae, _ = make("kron", config, torch.randn(40, 64, generator=torch.Generator().manual_seed(0)))
    found = budgeted("kron", config, 64)
    by_hand = (64 * 512 + 8 * 64) / (64 * 512 * (1 / base + 1 / extension) + 512 + 8 * 64)
    assert found.tokens == round(1_000_000 * by_hand) == round(1_000_000 * multiplier(sae))
    assert found == replace(config, tokens=found.tokens)
    assert (found.tokens < 1_000_000) == (base == 1), "one base is dearer than dense"
    dense, _ = make("topk", config, torch.randn(40, 64, generator=torch.Generator().manual_seed(0)))
    assert found.tokens * cost(sae).total == pytest.approx(1_000_000 * cost(dense).total, rel=1e-5)
    assert budgeted("kron", replace(config, equal="tokens"), 64).tokens == 1_000_000
    assert budgeted("hierarchical", config, 64) == config, "a dense encoder sees what was asked for"


def test_an_arm_of_equal_flops_sees_whole_batches_of_them():
    some = arms(dense="topk", kron="kron+hierarchical")
    some = {name: replace(config, equal="flops", base=4, extension=8, tokens=320) for name, config in some.items()}
    found = together(Noise(), SITE, some)
    assert isinstance(found["dense"].encoder, DenseEncoder)
    assert found["dense"].info["training"]["tokens"] == 320
    granted = 320 * multiplier(found["kron"])
    assert found["kron"].info["training"]["tokens"] == 32 * floor(round(granted) / 32) > 320
    assert budgeted("kron", replace(some["kron"], base=1, extension=1, tokens=32), D).tokens == 32, "one batch at least"
