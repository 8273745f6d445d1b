"""Documents in a local file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monosem.shapes import InputError
from monosem.text.document import Column, Document, Form, of_ids, of_row, of_value


class Reader(NamedTuple):
    """What reads files of one ending, and the forms of documents such files can hold."""

    read: Callable[[Path, Column], list[Document]]
    forms: tuple[Form, ...]


def ending(path: Path) -> str:
    """`.jsonl` of `a.jsonl`, `A.JSONL` and `a.jsonl.gz`; `.gz` stays where a packed file is not read."""
    inner = Path(path.name.lower().removesuffix(".gz")).suffix
    return inner if inner in _PACKED or not path.name.lower().endswith(".gz") else ".gz"


def read_file(path: Path, column: Column, *, whole: bool = False) -> list[Document]:
    """The documents of a file of a known ending, in order, empty and repeated ones included.

    `whole`: a file of running text is one document; otherwise blank lines separate documents in it.
    Raises `InputError` when it cannot be read or does not hold what `column` says.
    """
    try:
        if whole and ending(path) in RUNNING:
            return [_read(path)]
        return READERS[ending(path)].read(path, column)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): repair or remove it") from None


def _from_txt(path: Path, column: Column) -> list[Document]:
    documents: list[list[str]] = [[]]
    for line in _read(path).splitlines():
        if line.strip():
            documents[-1].append(line)
        elif documents[-1]:
            documents.append([])
    return ["\n".join(lines) for lines in documents]


def _from_jsonl(path: Path, column: Column) -> list[Document]:
    return _lines(_read(path), path, column)


def _from_json(path: Path, column: Column) -> list[Document]:
    text = _read(path)
    if not text.lstrip().startswith("["):
        return _lines(text, path, column)
    rows = _parsed(text, f"{path}")
    return [of_row(row, column, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def _lines(text: str, path: Path, column: Column) -> list[Document]:
    numbered = ((f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    return [of_row(_parsed(line, where), column, where) for where, line in numbered]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}): write one object a line") from None


def _from_parquet(path: Path, column: Column) -> list[Document]:
    from pyarrow import parquet

    names = parquet.read_schema(path).names
    if column.name not in names:
        raise InputError(f"{path} has no column {column.name!r} but {', '.join(names)}: name the right column")
    return _of_cells(parquet.read_table(path, columns=[column.name]).column(column.name), path, column)


def _from_arrow(path: Path, column: Column) -> list[Document]:
    """Arrow's stream format, as `datasets.save_to_disk` writes it."""
    from pyarrow import ipc

    with path.open("rb") as file, ipc.open_stream(file) as opened:
        names = opened.schema.names
        if column.name not in names:
            raise InputError(f"{path} has no column {column.name!r} but {', '.join(names)}: name the right column")
        return _of_cells(opened.read_all().column(column.name), path, column)


def _of_cells(cells: Any, path: Path, column: Column) -> list[Document]:
    where = f"{path}"
    if column.form != "tokens":
        return [of_value(value, column, where) for value in cells.to_pylist()]
    # One array a row: a list of Python integers takes eight times the memory.
    arrays = (_array(cell) for cell in cells)
    return [of_value(array, column, where) for array in arrays]


def _array(cell: Any) -> Any:
    values = getattr(cell, "values", None)
    return cell.as_py() if values is None else values.to_numpy(zero_copy_only=False)


def _with_arrow(read: Callable[[Path, Column], list[Document]]) -> Callable[[Path, Column], list[Document]]:
    """The reader, with the words a person needs when pyarrow is missing or the file is damaged."""

    def reading(path: Path, column: Column) -> list[Document]:
        try:
            import pyarrow as arrow
        except ImportError:
            raise InputError(f"{path} needs pyarrow: pip install 'monosem[data]', or give a .jsonl file") from None
        try:
            return read(path, column)
        except (arrow.ArrowException, OSError) as error:
            kind = ending(path).removeprefix(".")
            raise InputError(f"{path} is not readable {kind} ({str(error).splitlines()[0]}): write it again") from None

    return reading


def _from_npy(path: Path, column: Column) -> list[Document]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is not a readable .npy array ({error}): write it again with numpy.save") from None
    return list(_rows(array, f"{path}", column))


def _from_safetensors(path: Path, column: Column) -> list[Document]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            names = list(file.keys())
            if column.name not in names and len(names) != 1:
                raise InputError(f"{path} has no tensor {column.name!r} but {', '.join(names)}: name it by --tokenised")
            return list(_rows(file.get_tensor(column.name if column.name in names else names[0]), f"{path}", column))
    except SafetensorError as error:
        raise InputError(f"{path} is not readable safetensors ({error}): write it again") from None


def _rows(array: np.ndarray, where: str, column: Column) -> Iterator[bytes]:
    """Every row of an array [N, T] is a document; a stream [T] is cut as `column` says."""
    if array.ndim not in (1, 2) or array.dtype.kind not in "iu":
        shape = " × ".join(map(str, array.shape))
        raise InputError(f"{where} holds {array.dtype} [{shape}], expected integers, one stream [T] or rows [N, T]")
    if array.ndim == 2:
        yield from (of_ids(row, where) for row in array)
        return
    ends = np.flatnonzero(array == column.separator) + 1 if column.separator is not None else np.empty(0, int)
    if not len(ends):
        # What is left over would shift every window packed after it.
        whole = len(array) // column.length * column.length or len(array)
        array, ends = array[:whole], np.arange(column.length, whole, column.length)
    yield from (of_ids(piece, where) for piece in np.split(array, ends))


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.name.lower().endswith(".gz") else raw).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): convert it, for instance with iconv") from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"{path} is not a whole gzip file ({error}): fetch it again") from None


_ANY: tuple[Form, ...] = ("text", "chat", "tokens")
RUNNING = (".txt", ".md")
"""Endings of files that are running text and nothing else."""
_PACKED = (*RUNNING, ".jsonl", ".json")

READERS = {
    ".txt": Reader(_from_txt, ("text",)),
    ".md": Reader(_from_txt, ("text",)),
    ".jsonl": Reader(_from_jsonl, _ANY),
    ".json": Reader(_from_json, _ANY),
    ".parquet": Reader(_with_arrow(_from_parquet), _ANY),
    ".arrow": Reader(_with_arrow(_from_arrow), _ANY),
    ".npy": Reader(_from_npy, ("tokens",)),
    ".safetensors": Reader(_from_safetensors, ("tokens",)),
}
"""By ending; those of text may be packed as .gz."""
