"""Scores of steered text: fluency, behaviour and its gates, grades of judges, grids, and what is kept and written."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import planted
import tiny
from flow_steer_suite import SITES, F, lm, suite
from flow_steer_text import NATURE, TOWN, corpus, writer
from monosem.flow import Node, fluency, sweep
from monosem.flow.behaviour import Linear
from monosem.flow.behaviour_feature import features
from monosem.flow.behaviour_word import Classifier, lexicon, words
from monosem.flow.fluency import Fluency, distinct_trigrams
from monosem.flow.generation import Written
from monosem.flow.grid import Grid, beside
from monosem.flow.offline import Gate, Offline, correlations, gated, judge_offline, mean_losses, totals
from monosem.flow.rating import rate
from monosem.flow.sample import Sample, Split, samples
from monosem.flow.sampling import Sampling
from monosem.flow.schedule import Schedule
from monosem.flow.steered import Row, best, scored, to_json
from monosem.flow.strategy import adding
from monosem.flow.sweep import PLAIN, Setting, Sweep, Texts, check_folder
from monosem.flow.theme import distinction, rates, seeds
from monosem.interpret import Cached, EndpointJudge, LocalJudge
from monosem.interpret.form import Ratings
from monosem.interpret.interval import auc
from monosem.interpret.judge import Constant, Question, Reply
from monosem.report.steering import write_steering
from monosem.shapes import InputError, Site
from monosem.text import Corpus

pytestmark = pytest.mark.slow

RESID = Site("resid_post", 1)


@functools.cache
def split(name: str) -> Split:
    return samples(corpus(NATURE if name == "nature" else TOWN), tiny.tokenizer(), length=12, count=90, before=[0])


def text_of(words_: str, before: tuple[int, ...] = (0,)) -> Sample:
    return Sample(tiny.tokenizer()(words_)["input_ids"], words_, list(before))


# ---- pieces of text


def test_pieces_have_their_length_and_no_document_is_in_two_parts():
    documents = [f"{letter * 3} " + "rain stones " * 30 for letter in "abcdefghijklmnopqrstuvwxyz" * 2]
    unique = Corpus("unique", "0", [f"{n} {one}" for n, one in enumerate(documents)], "Made up.")
    found = samples(unique, tiny.tokenizer(), length=16, count=60, before=[7])
    assert [len(part) for part in found] == [36, 12, 12]
    firsts = [{one.text.split()[0] for one in part if one.text[0].isdigit()} for part in found]
    assert not (firsts[0] & firsts[1] | firsts[0] & firsts[2] | firsts[1] & firsts[2])
    assert all(8 <= len(one.ids) <= 16 and one.before == [7] for part in found for one in part)
    # As many documents as possible: of 31 documents to train on, 31 first pieces come before any second one.
    assert sum(one.text[0].isdigit() for one in found.train) == 31
    assert found == samples(unique, tiny.tokenizer(), length=16, count=60, before=[7])
    assert found != samples(unique, tiny.tokenizer(), length=16, count=60, before=[7], seed=1)


def test_too_little_text_is_refused():
    with pytest.raises(InputError, match="gives 4 pieces of 12 tokens to calibrate on, 10 are needed"):
        samples(corpus(NATURE, 20), tiny.tokenizer(), length=12, count=20)
    with pytest.raises(InputError, match="holds tokens, not text"):
        samples(Corpus("ids", "0", [b"12"], "", form="tokens"), tiny.tokenizer(), length=12)


# ---- fluency


def test_fluency_is_between_plain_and_shuffled_and_repetition_costs():
    scale = Fluency.of([2.0, 3.0, 4.0], [6.0, 7.0, 9.0], [range(12)] * 3)
    assert scale == Fluency(3.0, 7.0, 1.0)
    assert scale.score(4.0, [1, 2, 3, 4, 5]) == (0.75, 0.75, 1.0)
    assert scale.score(1.0, [1, 2, 3]).value == 1.0
    assert scale.score(8.0, [1, 2, 3]).value == 0.0
    # 1 2 1, 2 1 2, 1 2 1, 2 1 2: two of four trigrams are distinct.
    assert scale.score(4.0, [1, 2, 1, 2, 1, 2]) == (0.375, 0.75, 0.5)
    assert scale.score(3.0, [1, 1]) == (1.0, 1.0, 1.0)
    assert scale.score(math.nan, []) == (0.0, 0.0, 0.0)
    half = Fluency.of([3.0], [7.0], [[1, 2, 1, 2, 1, 2]] * 4)
    assert half.distinct == 0.5
    assert half.score(3.0, [1, 2, 1, 2, 1, 2]).value == 1.0


def test_d3_is_the_tenth_percentile_of_plain_texts():
    texts = [[1] * (place + 3) for place in range(11)]  # one distinct trigram of 1, 2, …, 11
    assert Fluency.of([1.0], [9.0], texts).distinct == pytest.approx(1 / 10)
    assert distinct_trigrams([5, 5]) == 1.0


def test_a_loss_that_says_nothing_about_order_is_refused():
    with pytest.raises(InputError, match=r"fluency needs 0.5 between them"):
        Fluency.of([3.0], [3.4], [[1, 2, 3]])
    with pytest.raises(InputError, match="all of them are empty"):
        Fluency.of([], [], [])


def test_shuffling_keeps_the_tokens():
    texts = [list(range(30)), [4, 5, 6]]
    found = fluency.shuffled(texts, 1)
    assert [sorted(one) for one in found] == texts
    assert found[0] != texts[0]
    assert found == fluency.shuffled(texts, 1)


# ---- behaviour


def test_linear_scores_are_0_on_other_text_and_1_on_the_theme():
    def rate_(texts):
        return np.array([len(one.ids) / 10 for one in texts])

    short, long = Sample([1] * 2, "", []), Sample([1] * 6, "", [])
    theme, other = Split([], [long], []), Split([], [short], [])
    scorer = Linear.of("length", rate_, theme, other, {})
    given = [short, long, Sample([1] * 4, "", []), Sample([], "", []), Sample([1] * 9, "", [])]
    assert scorer.score(given).tolist() == pytest.approx([0, 1, 0.5, 0, 1])
    assert np.isnan(Linear.of("length", rate_, other, theme, {}).score(given)).all()


def test_the_classifier_tells_texts_apart_and_is_calibrated():
    theme, other = split("nature"), split("town")
    found = Classifier(theme, other)
    assert auc(found.score(theme.test), found.score(other.test)) == 1.0
    both = found.score([*theme.calibrate, *other.calibrate])
    assert both.mean() == pytest.approx(0.5, abs=0.02)
    # Where words say nothing, neither does it: the same texts on either side.
    mixed = Split(*([*theme[part], *other[part]] for part in range(3)))
    blind = Classifier(mixed, mixed).score([*theme.test, *other.test])
    assert blind == pytest.approx(np.full(len(blind), 0.5), abs=0.05)


def test_the_lexicon_is_taken_from_the_theme_or_given():
    theme, other = split("nature"), split("town")
    found = lexicon(theme, other)
    assert set(NATURE) <= set(found.describe()["words"])
    assert not set(TOWN) & set(found.describe()["words"])
    assert found.score([text_of("rain birds river pale"), text_of("cat sat mat")]).tolist() == [1.0, 0.0]
    given = lexicon(theme, other, ["Rain", "birds of rain"])
    assert given.describe()["words"] == ["birds", "of", "rain"]
    assert 0 < given.describe()["rate of the theme"] < 0.5
    assert words("Rain, rain-drops!") == ["rain", "rain", "drops"]


def test_distinction_is_the_z_of_two_shares():
    site, theme, other = SITES[-1], split("nature").train, split("town").train
    own, others = (rates(lm(), site, suite()[site], texts) for texts in (theme, other))
    n = [sum(len(one.ids) for one in texts) for texts in (theme, other)]
    assert (own.count, others.count) == tuple(n)
    fired = torch.zeros(F)
    for one in theme:
        act = lm().capture(torch.tensor([[0, *one.ids]]), [site])[site][0, 1:]
        fired += (suite()[site].encode(act) > 0).sum(0)
    torch.testing.assert_close(own.tokens.float(), fired / n[0], atol=1e-6, rtol=1e-4)
    z, latent = distinction(own, others), int(fired.argmax())
    p = [float(part.tokens[latent]) for part in (own, others)]
    pooled = (p[0] * n[0] + p[1] * n[1]) / sum(n)
    want = (p[0] - p[1]) / math.sqrt(pooled * (1 - pooled) * (1 / n[0] + 1 / n[1]))
    assert float(z[latent]) == pytest.approx(want, rel=1e-6)


def test_features_that_score_are_neither_steered_nor_close_to_it():
    theme, other = split("nature"), split("town")
    site = Site("resid_post", 2)
    free = features(lm(), suite(), theme, other, torch.empty(0, 32), count=4)
    listed = [Node.parse(one) for one in free.describe()["features"]]
    assert len(listed) == 4
    assert {node.site for node in listed} == {site}
    scores = free.score([*theme.test, *other.test, Sample([], "", [0])])
    assert auc(scores[: len(theme.test)], scores[len(theme.test) : -1]) > 0.65
    assert scores[-1] == 0
    steered = features(lm(), suite(), theme, other, torch.empty(0, 32), listed[:1], count=4)
    assert str(listed[0]) not in steered.describe()["features"]
    direction = suite().direction(site).unit[[listed[1].latent]]
    near = features(lm(), suite(), theme, other, -3 * direction, count=F)
    chosen = [Node.parse(one).latent for one in near.describe()["features"]]
    assert chosen
    assert float((suite().direction(site).unit[chosen] @ direction.T).abs().max()) < 0.5


def test_seeds_fire_on_the_theme():
    theme, other = split("nature"), split("town")
    found = seeds(lm(), suite(), RESID, theme.train, other.train, 2)
    own, others = (rates(lm(), RESID, suite()[RESID], part) for part in (theme.test, other.test))
    assert all(own.tokens[node.latent] > others.tokens[node.latent] for node in found)
    assert all(own.texts[node.latent] > 0.1 for node in found)
    with pytest.raises(InputError, match=r"no latent of resid_post.1 fires more"):
        seeds(lm(), suite(), RESID, theme.train, theme.train)


# ---- gates


class Says:
    """A scorer that gives each text what `of` says."""

    def __init__(self, of, name: str = "says") -> None:
        self.name, self._of = name, of

    def score(self, texts):
        return np.array([self._of(one) for one in texts], dtype=float)

    def describe(self):
        return {}


def nature(one: Sample) -> float:
    found = words(one.text)
    return sum(word in NATURE for word in found) / max(len(found), 1)


def in_order(one: Sample) -> float:
    return float("stones rain birds" in one.text or "pale northern light" in one.text)


def judged(mode: str, scorer, plain: str = "cat sat mat seven"):
    scale = Fluency(1.0, 6.0, 0.5)
    theme, other = split("nature"), split("town")
    found = gated(writer(), mode, scale, [scorer], theme, other, [text_of(plain)] * 3)
    return found, {gate.name: gate for gate in found.gates}


def test_a_scorer_that_passes_its_gates_is_used():
    found, gates = judged("add", Says(nature))
    assert list(found.scorers) == ["says"]
    assert all(gate.passed for gate in found.gates)
    assert gates["AUC"].value == 1.0
    assert gates["plain texts above other text"].value == pytest.approx(0, abs=0.05)
    found, gates = judged("rescale", Says(nature), "rain birds river")
    assert list(found.scorers) == ["says"]
    assert gates["plain texts above other text"].value > 0.8


@pytest.mark.parametrize(
    ("mode", "scorer", "plain", "fails"),
    [
        ("add", Says(lambda one: 0.5), "cat sat", ["AUC"]),
        ("add", Says(nature), "rain birds", ["plain texts above other text"]),
        ("rescale", Says(nature), "cat sat", ["plain texts above other text"]),
        (
            "add",
            Says(lambda one: float("stones rain birds" in one.text or "pale northern light" in one.text)),
            "cat",
            None,
        ),
    ],
    ids=["blind", "theme in plain", "nothing to remove", "order"],
)
def test_a_scorer_that_fails_a_gate_is_not_used(mode, scorer, plain, fails):
    found, _ = judged(mode, scorer, plain)
    assert not found.scorers
    failed = [gate.name for gate in found.gates if not gate.passed]
    assert failed == fails if fails else "shuffled over whole" in failed


def test_fluency_that_does_not_fall_on_shuffled_words_stops_every_scorer():
    theme, other = split("nature"), split("town")
    flat = Fluency(50.0, 60.0, 0.1)  # everything is likely
    found = gated(writer(), "add", flat, [Says(nature)], theme, other, [text_of("cat sat")])
    assert not found.scorers
    assert [gate.scorer for gate in found.gates if not gate.passed] == ["fluency"]


def test_the_offline_judge_has_its_scale_from_plain_texts():
    plain = [one._replace(before=[0]) for one in split("town").test]
    theme, other = split("nature"), split("town")
    found = judge_offline(writer(), "add", [*plain, Sample([], "", [0])], [Says(nature)], theme, other)
    losses = mean_losses(writer(), plain)
    assert found.fluency.plain == pytest.approx(float(np.median(losses)))
    assert found.fluency.shuffled > found.fluency.plain + 1
    scores = found.score(plain[:2], losses[:2])
    assert scores[0].total == {"says": scores[0].behaviour["says"] * scores[0].coherence.value}
    assert found.describe()["judge"] == "offline"


def test_totals_reward_the_theme_or_its_absence():
    assert totals("add", 0.5, {"a": 0.8}) == {"a": pytest.approx(0.4)}
    assert totals("rescale", 0.5, {"a": 0.8}) == {"a": pytest.approx(0.1)}


def test_rank_correlations_are_between_scorers():
    scale = Fluency(1.0, 6.0, 0.5)
    judge = Offline("add", scale, {"a": Says(lambda one: len(one.ids)), "b": Says(lambda one: -(len(one.ids) ** 3))})
    given = [Sample([1] * n, "", []) for n in (3, 9, 4, 6)]
    assert correlations(judge.score(given, [2.0] * 4)) == {"a, b": pytest.approx(-1)}
    assert math.isnan(correlations(judge.score(given[:1] * 3, [2.0] * 3))["a, b"])


# ---- grades


@pytest.mark.parametrize(
    ("n", "text", "read"),
    [
        (1, '{"coherence": 4, "behavioral": 2}', ["4", "2"]),
        (1, 'Sure: {"coherence": 4, "behavioral": [2]}', ["4", "2"]),
        (3, '<think>{"coherence": 0}</think>{"coherence": 5, "behavioral": [0, 3, 5]}', ["5", "0", "3", "5"]),
        (3, '{"coherence": 5, "behavioral": [0, 3]}', None),
        (1, '{"coherence": 4, "behavioral": 6}', None),
        (1, '{"coherence": 4.5, "behavioral": 2}', None),
        (1, '{"coherence": true, "behavioral": 2}', None),
        (1, '{"coherence": 4}', None),
        (1, "4 and 2", None),
        (1, '{"coherence": 4, "behavioral": 2', None),
    ],
)
def test_grades_are_read_or_missing(n, text, read):
    assert Ratings(n).read(text) == read


def test_a_constant_says_grades_that_can_be_read():
    for n in (1, 3):
        assert Ratings(n).read(Ratings(n).said("3")) == ["3"] * (n + 1)


def test_grades_are_asked_once_more_and_then_missing_never_zero(monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    with planted.endpoint() as server:
        server.answer = lambda system, user: "no idea" if "stones" in user else '{"coherence": 4, "behavioral": 0}'
        judge = EndpointJudge(server.url, "grader", concurrency=1, pause=0.01)
        found = rate(judge, ["of rivers", "of stones"], ["water"], "add")
        asked = [body["messages"] for body in server.requests]
    assert [(one.coherence, one.behaviour) for one in found.ratings] == [(0.8, {"water": 0.0}), (None, {"water": None})]
    assert (found.malformed, found.missing, found.judge) == (1, 1, judge.name)
    assert found.ratings[0].total("add") == 0.0
    assert found.ratings[0].total("rescale") == 0.8
    assert found.ratings[1].total("add") is None
    assert len(asked) == 3
    system, user = (message["content"] for message in asked[0])
    for said in ("language model", "coherence", "behavioral", "strict JSON", "Be objective", "explained"):
        assert said in system
    assert "Subject: water" in user
    assert '"""of rivers"""' in user
    assert "alone" in asked[2][1]["content"]


def test_several_subjects_are_graded_at_once_in_their_order():
    class Grader(Constant):
        def ask(self, questions):
            for index, question in enumerate(questions):
                assert "1. persons; 2. science; 3. methods" in question.user
                assert "direct" in question.system
                yield Reply(index, '{"coherence": 5, "behavioral": [1, 2, 3]}')

    (found,) = rate(Grader("0"), ["one"], ["persons", "science", "methods"], "rescale").ratings
    assert found.behaviour == {"persons": 0.2, "science": 0.4, "methods": 0.6}
    assert found.total("rescale") == pytest.approx(0.8)


@pytest.mark.parametrize("keep", [False, True])
def test_a_local_model_chooses_digits_by_probability(keep, tmp_path):
    judge = LocalJudge(tiny.llama(), batch=4)
    judge.lm.model.config.max_position_embeddings = 4096
    given = Cached(judge, tmp_path / "answers.sqlite") if keep else judge
    found = rate(given, ["rain", "stones"], ["water", "towns"], "add")
    assert found.form == "digits"
    assert found.missing == 0
    assert all(one.coherence in {grade / 5 for grade in range(6)} for one in found.ratings)
    assert [list(one.behaviour) for one in found.ratings] == [["water", "towns"]] * 2


# ---- settings


def nodes() -> list[Node]:
    return [Node(Site("resid_post", 0), 9), Node(RESID, 3), Node(Site("mlp_out", 1), 5)]


def test_a_grid_has_every_combination_and_the_seeds_alone():
    grid = Grid("add", (1.0, 2.0), (0, 1, 2), ("single", "cumulative"), (Schedule(), Schedule("linear")))
    found = {one.name: one for one in grid.settings(suite(), nodes(), nodes()[1:2])}
    assert list(found)[:3] == [PLAIN, "seeds, s = 1", "seeds, s = 2"]
    # Nothing is at layer 2: single leaves it out, cumulative is all that is below.
    assert "single 2, s = 1" not in found
    assert len(found) == 1 + 2 + 2 * 2 * 2 + 2 * 2 * 3
    assert list(found["seeds, s = 1"].steering.pushes) == [RESID]
    assert {str(site) for site in found["single 1, s = 2"].steering.pushes} == {"mlp_out.1", "resid_post.1"}
    assert list(map(str, found["cumulative to 0, s = 2, linear"].steering.pushes)) == ["resid_post.0"]
    assert found["cumulative to 2, s = 2"].axes == {
        "strategy": "cumulative",
        "strength": 2.0,
        "layer": 2,
        "schedule": {"shape": "constant"},
    }
    rescaled = Grid("rescale", (0.0, -2.0), schedules=(Schedule(), Schedule("linear"))).settings(suite(), nodes())
    assert [one.name for one in rescaled] == [PLAIN, "cumulative, r = 0", "cumulative, r = -2"]
    with pytest.raises(InputError, match="no latent is at the layers asked for: they are at 0, 1"):
        Grid("add", (1.0,), (2,), ("single",)).settings(suite(), nodes())
    with pytest.raises(InputError, match="the grid has no strengths"):
        Grid("add", ())


def test_every_steered_setting_has_its_baselines_and_prompting_comes_once():
    settings = Grid("add", (1.0, 2.0)).settings(suite(), nodes())
    asked = []

    def differences(sites):
        asked.append(list(sites))
        return {site: torch.ones(32) for site in sites}

    names = ("random", "features", "difference", "prompt")
    found = beside(settings, names, suite(), differences=differences, subject="water")
    assert len(found) == 3 + 2 * 3 + 1
    assert len(asked) == 1
    assert set(asked[0]) == {node.site for node in nodes()}
    by_name = {one.name: one for one in found}
    assert by_name["prompt"].words == "Write about water. "
    assert by_name["prompt"].steering is None
    for name in names[:3]:
        control = by_name[f"cumulative, s = 2: {name}"]
        assert control.steering.norms() == pytest.approx(by_name["cumulative, s = 2"].steering.norms(), rel=1e-4)
        assert control.axes["baseline"] == name
    with pytest.raises(InputError, match="baseline 'noise' is unknown"):
        beside(settings, ["noise"], suite())
    with pytest.raises(InputError, match="the difference in means needs texts"):
        beside(settings, ["difference"], suite())
    with pytest.raises(InputError, match="prompting needs a subject"):
        beside(settings, ["prompt"], suite())


# ---- texts that are kept


def bench(**more) -> Sweep:
    given = {"sampling": Sampling(new_tokens=6), "samples": 2, "suite": suite(), "batch": 3}
    return Sweep(lm(), ("the cat", "rain"), **(given | more))


def test_finished_settings_are_read_and_others_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    settings = Grid("add", (0.0, 2.0)).settings(suite(), nodes())
    first = bench().run(settings, tmp_path)
    written = []
    real = sweep.generate
    monkeypatch.setattr(sweep, "generate", lambda *a, **k: written.append(k["steering"]) or real(*a, **k))
    again = bench().run(settings, tmp_path)
    assert not written
    assert [(one.written, one.norms, one.setting.name) for one in again] == [
        (one.written, one.norms, one.setting.name) for one in first
    ]
    assert [one.losses for one in again] == [pytest.approx(one.losses, nan_ok=True) for one in first]
    # A strength of 0 writes what plain does.
    assert first[0].written == first[1].written != first[2].written
    assert first[2].relative_norm > 0 == first[0].relative_norm
    bench().run([*settings, *Grid("add", (4.0,)).settings(suite(), nodes())[1:]], tmp_path)
    assert len(written) == 1
    bench(sampling=Sampling(new_tokens=6, seed=1)).run(settings[:1], tmp_path)
    assert len(written) == 2
    bench().run([replace(settings[0], name="asked", words="the mat ")], tmp_path)
    assert len(written) == 3


def test_what_is_interrupted_keeps_what_was_finished(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    settings = Grid("add", (1.0, 2.0)).settings(suite(), nodes())
    real, calls = sweep.generate, []

    def stopped(*a, **k):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*a, **k)

    monkeypatch.setattr(sweep, "generate", stopped)
    with pytest.raises(KeyboardInterrupt):
        bench().run(settings, tmp_path)
    assert len(list((tmp_path / "texts").iterdir())) == 2
    found = bench().run(settings, tmp_path)
    assert len(calls) == 4
    monkeypatch.setattr(sweep, "generate", real)
    assert [one.written for one in bench().run(settings)] == [one.written for one in found]


def test_altered_texts_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    bench().run([Setting(PLAIN)], tmp_path)
    (file,) = (tmp_path / "texts").iterdir()
    file.write_text(file.read_text().replace('"sample": 0', '"sample": 1', 1))
    with pytest.raises(InputError, match="truncated or altered"):
        bench().run([Setting(PLAIN)], tmp_path)
    with pytest.raises(InputError, match="two settings are named plain"):
        bench().run([Setting(PLAIN)] * 2)
    check_folder(tmp_path)
    check_folder(tmp_path / "new")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        check_folder(tmp_path / "other")


def test_texts_begin_as_in_training_and_are_scored_without_words_that_ask():
    assert bench().ids()[0].tolist() == [*bench().lead(), *tiny.tokenizer()("the cat")["input_ids"]]
    assert bench().lead() == [1]
    assert bench().ids("write: ")[0].tolist() == [1, *tiny.tokenizer()("write: the cat")["input_ids"]]
    (found,) = bench().run([Setting("asked", words="write: ")])
    given = found.samples([one.tolist() for one in bench().ids()])
    assert given[0].before == bench().ids()[0].tolist()
    assert found.losses == pytest.approx(mean_losses(lm(), given), rel=1e-4)


# ---- the result


def texts(name: str, axes: dict | None = None, count: int = 4) -> Texts:
    written = [Written(0, sample, [5, 6, 7], f"<b>text {sample}</b>", False) for sample in range(count)]
    return Texts(Setting(name, axes=axes), written, [2.0] * count, {})


def rows() -> list[Row]:
    at = {"strategy": "single", "strength": 1.0, "schedule": {"shape": "constant"}}
    plain = Row(texts(PLAIN), [{"j: total": value} for value in (0.1, 0.2, math.nan, 0.2)])
    one = Row(texts("one", at | {"layer": 1}), [{"j: total": value} for value in (0.9, 0.3, 0.9, 0.1)])
    two = Row(texts("two", at | {"layer": 2}), [{"j: total": value} for value in (0.5, 0.8, 0.5, 0.8)])
    return [plain, one, two]


def test_the_layer_is_chosen_on_half_of_the_samples_and_scored_on_the_others():
    assert best(rows(), "j: total") == {
        "single": {"setting": "one", "chosen on": 0.9, "scored on": pytest.approx(0.2)},
    }
    one, two = (row.texts.setting for row in rows()[1:])
    control = [
        Row(row.texts._replace(setting=replace(one, axes={**one.axes, "baseline": "x"})), row.scores) for row in rows()
    ]
    assert list(best([*rows(), *control[:1]], "j: total")) == ["single"]
    assert best([rows()[0], rows()[1]], "j: total") == {}
    assert best(rows(), "other") == {}
    assert two.axes["layer"] == 2


def test_means_leave_out_what_is_missing_and_differences_are_paired():
    found = to_json(bench(), rows(), {}, "add")
    plain, one, _ = found["rows"]
    assert plain["scores"]["j: total"]["value"] == pytest.approx(0.5 / 3)
    assert plain["scores"]["j: total"]["missing"] == 1
    assert plain["texts"][2]["scores"]["j: total"] is None
    assert plain["minus_plain"] == {}
    assert one["minus_plain"]["j: total"]["value"] == pytest.approx((0.8 + 0.1 - 0.1) / 3)
    assert one["minus_plain"]["j: total"]["missing"] == 1
    json.dumps(found, allow_nan=False)


def test_every_judge_is_named_in_the_result(monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    found = bench().run([Setting(PLAIN), Setting("steered", adding(suite(), nodes(), 2.0))])
    offline = Offline("add", Fluency(1.0, 9.0, 0.5), {"says": Says(nature)}, [Gate("says", "AUC", 0.95, "≥ 0.9", True)])
    scores, judges = scored(bench(), found, "add", offline=offline, judge=Constant("3"), subjects=["water", "towns"])
    assert set(judges) == {"offline", "constant:3"}
    assert judges["constant:3"]["missing"] == 0
    own = scores[0].scores[0]
    assert {key.split(":")[0] for key in own} == {"loss", "offline", "constant"}
    assert own["constant:3: total"] == pytest.approx(0.36)
    assert own["constant:3: side effect (towns)"] == 0.6
    assert "says, " not in judges["offline"]["rank correlations"]


def test_the_page_shows_texts_as_text_and_maps_of_strength_by_layer(tmp_path):
    result = to_json(bench(), rows(), {}, "add", {"best": {"j: total": best(rows(), "j: total")}})
    page = write_steering(tmp_path / "page.html", result, command="monosem steer <x>").read_text()
    assert "&lt;b&gt;text 0&lt;/b&gt;" in page
    assert "<b>text" not in page
    assert "monosem steer &lt;x&gt;" in page
    assert page.count("<svg") == 1
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "chosen on even samples: <b>one</b>" in page
    assert Question("", "", Ratings()).form.tokens > 0
