"""What judges are asked, and which labels they are asked about."""

from __future__ import annotations

from dataclasses import replace

import pytest

import planted
from asked import LATENTS, features
from monosem.interpret import Label, draw, plan, usable
from monosem.interpret.form import NO, YES
from monosem.interpret.passage import active, marked
from monosem.interpret.prompt import VERSION
from monosem.interpret.trial import detection, fuzzing, intruder
from refusal import refused


@pytest.fixture(scope="module")
def drawn():
    return features()


def test_trials_hold_every_context_once_and_the_published_mix(drawn):
    one, spelling = drawn.features[0], planted.spelling()
    for per_question, count in ((8, 6), (5, 10), (1, 48)):
        trials = detection(one, "about water", spelling, per_question)
        assert len(trials) == count
        truth = [word for trial in trials for word in trial.truth]
        assert (truth.count(YES), truth.count(NO)) == (24, 24)
        assert not any("<<" in trial.question.user for trial in trials)
    truth = [word for trial in fuzzing(one, "about water", spelling, 8) for word in trial.truth]
    assert (truth.count(YES), truth.count(NO)) == (16, 16)
    assert {len(trial.truth) for trial in intruder(one, "", spelling, 8)} == {1}
    assert len(intruder(one, "", spelling, 8)) == 6


def test_wrong_marks_are_never_on_the_feature(drawn):
    one, spelling = drawn.features[0], planted.spelling()
    wrong = [t.question.user for t in fuzzing(one, "x", spelling, 1) if t.truth == [NO]]
    assert len(wrong) == 16
    for text in wrong:
        parts = [part.split(">>")[0].split() for part in text.split("<<")[1:]]
        assert parts
        assert not any(planted.TOPIC_OF.get(word) == "water" for part in parts for word in part)
    assert sum("Passage" in text and any(w in text for w in planted.WORDS["water"]) for text in wrong) == 8


def test_wrong_marks_are_as_many_as_right_ones(drawn):
    for one in drawn.features[:4]:
        trials = [(t.question.user, t.truth) for t in fuzzing(one, "x", planted.spelling(), 1)]
        right, wrong = (
            [
                sum(len(part.split(">>")[0].split()) for part in text.split("<<")[1:])
                for text, truth in trials
                if truth == [said]
            ]
            for said in (YES, NO)
        )
        like = [len(active(context)) for context in one.positives[:16]]
        assert sorted(wrong) == sorted(like)
        assert max(right) > 1


def test_right_marks_are_from_all_strengths(drawn):
    spelling = planted.spelling()
    for one in drawn.features[:4]:
        right = {t.question.user for t in fuzzing(one, "x", spelling, 1) if t.truth == [YES]}
        groups = {
            own.group for own in one.positives if any(marked(own, spelling, active(own)) in text for text in right)
        }
        assert groups == {0, 1, 2, 3}


def test_the_intruder_stands_anywhere(drawn):
    trials = [trial for one in drawn.features for trial in intruder(one, "", planted.spelling(), 8)]
    assert {trial.truth[0] for trial in trials} == {"1", "2", "3", "4", "5"}
    for start in range(0, len(trials), 6):
        assert sorted(trial.truth[0] for trial in trials[start : start + 5]) == ["1", "2", "3", "4", "5"]


def test_a_method_with_nothing_to_ask_is_refused(drawn):
    few = draw(planted.statistics(), 6, latents=LATENTS, sampling=replace(planted.SAMPLING, positives=3, least=3))
    assert "intruder has nothing to ask" in refused(plan, "intruder", few, planted.spelling())


def test_only_labels_of_the_very_contexts_that_are_not_judged_are_used(drawn):
    one = drawn.features[0]
    good = Label(0, "rivers", "me", VERSION, one.origin, {})
    assert usable({0: [good]}, drawn, "me") == {0: "rivers"}
    bad = [
        good._replace(origin=drawn.features[1].origin),
        good._replace(prompt=VERSION + 1),
        good._replace(judge="you"),
        good._replace(latent=99),
    ]
    for wrong in bad:
        assert usable({wrong.latent: [wrong]}, drawn, "me") == {}
    assert usable({0: [*bad, good]}, drawn, "me") == {0: "rivers"}
    fewer = draw(planted.statistics(), 1, latents=[0], sampling=replace(planted.SAMPLING, shown=6))
    assert usable({0: [good]}, fewer, "me") == {}
