"""Files of wheels as documents: each reader gives, for every document, its headings and, last, its body."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree


def zipped_csv(path: Path, columns: tuple[str, ...]) -> Iterator[list[str]]:
    """The given columns of every row of the one CSV in an archive; `NA` is these tables' word for nothing."""
    with zipfile.ZipFile(path) as archive:
        (table,) = archive.namelist()
        with archive.open(table) as file:
            for cells in csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline="")):
                parts = [(cells[column] or "").strip() for column in columns]
                yield ["" if part == "NA" else part for part in parts]


def molecules(path: Path) -> Iterator[list[str]]:
    """Name (systematic, or common where there is none) and SMILES of every row of `chemicals`' table.

    Its columns have no titles: PubChem number, CAS number, formula, weight, SMILES, InChI, InChI key, systematic name,
    common name, synonyms.
    """
    with path.open(encoding="utf-8", newline="") as file:
        for cells in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield [cells[7] or cells[8], cells[4]]


def pubmed(path: Path) -> Iterator[list[str]]:
    """Title and abstract of every article in a file of PubMed's, `LABEL: text` for each part with a label.

    An article without an abstract has an empty body.
    """
    with gzip.open(path) as file:
        for _, element in ElementTree.iterparse(file):  # noqa: S314  the file is pinned by its hash
            if element.tag == "PubmedArticle":
                title = " ".join(map(_plain, element.iterfind("MedlineCitation/Article/ArticleTitle")))
                paragraphs = map(_paragraph, element.iterfind("MedlineCitation/Article/Abstract/AbstractText"))
                yield [title, "\n".join(filter(None, paragraphs))]
                element.clear()


def _paragraph(element: ElementTree.Element) -> str:
    text, label = _plain(element), element.get("Label")
    return f"{label}: {text}" if label and text else text


def _plain(element: ElementTree.Element) -> str:
    """The text without markup inside it, on one line."""
    return " ".join("".join(element.itertext()).split())


def python_sources(path: Path) -> Iterator[list[str]]:
    """Every `.py` file of a wheel as text, in the order of paths. Nothing is imported."""
    with zipfile.ZipFile(path) as wheel:
        for name in sorted(wheel.namelist()):
            if name.endswith(".py"):
                yield [wheel.read(name).decode().strip()]
