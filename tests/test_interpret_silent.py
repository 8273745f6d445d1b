"""Judges that ask nobody: sentence embeddings and token types."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel

import planted
from asked import features
from monosem.interpret import SentenceEncoder, coherence, draw, lexical
from monosem.interpret.entropy import random_entropy, unit_entropy
from monosem.interpret.interval import auc


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")


@pytest.fixture(scope="module")
def drawn():
    return features()


def values(found) -> dict[int, float]:
    return {one.latent: one.value for one in found.features}


def ranks(found) -> float:
    """AUC of the values of planted features above those of shuffled ones."""
    own = values(found)
    return auc([own[i] for i in range(8)], [own[i] for i in range(8, 16)])


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


def test_expected_entropy_is_the_mean_over_all_samples():
    types = torch.tensor([0, 0, 0, 1, 1, 2, 5])
    for size in range(1, 8):
        samples = [torch.bincount(types[list(one)], minlength=6) for one in combinations(range(7), size)]
        every = unit_entropy(torch.stack(samples, dim=1).float()).mean()
        assert random_entropy(types, [size])[0] == pytest.approx(float(every), abs=1e-9)
    assert unit_entropy(torch.ones(8, 1))[0] == pytest.approx(3)


def test_random_tokens_are_not_below_chance():
    kept = np.flatnonzero(np.arange(planted.N * planted.T) % planted.T)
    generator = np.random.default_rng(0)
    fires = [np.sort(generator.choice(kept, 100, replace=False)) for _ in range(60)]
    ids = planted.statistics().text()
    random = planted.build(ids, fires, generator)
    found = lexical(random, draw(random, 60, sampling=planted.SAMPLING), controls=())
    below = next(one for one in found if one.method == "bits_below_chance")
    assert abs(below.mean.value) < 0.03


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
