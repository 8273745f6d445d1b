"""What fires on a prompt, and which features belong to a word."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

import run_folder
import tiny
from monosem.evaluation import FeatureStatistics, feature_statistics, promoted, read_prompt, search_features
from monosem.evaluation.prompt import prompt_ids
from monosem.evaluation.word import Text, Word, around
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.sae import SAE, BatchTopK, DenseEncoder, ReLU, TopK
from monosem.shapes import InputError
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows

D, F = 32, 48
SITE = "resid_post.1"
PROMPT = "seven birds sang about rain"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny.llama()


def autoencoder(rule=None, encoder=None, text=None, **exclusion) -> SAE:
    info = {"site": SITE, "exclusion": Exclusion(**exclusion).describe()} | ({} if text is None else {"text": text})
    sae = SAE(encoder or DenseEncoder(D, F), rule or TopK(F, 6), info=info)
    generator = torch.Generator().manual_seed(1)
    sae.initialise(torch.randn(256, D, generator=generator) * 3 + 1, generator)
    if isinstance(sae.rule, BatchTopK):
        sae.rule.cut.fill_(1.0)
    return sae.eval()


# What fires on a prompt


@pytest.mark.parametrize("rule", [TopK(F, 6), BatchTopK(F, 6), ReLU(F)], ids=["fixed", "ragged", "dense"])
def test_firings_are_the_strongest_of_encode(lm, rule):
    sae = autoencoder(rule)
    found = read_prompt(sae, lm, PROMPT, top=4)
    ids = [1, *lm.tokenizer(PROMPT)["input_ids"]]
    with torch.no_grad():
        acts = sae.encode(lm.capture(torch.tensor([ids]), [SITE])[lm.site(SITE)][0])
    torch.testing.assert_close(found.codes.dense(), acts)
    assert [token.token for token in found.tokens] == ids
    assert "".join(token.text for token in found.tokens[1:]) == PROMPT
    assert (found.tokens[0].excluded, found.tokens[0].firings) == ("first position, special token", [])
    for token, row in list(zip(found.tokens, acts))[1:]:
        values, latents = row.sort(descending=True)
        assert token.excluded == ""
        assert token.l0 == int((row != 0).sum())
        kept = min(4, token.l0)
        assert [firing.latent for firing in token.firings] == latents[:kept].tolist()
        assert [firing.value for firing in token.firings] == pytest.approx(values[:kept].tolist())


def test_excluded_tokens_say_why(lm):
    acts = lm.capture(torch.tensor([[1, *lm.tokenizer(PROMPT)["input_ids"]]]), [SITE])[lm.site(SITE)][0]
    norms = acts.norm(dim=1)
    strongest = int(norms[3:].argmax()) + 3
    limit = float(norms[3:].sort().values[-2:].mean())
    sae = autoencoder(first=2, max_norm={SITE: limit})
    found = read_prompt(sae, lm, PROMPT)
    assert found.tokens[1].excluded.startswith("first position")
    assert found.tokens[strongest].excluded == f"norm above {limit:,.0f} at {SITE}"
    assert found.tokens[strongest].firings == []
    mask = sae.info["exclusion"]
    special = torch.tensor([[True] + [False] * (len(acts) - 1)])
    expected = Exclusion(**mask).mask(special, {lm.site(SITE): acts[None]})[0]
    assert [bool(token.excluded) for token in found.tokens] == expected.tolist()
    lenient = autoencoder(special=False, first=0)
    assert [token.excluded for token in read_prompt(lenient, lm, PROMPT).tokens] == [""] * len(acts)


def test_a_prompt_follows_what_begins_a_text_in_training(lm):
    own = lm.tokenizer(PROMPT)["input_ids"]
    cases = {
        None: [1, *own],
        ("separator", True): [1, *own],
        ("separator", False): own,
        ("bos", True): [0, *own],
    }
    for stored, expected in cases.items():
        text = None if stored is None else {"bos": False, "separator": False} | dict([stored])
        sae = autoencoder(text=text)
        assert prompt_ids(sae, lm, PROMPT).tolist() == expected
        assert prompt_ids(sae, lm, PROMPT, lead=False).tolist() == own
    assert prompt_ids(autoencoder(), lm, "</s>" + PROMPT).tolist() == [1, *own], "it is there already"


def test_prompts_that_cannot_be_read_are_refused(lm):
    with pytest.raises(InputError, match="the prompt is empty"):
        read_prompt(autoencoder(), lm, "")
    with pytest.raises(InputError, match="top = 0"):
        read_prompt(autoencoder(), lm, PROMPT, top=0)
    with pytest.raises(InputError, match="reads at most 128"):
        read_prompt(autoencoder(), lm, PROMPT * 40)
    with pytest.raises(InputError, match="does not say its site"):
        read_prompt(SAE(DenseEncoder(D, F), TopK(F, 2)), lm, PROMPT)


# Which features belong to a word

SAID = "The cat sat on a mat while seven birds sang. Category: THE CAT, cats; rain and Northern light"


def windows(said: str = SAID, length: int = 24, count: int = 12) -> Windows:
    ids = tiny.tokenizer()(" ".join([said] * 40))["input_ids"]
    tokens = torch.tensor([ids[5 * row : 5 * row + length] for row in range(count)], dtype=torch.int32)
    tokens[:, 9] = 1
    return Windows(tokens, torch.zeros_like(tokens), tokens < 2, {"corpus": "said"})


def found_words(word: str, regex: bool = False) -> list[str]:
    """The marked stretches of one window."""
    ids = tiny.tokenizer()(SAID)["input_ids"]
    spelling = Spelling(tiny.tokenizer())
    marks = Text(np.array([ids], dtype=np.int32), spelling).marked(Word.of(word, regex))[0]
    stretches, before = [], False
    for token, marked in zip(ids, marks.tolist()):
        if marked and not before:
            stretches.append("")
        if marked:
            stretches[-1] += spelling.word(token)
        before = marked
    return stretches


def test_words_are_found_whole_in_any_case_over_several_tokens():
    assert [one.strip() for one in found_words("cat")][:1] == ["cat"]
    assert [one.strip().casefold() for one in found_words("category")] == ["category"]
    assert [one.strip() for one in found_words("THE CAT")] == ["The cat", "THE CAT"]
    assert len(tiny.tokenizer()(" Category")["input_ids"]) > 1
    assert found_words("orther") == [], "the middle of a word is no word"
    assert found_words("dog") == []


def test_a_token_of_its_own_counts_as_a_word_piece():
    ids = tiny.tokenizer()(" cats")["input_ids"]
    pieces = [Spelling(tiny.tokenizer()).word(token) for token in ids]
    assert pieces == [" cat", "s"]
    assert any(one == "s" for one in found_words("s"))


def test_expressions_are_searched_in_running_text():
    assert [one.strip(" :,;") for one in found_words(r"cat\w+", True)] == ["Category", "cats"]
    assert [one.strip() for one in found_words(r"n(or)+thern\s+light", True)] == ["Northern light"]
    for bad, message in (("(", "not a regular expression"), ("x*", "matches everywhere"), ("", "empty")):
        with pytest.raises(InputError, match=message) as refusal:
            Word.of(bad, regex=True)
        assert "\n" not in str(refusal.value)


def test_around_is_every_token_within_reach():
    marks = np.zeros((2, 9), dtype=bool)
    marks[0, 2], marks[1, 8] = True, True
    assert around(marks, 2).nonzero()[1].tolist() == [0, 1, 2, 3, 4, 6, 7, 8]
    assert (around(marks, 0) == marks).all()


def planted(lm: LanguageModel, token: int, latent: int = 5) -> SAE:
    """An autoencoder of the embedding whose latent 5 fires on one token alone, and whose latent 11 promotes it."""
    sae = autoencoder(ReLU(F))
    sae.info["site"] = "embed"
    sae.scale = sae.code_scale = 1.0
    sae.b_dec.data.zero_()
    rows = lm.model.get_input_embeddings().weight.detach()
    wanted = one_hot(torch.tensor(token), len(rows)).float()
    # The direction in which this token exceeds every other one most.
    direction = torch.linalg.lstsq(rows, wanted).solution
    scores = rows @ direction
    best = float(scores[scores < scores[token]].max())
    sae.encoder.weight.data[latent] = direction
    sae.encoder.bias.data[latent] = -best - 0.01 * (float(scores[token]) - best)
    logits = lm.model.lm_head.weight.detach() * lm.model.model.norm.weight.detach()
    sae.W_dec.data[11] = torch.linalg.lstsq(logits, wanted).solution
    return sae.eval()


@pytest.fixture(scope="module")
def searched(lm, tmp_path_factory):
    """`cat`, planted: latent 5 fires on it alone, latent 11 promotes it."""
    token = lm.tokenizer(" cat")["input_ids"][0]
    assert lm.tokenizer.decode([token]) == " cat"
    sae = planted(lm, token)
    path = feature_statistics({"sae": sae}, lm, windows())["sae"].save(tmp_path_factory.mktemp("searched") / "file")
    return sae, FeatureStatistics.load(path)


def test_a_planted_feature_is_first_with_its_numbers(lm, searched):
    sae, statistics = searched
    hits = search_features(statistics, sae, lm, "CAT", contexts=6)
    first = hits[0]
    assert first.latent == 5
    assert first.peaks == first.contexts == 6
    assert first.reason == "its peak in 6 of 6 contexts"
    assert first.mean_off == 0
    tokens, values = statistics.activations(5)
    kept = ~statistics.left_out().ravel()
    marks = Text(statistics.text(), Spelling(lm.tokenizer)).marked(Word.of("cat")).ravel() & kept
    assert first.mean_on == pytest.approx(values.sum() / marks.sum(), rel=1e-6)
    assert marks[tokens].all()
    share = marks.sum() / kept.sum()
    assert first.score == pytest.approx((6 - 6 * share) / 7)
    promoting = next(hit for hit in search_features(statistics, sae, lm, "cat", n=F) if hit.latent == 11)
    assert (promoting.rank, promoting.promoted) == (1, " cat")
    assert promoting.score >= 0.5
    assert [hit.score for hit in hits] == sorted([hit.score for hit in hits], reverse=True)


def test_means_and_ranks_of_all_hits_are_direct_computations(lm, searched):
    sae, statistics = searched
    hits = search_features(statistics, sae, lm, r"cat|seven", regex=True, n=F)
    acts = lm.capture(windows().tokens, ["embed"])[lm.site("embed")]
    with torch.no_grad():
        dense = sae.encode(acts).flatten(0, 1).double().numpy()
    kept = ~statistics.left_out().ravel()
    marks = Text(statistics.text(), Spelling(lm.tokenizer)).marked(Word.of(r"cat|seven", True)).ravel() & kept
    top = promoted(sae, lm, range(F), 10).top_ids.tolist()
    assert len(hits) > 10
    for hit in hits:
        assert hit.mean_on == pytest.approx(dense[marks, hit.latent].mean(), rel=1e-5)
        assert hit.mean_off == pytest.approx(dense[kept & ~marks, hit.latent].mean(), rel=1e-5)
        words = [Spelling(lm.tokenizer).word(token) for token in top[hit.latent]]
        ranks = [rank for rank, word in enumerate(words, 1) if re.search("cat|seven", word, re.IGNORECASE)]
        assert hit.rank == (ranks[0] if ranks else None)
        if hit.rank is not None:
            assert hit.promoted == words[hit.rank - 1]


def test_words_beside_the_peak_count_half(lm, searched):
    """Latent 5 fires on `cat`, which follows `the` in this text."""
    sae, statistics = searched
    hit = next(hit for hit in search_features(statistics, sae, lm, "the", n=F, width=1) if hit.latent == 5)
    assert hit.peaks == 0
    assert hit.near > 0
    assert hit.reason.startswith("within 1 tokens of the peak")
    kept = ~statistics.left_out()
    marks = Text(statistics.text(), Spelling(lm.tokenizer)).marked(Word.of("the")) & kept
    chance = (around(marks, 1) & kept & ~marks).sum() / kept.sum()
    assert hit.score == pytest.approx((hit.near - chance * hit.contexts) / (hit.contexts + 1) / 2)


def test_sums_in_parts_are_sums(searched, monkeypatch):
    _, statistics = searched
    marked = np.random.default_rng(0).random(statistics.text().size) < 0.3
    whole = statistics.on(marked)
    monkeypatch.setattr("monosem.evaluation.feature_file._ENTRIES", 7)
    for one, other in zip(whole, statistics.on(marked)):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    for latent in (0, 5, 11):
        tokens, values = statistics.activations(latent)
        assert whole[0][latent] == marked[tokens].sum()
        assert whole[1][latent] == pytest.approx(float(values[marked[tokens]].sum()), rel=1e-6)


def test_a_word_that_never_occurs_is_refused_with_the_nearest(lm, searched):
    sae, statistics = searched
    with pytest.raises(InputError, match=r"'sevne' occurs on none .* the nearest words are seven") as refusal:
        search_features(statistics, sae, lm, "sevne")
    assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match="matches on none"):
        search_features(statistics, sae, lm, r"zzz\d", regex=True)
    with pytest.raises(InputError, match="no word of the text is like it"):
        search_features(statistics, sae, lm, "xqzzyxqv")
    with pytest.raises(InputError, match="statistics are of 48 latents, the autoencoder has 24"):
        search_features(statistics, autoencoder(TopK(24, 2), DenseEncoder(D, 24)), lm, "cat")


# The command


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of a KronSAE."""
    folder = tmp_path_factory.mktemp("prompt")
    named = run_folder.inputs(folder)
    settings = {**run_folder.SETTINGS, **named, "tokens": 1600, "distinct_tokens": 1600, "sae": "kron,topk"}
    settings |= {"heads": 4, "base": 3, "extension": 4}
    run_folder.train_inside(folder, settings, "run")
    return folder


