"""Labels and their scores in one SQLite file beside the feature statistics; a read writes nothing."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.interpret.scoring import Score

NAME = "labels.sqlite"
VERSION = 2
_COLUMNS = "latent, labeller, judge, method, prompt, value, answered, missing, settings"
_SCHEMA = {
    "label": "latent INTEGER, judge TEXT, prompt INTEGER, origin TEXT, text TEXT NOT NULL, "
    "PRIMARY KEY (latent, judge, prompt)",
    "score": "latent INTEGER, labeller TEXT, judge TEXT, method TEXT, prompt INTEGER, value REAL, answered INTEGER, "
    "missing INTEGER, settings TEXT, PRIMARY KEY (latent, labeller, judge, method, prompt, settings)",
    "summary": "labeller TEXT, judge TEXT, method TEXT, control TEXT, prompt INTEGER, settings TEXT, "
    "figures TEXT NOT NULL, PRIMARY KEY (labeller, judge, method, control, prompt, settings)",
}


class Label(NamedTuple):
    """What a judge says that a feature stands for, from the contexts whose digest is `origin`.

    `prompt` is the version of the question's words. `scores`: by `METHOD by JUDGE`, what the label reached; the latest,
    where there are several of different settings.
    """

    latent: int
    text: str
    judge: str
    prompt: int
    origin: str
    scores: dict[str, float]


class Scored(NamedTuple):
    """The score of one feature, and whose label was scored: "" for a method that needs none.

    `settings`, as JSON, are how contexts were drawn; "" where a version that did not keep them has written it.
    """

    latent: int
    labeller: str
    judge: str
    method: str
    prompt: int
    value: float
    answered: int
    missing: int
    settings: str = ""


def labels(folder: str | Path) -> dict[int, list[Label]]:
    """The labels of an autoencoder's folder by latent, the latest first; none where nothing was labelled.

    Scores without a label, as of intruder, are with `scores`. Raises `InputError` for a damaged file.
    """
    found: dict[int, list[Label]] = {}
    with _reading(Path(folder)) as (file, version):
        if not version:
            return found
        rows = file.execute("SELECT latent, text, judge, prompt, origin FROM label ORDER BY rowid DESC").fetchall()
        for row in rows:
            found.setdefault(row[0], []).append(Label(*row, scores={}))
        for score in _scores(file, version):
            for one in found.get(score.latent, ()):
                if score.labeller in ("", one.judge) and score.prompt == one.prompt:
                    one.scores[f"{score.method} by {score.judge}"] = score.value
    return found


def scores(folder: str | Path) -> list[Scored]:
    """All scores of an autoencoder's folder, the oldest first. Raises `InputError` for a damaged file."""
    with _reading(Path(folder)) as (file, version):
        return _scores(file, version) if version else []


def summaries(folder: str | Path) -> list[dict[str, Any]]:
    """The tables that were printed, a row each, the oldest first: means with intervals, controls among them.

    As `Score.to_json` gives them, without single features; with `labeller` and `prompt`, as in `Scored`.
    """
    with _reading(Path(folder)) as (file, version):
        query = "SELECT labeller, prompt, figures FROM summary ORDER BY rowid"
        rows = file.execute(query).fetchall() if version == VERSION else []
        return [{"labeller": by, "prompt": prompt, **json.loads(figures)} for by, prompt, figures in rows]


def write_labels(folder: str | Path, found: Iterable[Label]) -> None:
    """Add labels; one by the same judge and prompt is replaced, and what was scored of it goes."""
    with _writing(Path(folder)) as file:
        for one in found:
            same = (one.latent, one.judge, one.prompt)
            before = file.execute("SELECT text FROM label WHERE (latent, judge, prompt) = (?, ?, ?)", same).fetchone()
            if before is not None and before[0] != one.text:
                file.execute("DELETE FROM score WHERE (latent, labeller, prompt) = (?, ?, ?)", same)
            row = (one.latent, one.judge, one.prompt, one.origin, one.text)
            file.execute("INSERT OR REPLACE INTO label VALUES (?, ?, ?, ?, ?)", row)


def write_scores(folder: str | Path, found: Iterable[Scored]) -> None:
    """Add scores; one of the same label by the same judge and settings is replaced, one without a value not written."""
    with _writing(Path(folder)) as file:
        rows = [tuple(one) for one in found if not math.isnan(one.value)]
        file.executemany("INSERT OR REPLACE INTO score VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def write_results(folder: str | Path, found: Iterable[Score], prompt: int, labeller: str = "") -> None:
    """Add the rows of a table: the figures of every one, and the features of those that are not controls.

    `labeller`: whose labels were scored, for methods that need them.
    """
    for one in found:
        settings = json.dumps({} if one.drawn is None else one.drawn.settings, sort_keys=True)
        figures = {key: value for key, value in one.to_json().items() if key != "features"}
        row = (labeller, one.judge, one.method, one.control or "", prompt, settings, json.dumps(figures))
        with _writing(Path(folder)) as file:
            file.execute("INSERT OR REPLACE INTO summary VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        if one.control is None:
            about = labeller, one.judge, one.method, prompt
            rows = [Scored(own.latent, *about, own.value, own.answered, own.missing, settings) for own in one.features]
            write_scores(folder, rows)


def _scores(file: sqlite3.Connection, version: int) -> list[Scored]:
    columns = _COLUMNS if version == VERSION else _COLUMNS.replace("settings", "'' AS settings")
    return [Scored(*row) for row in file.execute(f"SELECT {columns} FROM score ORDER BY rowid").fetchall()]  # noqa: S608


@contextmanager
def _reading(folder: Path) -> Iterator[tuple[Any, int]]:
    """The file and its version; 0 where there is none, or one in which nothing was written yet."""
    path = folder / NAME
    if not path.exists():
        yield None, 0
        return
    with _open(path) as file:
        yield file, _version(file, path)


@contextmanager
def _writing(folder: Path) -> Iterator[Any]:
    """The file, made or brought to this version where it has to be, all or nothing."""
    path = folder / NAME
    with _open(path) as file:
        # Another process may be about to make it too: who is second finds it made.
        file.execute("BEGIN IMMEDIATE")
        try:
            _bring_up(file, _version(file, path))
            yield file
        except BaseException:
            file.execute("ROLLBACK")
            raise
        file.execute("COMMIT")


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as file:
            yield file
    except sqlite3.Error as error:
        raise InputError(f"{path} cannot be used ({error}): move it away, and label again") from None


def _version(file: sqlite3.Connection, path: Path) -> int:
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise InputError(f"{path} has version {version}, this one reads up to {VERSION}: label again elsewhere")
    return version


def _bring_up(file: sqlite3.Connection, version: int) -> None:
    if version == VERSION:
        return
    kept: Sequence[Scored] = _scores(file, version) if version else ()
    # Without a version nothing was written yet, whatever tables there are.
    for name in ("score", "summary") if version else _SCHEMA:
        file.execute(f"DROP TABLE IF EXISTS {name}")
    for name, columns in _SCHEMA.items():
        file.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
    file.executemany("INSERT INTO score VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", kept)
    file.execute(f"PRAGMA user_version = {VERSION}")
