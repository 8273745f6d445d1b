"""A folder of files as one list of documents."""

from __future__ import annotations

import logging
from pathlib import Path

from monosem.shapes import InputError
from monosem.text.document import NOUNS, Column, Document
from monosem.text.file import READERS, ending, read_file

_log = logging.getLogger("monosem")
_NAMED = 5
_DESCRIPTIONS = {"dataset_info.json", "dataset_dict.json", "state.json"}
"""What `datasets.save_to_disk` writes beside its rows."""


def folder_documents(folder: Path, column: Column) -> list[Document]:
    """The documents of every readable file below `folder`, files in the order of their relative paths.

    A .txt or .md file is one document. Hidden files, and files of an ending that cannot hold what is asked for, are
    left out, and the log names them. A file that should be readable and is not raises `InputError`: text that is
    silently missing would make another corpus of the same name.
    """
    files = sorted((path for path in folder.rglob("*") if not path.is_dir()), key=lambda path: _below(path, folder))
    wanted = {path: _is_wanted(path, folder, column) for path in files}
    read = [path for path in files if wanted[path]]
    left = [_below(path, folder) for path in files if not wanted[path]]
    if not read:
        known = ", ".join(end for end, reader in READERS.items() if column.form in reader.forms)
        raise InputError(f"{folder} has no file with {NOUNS[column.form]}: it needs one ending in {known}")
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        _log.warning("%s: left out, hidden or no %s: %s%s", folder, NOUNS[column.form], ", ".join(left[:_NAMED]), more)
    return [document for path in read for document in read_file(path, column, whole=True)]


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _is_wanted(path: Path, folder: Path, column: Column) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    reader = READERS.get(ending(path))
    return not hidden and path.name not in _DESCRIPTIONS and reader is not None and column.form in reader.forms
