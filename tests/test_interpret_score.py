"""Scores: known features above shuffled ones for every judge, controls at chance, missing answers missing."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import planted
from asked import Oracle, features
from monosem.interpret import METHODS, Cached, EndpointJudge, Mean, label, plan, plans, score
from monosem.interpret.agenda import Agenda
from monosem.interpret.interval import auc, bootstrap
from monosem.interpret.scoring import unmixed
from refusal import refused


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")


@pytest.fixture(scope="module")
def drawn():
    return features()


@pytest.fixture(scope="module")
def labels(drawn) -> dict[int, str]:
    return {one.latent: one.text for one in label(Oracle(), drawn.features, planted.spelling()).labels}


def scored(drawn, labels, method, control=None, judge=None):
    judge = judge or Oracle()
    settings = {"labels": labels, "control": control, "per_question": judge.per_question}
    return score(judge, plan(method, drawn, planted.spelling(), **settings))


def values(found) -> dict[int, float]:
    return {one.latent: one.value for one in found.features}


def ranks(found) -> float:
    """AUC of the values of planted features above those of shuffled ones."""
    own = values(found)
    return auc([own[i] for i in range(8)], [own[i] for i in range(8, 16)])


def test_labels_say_what_was_planted(labels):
    assert [labels[i] for i in range(8)] == [f"about {name}" for name in planted.TOPICS]


@pytest.mark.parametrize("method", METHODS)
def test_a_judge_that_reads_ranks_planted_above_shuffled(drawn, labels, method):
    found = scored(drawn, labels, method)
    assert ranks(found) >= 0.9
    assert min(values(found)[i] for i in range(8)) >= 0.9
    assert (found.judge, found.method, found.control, found.malformed, found.missing) == ("oracle", method, None, 0, 0)


@pytest.mark.parametrize("method", METHODS)
def test_controls_are_at_chance(drawn, labels, method):
    constant = scored(drawn, labels, method, "constant")
    shuffled = scored(drawn, labels, method, "shuffled")
    if method != "intruder":
        assert set(values(constant).values()) == {0.5}
    assert constant.mean.value == pytest.approx(METHODS[method].chance, abs=0.06)
    assert shuffled.mean.value == pytest.approx(METHODS[method].chance, abs=0.15)
    assert scored(drawn, labels, method).mean.low > shuffled.mean.high
    assert (constant.judge, constant.control, shuffled.control) == ("oracle", "constant", "shuffled")


def test_answers_that_make_no_sense_are_missing_and_never_wrong(drawn, labels):
    whole = scored(drawn, labels, "detection", judge=Oracle(1))
    holed = scored(drawn, labels, "detection", judge=Oracle(1, lost=range(0, 40)))
    assert (holed.malformed, holed.missing) == (40, 40)
    first = holed.features[0]
    assert (first.answered, first.missing) == (8, 40)
    assert first.value == whole.features[0].value == 1
    assert holed.features[1:] == whole.features[1:]
    gone = scored(drawn, labels, "detection", judge=Oracle(1, lost=range(48)))
    assert math.isnan(gone.features[0].value)
    assert gone.mean.value == pytest.approx(np.mean([one.value for one in whole.features[1:]]))


def test_a_lost_list_is_as_many_missing_answers_as_it_has_passages(drawn, labels):
    found = scored(drawn, labels, "detection", judge=Oracle(8, lost=[1]))
    assert (found.malformed, found.missing) == (1, 8)


def test_odds_rank_passages_where_a_judge_gives_them(drawn, labels):
    found = scored(drawn, labels, "detection", judge=Oracle(1))
    assert [one.auc for one in found.features[:8]] == [1.0] * 8
    assert math.isnan(scored(drawn, labels, "detection").auc.value)


def test_features_without_a_label_are_left_out_where_it_is_needed(drawn, labels):
    some = {latent: labels[latent] for latent in (2, 5)}
    assert list(values(scored(drawn, some, "detection"))) == [2, 5]
    assert len(scored(drawn, {}, "intruder").features) == 16
    assert "none of 16 features" in refused(plan, "fuzzing", drawn, planted.spelling())
    assert "use detection, fuzzing, intruder" in refused(plan, "guess", drawn, planted.spelling())


def test_a_score_is_json(drawn, labels):
    record = json.loads(json.dumps(scored(drawn, labels, "intruder").to_json()))
    assert record["judge"] == "oracle"
    assert len(record["features"]) == 16
    assert record["drawn"]["alive"] == 18


def test_an_endpoint_scores_like_the_judge_behind_it(drawn, labels):
    with planted.endpoint() as server:
        found = scored(drawn, labels, "detection", judge=EndpointJudge(server.url, "oracle", key="k"))
    assert values(found) == values(scored(drawn, labels, "detection"))
    assert found.judge == f"endpoint:{server.url}#oracle"


def test_the_bootstrap_covers_what_other_features_would_change():
    generator = np.random.default_rng(0)
    truths = [bootstrap(generator.normal(0.7, 0.1, 40), seed) for seed in range(200)]
    assert sum(one.low <= 0.7 <= one.high for one in truths) / 200 == pytest.approx(0.95, abs=0.05)
    assert bootstrap([0.4]).value == 0.4
    assert math.isnan(bootstrap([0.4]).low)
    assert math.isnan(bootstrap([]).value)
    assert bootstrap([0.2, 0.4], 1) == bootstrap([0.2, 0.4], 1)
    assert isinstance(bootstrap([1, 1, 1]), Mean)


def test_auc_counts_ties_half():
    assert auc([3, 2], [1, 0]) == 1
    assert auc([1, 0], [1, 0]) == 0.5
    assert auc([2, 0], [1]) == 0.5
    assert math.isnan(auc([], [1]))


def test_features_that_could_not_be_asked_about_are_counted(drawn, labels):
    some = {latent: labels[latent] for latent in (2, 5)}
    found = scored(drawn, some, "detection")
    assert (found.valued, found.asked, found.unasked) == (2, 16, 14)
    assert found.to_json()["unasked"] == 14
    lost = scored(drawn, some, "detection", judge=Oracle(1, lost=range(48)))
    assert (lost.valued, lost.asked) == (1, 16)


def test_a_control_that_is_left_out_is_told(drawn, labels):
    some = {latent: labels[latent] for latent in (2, 5)}
    made = plans({"a": drawn, "b": drawn}, ["detection", "intruder"], {"a": some, "b": labels}, planted.spelling())
    asked = {(one.sae, one.method, one.control) for one in made}
    assert ("a", "detection", "shuffled") not in asked
    assert len(asked) == 11
    found = [score(Oracle(), one) for one in made]
    assert [(one.sae, one.method) for one in unmixed(found)] == [("a", "detection")]
    only = plans({"a": drawn}, ["intruder"], {}, planted.spelling(), alone=["a"])
    assert [one.control for one in only] == [None]
    assert unmixed([score(Oracle(), one) for one in only]) == []


def test_the_estimate_is_what_is_asked_though_no_label_was_stored(drawn, tmp_path):
    few = replace(drawn, features=drawn.features[:5])

    def agenda():
        judge = Cached(Oracle(24), tmp_path / "answers.sqlite")
        return Agenda(judge, {"a": few}, ["detection", "fuzzing"], {}, planted.spelling())

    first = agenda()
    before = first.judge.estimate(first.questions())
    assert before.known == 0
    found = dict(first.label())
    asked = len(found["a"].labels)
    # Interrupted here: the answers are kept, and no label was stored.
    again = agenda()
    cost = again.judge.estimate(again.questions())
    assert cost.known == asked == 5
    list(again.label())
    scores = list(again.scores())
    assert again.judge.judge.asked == cost.requests
    assert [one.control for one in scores] == [None, "shuffled", "constant"] * 2
    done = agenda()
    assert done.judge.estimate(done.questions()).requests == 0
