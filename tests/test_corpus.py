"""Where text comes from: files of every ending, folders, token ids; and what is refused, in one line."""

from __future__ import annotations

import gzip
import json
import logging
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import tiny
from monosem.text import Column, Request, load_corpus, read, split, tokenizer_hash, windows
from refusal import refused

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a cat"}]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))


def asked(where: Any, part: str = "train", **settings: Any) -> Any:
    """The windows of a request with the tiny tokenizer."""
    request = Request(text=str(where), **{"window": 16, "wanted": 100, **settings})
    return read(request, tiny.tokenizer(), part, vocab_size=len(tiny.tokenizer()))


# ---- files


def test_a_json_file_is_an_array_or_lines_and_may_be_packed(tmp_path):
    rows = [{"text": "one\n\ntwo"}, {"text": "three"}, {"text": None}, {"text": "three"}]
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=2))
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "lines.json").write_text(lines)
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    (tmp_path / "LINES.JSON.GZ").write_bytes(gzip.compress(lines.encode(), mtime=0))
    for name in ("array.json", "lines.json", "lines.jsonl.gz", "LINES.JSON.GZ"):
        assert load_corpus(str(tmp_path / name)).documents == ["one\n\ntwo", "three"], name


def test_a_saved_arrow_table_is_read(tmp_path):
    arrow, ipc = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.ipc")
    table = arrow.table({"text": ["x", None, "y"], "ids": [[1, 2], [3], None], "messages": [MESSAGES, None, MESSAGES]})
    with ipc.new_stream(tmp_path / "data.arrow", table.schema) as file:
        file.write_table(table)
    where = str(tmp_path / "data.arrow")
    assert load_corpus(where).documents == ["x", "y"]
    ids = load_corpus(where, Column("ids", "tokens")).documents
    assert [np.frombuffer(row, "<i4").tolist() for row in ids] == [[1, 2], [3]]
    assert json.loads(load_corpus(where, Column("messages", "chat")).documents[0]) == MESSAGES
    assert "has no column 'nope' but text, ids, messages" in refused(load_corpus, where, "nope")
    (tmp_path / "data.arrow").write_bytes(b"nothing")
    assert "not readable arrow" in refused(load_corpus, where)


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("a.json", b'{"text": \n 1}', Column(), "line 1: not JSON"),
        ("a.json", b'[{"text": 1}]', Column(), "row 1: 'text' holds int, expected text: name another column"),
        ("a.jsonl", b'{"text": ["a"]}', Column(), "line 1: 'text' holds list, expected text"),
        ("a.jsonl.gz", b"text", Column(), "not a whole gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}' * 99, mtime=0)[:-4], Column(), "not a whole gzip file"),
        ("a.parquet.gz", b"", Column(), "unknown text"),
        ("a.jsonl", b'{"m": []}', Column("m", "chat"), "'m' holds an empty list, expected a list of messages"),
        ("a.jsonl", b'{"m": "hi"}', Column("m", "chat"), "'m' holds str, expected a list of messages {role, content}"),
        ("a.jsonl", b'{"x": 1}', Column("m", "chat"), "no messages under 'm' but the keys x"),
        (
            "a.jsonl",
            b'{"m": [{"from": "human", "value": "x"}]}',
            Column("m", "chat"),
            "message 0 has the keys from, value, expected a role and a content",
        ),
        ("a.jsonl", b'{"m": ["hi"]}', Column("m", "chat"), "message 0 has str, expected a role"),
        ("a.jsonl", b'{"i": "1 2"}', Column("i", "tokens"), "'i' holds str, expected a list of token ids"),
        ("a.jsonl", b'{"i": [0.5]}', Column("i", "tokens"), "'i' holds an array of float64"),
        ("a.jsonl", b'{"i": [[1, 2], [3]]}', Column("i", "tokens"), "'i' holds list, expected a list of token ids"),
        ("a.jsonl", b'{"i": [3, -1]}', Column("i", "tokens"), "ids from -1 to 3: a token id is 0 or more"),
        ("a.npy", b"nothing", Column(), "not a readable .npy array"),
        ("a.safetensors", b"nothing", Column(), "not readable safetensors"),
    ],
)
def test_bad_content_is_refused_in_one_line(tmp_path, name, content, column, message):
    (tmp_path / name).write_bytes(content)
    assert message in refused(load_corpus, str(tmp_path / name), column)


