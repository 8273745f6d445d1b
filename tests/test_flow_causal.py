"""Groups by activations, identification and deactivation: the toy network where every answer is known (test 8)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import flow_toy
from monosem.flow import Cosine, Design, Suite, deactivate, group_name, groups, identify
from monosem.flow.group import BITS
from monosem.flow.predecessor import predecessors
from monosem.shapes import Site
from refusal import refused

R1 = Site("resid_post", 1)
HELD = Design(recompute=False, exhaustive=False, controls=False, features=200, tokens=6)


@pytest.fixture(scope="module")
def toy() -> flow_toy.Toy:
    return flow_toy.toy()


@pytest.fixture(scope="module")
def held(toy):
    """The experiment without recomputing modules."""
    return deactivate(toy.suite, toy.lm, flow_toy.windows(), [Cosine()], [1], HELD)


def of_kind(toy, found, kind):
    """Rows of the trials whose target is of a kind."""
    ours = np.array([toy.kinds[latent] == kind for latent in found.columns["latent"].tolist()])
    assert ours.any()
    return {name: column[ours] for name, column in found.columns.items()}


# ---- groups


def test_the_toy_network_adds_up(toy):
    acts = toy.lm.capture(flow_toy.windows().tokens, list(map(str, toy.suite)))
    total = acts[Site("resid_post", 0)] + acts[Site("attn_out", 1)] + acts[Site("mlp_out", 1)]
    torch.testing.assert_close(total, acts[R1], rtol=0, atol=1e-5)


def test_groups_by_activations_are_exact(toy):
    found = groups(toy.suite, toy.lm, flow_toy.windows(), Cosine(), [1])[1]
    want = torch.tensor([flow_toy.CODES[kind] for kind in toy.kinds])
    assert (found.occurrences > 0).all()
    assert torch.equal(found.mode, want)
    assert found.stability == 1
    assert int(found.counts.sum()) == int(found.by_window.sum())
    assert {name for name, share in found.shares().items() if share.value > 0} == {
        group_name(code) for code in flow_toy.CODES.values()
    }


def test_every_occurrence_is_counted_once(toy):
    text = flow_toy.windows()
    found = groups(toy.suite, toy.lm, text, Cosine(), [1])[1]
    acts = toy.lm.capture(text.tokens, [R1])[R1]
    active = (acts @ toy.suite[R1].W_dec.T > flow_toy.THRESHOLD).flatten(0, 1)
    assert torch.equal(found.occurrences, active.sum(0))


def test_shuffled_tokens_lose_the_groups(toy):
    found = groups(toy.suite, toy.lm, flow_toy.windows(), Cosine(), [1], shuffled=True)[1]
    assert found.stability < 0.95
    assert found.share(0).value > 0.4


def test_tokens_are_drawn_of_every_window(toy):
    text = flow_toy.windows()
    few = groups(toy.suite, toy.lm, text, Cosine(), [1], tokens=3, seed=1)[1]
    every = groups(toy.suite, toy.lm, text, Cosine(), [1])[1]
    assert (few.by_window.sum(1) > 0).all()
    assert (few.counts <= every.counts).all()
    assert few.counts.sum() < every.counts.sum()


def test_an_origin_without_autoencoder_is_not_an_inactive_one(toy):
    less = Suite({site: sae for site, sae in toy.suite.items() if site.kind != "attn_out"})
    found = groups(less, toy.lm, flow_toy.windows(), Cosine(), [1])[1]
    assert found.available == ("resid", "mlp")
    assert len(found.shares()) == 4
    assert found.to_json()["not_available"] == ["attn"]
    assert "no autoencoder at the attn origin" in refused(found.active, "attn")


# ---- identification


def test_identification_is_exact(toy):
    found = groups(toy.suite, toy.lm, flow_toy.windows(), Cosine(), [1])[1]
    one = identify(found, predecessors(toy.suite, 1, Cosine()))
    for origin in BITS:
        assert one.auc(origin).value == 1
    tested = [row for row in one.comparisons if row.origin == "resid" and {row.a, row.b} == {1, 4}]
    assert [(row.activity, row.n_a, row.n_b) for row in tested] == [("AO", 12, 12)]
    assert tested[0].effect == 1
    assert tested[0].p < 1e-4
    # Processed features keep 0.7071 of the stream: less than the persisted, more than those born.
    assert next(row for row in one.comparisons if row.origin == "resid" and {row.a, row.b} == {1, 3}).effect == 1
    torch.testing.assert_close(one.scores["mlp"][found.mode == 3], torch.full((12,), 0.5**0.5), rtol=0, atol=1e-5)
    membership = one.co_membership()
    assert torch.equal(membership[[1, 2, 3, 4]][:, [1, 2, 3, 4]], torch.eye(4, dtype=torch.float64))
    assert one.confusion(torch.zeros(48, dtype=torch.int64), 2).tolist() == [[0, 12, 12, 12, 12, 0, 0, 0], [0] * 8]


def test_tests_of_one_origin_are_told_apart_by_where_it_is_active(toy):
    found = groups(toy.suite, toy.lm, flow_toy.windows(), Cosine(), [1])[1]
    one = identify(found, predecessors(toy.suite, 1, Cosine()))
    kinds = {(row.origin, row.a, row.b): row.activity for row in one.comparisons}
    assert kinds[("resid", 1, 2)] == "AO"
    assert kinds[("resid", 1, 3)] == "AB"
    assert kinds[("resid", 2, 4)] == "IB"
    assert one.passed("resid", "AO") == (4, 4)
    assert one.passed("resid", "AB") == (1, 1)
    # MLP-born and attention-born features have no match in the stream: all scores are about 0.
    assert one.passed("attn")[1] == 6


def test_occurrences_are_weighed_as_the_paper_does(toy):
    found = groups(toy.suite, toy.lm, flow_toy.windows(), Cosine(), [1])[1]
    one = identify(found, predecessors(toy.suite, 1, Cosine()), "occurrence")
    row = next(row for row in one.comparisons if (row.origin, row.a, row.b) == ("resid", 1, 4))
    assert (row.n_a, row.n_b) == tuple(found.counts[:, code].sum().item() for code in (1, 4))
    assert row.n_a > 12


def test_the_weighted_auc_is_that_of_all_pairs():
    from monosem.flow.identification import _weighted_auc

    rng = np.random.default_rng(0)
    score, share, weight = np.sort(rng.integers(0, 6, 40) / 5), rng.random(40), rng.integers(0, 3, 40)
    num = den = 0.0
    for i, j in itertools.product(range(40), repeat=2):
        pair = weight[i] * share[i] * weight[j] * (1 - share[j])
        num += pair * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
        den += pair
    assert _weighted_auc(score, share, weight) == pytest.approx(num / den, abs=1e-12)


def test_co_membership_is_a_share_of_the_row(toy):
    from dataclasses import replace

    found = groups(toy.suite, toy.lm, flow_toy.windows(), Cosine(), [1])[1]
    counts = torch.zeros_like(found.counts)
    counts[:4, 1] = 1  # four latents were seen from the stream, one of them from the MLP as well
    counts[0, 2] = 7
    one = identify(replace(found, counts=counts), predecessors(toy.suite, 1, Cosine())).co_membership()
    assert (one[1, 2], one[2, 1]) == (0.25, 1)
    assert one[4].isnan().all()


# ---- deactivation without recomputing modules: test 8


def test_persisted_features_fall_silent_without_the_stream(toy, held):
    rows = of_kind(toy, held, "persisted")
    assert set(rows["group"].tolist()) == set(rows["subset"].tolist()) == {1}
    assert (rows["new"] == 0).all()
    assert (rows["old"] > 1).all()


def test_processed_features_halve_without_one_origin_and_fall_silent_without_both(toy, held):
    rows = of_kind(toy, held, "processed")
    assert set(rows["group"].tolist()) == {3}
    one, both = np.isin(rows["subset"], (1, 2)), rows["subset"] == 3
    assert one.sum() == 2 * both.sum()
    np.testing.assert_allclose(1 - rows["new"][one] / rows["old"][one], 0.5, atol=1e-5)
    assert (rows["new"][both] == 0).all()


@pytest.mark.parametrize(("kind", "code"), [("mlp_born", 2), ("attn_born", 4)])
def test_born_features_fall_silent_without_their_module(toy, held, kind, code):
    rows = of_kind(toy, held, kind)
    assert set(rows["group"].tolist()) == set(rows["subset"].tolist()) == {code}
    assert (rows["new"] == 0).all()


def test_figures_of_the_toy(held):
    one = held.outcome("cosine", 0.0)
    assert one.success.value == one.change.value == 1
    assert one.nowhere == 0
    table = {(row["group"], row["removed"]): row for row in held.by_group("cosine", 0.0)}
    assert table["From RES & MLP", "RES"]["success"].value == 0
    assert table["From RES & MLP", "RES"]["change"].value == pytest.approx(0.5, abs=1e-5)
    assert table["From RES & MLP", "RES & MLP"]["success"].value == 1
    assert table["From ATT", "ATT"]["change"].value == 1
    apart = held.single_minus_combined("cosine", 0.0)
    assert apart.value == pytest.approx(0.5, abs=1e-5)
    assert apart.low > 0.49


def test_recomputed_modules_read_what_was_removed(toy):
    found = deactivate(
        toy.suite, toy.lm, flow_toy.windows(), [Cosine()], [1], Design(exhaustive=False, controls=False, features=200)
    )
    rows = of_kind(toy, found, "processed")
    # The MLP writes q'_i only where the stream carries q_i: without the stream both are gone.
    assert (rows["new"][rows["subset"] == 1] == 0).all()
    module = rows["subset"] == 2
    np.testing.assert_allclose(1 - rows["new"][module] / rows["old"][module], 0.5, atol=1e-5)


@pytest.mark.parametrize("recompute", [True, False])
def test_rescaling_by_one_changes_nothing_and_by_r_gives_r_times_the_activation(toy, recompute):
    design = Design(r=(1.0, 0.0, 0.4, -1.0, 2.0), recompute=recompute, exhaustive=False, controls=False)
    found = deactivate(toy.suite, toy.lm, flow_toy.windows(), [Cosine()], [1], design)
    rows = of_kind(toy, found, "persisted")
    same = rows["r"] == 1
    assert np.array_equal(rows["new"][same], rows["old"][same])
    twice = rows["r"] == 2
    np.testing.assert_allclose(rows["new"][twice], 2 * rows["old"][twice], rtol=1e-5)
    part = (rows["r"] == 0.4) & (0.4 * rows["old"] > flow_toy.THRESHOLD + 1e-3)
    assert part.any()
    np.testing.assert_allclose(rows["new"][part], 0.4 * rows["old"][part], rtol=1e-5)
    assert (rows["new"][rows["r"] == -1] == 0).all()


def test_search_finds_what_matching_found_and_other_tokens_do_nothing(toy):
    design = Design(recompute=False, features=200, controls=True)
    found = deactivate(toy.suite, toy.lm, flow_toy.windows(), [Cosine()], [1], design)
    rows = of_kind(toy, found, "persisted")
    by = {name: rows["method"] == found.methods.index(name) for name in found.methods}
    assert (rows["new"][by["exhaustive"]] == 0).all()
    assert set(rows["subset"][by["exhaustive"]].tolist()) == {1}
    for control in ("other token", "random active"):
        np.testing.assert_allclose(rows["new"][by[control]], rows["old"][by[control]], rtol=1e-5)
    enough = rows["tries"][by["exhaustive"]] == rows["tries"][by["other token"]]
    assert enough.mean() > 0.7  # few tokens of a small dictionary sometimes have no more latents to take
    contrast = found.contrast("cosine", "random active", 0.0)
    assert contrast.success.value == contrast.change.value == 1


def test_a_target_from_nowhere_is_in_no_denominator(toy):
    """Test 13: with the module's dictionaries swapped for strangers, features born there come from nowhere."""
    strangers = dict(toy.suite)
    for site in (Site("mlp_out", 1), Site("attn_out", 1)):
        strangers[site] = flow_toy._autoencoder(str(site), torch.eye(flow_toy.D)[:4] * 0 + strangers[site].W_dec[:1])
    suite = Suite(strangers)
    found = deactivate(suite, toy.lm, flow_toy.windows(), [Cosine()], [1], HELD)
    one = found.outcome("cosine", 0.0)
    codes = found.columns["group"]
    assert one.nowhere == int((codes == 0).sum()) > 0
    assert one.targets == int(((codes != 0) & (codes == found.columns["subset"])).sum())
    assert np.isnan(found.columns["new"][codes == 0]).all()
    assert np.isfinite(found.columns["new"][codes != 0]).all()
    assert one.success.value == pytest.approx(
        (found.columns["new"][(codes != 0) & (codes == found.columns["subset"])] == 0).mean()
    )
