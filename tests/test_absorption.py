"""First-letter absorption: planted cases with known answers, gates that say why nothing can be measured."""

from __future__ import annotations

import functools
import json
import string

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import normalize, one_hot
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import tiny
from monosem.cli import probe
from monosem.interpret import Labelled, absorption
from monosem.interpret.absorption_gate import probe_letters
from monosem.interpret.absorption_task import absorption_of, unread
from monosem.interpret.absorption_word import absorbed, splits
from monosem.interpret.first_letter import LETTERS, first_letters, words
from monosem.interpret.probing_example import Latents, Read
from monosem.lm import LanguageModel
from monosem.sae import SAE, DenseEncoder, TopK
from monosem.shapes.exclusion import Exclusion
from refusal import refused

ALIGNED = torch.tensor([1.0, 0.9, 0.8, 0.0])
MAIN = torch.tensor([0])


def of(*activations: float, p: float = 10.0, cosines: torch.Tensor = ALIGNED) -> tuple[float, bool]:
    """Both measures of one word; latent 0 is the main one."""
    found = absorbed(torch.tensor([activations], dtype=torch.float32), torch.tensor([p]), cosines, MAIN)
    return pytest.approx(float(found.fraction), abs=1e-6), bool(found.full)


def test_one_word_by_hand():
    assert of(10, 0, 0, 3) == (0.0, False), "the main latent says all"
    assert of(0, 10, 0, 3) == (1.0, True), "another says all"
    assert of(0, 5, 5, 0) == (1.0, True)
    assert of(0, 4, 0, 9) == (0.0, False), "3.6 is less than 0.4 of 10"
    assert of(0, 2.5, 2.5, 0) == (1.0, False), "together enough, alone not"
    assert of(4, 5, 0, 0) == (4.5 / 8.5, False), "it fires, so absorption is not full"
    assert of(9, 5, 0, 0) == (0.1, False), "no more than what is missing counts"
    assert of(0, 9, 0, 0, p=-1.0) == (0.0, False), "the probe points the other way"


def test_an_absorber_has_to_be_aligned():
    assert of(0, 50, 0, 0, cosines=torch.tensor([1.0, 0.099, 0.0, 0.0])) == (0.0, True), "thresholds are 0.1 and 0.025"
    assert of(0, 900, 0, 0, cosines=torch.tensor([1.0, 0.024, 0.0, 0.0])) == (0.0, False)
    assert of(0, 900, 0, 0, cosines=torch.tensor([1.0, -0.9, 0.0, 0.0])) == (0.0, False)


def test_at_most_three_absorbers_count():
    cosines = torch.ones(6)
    assert of(5, 1, 1, 1, 1, 1, p=20.0, cosines=cosines)[0] == 0.0, "3 of 20, though 5 fire"
    assert of(5, 1, 1, 1, 1, 1, p=7.5, cosines=cosines)[0] == 2.5 / 7.5


def test_splits_stop_where_one_more_latent_does_not_help():
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(400, 1, generator=generator) < 0.3
    half = torch.rand(400, generator=generator) < 0.5
    noise = torch.rand(400, 3, generator=generator)
    parted = torch.stack([y[:, 0] & half, y[:, 0] & ~half], 1).float()
    found = splits(torch.cat([parted, noise], 1), y, torch.cat([parted, noise], 1), y, [0])[0]
    assert sorted(found.main.tolist()) == [0, 1], "two latents share the property"
    assert found.f1[0] < 0.8
    assert found.f1[1] == 1.0
    assert len(found.f1) == 3
    barely = y[:, 0] & (torch.arange(400) % 25 != 0)
    most = torch.stack([barely, y[:, 0] & ~barely], 1).float()
    found = splits(torch.cat([most, noise], 1), y, torch.cat([most, noise], 1), y, [0])[0]
    assert 0.0 < found.f1[1] - found.f1[0] <= 0.03
    assert found.main.tolist() == [0], "a little better is not enough"
    whole = splits(torch.cat([y.float(), noise], 1), y, torch.cat([y.float(), noise], 1), y, [0])[0]
    assert whole.main.tolist() == [0]


