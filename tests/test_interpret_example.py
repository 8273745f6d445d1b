"""Which features and contexts are drawn."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import planted
from monosem.interpret import Sampling, by_decoder, by_firing, draw, shuffled
from monosem.interpret.apart import Apart, from_groups, silent
from monosem.interpret.passage import active, marked, plain
from refusal import refused

WIDTH = planted.SAMPLING.width


def drawn(n: int = 16, **settings):
    return draw(planted.statistics(), n, sampling=planted.SAMPLING, **settings)


def activity(latent: int) -> np.ndarray:
    flat = np.zeros(planted.N * planted.T)
    tokens, values = planted.statistics().activations(latent)
    flat[tokens] = values
    return flat.reshape(planted.N, planted.T)


def test_features_are_drawn_at_random_from_those_with_enough_contexts():
    found = drawn(6, seed=3)
    assert [one.latent for one in found.features] == [one.latent for one in drawn(6, seed=3).features]
    assert [one.latent for one in found.features] != [one.latent for one in drawn(6, seed=4).features]
    everything = drawn(18)
    assert sorted(one.latent for one in everything.features) == list(range(16))
    assert (everything.few, everything.dense, everything.skipped) == (1, 1, 2)
    assert (everything.latents, everything.alive) == (18, 18)


def test_contexts_of_a_feature_do_not_depend_on_which_features_are_drawn():
    by_seed = {seed: {one.latent: one for one in drawn(16, seed=seed).features} for seed in (0, 1)}
    assert all(by_seed[0][latent] == by_seed[1][latent] for latent in range(16))
    (named,) = drawn(1, latents=[5]).features
    assert named == by_seed[0][5]
    fewer = replace(planted.SAMPLING, positives=12, negatives=12)
    (small,) = draw(planted.statistics(), 1, latents=[5], sampling=fewer).features
    assert (small.shown, small.origin) == (named.shown, named.origin)
    assert len(small.positives) == 12


def test_positives_are_from_every_group_and_apart_from_what_was_shown():
    for one in drawn().features:
        acts = activity(one.latent)
        assert [context.value for context in one.shown] == sorted((c.value for c in one.shown), reverse=True)
        assert len(one.shown) == planted.SAMPLING.shown
        assert {context.group for context in one.positives} == {0, 1, 2, 3}
        median = np.median(acts[acts > 0])
        assert all(context.value >= median for context in one.shown)
        places = [(context.window, context.position) for context in [*one.shown, *one.positives]]
        assert all(acts[place] > 0 for place in places)
        for a, (window, position) in enumerate(places):
            for other, where in places[:a]:
                assert window != other or abs(position - where) > 2 * WIDTH


def test_groups_of_positives_are_as_even_as_the_contexts_allow():
    for one in drawn().features:
        counts = np.bincount([context.group for context in one.positives], minlength=4)
        assert counts.sum() == 24
        assert counts.min() >= 3


def test_negatives_are_silent_and_half_of_them_hard():
    near = {latent: [(latent + 1) % 8, (latent + 2) % 8] for latent in range(8)}
    for one in drawn(latents=range(8), similar=near.__getitem__).features:
        acts = activity(one.latent)
        assert len(one.negatives) == 24
        hard = [negative for negative in one.negatives if negative.kind == "hard"]
        assert len(hard) == 12
        assert {negative.like for negative in hard} == set(near[one.latent])
        for context, kind, like in one.negatives:
            assert not any(context.values)
            assert context.tokens[0] != 0 or context.start == 0
            low, high = max(context.position - WIDTH, 0), context.position + WIDTH + 1
            assert not acts[context.window, low:high].any()
            if kind == "hard":
                assert activity(like)[context.window, context.position] > 0


def test_without_similar_features_all_negatives_are_random():
    (one,) = drawn(1, latents=[2]).features
    assert {negative.kind for negative in one.negatives} == {"random"}
    assert len(one.negatives) == 24


def test_silence_stops_at_the_window():
    tokens = np.array([9, 25, 30])
    places = np.array([5, 6, 7, 10, 13, 27, 29])
    assert silent(tokens, places, 10, 2).tolist() == [True, True, False, True, True, False, True]


def test_similar_features_have_close_rows_or_fire_together():
    rows = torch.eye(4)
    rows[1] = torch.tensor([0.9, 0.1, 0, 0])
    rows[2] = torch.tensor([-1.0, 0, 0.1, 0])
    assert by_decoder(rows, 2)(0) == [1, 3]
    assert by_decoder(rows, 3)(0)[-1] == 2
    fires = [np.arange(10, 30), np.arange(10, 70), np.arange(12, 30), np.arange(70, 79)]
    together = planted.build(np.ones((1, 80), dtype=np.int32), fires, np.random.default_rng(0))
    assert by_firing(together)(0) == [2, 1]
    assert by_firing(together, 1)(1) == [0]
    assert by_firing(together)(3) == []


def test_shuffled_features_keep_their_number_of_contexts_and_none_of_their_own():
    found = drawn().features
    for own, mixed in zip(found, shuffled(found), strict=True):
        assert (own.latent, len(own.positives), len(own.negatives)) == (
            mixed.latent,
            len(mixed.positives),
            len(mixed.negatives),
        )
        assert not any(context in own.positives for context in mixed.positives)
        others = [context for other in found if other is not own for context in other.positives]
        assert all(context in others for context in mixed.positives)
    assert "at least 5 features" in refused(shuffled, found[:4])
    few = shuffled(found[:5])
    owner = {id(context): one.latent for one in found for context in one.positives}
    for mixed in few:
        owners = [owner[id(context)] for context in mixed.positives]
        assert all(len(set(owners[start : start + 4])) == 4 for start in range(0, 24, 4))
    assert few[0].positives[:4] != few[1].positives[:4]


def test_what_was_drawn_is_json():
    found = drawn(2)
    assert json.loads(json.dumps(found.to_json()))["seed"] == 0
    assert json.loads(json.dumps(found.features[0].to_json()))["latent"] == found.features[0].latent


def test_marks_stand_on_whole_words_and_join_neighbours():
    (one,) = drawn(1, latents=[0]).features
    for context in one.positives:
        text = marked(context, planted.spelling(), active(context))
        assert text.replace("<<", "").replace(">>", "") == plain(context, planted.spelling())
        for part in text.split("<<")[1:]:
            words = part.split(">>")[0].split()
            assert words
            assert all(planted.TOPIC_OF[word] == "water" for word in words)
        assert " <<" in text or text.startswith("<<")
    context = one.positives[0]
    assert marked(context, planted.spelling(), range(len(context.tokens))).count("<<") == 1


def test_only_strong_tokens_are_marked():
    (one,) = drawn(1, latents=[0]).features
    context = one.positives[0]._replace(values=[0.0, 0.1, 1.0, 0.29, 0.3, 0.0])
    assert active(context) == [2, 4]
    assert active(context._replace(values=[0.0, 0.0])) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": 0}, "width 0: give at least 1"),
        ({"least": 0}, "least 0: give at least 1"),
        ({"seed": -1}, "seed -1: give 0 or more"),
        ({"hard": 1.5}, "share of hard contexts"),
        ({"positives": 8}, "at least 16 of each"),
    ],
    ids=["width", "least", "seed", "hard", "positives"],
)
def test_impossible_sizes_are_refused(settings, said):
    assert said in refused(Sampling, **settings)


def test_nothing_to_draw_is_refused():
    assert "give at least 1" in refused(draw, planted.statistics(), 0)
    assert "seed -1: give 0 or more" in refused(draw, planted.statistics(), 1, seed=-1)
    assert "windows have 80 tokens" in refused(draw, planted.statistics(), 1, sampling=Sampling(width=80))
    said = refused(draw, planted.statistics(), 2, latents=[16, 17], sampling=planted.SAMPLING)
    assert "1 fire too seldom, 1 too often" in said


def test_groups_give_equal_parts_and_one_that_is_crowded_gives_up_its_turns():
    tokens = np.arange(0, 400, 10)
    values = np.linspace(2, 1, 40, dtype=np.float32)
    groups = [group for _, group in from_groups(tokens, values, 20, 4, Apart(1000, 2), np.random.default_rng(0))]
    assert np.bincount(groups).tolist() == [5, 5, 5, 5]
    crowded = np.concatenate([np.arange(10), tokens[10:]])
    found = from_groups(crowded, values, 20, 4, Apart(1000, 4), np.random.default_rng(0))
    # Ten neighbours hold one or two contexts; their other turns go to the groups that have more.
    counts = np.bincount([group for _, group in found]).tolist()
    assert counts[0] in (1, 2)
    assert max(counts[1:]) - min(counts[1:]) <= 1
    assert sum(counts) == 20
    assert min(np.diff(sorted(place for place, _ in found))) > 8
