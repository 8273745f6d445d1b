"""Labels and their scores in one SQLite file beside the feature statistics; a read that finds none writes nothing."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from monosem.shapes import InputError

NAME = "labels.sqlite"
VERSION = 1
_SCHEMA = (
    "CREATE TABLE label (latent INTEGER, judge TEXT, prompt INTEGER, origin TEXT, text TEXT NOT NULL, "
    "PRIMARY KEY (latent, judge, prompt))",
    "CREATE TABLE score (latent INTEGER, labeller TEXT, judge TEXT, method TEXT, prompt INTEGER, value REAL, "
    "answered INTEGER, missing INTEGER, PRIMARY KEY (latent, labeller, judge, method, prompt))",
    f"PRAGMA user_version = {VERSION}",
)


class Label(NamedTuple):
    """What a judge says that a feature stands for, from the contexts whose digest is `origin`.

    `prompt` is the version of the question's words. `scores`: by `METHOD by JUDGE`, what the label reached.
    """

    latent: int
    text: str
    judge: str
    prompt: int
    origin: str
    scores: dict[str, float]


class Scored(NamedTuple):
    """The score of one feature, and whose label was scored: "" for a method that needs none."""

    latent: int
    labeller: str
    judge: str
    method: str
    prompt: int
    value: float
    answered: int
    missing: int


def labels(folder: str | Path) -> dict[int, list[Label]]:
    """The labels of an autoencoder's folder by latent, the latest first; none where nothing was labelled.

    Scores without a label, as of intruder, are with `scores`. Raises `InputError` for a damaged file.
    """
    if not (Path(folder) / NAME).exists():
        return {}
    with _open(Path(folder)) as file:
        rows = file.execute("SELECT latent, text, judge, prompt, origin FROM label ORDER BY rowid DESC").fetchall()
        found: dict[int, list[Label]] = {}
        for row in rows:
            found.setdefault(row[0], []).append(Label(*row, scores={}))
        for score in _scores(file):
            for one in found.get(score.latent, ()):
                if score.labeller in ("", one.judge) and score.prompt == one.prompt:
                    one.scores[f"{score.method} by {score.judge}"] = score.value
    return found


def scores(folder: str | Path) -> list[Scored]:
    """All scores of an autoencoder's folder. Raises `InputError` for a damaged file."""
    if not (Path(folder) / NAME).exists():
        return []
    with _open(Path(folder)) as file:
        return _scores(file)


def write_labels(folder: str | Path, found: Iterable[Label]) -> None:
    """Add labels; one by the same judge and prompt is replaced, and what was scored of it goes."""
    with _open(Path(folder)) as file, file:
        for one in found:
            same = (one.latent, one.judge, one.prompt)
            before = file.execute("SELECT text FROM label WHERE (latent, judge, prompt) = (?, ?, ?)", same).fetchone()
            if before is not None and before[0] != one.text:
                file.execute("DELETE FROM score WHERE (latent, labeller, prompt) = (?, ?, ?)", same)
            row = (one.latent, one.judge, one.prompt, one.origin, one.text)
            file.execute("INSERT OR REPLACE INTO label VALUES (?, ?, ?, ?, ?)", row)


def write_scores(folder: str | Path, found: Iterable[Scored]) -> None:
    """Add scores; one of the same label by the same judge is replaced, and one without a value is not written."""
    with _open(Path(folder)) as file, file:
        rows = [tuple(one) for one in found if not math.isnan(one.value)]
        file.executemany("INSERT OR REPLACE INTO score VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _scores(file: sqlite3.Connection) -> list[Scored]:
    return [Scored(*row) for row in file.execute("SELECT * FROM score ORDER BY rowid").fetchall()]


@contextmanager
def _open(folder: Path) -> Iterator[Any]:
    """The file, made if it is missing."""
    path = folder / NAME
    try:
        with closing(sqlite3.connect(path, timeout=60)) as file:
            (version,) = file.execute("PRAGMA user_version").fetchone()
            if version == 0:
                with file:
                    for statement in _SCHEMA:
                        file.execute(statement)
            elif version != VERSION:
                raise InputError(f"{path} has version {version}, this one reads {VERSION}: label again elsewhere")
            yield file
    except sqlite3.Error as error:
        raise InputError(f"{path} cannot be used ({error}): move it away, and label again") from None
