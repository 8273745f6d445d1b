"""Several texts in given shares of tokens."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch

import tiny
from monosem.activations import Store, record
from monosem.text import Request, Windows, read, windows
from monosem.text.mixture import Part, mixed, parts
from monosem.training.config import TrainConfig
from refusal import refused


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))


def text(name: str, count: int, first: int) -> Windows:
    """`count` windows of 4 tokens; every token is the number of its window, from `first`."""
    tokens = torch.arange(first, first + count, dtype=torch.int32)[:, None].expand(-1, 4).contiguous()
    documents = (torch.arange(count, dtype=torch.int32) // 2)[:, None].expand(-1, 4).contiguous()
    return Windows(tokens, documents, tokens < 0, {"corpus": name, "revision": name, "length": 4, "split": "train"})


TEXTS = [text("a", 400, 0), text("b", 60, 1000), text("c", 200, 2000)]
SHARES = [Part("a", 0.6), Part("b", 0.1), Part("c", 0.3)]


def test_every_beginning_holds_the_parts_in_their_shares():
    got = mixed(TEXTS, SHARES)
    for number, part in enumerate(SHARES):
        held = (got.parts == number).cumsum(0)
        wanted = part.share * torch.arange(1, len(held) + 1)
        assert (held - wanted).abs().max() <= len(SHARES) - 1


def test_windows_of_a_part_keep_their_order_and_know_it():
    got = mixed(TEXTS, SHARES)
    for number, own in enumerate(TEXTS):
        mine = got.parts == number
        assert torch.equal(got.tokens[mine], own.tokens[: int(mine.sum())])
    owners = [set(got.documents[got.parts == number].flatten().tolist()) for number in range(3)]
    assert not any(one & other for one, other in itertools.combinations(owners, 2))
    assert torch.equal(got.first(7).parts, got.parts[:7])


def test_it_ends_where_the_first_part_runs_out():
    got = mixed(TEXTS, SHARES)
    held = got.parts.bincount()
    assert held[1] == 60
    assert len(got.tokens) == pytest.approx(600, abs=12)
    assert held[0] < 400
    assert held[2] < 200


def test_the_order_is_decided_by_the_seed():
    assert torch.equal(mixed(TEXTS, SHARES, seed=3).tokens, mixed(TEXTS, SHARES, seed=3).tokens)
    other = mixed(TEXTS, SHARES, seed=4)
    assert other.identity != mixed(TEXTS, SHARES, seed=3).identity
    assert not torch.equal(other.first(100).tokens, mixed(TEXTS, SHARES, seed=3).first(100).tokens)


def test_a_longer_part_changes_nothing_that_was_there():
    longer = [TEXTS[0], text("b", 90, 1000), TEXTS[2]]
    before, after = mixed(TEXTS, SHARES), mixed(longer, SHARES)
    # The last window of the part that ran out may stand before others of its neighbours.
    same = len(before.tokens) - 12
    assert torch.equal(before.first(same).tokens, after.first(same).tokens)


def test_a_mixture_that_runs_out_says_which_part_how_much_and_what_to_do():
    message = refused(mixed, TEXTS, SHARES, wanted=800)
    assert "b gave its 240 tokens" in message
    assert "0.1 of 3,200 is 320" in message
    assert "lower its share to 0.0742" in message
    assert "--repeat" in message
    most = int(re.search(r"at most ([\d,]+) tokens", message)[1].replace(",", ""))
    assert len(mixed(TEXTS, SHARES, wanted=most // 3).tokens) >= most // 3, "the advice can be followed"


def test_repeated_parts_begin_anew():
    got = mixed(TEXTS, SHARES, wanted=1500, repeat=True)
    assert len(got.tokens) == 1500
    mine = got.tokens[got.parts == 1][:, 0] - 1000
    assert torch.equal(mine, torch.arange(len(mine), dtype=torch.int32) % 60)
    enough = mixed(TEXTS, SHARES, wanted=300, repeat=True)
    assert enough.identity == mixed(TEXTS, SHARES).identity
    assert got.identity != enough.identity
    assert torch.equal(got.first(500).tokens, enough.first(500).tokens)


def test_its_identity_names_parts_and_shares_once():
    identity = mixed(TEXTS, SHARES).identity
    assert identity["corpus"] == "a:0.6,b:0.1,c:0.3"
    assert identity["length"] == 4
    assert [row["share"] for row in identity["parts"]] == [0.6, 0.1, 0.3]
    assert [row["revision"] for row in identity["parts"]] == ["a", "b", "c"]
    assert "length" not in identity["parts"][0]
    changed = [TEXTS[0]._replace(identity=TEXTS[0].identity | {"revision": "x"}), *TEXTS[1:]]
    assert mixed(changed, SHARES).identity["revision"] != identity["revision"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("news", [("news", 1.0)]),
        ("news:0.7,bundestag:0.3", [("news", 0.7), ("bundestag", 0.3)]),
        (" news:3 , bundestag:1 ,", [("news", 0.75), ("bundestag", 0.25)]),
        ("news:2", [("news", 1.0)]),
        ("owner/name:1,a:b.txt:1", [("owner/name", 0.5), ("a:b.txt", 0.5)]),
        ("c:drive.txt", [("c:drive.txt", 1.0)]),
    ],
)
def test_names_with_weights(written, expected):
    assert [(part.name, pytest.approx(part.share)) for part in parts(written)] == expected


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("news:0.7,bundestag", "'bundestag' has no weight, write NAME:WEIGHT"),
        ("news:0.7,bundestag:much", "the weight of bundestag is 'much', expected a number above 0"),
        ("news:0.7,bundestag:-1", "the weight of bundestag is '-1'"),
        ("news:0.7,bundestag:0", "the weight of bundestag is '0'"),
        ("news:nan,bundestag:1", "the weight of news is 'nan'"),
        ("news:0.7,news:0.3", "news comes twice"),
    ],
)
def test_bad_weights_are_refused(written, message):
    assert message in refused(parts, written)


def test_a_file_whose_name_looks_like_a_mixture_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:1,b:2").write_text("")
    assert parts("a:1,b:2") == [Part("a:1,b:2", 1.0)]


def test_a_table_of_weights_in_toml_is_the_same(tmp_path):
    (tmp_path / "s.toml").write_text('k = 3\n[text]\nnews = 0.7\n"my texts.txt" = 1\n')
    assert TrainConfig.from_toml(tmp_path / "s.toml")["text"] == "news:0.7,my texts.txt:1"


# ---- whole texts


def files(folder: Any) -> tuple[Any, Any]:
    """Two texts that share a document, which therefore has to be in the first alone."""
    one, two = tiny.corpus(120, seed=1).documents, tiny.corpus(60, seed=2).documents
    (folder / "one.txt").write_text("\n\n".join(one))
    (folder / "two.txt").write_text("\n\n".join([*two, one[0]]))
    return folder / "one.txt", folder / "two.txt"


def asked(where: str, part: str = "train", **settings: Any) -> Windows:
    request = Request(text=where, **{"window": 16, "wanted": 1500, **settings})
    return read(request, tiny.tokenizer(), part)


def test_a_mixture_of_files_is_made_of_their_windows(tmp_path):
    one, two = files(tmp_path)
    got = asked(f"{one}:3,{two}:1")
    assert got.parts[:100].bincount().tolist() in ([75, 25], [74, 26], [76, 24])
    corpus = tiny.corpus(120, seed=1)._replace(name="one.txt", revision="")
    alone = windows(corpus, tiny.tokenizer(), part="train", length=16)
    first = got.tokens[got.parts == 0]
    assert torch.equal(first, alone.tokens[: len(first)])
    shared = corpus.documents[0].split()[:4]
    decoded = [tiny.tokenizer().decode(got.tokens[got.parts == part].flatten().tolist()) for part in (0, 1)]
    assert " ".join(shared) not in decoded[1]
    assert got.identity["parts"][1]["revision"] != asked(f"{two}:1").identity["revision"]


def test_held_out_windows_are_mixed_too_and_need_not_be_many(tmp_path):
    one, two = files(tmp_path)
    train, held_out = (asked(f"{one}:1,{two}:1", part) for part in ("train", "held_out"))
    assert held_out.parts.bincount().min() > 0
    rows = [set(map(tuple, side.tokens.tolist())) for side in (train, held_out)]
    assert not rows[0] & rows[1]
    assert "runs out: " in refused(asked, f"{one}:1,{two}:9", wanted=50_000)
    assert len(asked(f"{one}:1,{two}:9", "held_out", wanted=50_000).tokens) < 50_000 / 16
    assert len(asked(f"{one}:1,{two}:9", wanted=50_000, repeat=True).tokens) == -(-50_000 // 15)


def test_a_part_that_repeats_another_has_nothing_left(tmp_path):
    one, _ = files(tmp_path)
    (tmp_path / "copy.txt").write_text(one.read_text())
    assert "copy.txt has no text that is not in the other parts" in refused(asked, f"{one}:1,{tmp_path / 'copy.txt'}:1")


def test_a_store_keeps_the_parts(tmp_path):
    one, two = files(tmp_path)
    lm = tiny.llama(n_layers=1)
    text = asked(f"{one}:1,{two}:1")
    store = record(lm, text, [lm.site("resid_post.0")], n_windows=20)
    assert torch.equal(Store(store.folder).windows.parts, text.parts)
