"""A dataset of the hub, streamed: its first documents, until they hold the tokens asked for."""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from monosem.disk import cache_folder, digest, read_sealed, sealed, sha256, whole_file, write_json
from monosem.progress import progress
from monosem.shapes import InputError
from monosem.text.document import Column, Document, ids_of, is_empty, of_ids, of_row
from monosem.text.file import READERS, ending

_log = logging.getLogger("monosem")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BATCH = 256


class Streaming(NamedTuple):
    """Which rows of a dataset are read, and until when: `tokens` as `count` counts them in each document.

    `counter` names what counts (a tokenizer's hash): it decides where the reading stops.
    """

    tokens: int
    count: Callable[[list[Document]], list[int]]
    counter: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None


class Taken(NamedTuple):
    """The first documents of a dataset, and what they are the first documents of, as JSON."""

    documents: list[Document]
    origin: dict[str, Any]


def is_dataset(where: str) -> bool:
    """Whether this could be a name on the hub: OWNER/NAME, unless it ends like a file that could be read here."""
    return _NAME.fullmatch(where) is not None and ending(Path(where)) not in READERS


def stream(name: str, column: Column, streaming: Streaming) -> Taken:
    """The first distinct documents of a dataset, in its own order, read until they hold `streaming.tokens` tokens.

    They are kept in the cache, so a second call reads nothing from the network. A branch or tag (`main` if there is no
    `revision`) is looked up once; the commit it was then is what is read and what `origin` says. A dataset that ends
    before is taken whole. Raises `InputError` when it cannot be opened or a row does not hold what `column` says.
    """
    asked = {
        "dataset": name,
        "config": streaming.config,
        "split": streaming.split,
        "column": column.name,
        "form": column.form,
        "revision": streaming.revision,
        "tokens": streaming.tokens,
        "counter": streaming.counter,
    }
    note = cache_folder() / "datasets" / f"{digest(asked)}.json"
    kept = _load(note)
    if kept is None:
        kept = _taken(name, column, streaming)
        _save(note, kept)
    return kept


def _taken(name: str, column: Column, streaming: Streaming) -> Taken:
    commit = _commit(name, streaming.revision)
    documents: list[Document] = []
    held = 0
    rows = enumerate(_rows(name, streaming, commit), 1)
    fresh = _distinct(of_row(row, column, f"{name}, row {number}") for number, row in rows)
    with progress(f"reading {name}", streaming.tokens, "tok") as bar:
        while held < streaming.tokens:
            batch = list(islice(fresh, _BATCH))
            if not batch:
                _log.warning("%s ended after %s tokens: all of it was taken", name, f"{held:,}")
                break
            for document, count in zip(batch, streaming.count(batch), strict=True):
                if held < streaming.tokens:
                    documents.append(document)
                    held += count
            bar.advance(held - bar.done)
    origin = {
        "name": name,
        "config": streaming.config,
        "split": streaming.split,
        "column": column.name,
        "commit": commit,
        "tokens": streaming.tokens,
        "documents": len(documents),
    }
    return Taken(documents, origin)


def _distinct(documents: Iterator[Document]) -> Iterator[Document]:
    """Those that are not empty and were not there before: a repetition must not count towards the tokens."""
    seen: set[Document] = set()
    for document in documents:
        if not is_empty(document) and document not in seen:
            seen.add(document)
            yield document


def _commit(name: str, revision: str | None) -> str:
    """The commit that a branch or tag is now; a commit is one already."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, revision=revision, timeout=30).sha or "unknown"
    except Exception as error:  # noqa: BLE001 - the hub's client raises what its transport raises
        raise InputError(_unreachable(name, error)) from None


def _rows(name: str, streaming: Streaming, commit: str) -> Iterator[dict[str, Any]]:
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{name} is no file or folder here; to read it from the hub install datasets: pip install 'monosem[data]'"
        ) from None
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield from datasets.load_dataset(name, streaming.config, split=streaming.split, revision=commit, streaming=True)
    except Exception as error:  # noqa: BLE001 - datasets raises what its many readers and transports raise
        raise InputError(_unreachable(name, error)) from None
    finally:
        if not bars:
            datasets.enable_progress_bars()


def _unreachable(name: str, error: Exception) -> str:
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return (
        f"cannot read the dataset {name} ({said}): check its name, --text-config, --split, --revision and the network, "
        "or give a local file or folder"
    )


def _save(note: Path, taken: Taken) -> None:
    """The rows first, then the note that makes them count."""
    rows = note.with_suffix(".jsonl.gz")
    with whole_file(rows) as temporary, gzip.open(temporary, "wt", compresslevel=1, encoding="utf-8") as file:
        for document in taken.documents:
            json.dump(ids_of(document).tolist() if isinstance(document, bytes) else document, file)
            file.write("\n")
    write_json(note, sealed({"origin": taken.origin, "sha256": sha256(rows)}))


def _load(note: Path) -> Taken | None:
    """What is kept, or None when there is nothing or it is damaged."""
    rows = note.with_suffix(".jsonl.gz")
    if not note.exists() or not rows.exists():
        return None
    try:
        found = read_sealed(note)
    except InputError:
        found = {}
    if found.get("sha256") != sha256(rows):
        _log.info("%s is damaged: reading the dataset again", rows)
        return None
    with gzip.open(rows, "rt", encoding="utf-8") as file:
        documents = [json.loads(line) for line in file]
    return Taken([of_ids(row, "") if isinstance(row, list) else row for row in documents], found["origin"])