@functools.cache
def world(absorbed_words: str, letters: int = 26, each: int = 50) -> tuple[Read, SAE]:
    """Words are the direction of their letter and a little of their own.

    Latent i is letter i. A word that is absorbed has a latent to itself, which says word and letter, and its letter's
    latent is silent: no word, the test words with an odd number, or all test words.
    """
    generator = torch.Generator().manual_seed(0)
    letter = torch.arange(letters).repeat_interleave(each)
    train = torch.arange(each).repeat(letters) < 0.8 * each
    order = torch.randperm(len(letter), generator=generator)
    letter, train, count = letter[order], train[order], len(letter)
    odd = torch.arange(count) % 2 == 1
    taken = ~train & {"none": torch.zeros_like(odd), "odd": odd, "all": torch.ones_like(odd)}[absorbed_words]
    basis = torch.linalg.qr(torch.randn(80, 80, generator=generator)).Q
    own = normalize(torch.rand(count, 20, generator=generator), dim=1) @ basis[30:50]
    x = 6 * basis[letter] + own
    acts = torch.cat([6.0 * one_hot(letter, 26) * ~taken[:, None], 6.0 * torch.eye(count)[:, taken]], 1)
    rows = torch.cat([basis[:26], normalize(x[taken], dim=1)])
    sae = SAE(DenseEncoder(80, len(rows)), TopK(len(rows), 1))
    sae.W_dec.data.copy_(rows)
    examples = Labelled([[0]] * count, letter, LETTERS, train, True, "planted words", {"taken": taken, "seed": 0})
    return Read(examples, x, {"sae": Latents(torch.arange(len(rows)), acts)}, {"sae": 1.0}, 1.0, 1.0, 0), sae


@pytest.mark.parametrize(
    "absorbed_words",
    ["none", pytest.param("odd", marks=pytest.mark.slow), pytest.param("all", marks=pytest.mark.slow)],
)
def test_a_planted_dictionary_has_the_planted_absorption(absorbed_words):
    read, sae = world(absorbed_words)
    found = absorption_of({"sae": sae}, read)
    assert found.gate == ""
    assert min(found.probe_f1.values()) > 0.9
    row, test = found.rows["sae"], ~read.examples.train
    assert len(row.letters) == 26
    for letter in row.letters:
        index = LETTERS.index(letter.letter)
        words = test & (read.examples.labels == index)
        share = float(read.examples.settings["taken"][words].float().mean())
        assert letter.words == int(words.sum()), "the probe finds every word"
        assert letter.fraction == letter.full == pytest.approx(share)
        assert index in letter.latents
    exact = {"none": 0.0, "all": 1.0}
    if absorbed_words in exact:
        assert tuple(row.fraction) == tuple(row.full) == (exact[absorbed_words],) * 3
    if absorbed_words == "none":
        assert tuple(row.splits) == (1.0, 1.0, 1.0)


def test_where_probes_fail_nothing_is_measured_and_it_says_why():
    read, _ = world("none", letters=12)
    truth = probe_letters(read)
    assert "not measurable here" in truth.gate
    assert "finds 12 letters" in truth.gate
    assert "with fewer than 10 words to test on: m, n, o" in truth.gate
    read, _ = world("none")
    generator = torch.Generator().manual_seed(1)
    noise = read._replace(x=torch.randn(read.x.shape, generator=generator))
    truth = probe_letters(noise)
    assert "finds 0 letters" in truth.gate
    assert "too low: a 0." in truth.gate


def changed(read: Read, words: torch.Tensor) -> Read:
    """The same, where the activations of some words are those of words with d."""
    x, others = read.x.clone(), read.x[read.examples.labels == 3]
    x[words] = others.repeat(3, 1)[: int(words.sum())]
    return read._replace(x=x)


def test_a_letter_without_a_probe_is_left_out_and_the_others_stay():
    read, sae = world("none")
    found = absorption_of({"sae": sae}, changed(read, read.examples.labels < 3))
    assert max(found.probe_f1[one] for one in "abcd") <= 0.6
    assert found.gate == ""
    assert found.settings["letters"] == list("efghijklmnopqrstuvwxyz")
    assert [one.letter for one in found.rows["sae"].letters] == found.settings["letters"]


