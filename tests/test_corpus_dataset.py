"""Datasets of the hub, streamed: here from local folders, which `datasets` reads by the same code."""

from __future__ import annotations

import itertools
import json
import logging
import sys
from typing import Any

import pytest
import torch

import tiny
from monosem.disk import cache_folder
from monosem.text import Request, load_corpus, read
from monosem.text.dataset import Streaming, is_dataset, stream
from monosem.text.document import Column
from refusal import refused

datasets = pytest.importorskip("datasets")

NAME = "owner/talk"
COMMIT = "0123456789abcdef" * 2 + "01234567"


class Hub:
    """A hub whose datasets are folders; counts what is asked of it."""

    def __init__(self, folder: Any) -> None:
        self.folder, self.opened, self.read = folder, 0, 0
        self.commit = COMMIT
        self._load = datasets.load_dataset

    def load_dataset(self, name: str, *args: Any, revision: str, **kwargs: Any) -> Any:
        assert revision == self.commit, "what is read is the commit, not a branch"
        assert kwargs["streaming"] is True
        self.opened += 1
        for row in self._load(str(self.folder / name), *args, **kwargs):
            self.read += 1
            yield row

    def dataset_info(self, name: str, revision: str | None = None, timeout: float | None = None) -> Any:
        assert name == NAME
        return type("Info", (), {"sha": self.commit})()


def corpus_rows(count: int = 300) -> list[dict[str, Any]]:
    documents = tiny.corpus(count).documents
    rows = [{"text": text, "ids": tiny.tokenizer()(text)["input_ids"], "n": 1} for text in documents]
    return rows[:5] + [rows[0]] * 20 + [{"text": " ", "ids": [], "n": 1}] + rows[5:]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "hub" / NAME
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, corpus_rows())))
    (folder / "test.jsonl").write_text('{"text": "other"}')
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(datasets, "load_dataset", made.load_dataset)
    monkeypatch.setattr(HfApi, "dataset_info", lambda self, *args, **kwargs: made.dataset_info(*args, **kwargs))
    return made


def count(documents: list[Any]) -> list[int]:
    return [len(row) + 1 for row in tiny.tokenizer()(documents)["input_ids"]]


