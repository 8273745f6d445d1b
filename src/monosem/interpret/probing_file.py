"""What probing said of an autoencoder, by task, in one file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosem.disk import read_json, write_json

NAME = "probing.json"


def write_probing(folder: str | Path, task: str, found: Mapping[str, Any]) -> None:
    """Write the result of a task, JSON-able, in place of an earlier one; those of other tasks stay.

    Raises `InputError` for a damaged file.
    """
    write_json(Path(folder) / NAME, probings(folder) | {task: dict(found)})


def probings(folder: str | Path) -> dict[str, dict[str, Any]]:
    """All results in an autoencoder's folder by task; none where nothing was probed.

    Raises `InputError` for a damaged file.
    """
    path = Path(folder) / NAME
    return read_json(path) if path.exists() else {}