def test_only_words_that_the_probe_finds_are_counted():
    read, sae = world("none")
    tested = (~read.examples.train & (read.examples.labels == 1)).nonzero().flatten()
    lost = torch.zeros(len(read.x), dtype=torch.bool)
    lost[tested[:4]] = True
    found = absorption_of({"sae": sae}, changed(read, lost))
    words = {one.letter: one.words for one in found.rows["sae"].letters}
    assert words["b"] == len(tested) - 4
    assert words["c"] == int((~read.examples.train & (read.examples.labels == 2)).sum())


@pytest.mark.parametrize("left", [9, 10])
def test_a_letter_with_fewer_than_ten_words_to_test_on_is_left_out_and_said(left):
    read, sae = world("none")
    tested = (~read.examples.train & (read.examples.labels == 4)).nonzero().flatten()
    here = torch.ones(len(read.x), dtype=torch.bool)
    here[tested[left:]] = False
    fewer = read._replace(examples=read.examples.select(here), x=read.x[here])
    truth = probe_letters(fewer)
    assert truth.f1["e"] > 0.6, "the probe itself is good"
    assert (LETTERS.index("e") in truth.letters) is (left == 10)
    said = absorption_of({"sae": sae}, fewer, truth._replace(gate="closed"))
    assert said.counts["e"] == (40, left)
    assert said.settings["too few words"] == ([] if left == 10 else ["e"])


def test_main_latents_that_do_not_find_their_letter_are_marked():
    read, sae = world("none")
    silent = read.latents["sae"].values.clone()
    silent[:, 2] = 0
    found = absorption_of({"sae": sae}, read._replace(latents={"sae": Latents(torch.arange(26), silent)}))
    row = found.rows["sae"]
    assert row.not_found == ["c"]
    by = {one.letter: one for one in row.letters}
    assert by["c"].main_f1 < by["c"].always + 0.03 == pytest.approx(2 / 27 + 0.03)
    assert by["d"].main_f1 == 1.0
    assert row.f1.value == pytest.approx((25 + by["c"].main_f1) / 26)
    written = found.to_json()["rows"]["sae"]
    assert written["not_found"] == ["c"]
    assert written["f1"]["value"] == row.f1.value
    assert [one["letter"] for one in written["letters"] if not one["found"]] == ["c"]
    text = probe._absorption("resid_post.0", found)
    assert "sae: main latents no better than always yes: c" in text
    assert f"{row.f1.value:.3f}" in text
    assert "absorption says nothing, high or low" in text


@pytest.mark.slow
def test_shuffled_letters_choose_main_latents_that_mean_nothing():
    read, sae = world("none")
    found = absorption_of({"sae": sae}, read, control="sae")
    own, control = found.rows["sae"], found.rows["sae: shuffled letters"]
    assert own.f1.value == 1.0
    assert control.f1.value < 0.5
    assert control.fraction.value > 0.5 > own.fraction.value == 0.0
    again = absorption_of({"sae": sae}, read, control="sae", seed=1)
    assert again.rows["sae"] == own
    assert again.rows["sae: shuffled letters"] != control


# Words and prompts


def vocabulary() -> PreTrainedTokenizerFast:
    """` xaa`, ` xba`, …: for every letter x 78 words, and other tokens."""
    pieces = ["<s>", "</s>", "The", "Ġ", ":", "Ċ", "Ġhas", "Ġthe", "Ġfirst", "Ġletter", "ĠThe", "Ġétoile", "Ġa1", "Ġa"]
    pieces += [f"Ġ{one}" for one in string.ascii_uppercase]
    pieces += [f"Ġ{one}{two}{three}" for one in LETTERS for two in LETTERS for three in "aiu"]
    core = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<s>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def test_words_are_single_tokens_of_letters_once_each():
    found = words(vocabulary())
    assert found["the"] == 7, "the smaller id of ` the` and ` The`"
    assert {"has", "first", "letter", "aba"} <= set(found)
    assert not {"a", "a1", "étoile", "A", ""} & set(found)