def test_no_name_is_not_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert load_corpus(".").documents == ["a"]
    assert "unknown text ''" in refused(load_corpus, "")


# ---- folders


def test_a_folder_is_all_its_files_in_the_order_of_their_paths(tmp_path, caplog):
    folder = tmp_path / "notes"
    for name, text in {
        "b.txt": "one\n\ntwo",
        "a/z.md": "# three",
        "a/y.jsonl": '{"text": "four"}\n{"text": "five"}',
        "c.json.gz": None,
        ".hidden.txt": "no",
        ".git/a.txt": "no",
        "picture.png": "no",
        "ids.npy": "no",
        "dataset_info.json": "{}",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        packed = gzip.compress(b'[{"text": "six"}, {"text": "four"}]', mtime=0)
        (folder / name).write_bytes(packed if text is None else text.encode())
    corpus = load_corpus(str(folder))
    assert corpus.documents == ["four", "five", "# three", "one\n\ntwo", "six"]
    assert corpus.name == "notes"
    assert "one\n\ntwo" not in load_corpus(str(folder / "b.txt")).documents, "alone a file is split at blank lines"
    left = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(left) == 1
    for name in (".git/a.txt", ".hidden.txt", "picture.png", "ids.npy", "dataset_info.json"):
        assert name in left[0]


def test_a_file_of_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_bytes("é".encode("latin-1"))
    assert "b.txt is not UTF-8" in refused(load_corpus, str(tmp_path))
    (tmp_path / "b.txt").unlink()
    (tmp_path / "b.txt").symlink_to(tmp_path / "absent")
    assert "b.txt cannot be read (No such file" in refused(load_corpus, str(tmp_path))


def test_a_folder_without_what_is_asked_for_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.csv").write_text("a")
    message = refused(load_corpus, str(tmp_path), Column("messages", "chat"))
    assert "no file with messages" in message
    assert ".txt" not in message.partition("ending in")[2]


# ---- token ids


def ids_of(documents: list[str]) -> list[list[int]]:
    return [tiny.tokenizer()(document)["input_ids"] for document in documents]


def saved(folder: Any, rows: list[list[int]]) -> dict[str, str]:
    """The same documents of token ids in every way they can be written; by ending."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stream = np.concatenate([np.array([*row, 1], np.uint16) for row in rows])
    np.save(folder / "stream.npy", stream)
    save_file({"input_ids": stream.astype(np.int32)}, folder / "stream.safetensors")
    closed = [[*row, 1] for row in rows]
    parquet.write_table(arrow.table({"input_ids": closed}), folder / "rows.parquet")
    (folder / "rows.jsonl").write_text("\n".join(json.dumps({"input_ids": row}) for row in closed))
    return {name: str(folder / name) for name in ("stream.npy", "stream.safetensors", "rows.parquet", "rows.jsonl")}


def test_ids_give_the_windows_that_their_text_gives_whatever_holds_them(tmp_path):
    corpus = tiny.corpus()
    for where in saved(tmp_path, ids_of(corpus.documents)).values():
        column = Column("input_ids", "tokens", separator=1)
        given = load_corpus(where, column)
        decoded = [tiny.tokenizer().decode(np.frombuffer(row, "<i4").tolist()[:-1]) for row in given.documents]
        assert decoded == corpus.documents
        got = asked(where, tokenised="input_ids")
        assert got.identity["form"] == "tokens"
        assert got.identity["tokens_by"] == "unknown"
        # The split is by a hash of the ids, so the order differs; the tokens are the same but for the dropped tail.
        text = "".join(tiny.tokenizer().decode(np.frombuffer(row, "<i4").tolist()) for row in split(given).train)
        assert text.startswith(tiny.tokenizer().decode(got.tokens.flatten().tolist()))
        assert torch.equal(got.special, got.tokens == 1), "no separator was added, and those there are special"


def test_rows_of_the_window_length_are_the_windows(tmp_path):
    rows = np.random.default_rng(0).integers(2, 300, (50, 16)).astype(np.int64)
    np.save(tmp_path / "rows.npy", rows)
    sides = [asked(tmp_path / "rows.npy", part).tokens.numpy() for part in ("train", "held_out")]
    assert [len(side) for side in sides] == [45, 5]
    assert sorted(map(tuple, np.concatenate(sides))) == sorted(map(tuple, rows))


def test_a_stream_without_separators_is_cut_into_windows(tmp_path):
    stream = np.random.default_rng(0).integers(2, 300, 16 * 20 + 3)
    np.save(tmp_path / "stream.npy", stream)
    got = np.concatenate([asked(tmp_path / "stream.npy", part).tokens.numpy() for part in ("train", "held_out")])
    assert sorted(map(tuple, got)) == sorted(map(tuple, stream[: 16 * 20].reshape(20, 16)))
    with_bos = asked(tmp_path / "stream.npy", bos=True).tokens.numpy()
    assert (with_bos[:, 0] == 0).all()
    assert set(map(tuple, with_bos[:, 1:])) <= {tuple(stream[at : at + 15]) for at in range(0, len(stream), 15)}


def test_ids_beyond_the_vocabulary_are_refused(tmp_path):
    rows = np.arange(160).reshape(10, 16)
    rows[:, 3] = 319
    np.save(tmp_path / "rows.npy", rows)
    asked(tmp_path / "rows.npy")
    rows[:, 3] = 320
    np.save(tmp_path / "rows.npy", rows)
    assert "hold id 320, the model's vocabulary has 320" in refused(asked, tmp_path / "rows.npy")


def test_the_tokenizer_of_ids_is_compared_when_it_is_known(tmp_path):
    np.save(tmp_path / "rows.npy", np.arange(320).reshape(20, 16))
    own = tokenizer_hash(tiny.tokenizer())
    known = asked(tmp_path / "rows.npy", token_hash=own[:12])
    assert known.identity["tokens_by"] == own
    assert known.identity != asked(tmp_path / "rows.npy").identity
    assert f"made by the tokenizer {'0' * 64}, the model's is {own}" in refused(
        asked, tmp_path / "rows.npy", token_hash="0" * 64
    )


def test_a_wrong_array_is_refused(tmp_path):
    np.save(tmp_path / "floats.npy", np.zeros((2, 3)))
    assert "holds float64 [2 × 3], expected integers" in refused(asked, tmp_path / "floats.npy")
    np.save(tmp_path / "cube.npy", np.zeros((2, 3, 4), int))
    assert "[2 × 3 × 4]" in refused(asked, tmp_path / "cube.npy")
    save_file({"a": np.zeros(4, np.int32), "b": np.zeros(4, np.int32)}, tmp_path / "two.safetensors")
    assert "has no tensor 'text' but a, b: name it by --tokenised" in refused(asked, tmp_path / "two.safetensors")


# ---- requests


def test_a_request_that_contradicts_itself_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a\n\nb")
    assert "--chat and --tokenised were both given" in refused(asked, tmp_path / "a.txt", chat="m", tokenised="i")
    assert "--assistant-only needs conversations" in refused(asked, tmp_path / "a.txt", assistant_only=True)
    assert "a.txt holds text, no token ids: leave --tokenised off" in refused(asked, tmp_path / "a.txt", tokenised="i")
    assert "a.txt holds text, no messages: leave --chat off" in refused(asked, tmp_path / "a.txt", chat="m")


def test_a_request_for_plain_text_is_what_windows_gives(tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(tiny.corpus().documents))
    corpus = load_corpus(str(tmp_path / "text.txt"))
    for part in ("train", "held_out"):
        got = asked(tmp_path / "text.txt", part)
        want = windows(corpus, tiny.tokenizer(), part=part, length=16)
        assert got.identity == want.identity
        assert torch.equal(got.tokens, want.tokens)
