"""Scores: known features above shuffled ones for every judge, controls at chance, missing answers missing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel

import planted
from monosem.interpret import EndpointJudge, Mean, SentenceEncoder, by_decoder, coherence, draw, label, lexical
from monosem.interpret.form import NO, YES
from monosem.interpret.interval import auc, bootstrap
from monosem.interpret.judge import Question, Reply
from monosem.interpret.score import METHODS, plan, score
from monosem.interpret.trial import detection, fuzzing, intruder
from refusal import refused

LATENTS = range(16)
ROWS = torch.randn(18, 8, generator=torch.Generator().manual_seed(0))


class Oracle:
    """Knows the topics; `lost` of its answers make no sense."""

    def __init__(self, per_question: int = 8, lost: Sequence[int] = ()) -> None:
        self.name, self.per_question, self.lost, self.asked = "oracle", per_question, lost, 0

    def settings(self) -> dict:
        return {}

    def count(self, text: str) -> int:
        return len(text.split())

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        for index, question in enumerate(questions):
            text = planted.oracle(question.system, question.user)
            nonsense = self.asked in self.lost or question.attempt
            self.asked += 1
            yield Reply(index, "?" if nonsense else text, {YES: 1.0, NO: -1.0}.get(text))


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")


@pytest.fixture(scope="module")
def drawn():
    return draw(planted.statistics(), 16, latents=LATENTS, similar=by_decoder(ROWS), sampling=planted.SAMPLING)


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


def test_coherence_ranks_planted_above_shuffled_and_its_controls_are_at_chance(drawn):
    own, shuffled, constant = coherence(planted.bag_of_words, drawn, planted.spelling(), judge="embedding:words")
    assert ranks(own) >= 0.9
    assert own.mean.low > shuffled.mean.high
    assert shuffled.mean.value == pytest.approx(0.5, abs=0.05)
    assert set(values(constant).values()) == {0.5}
    assert {one.judge for one in (own, shuffled, constant)} == {"embedding:words"}


def test_coherence_compares_no_contexts_of_neighbouring_windows(drawn):
    (one,) = drawn.features[:1]
    near = [context._replace(window=7 + place % 2) for place, context in enumerate(one.positives)]
    alone = type(drawn)([type(one)(one.latent, one.shown, near, one.negatives)], None, 18, 18)
    (found, _) = coherence(planted.bag_of_words, alone, planted.spelling(), judge="words")
    assert math.isnan(found.features[0].value)
    assert (found.features[0].answered, found.features[0].missing) == (0, 48)
    assert math.isnan(found.mean.value)


def test_lexical_figures_of_known_features(drawn):
    found = {(one.method, one.control): one for one in lexical(planted.statistics(), drawn)}
    assert ranks(found["bits_below_chance", None]) >= 0.9
    assert all(values(found["token_entropy", None])[i] <= math.log2(6) for i in range(8))
    assert found["bits_below_chance", "shuffled"].mean.value == pytest.approx(0, abs=0.1)
    tokens = planted.statistics().activations(3).tokens
    _, counts = np.unique(tokens // planted.T, return_counts=True)
    assert values(found["multitoken_ratio", None])[3] == pytest.approx((counts / (planted.T - 1)).mean())
    assert {one.judge for one in found.values()} == {"lexical"}


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


def test_the_intruder_stands_anywhere(drawn):
    trials = [trial for one in drawn.features for trial in intruder(one, "", planted.spelling(), 8)]
    assert {trial.truth[0] for trial in trials} == {"1", "2", "3", "4", "5"}
    for start in range(0, len(trials), 6):
        assert sorted(trial.truth[0] for trial in trials[start : start + 5]) == ["1", "2", "3", "4", "5"]


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


def test_sentence_vectors_are_means_over_tokens_that_are_there(tmp_path):
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", *planted.FILLER]
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)
    BertModel(config).save_pretrained(tmp_path)
    core = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.save(str(tmp_path / "tokenizer.json"))
    encode = SentenceEncoder(tmp_path, "tiny")
    texts = ["the a of", "to", "in it was for on with", "as by"]
    found = encode(texts, batch=3)
    for text, row in zip(texts, found, strict=True):
        ids = torch.tensor([[words.index(word) for word in text.split()]])
        with torch.no_grad():
            mean = encode.model(input_ids=ids).last_hidden_state[0].mean(0)
        torch.testing.assert_close(row, mean / mean.norm(), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_embedded_sentence_encoder_ranks_planted_above_shuffled(drawn):
    own, shuffled, _ = coherence(SentenceEncoder.embedded(), drawn, planted.spelling(), judge="embedding")
    assert ranks(own) >= 0.9
    assert own.mean.low > shuffled.mean.high