def test_prompts_spell_other_words_and_end_with_the_word():
    tokenizer = vocabulary()
    examples = first_letters(tokenizer, per_letter=10, shots=2, seed=3)
    assert len(examples.ids) == 260
    assert int(examples.train.sum()) == 208
    first = tokenizer.decode(examples.ids[0]).split("\n")
    assert len(first) == 3
    assert all(line.split()[1:5] == ["has", "the", "first", "letter:"] for line in first[:2])
    assert all(line.split()[0][0].upper() == line.split()[-1] for line in first[:2])
    assert LETTERS[examples.labels[0]] == first[2].strip()[0]
    learned = {own[-1] for own, train in zip(examples.ids, examples.train.tolist()) if train}
    tested = {own[-1] for own, train in zip(examples.ids, examples.train.tolist()) if not train}
    assert not learned & tested
    for own in examples.ids:
        shown = {own[0], own[len(own) // 2]}
        assert shown <= learned
        assert own[-1] not in shown
    again = first_letters(tokenizer, per_letter=10, shots=2, seed=3)
    assert again.ids == examples.ids
    assert first_letters(tokenizer, per_letter=10, shots=2, seed=4).ids != examples.ids


def test_a_vocabulary_without_words_is_refused():
    assert "needs many" in refused(
        first_letters, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    )
    assert "give at least" in refused(first_letters, vocabulary(), shots=-1)


# The whole task on a model


def model() -> LanguageModel:
    """A random model whose embedding of a word holds its first letter."""
    torch.manual_seed(0)
    tokenizer = vocabulary()
    shape = {"vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(**shape, num_attention_heads=4, max_position_embeddings=64)
    net = LlamaForCausalLM(config)
    letter = torch.randn(26, 48) / 4
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token]).strip()
        if len(text) == 3 and text.isalpha():
            net.model.embed_tokens.weight.data[token] += letter[LETTERS.index(text[0].lower())]
    return LanguageModel(net, tokenizer, name="letters")


def autoencoder(**info: object) -> SAE:
    sae = SAE(
        DenseEncoder(48, 64), TopK(64, 4), info={"site": "resid_post.0", "exclusion": Exclusion().describe(), **info}
    )
    generator = torch.Generator().manual_seed(1)
    sae.initialise(torch.randn(256, 48, generator=generator) / 8, generator)
    return sae.eval()


@pytest.mark.slow
def test_the_task_runs_on_a_model_beside_random_directions():
    examples = first_letters(vocabulary(), per_letter=None, shots=0)
    found = absorption({"sae": autoencoder()}, model(), examples)
    assert found.gate == ""
    assert list(found.rows) == ["sae", "random directions", "sae: shuffled letters"]
    assert found.settings["words"] + found.settings["left out"] == len(examples.ids)
    for row in found.rows.values():
        assert 0 <= row.fraction.value <= 1
        assert row.splits.value >= 1
        assert len(row.letters) == len(found.settings["letters"]) >= 20
    written = json.loads(json.dumps(found.to_json()))
    assert written["measurable"] is True
    assert written["rows"]["sae"]["letters"][0]["letter"] == "a"


def test_a_model_that_knows_no_letters_is_not_measured():
    lm = tiny.llama(n_layers=1)
    sae = SAE(DenseEncoder(32, 40), TopK(40, 4), info={"site": "resid_post.0", "exclusion": Exclusion().describe()})
    sae.initialise(torch.randn(64, 32), torch.Generator().manual_seed(0))
    found = absorption({"sae": sae}, lm, first_letters(lm.tokenizer, shots=1))
    assert "not measurable here" in found.gate
    assert found.rows == {}
    assert found.to_json()["measurable"] is False


def test_transcoders_are_refused():
    sae, examples = autoencoder(target="mlp_out.0"), first_letters(vocabulary(), per_letter=70)
    assert "is a transcoder" in refused(absorption, {"sae": sae}, model(), examples)
    found = unread({"sae": sae}, examples)
    assert found is not None
    assert found.gate.startswith("not measurable here: sae is a transcoder")
    assert unread({"sae": autoencoder()}, examples) is None


def test_too_few_words_are_said_before_anything_is_read():
    found = absorption({"sae": autoencoder()}, None, first_letters(vocabulary(), per_letter=20, shots=0))
    assert "finds 0 letters with F1 > 0.6 on 10 test words or more" in found.gate
    assert "more words may help" in found.gate
    assert sum(found.counts["a"]) == 20
