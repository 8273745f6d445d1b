"""The page of a boosting: its figures are the result's, kinds and verdicts are told apart, any text is only text."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from monosem.report import boosting_plot
from monosem.report.boosting import write_boosting
from monosem.report.domain import domains
from monosem.report.kind import KINDS
from monosem.report.measure import DOMAIN, GENERAL
from monosem.shapes import InputError

HOSTILE = """<script>alert("1")</script>'&$\\frac{"""
VOID = {"meta", "link", "wbr"}
QUANTILES = [0.1, 0.2, 0.3, 0.4, 0.5]


class Page(HTMLParser):
    """Rows of cells by table, and all text; asserts that every element is closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.source = source
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data

    def row(self, table: int, name: str) -> list[str]:
        (found,) = (row for row in self.tables[table] if row and row[0].endswith(name))
        return found


def figures(ev: float, groups: dict[str, float], core_ev: float) -> dict[str, Any]:
    return {
        "explained_variance": ev,
        "ev_error": 0.0123,
        "l0": sum(groups.values()),
        "ce_loss_sae": 3.0,
        "ce_loss_score": 0.9321,
        "kl_div": 0.0456,
        "l0_by_group": groups,
        "dead_by_group": dict.fromkeys(groups, 0.25),
        "gains": {
            "ev": ev - core_ev,
            "ev_relative": 0.313,
            "unexplained_removed": 0.172,
            "ce": 0.0191,
            "ce_damage_removed": 0.421,
        },
    }


def kept(verdict: str, value: float) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "drop": {"value": value, "low": value - 0.001, "high": value + 0.002},
        "added_ce": {"value": 0.0051, "low": -0.0022, "high": 0.0133},
        "relative": True,
        "limits": {"drop": 0.01, "added_ce": 0.01},
    }


def row(name: str, kind: str, groups: dict[str, float], evs: dict[str, float], verdict: str | None) -> dict[str, Any]:
    domain = name.split("/")[0] if "/" in name else None
    texts = {text: figures(ev, groups, 0.5) for text, ev in evs.items()}
    if verdict is not None:
        texts["general"]["preserved"] = kept(verdict, 0.0321 if verdict == "damaged" else 0.0012)
    new = list(groups)[1:]
    spread = {"quantiles": [0.05, 0.25, 0.5, 0.75, 0.95], "nearest": QUANTILES, "chance": QUANTILES}
    return {
        "name": name,
        "domain": domain,
        "kind": kind,
        "n_latents": 1040,
        "groups": [{"name": group, "first": 0, "n_latents": 16} for group in groups],
        "redundancy": dict.fromkeys(new, spread),
        "texts": texts,
    } | ({"specificity": dict.fromkeys(groups, QUANTILES)} if new and domain != "general" else {})


def feature(word: str) -> dict[str, Any]:
    return {
        "latent": 1031,
        "number": 7,
        "p_domain": 0.0421,
        "p_general": 0.0013,
        "specificity": 0.97,
        "nearest": 613,
        "cosine": 0.387,
        "promoted": [word],
        "contexts": [[["plain ", 0.0], [word, 0.625]]],
    }


def aligned(residuals: dict[str, tuple[float | None, float | None]], conflict: float | None) -> dict[str, Any]:
    pairs = [] if conflict is None else [{"a": "law", "b": "chess", "conflict": conflict}]
    found = {name: {"energy_ratio": energy, "alignment": along} for name, (energy, along) in residuals.items()}
    return {"residuals": found, "conflicts": pairs}


def boosting() -> dict[str, Any]:
    """Two domains with a row of every kind; law harms general text."""
    both = {"law": 0.6017, "chess": 0.5103, "general": 0.4807}
    own = {"law": 0.5809, "general": 0.4711}
    rows = [
        row("core", "core", {"core": 20.0}, dict.fromkeys(both, 0.5), None),
        row("law/more_latents", "control", {"core": 25.0}, own, "preserved"),
        row("law/batch_topk", "residual", {"core": 20.0, "law": 4.75}, both, "damaged"),
        row("law/batch_topk+extended_random", "baseline", {"core": 24.9}, own, "undecided"),
        row("chess/batch_topk", "residual", {"core": 20.0, "chess": 4.5}, both | {"chess": 0.6543}, "preserved"),
        row("general/batch_topk", "control", {"core": 20.0, "general": 5.5}, both, "undecided"),
        row("all domains", "sum", {"core": 20.0, "law": 4.75, "chess": 4.5}, both, "damaged"),
    ]
    texts = {"law": (0.2, 0.9), "chess": (0.1, 0.6)}, {"law": (0.15, 0.7), "chess": (0.3, 0.95)}
    return {
        "format": "monosem.boost",
        "version": 1,
        "domains": {"law": "laws.txt", "chess": "games.txt"},
        "general": "general",
        "rows": rows,
        "alignment": {
            "law": aligned(texts[0], 0.0417),
            "chess": aligned(texts[1], 0.0518),
            "general": aligned({"law": (0.25, 0.44), "chess": (0.0, None)}, -0.0019),
        },
        "features": {"law": [feature(" court")], "chess": []},
        "provenance": {
            "model": {"name": "tiny", "model_type": "llama", "n_layers": 3, "dtype": "float32"},
            "site": "resid_post.1",
            "command": "monosem boost core --text laws.txt",
            "tokens": {"law": 12_345, "chess": 2_345, "general": 54_321},
            "loss": {text: {"windows": 2, "tokens": 777} for text in both},
        },
    }


@pytest.fixture
def result() -> dict[str, Any]:
    return boosting()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Page:
    return page(boosting(), tmp_path_factory.mktemp("boosting"))


@pytest.fixture
def no_plots(monkeypatch) -> None:
    monkeypatch.setattr("monosem.report.plot.find_spec", lambda name: None)


def single(result: dict[str, Any]) -> dict[str, Any]:
    """The same with one domain, no baselines and no losses."""
    one = copy.deepcopy(result)
    one["domains"] = {"law": "laws.txt"}
    one["rows"] = [one["rows"][0], one["rows"][2]]
    one["alignment"] = {text: aligned({"law": (0.2, 0.9)}, None) for text in ("law", "general")}
    one["provenance"]["loss"] = {text: {"windows": 0, "tokens": 0} for text in ("law", "general")}
    one["provenance"]["command"] = None
    for each in one["rows"]:
        each["texts"].pop("chess")
        for on in each["texts"].values():
            for key in ("ce_loss_sae", "ce_loss_score", "kl_div"):
                del on[key]
            on["gains"] |= {"ce": None, "ce_damage_removed": None}
            on["ev_error"] = None
            on.get("preserved", {})["added_ce"] = None
    return one


def page(result: dict[str, Any], tmp_path: Path) -> Page:
    path = tmp_path / "report.html"
    assert write_boosting(path, result) == path
    source = path.read_text(encoding="utf-8")
    assert re.search(r"\b(None|nan|Undefined)\b", source) is None
    return Page(source)


def test_figures_of_a_residual_are_those_of_the_result(found):
    headings = ["autoencoder", "latents", *(one.heading for one in (*DOMAIN, *GENERAL))]
    assert found.tables[0][1] == headings
    assert found.row(0, "· batch_topk")[1:] == [
        "1,040",
        "0.6017 ± 0.0123",
        "+0.1017",
        "+31.3 %",
        "+17.2 %",
        "+0.0191",
        "+42.1 %",
        "0.9321",
        "0.0456",
        "24.75",
        "20.00",
        "4.75",
        "25.0 %",
        "0.4807 ± 0.0123",
        "damaged",
        "+3.21 % [+3.11, +3.41]",
        "+0.0051 [-0.0022, +0.0133]",
        "4.75",
    ]


def test_the_core_has_no_gain_and_joint_latents_no_share_of_l0(found):
    core = found.row(0, "· core")
    assert core[3:8] == ["–"] * 5
    assert core[10:14] == ["20.00", "20.00", "–", "–"]
    assert core[15:18] == ["–"] * 3
    assert found.row(0, "extended_random")[10:14] == ["24.90", "–", "–", "–"]


def test_rows_are_grouped_by_kind_and_numbered_through(found):
    assert [row[0][1:] for row in found.tables[0] if len(row) == 1] == list(KINDS)
    assert [row[0] for row in found.tables[0][2:] if len(row) > 1] == [
        "1 · core",
        "2 · batch_topk",
        "3 · all domains",
        "4 · batch_topk+extended_random",
        "5 · more_latents",
        "6 · general/batch_topk",
        "7 · chess/batch_topk",
    ]
    for name in KINDS:
        assert KINDS[name].meaning in found.text


def test_verdicts_are_words_with_a_class_of_their_own(found):
    words = {row[0].split(" · ")[1]: row[15] for row in found.tables[0][2:] if len(row) > 1}
    assert words["batch_topk"] == words["all domains"] == "damaged"
    assert words["more_latents"] == "preserved"
    assert words["batch_topk+extended_random"] == "undecided"
    classes = " ".join(attributes.get("class") or "" for tag, attributes in found.elements if tag == "td").split()
    assert {"damaged", "preserved", "undecided"} <= set(classes)


def test_a_small_explained_variance_has_an_absolute_loss(result, tmp_path, no_plots):
    for one in result["rows"][1:]:
        one["texts"]["general"]["preserved"]["relative"] = False
    assert page(result, tmp_path).row(0, "· batch_topk")[16] == "+0.0321 [+0.0311, +0.0341]"


def test_head_says_what_was_read_and_how_it_was_made(found):
    text = found.text
    assert "Boosting at resid_post.1 of tiny" in text
    assert "laws.txt, 12,345 tokens, losses on 777" in text
    assert "the text that must not suffer, 54,321 tokens" in text
    assert "monosem boost core --text laws.txt" in text
    assert "law: explained variance 0.5000 → 0.6017 (+0.1017) with batch_topk. General text: damaged" in text


def test_every_column_is_explained(found):
    text = found.text
    for one in (*DOMAIN, *GENERAL):
        assert f"{one.heading}{one.meaning}" in text


def test_matrix_has_everything_that_was_read_on_all_texts(found):
    matrix = found.tables[2]
    assert matrix[0] == ["autoencoder", "law", "chess", "general"]
    assert matrix[1] == ["●core", "0.5000", "0.5000", "0.5000"]
    assert matrix[3] == ["■chess/batch_topk", "0.6017 +0.1017", "0.6543 +0.1543", "0.4807 -0.0193"]
    assert [row[0][1:] for row in matrix[1:]] == [
        "core",
        "law/batch_topk",
        "chess/batch_topk",
        "general/batch_topk",
        "all domains",
    ]


def test_conflicts_and_harm(found):
    assert found.tables[3][1] == ["law and chess", "+4.17 %", "+5.18 %", "-0.19 %"]
    law, chess = found.tables[4][2:]
    assert law[:5] == ["law", "0.2000", "0.900", "+16.00 %", "helps"]
    assert law[9:] == ["0.2500", "0.440", "-3.00 %", "harms"]
    assert chess[9:] == ["0.0000", "–", "–", "adds nothing"]


def test_a_text_the_core_explains_wholly_has_no_ratios(result, tmp_path, no_plots):
    result["alignment"]["law"] = aligned({"law": (None, 0.5), "chess": (None, None)}, None)
    law, chess = page(result, tmp_path).tables[4][2:]
    assert law[1:4] == ["–", "0.500", "–"]
    assert chess[1:4] == ["–"] * 3


def test_features_have_rates_neighbours_and_shaded_contexts(found):
    assert found.tables[5][1] == [
        "1031 7",
        "0.970",
        "4.21 %",
        "0.13 %",
        "613",
        "0.387",
        "·court ",
        "plain  court",
    ]
    marks = [attributes for tag, attributes in found.elements if tag == "mark" and "title" in attributes]
    assert marks == [{"style": "--a:0.51", "title": "0.625"}]
    assert "No new latent fires often enough on this text." in found.text


def test_hostile_text_is_only_text(result, tmp_path):
    source = json.dumps(result)
    for word in ("law", "laws.txt", " court", "batch_topk", "tiny", "monosem boost core --text laws.txt"):
        source = source.replace(json.dumps(word)[1:-1], json.dumps(HOSTILE + word)[1:-1])
    found = page(json.loads(source), tmp_path)
    assert "script" not in {tag for tag, _ in found.elements}
    assert all(not key.startswith("on") for _, attributes in found.elements for key in attributes)
    assert found.text.count(HOSTILE) > 20
    assert any(HOSTILE in cell for cell in found.tables[5][1])


def test_one_domain_without_baselines_and_losses(result, tmp_path):
    found = page(single(result), tmp_path)
    assert len(found.tables) == 3
    assert "Domains together" not in found.text
    assert "losses on" not in found.text
    assert "Made by" not in found.text
    assert "sum" not in [row[0] for row in found.tables[0]]
    own = found.row(0, "· batch_topk")
    assert own[2] == "0.6017"
    assert own[6:10] == ["–"] * 4
    assert own[15:18] == ["damaged", "+3.21 % [+3.11, +3.41]", "–"]


def test_page_loads_nothing_and_ids_are_unique(found):
    for _, attributes in found.elements:
        for key in ("src", "href", "xlink:href", "data"):
            assert (attributes.get(key) or "#").startswith(("#", "data:,")), attributes
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert ids
    assert len(set(ids)) == len(ids)


def test_the_same_result_gives_the_same_bytes(found, result, tmp_path):
    assert page(result, tmp_path).source == found.source


def test_pictures_show_what_there_is(result):
    law, chess = domains(result)
    titles = [picture.title for picture in boosting_plot.pictures(law, 0)]
    assert titles == [
        "Domain gain against general loss",
        "Domain EV against L0",
        "Redundancy of new latents",
        "Specificity of latents",
    ]
    for line in chess.numbered:
        line.row["redundancy"].clear()
        line.row.pop("specificity", None)
    assert [picture.title for picture in boosting_plot.pictures(chess, 1)] == titles[:2]


def test_specificity_of_another_domain_is_not_shown_in_this_one(result):
    law, _ = domains(result)
    assert [(one.label, one.colour) for one in boosting_plot.specificity(law)] == [
        ("core", KINDS["core"].colour),
        ("2", KINDS["residual"].colour),
    ]


def test_without_matplotlib_the_page_says_how_to_get_it(result, tmp_path, no_plots):
    assert "pip install 'monosem[plots]'" in page(result, tmp_path).text


def test_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"format is 'monosem.run', expected 'monosem.boost'"):
        write_boosting(tmp_path / "report.html", {"format": "monosem.run"})