@pytest.fixture
def call(place, monkeypatch, capsys):
    return run_folder.caller(place, monkeypatch, capsys)


def test_a_prompt_is_shown_token_by_token(call, place):
    (place / "run/saes/kron/features.safetensors").unlink(missing_ok=True)
    status, out, err = call("features", "run", "--prompt", PROMPT, "--top", "2", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["sae"] == "kron"
    assert found["tokens"][0]["excluded"] == "first position, special token"
    assert all(len(token["firings"]) <= 2 for token in found["tokens"])
    assert any(token["firings"] for token in found["tokens"])
    for latent, about in found["features"].items():
        assert about["density"] is None
        assert len(about["promotes"]) == 5
        head, base, extension = about["factors"].values()
        assert (head * 3 + base) * 4 + extension == int(latent)
    assert not (place / "run/saes/kron/features.safetensors").exists(), "no text is read for a prompt"
    status, out, _ = call("features", "run", "--prompt", PROMPT)
    assert "no densities" in out
    call("features", "run", "--windows", "12")
    status, out, _ = call("features", "run", "--prompt", PROMPT, "--json")
    assert all(about["density"] is not None for about in json.loads(out)["features"].values())
    status, out, _ = call("features", "run", "--prompt", PROMPT, "--no-lead")
    assert "excluded: first position\n" in out
    assert "no densities" not in out
    assert re.search(r"\d+ \(\d, \d, \d\) +\d+\.\d\d +\d", out), "latent, (head, base, extension), value, density"


def test_a_feature_of_a_kron_says_its_parents(call):
    _, out, _ = call("features", "run", "17", "--windows", "12", "--json")
    assert json.loads(out)["features"][0]["factors"] == {"head": 1, "base": 1, "extension": 1}
    _, out, _ = call("features", "run", "17", "--windows", "12")
    assert out.startswith("feature 17 (1, 1, 1): fires on")
    _, out, _ = call("features", "run", "17", "--windows", "12", "--sae", "topk", "--json")
    assert "factors" not in json.loads(out)["features"][0]


def test_a_search_lists_features_with_their_reason(call):
    status, out, err = call("features", "run", "--search", "birds", "--windows", "12", "--list", "3", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["search"], found["regex"], len(found["features"])) == ("birds", False, 3)
    assert {"latent", "score", "reason", "density", "factors"} <= set(found["features"][0])
    status, out, _ = call("features", "run", "--search", "b.rds", "--regex", "--windows", "12")
    assert status == 0
    assert "why" in out.splitlines()[0]
    assert found["features"][0]["reason"] in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "x", "--search", "y"], "--prompt and --search were asked for at once"),
        (["3", "--prompt", "x"], "--prompt and single features"),
        (["--regex"], "--regex was given without --search"),
        (["--prompt", "x", "--sae", "relu"], "has no autoencoder 'relu'"),
        (["--prompt", "x", "--top", "0"], "top = 0"),
        (["--search", "brids", "--windows", "12"], "the nearest words are birds"),
        (["--search", " "], "empty"),
        (["--search", "(", "--regex"], "not a regular expression"),
    ],
)
def test_bad_input_is_one_line(call, arguments, message):
    run_folder.assert_refused(call("features", "run", *arguments), message)
