"""Finished work on disk: one JSON line for each (claim, arm, seed), written when it is done and never run again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monosem.reproduce.arm import Measured
from monosem.shapes import InputError

Row = dict[str, Any]
KEYS = ("claim", "arm", "seed", "scale", "digest", "measured")


class Rows:
    """The rows of a file, by arm, seed and digest of everything that decides the result."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that a killed process cut short does not count."""
        self.path = path
        self.all: list[Row] = []
        self._found: dict[tuple[str, int | None, str], Measured] = {}
        self._claims: set[tuple[str, str, int | None, str]] = set()
        self._keep(read(path))

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows whole, after the last whole line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n" for row in rows)
        with self.path.open("ab") as file:
            file.truncate(_whole(self.path))
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())
        self._keep(rows)

    def _keep(self, rows: Sequence[Row]) -> None:
        self.all += rows
        for row in rows:
            key = row["arm"], row["seed"], row["digest"]
            self._found.setdefault(key, row["measured"])
            self._claims.add((row["claim"], *key))

    def find(self, arm: str, seed: int | None, digest: str) -> Measured | None:
        """What was measured, whichever claim asked for it."""
        return self._found.get((arm, seed, digest))

    def has(self, claim: str, arm: str, seed: int | None, digest: str) -> bool:
        """Whether the claim has a row of its own for this."""
        return (claim, arm, seed, digest) in self._claims


def read(path: Path) -> list[Row]:
    """The whole lines of a file of rows. Raises `InputError` for a line that is not a row."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes()[: _whole(path)].splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not set(KEYS) <= set(row):
            raise InputError(f"{path} line {number} is not a row of results: restore the file, or delete that line")
        rows.append(row)
    return rows


def _whole(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