def taken(tokens: int, column: Column | None = None, **settings: Any) -> Any:
    counting = (lambda rows: [len(row) // 4 for row in rows]) if column and column.form == "tokens" else count
    return stream(NAME, column or Column(), Streaming(tokens, counting, "tiny", **settings))


def asked(part: str = "train", **settings: Any) -> Any:
    request = Request(**{"text": NAME, "window": 16, "wanted": 2000, **settings})
    return read(request, tiny.tokenizer(), part)


def test_the_first_documents_that_hold_the_tokens_are_taken(hub):
    want = tiny.corpus(300).documents
    held = list(itertools.accumulate(count(want)))
    enough = next(number for number, tokens in enumerate(held, 1) if tokens >= 3000)
    got = taken(3000)
    assert got.documents == want[:enough], "repetitions and blanks do not count"
    assert got.origin["documents"] == enough
    assert hub.read < 400 < sum(count(want)) / 10


def test_a_stream_is_not_read_to_its_end(hub, tmp_path):
    rows = [json.dumps({"text": f"{at} the cat sat"}) for at in range(5000)]
    (tmp_path / "hub" / NAME / "train.jsonl").write_text("\n".join(rows))
    taken(300)
    assert hub.read < 1000


def test_a_second_call_needs_no_network(hub, monkeypatch):
    first = taken(2000)
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", None)
    again = taken(2000)
    assert again == first
    assert hub.opened == 1
    assert "install datasets: pip install 'monosem[data]'" in refused(taken, 2001, revision=COMMIT)


def test_a_branch_stays_what_it_was_when_first_read(hub):
    before = taken(2000)
    hub.commit = "f" * 40
    assert taken(2000).origin["commit"] == before.origin["commit"] == COMMIT
    assert taken(2500).origin["commit"] == "f" * 40
    assert taken(2000, revision=hub.commit).origin["commit"] == "f" * 40
    assert taken(2000, revision="a-tag").origin["commit"] == "f" * 40


def test_whatever_decides_the_documents_names_them(hub):
    taken(2000)
    for words in ({"split": "test"}, {"revision": COMMIT}, {"config": "default"}):
        before = hub.opened
        taken(2000, **words)
        assert hub.opened == before + 1, words
    before = hub.opened
    taken(1999)
    taken(2000, Column("ids", "tokens"))
    assert hub.opened == before + 2
    assert "'ids' holds list, expected text" in refused(taken, 2000, Column("ids"))


def test_a_damaged_copy_is_read_again(hub, caplog):
    caplog.set_level(logging.INFO, "monosem")
    first = taken(2000)
    (rows,) = (cache_folder() / "datasets").glob("*.gz")
    (note,) = (cache_folder() / "datasets").glob("*.json")
    for path, bad in ((rows, rows.read_bytes()[:-9]), (note, note.read_bytes().replace(b"2000", b"2001"))):
        path.write_bytes(bad)
        assert taken(2000) == first
    assert hub.opened == 3
    assert len([said for said in caplog.messages if "damaged" in said]) == 2


def test_a_dataset_that_ends_is_taken_whole_and_it_is_said(hub, caplog):
    assert len(taken(10**9).documents) == 300
    assert "owner/talk ended after" in caplog.text


def test_token_ids_come_back_as_they_were(hub):
    rows = taken(2000, Column("ids", "tokens")).documents
    assert rows == taken(2000, Column("ids", "tokens")).documents
    assert hub.opened == 1
    assert rows == [bytes(torch.tensor(ids, dtype=torch.int32).numpy()) for ids in (
        tiny.tokenizer()(text)["input_ids"] for text in tiny.corpus(300).documents[: len(rows)])]  # fmt: skip


def test_windows_of_a_dataset(hub):
    train, held_out = asked(), asked("held_out")
    assert hub.opened == 1, "both parts of the split are of the same documents"
    assert train.tokens.numel() >= 2000
    origin = train.identity["dataset"]
    assert (origin["name"], origin["split"], origin["commit"]) == (NAME, "train", COMMIT)
    rows = [set(side.documents.unique().tolist()) for side in (train, held_out)]
    assert len(rows[0]) + len(rows[1]) <= origin["documents"]
    texts = [
        set(tiny.tokenizer().decode(side.tokens.flatten().tolist()).split("</s>")[1:-1]) for side in (train, held_out)
    ]
    assert not texts[0] & texts[1]
    assert texts[0] | texts[1] <= set(tiny.corpus(300).documents)
    assert asked(take=5000).identity["dataset"]["tokens"] == 5000
    assert asked(take=5000).identity != train.identity


def test_a_dataset_can_be_a_part_of_a_mixture(hub, tmp_path):
    (tmp_path / "one.txt").write_text("\n\n".join(tiny.corpus(120, seed=7).documents))
    got = asked(text=f"{NAME}:1,{tmp_path / 'one.txt'}:3")
    assert got.parts.bincount(minlength=2).min() > 0
    part = got.identity["parts"][0]["dataset"]
    assert part["tokens"] < asked().identity["dataset"]["tokens"] / 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"split": "absent"}, "Bad split: absent"),
        ({"config": "absent"}, "BuilderConfig 'absent' not found"),
    ],
)
def test_what_a_dataset_does_not_have_is_one_clear_line(hub, words, message):
    said = refused(taken, 2000, **words)
    assert f"cannot read the dataset owner/talk ({message}" in said
    assert "--text-config, --split, --revision" in said


def test_a_wrong_column_is_one_clear_line(hub):
    assert "owner/talk, row 1: no text under 'body' but the keys text, ids, n" in refused(taken, 2000, Column("body"))
    assert "owner/talk, row 1: 'n' holds int" in refused(taken, 2000, Column("n"))


def test_without_a_network_it_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path))
    for words in ({}, {"revision": COMMIT}):
        said = refused(taken, 2000, **words)
        assert "cannot read the dataset owner/talk (" in said
        assert "or give a local file or folder" in said
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("HuggingFaceFW/fineweb-edu", True),
        ("a/b.c_d-1", True),
        ("fineweb", False),
        ("./a/b", False),
        ("a/b/c", False),
        ("/a/b", False),
        ("~/b", False),
        ("texts/absent.jsonl", False),
        ("texts/absent.txt.gz", False),
    ],
)
def test_what_could_be_a_name_on_the_hub(where, expected):
    assert is_dataset(where) is expected


def test_a_mistyped_file_is_not_looked_up(hub):
    assert "is not a file" in refused(load_corpus, "texts/absent.jsonl", "text", Streaming(9, count, "tiny"))
    assert hub.opened == 0
