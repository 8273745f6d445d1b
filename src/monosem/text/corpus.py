"""A corpus is a list of distinct documents: embedded, from a file or a folder, or from a dataset of the hub."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from monosem.shapes import InputError
from monosem.text.dataset import Streaming, is_dataset, stream
from monosem.text.document import Column, Document, Form, content, is_empty
from monosem.text.embedded import EMBEDDED, embedded_documents
from monosem.text.file import READERS, ending, read_file
from monosem.text.folder import folder_documents


class Corpus(NamedTuple):
    """Distinct, non-empty documents of one form.

    `revision` is their hash, `source` a sentence on their origin; `origin` says which part of a dataset was taken.
    """

    name: str
    revision: str
    documents: list[Document]
    source: str
    form: Form = "text"
    origin: dict[str, Any] | None = None


def load_corpus(where: str, column: str | Column = "text", streaming: Streaming | None = None) -> Corpus:
    """Load an embedded corpus by name, a file, a folder, or what `streaming` says of a dataset named OWNER/NAME.

    Empty and repeated documents are dropped. A `.txt` or `.md` file (UTF-8) is split at blank lines; in a folder each
    is one document. `.jsonl` (one object a line), `.json` (those, or an array of them), `.parquet` and `.arrow`: a row
    is a document, found under `column`. `.npy` and `.safetensors`: token ids, rows [N, T] or a stream [T]. Text may
    be packed: `.jsonl.gz`. Raises `InputError`.
    """
    column = Column(column) if isinstance(column, str) else column
    if where in EMBEDDED:
        return distinct(Corpus(where, "", embedded_documents(EMBEDDED[where]), EMBEDDED[where].source))
    path = Path(where).expanduser()
    if where.strip() and path.is_dir():
        name = path.resolve().name
        return distinct(Corpus(name, "", folder_documents(path, column), f"Local folder {name}.", column.form))
    if path.is_file() and ending(path) in READERS:
        forms = READERS[ending(path)].forms
        form = column.form if column.form in forms else forms[0]
        documents = read_file(path, column._replace(form=form))
        return distinct(Corpus(path.name, "", documents, f"Local file {path.name}.", form))
    if streaming is not None and is_dataset(where):
        taken = stream(where, column, streaming)
        source = f"{where} from the Hugging Face hub, revision {taken.origin['commit']}."
        return distinct(Corpus(where, "", taken.documents, source, column.form, taken.origin))
    raise InputError(_unknown(where, path))


def distinct(corpus: Corpus, elsewhere: Iterable[Document] = ()) -> Corpus:
    """The corpus without empty and repeated documents and without those `elsewhere`, with its revision."""
    other = set(elsewhere)
    kept = [row for row in dict.fromkeys(corpus.documents) if not is_empty(row) and row not in other]
    if not kept:
        beside = " that is not in the other parts" if other else ""
        raise InputError(f"{corpus.name} has no text{beside}: give a corpus with at least one document, not empty")
    return corpus._replace(documents=kept, revision=_revision(corpus.name, kept))


def _revision(name: str, documents: list[Document]) -> str:
    """16 hexadecimal digits over the documents in order."""
    hashed = hashlib.sha256()
    for index, document in enumerate(documents):
        try:
            data = content(document)
        except UnicodeEncodeError:
            raise InputError(f"document {index} of {name} is not valid Unicode: remove or repair it") from None
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed.hexdigest()[:16]


def _unknown(where: str, path: Path) -> str:
    names = ", ".join(difflib.get_close_matches(where, EMBEDDED, n=3, cutoff=0.5) or EMBEDDED)
    endings = ", ".join(READERS)
    if ending(path) in READERS:
        return f"{where} is not a file: give a path that ends in {endings}, or an embedded corpus ({names})"
    return (
        f"unknown text {where!r}: give an embedded corpus ({names}), a folder, a file ending in {endings}, or a "
        "dataset of the hub as OWNER/NAME"
    )
