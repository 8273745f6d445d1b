"""A document: text, a conversation, or token ids that were made elsewhere."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

import numpy as np

from monosem.shapes import InputError

Form = Literal["text", "chat", "tokens"]

Document = str | bytes
"""Text as it is; a conversation as JSON of its messages; token ids as little-endian int32."""

NOUNS: dict[Form, str] = {"text": "text", "chat": "messages", "tokens": "token ids"}
_GREATEST = np.iinfo(np.int32).max


class Column(NamedTuple):
    """What is read of a file or a row, and how a bare stream of token ids is cut into documents.

    A stream is cut after every `separator`, or, where it has none, into pieces of `length` tokens without the rest.
    """

    name: str = "text"
    form: Form = "text"
    separator: int | None = None
    length: int = 256


def content(document: Document) -> bytes:
    """The bytes that decide whether two documents are the same and on which side of the split they are."""
    return document if isinstance(document, bytes) else document.encode()


def is_empty(document: Document) -> bool:
    """Whether there is nothing to read in it."""
    return not (document if isinstance(document, bytes) else document.strip())


def of_row(row: Any, column: Column, where: str) -> Document:
    """The document in a row `{column: value}`. Raises `InputError` that begins with `where`."""
    if isinstance(row, dict) and column.name in row:
        return of_value(row[column.name], column, where)
    keys = f"the keys {', '.join(map(str, row))}" if isinstance(row, dict) else f"a {type(row).__name__}"
    raise InputError(f"{where}: no {NOUNS[column.form]} under {column.name!r} but {keys}: name the right column")


def of_value(value: Any, column: Column, where: str) -> Document:
    """The document that a cell holds; null is the empty one. Raises `InputError` that begins with `where`."""
    place = f"{where}: {column.name!r}"
    if value is None:
        return b"" if column.form == "tokens" else ""
    if column.form == "tokens":
        return of_ids(value, place)
    if column.form == "chat":
        return _conversation(value, place)
    if not isinstance(value, str):
        raise InputError(f"{place} holds {_kind(value)}, expected text: name another column")
    return value


def of_ids(ids: Any, place: str) -> bytes:
    """Token ids [T], a list or an array, as a document. Raises `InputError` that begins with `place`."""
    try:
        array = np.asarray(ids)
    except ValueError:
        array = np.empty((0, 0))
    if array.shape == (0,):
        return b""
    if array.ndim != 1 or array.dtype.kind not in "iu":
        found = f"an array of {array.dtype}" if array.ndim == 1 else _kind(ids)
        raise InputError(f"{place} holds {found}, expected a list of token ids: name another column")
    if not 0 <= int(array.min()) <= int(array.max()) <= _GREATEST:
        raise InputError(f"{place} holds ids from {array.min()} to {array.max()}: a token id is 0 or more")
    return array.astype("<i4").tobytes()


def ids_of(document: Document) -> np.ndarray:
    """The token ids [T] of a document of that form, as int32."""
    assert isinstance(document, bytes)
    return np.frombuffer(document, "<i4").astype(np.int32, copy=False)


def _conversation(messages: Any, place: str) -> str:
    """The messages as JSON. Keys that are null are left out: some formats give every row the keys of all."""
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{place} holds {_kind(messages)}, expected a list of messages {{role, content}}")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            found = f"the keys {', '.join(map(str, message))}" if isinstance(message, dict) else _kind(message)
            raise InputError(f"{place}, message {number} has {found}, expected a role and a content that are text")
    kept = [{key: value for key, value in message.items() if value is not None} for message in messages]
    return json.dumps(kept, ensure_ascii=False, sort_keys=True, default=str)


def _kind(value: Any) -> str:
    return "an empty list" if isinstance(value, list) and not value else type(value).__name__
