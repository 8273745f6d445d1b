"""Flow graphs to look at: where things stand, what a picture and a page say, what the command writes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from xml.etree import ElementTree

import pytest
import torch

import run_folder
import tiny
from flow_dictionary import autoencoder, suite, unit
from flow_story import FIXED, story
from monosem.flow import Cuts, Node, Suite, trace
from monosem.flow.drawing import key, svg, thickness
from monosem.flow.finding import find_latents
from monosem.flow.layout import CARD_HEIGHT, CARD_WIDTH, arranged
from monosem.flow.note import Note, notes
from monosem.flow.page import write_graph
from monosem.interpret import Label
from monosem.interpret.store import write_labels
from monosem.sae import save
from monosem.shapes import InputError, Site

CUTS = Cuts(FIXED, None)
EVIL = '<script>alert("&")</script>'


@pytest.fixture(scope="module")
def tale():
    return story()


@pytest.fixture(scope="module")
def graph(tale):
    seeds = [tale.node("old", "resid_post.2"), tale.node("new", "resid_post.3")]
    found = trace(tale.suite, seeds, cuts=CUTS)
    return replace(found, notes={seeds[0]: Note(EVIL, "judge", (" bird", "\n"), (" wall",), 0.01, 1.5, 4.0)})


def tall(layers: int = 30, width: int = 48):
    """A suite of many layers whose directions turn slowly."""
    base, saes = unit(24, width), {}
    for layer in range(layers):
        saes[f"resid_post_{layer}"] = base = base + 0.1 * unit(24, width, layer + 1)
        saes[f"mlp_out_{layer}"], saes[f"attn_out_{layer}"] = unit(24, width, 100 + layer), unit(24, width, 200 + layer)
    return suite(**saes)


def test_cards_do_not_overlap_and_edges_reach_them():
    found = trace(tall(), ["resid_post.12/3", "resid_post.20/9", "resid_post.5/17", "mlp_out.7/2"], cuts=CUTS)
    layout = arranged(found)
    assert set(layout.cards) == set(found.vertices)
    assert len(layout.rows) == 30
    for (ax, ay), (bx, by) in combinations(layout.cards.values(), 2):
        assert abs(ax - bx) >= CARD_WIDTH or abs(ay - by) >= CARD_HEIGHT
    assert all(
        0 <= x <= layout.width - CARD_WIDTH and 0 <= y <= layout.height - CARD_HEIGHT for x, y in layout.cards.values()
    )
    tops = [layout.rows[layer] for layer in sorted(layout.rows, reverse=True)]
    assert tops == sorted(tops)  # the last layer is on top
    for edge in found.edges:
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", layout.path(edge))]
        (x, y), (_, below) = layout.cards[edge.source], layout.cards[edge.target]
        assert x <= numbers[0] <= x + CARD_WIDTH
        assert y <= numbers[1] <= y + CARD_HEIGHT
        assert numbers[-1] == below + CARD_HEIGHT  # it ends at the lower edge of its target
    chain = [node for node in found.vertices if node.site.kind == "resid_post" and node.latent == 3]
    assert len({layout.cards[node][0] for node in chain}) == 1


def test_one_feature_is_one_column(tale):
    three = [tale.node("old", "resid_post.2"), tale.node("new", "resid_post.3"), tale.node("odd", "resid_post.3")]
    cards = arranged(trace(tale.suite, three, cuts=CUTS)).cards
    columns = [
        {cards[tale.node(name, f"resid_post.{layer}")][0] for layer in layers}
        for name, layers in (("old", range(4)), ("new", (2, 3, 4)), ("odd", (3,)))
    ]
    assert [len(column) for column in columns] == [1, 1, 1]
    assert len(set.union(*columns)) == 3


def test_the_picture_is_whole_and_says_what_the_graph_does(graph, tale):
    root = ElementTree.fromstring(svg(graph, weak=True))
    space = {"svg": "http://www.w3.org/2000/svg"}
    cards = {card.get("data-node"): card for card in root.iterfind(".//svg:g[@data-node]", space)}
    assert set(cards) == {key(node) for node in graph.vertices}
    edges = list(root.iterfind(".//svg:g[@data-source]", space))
    assert len(edges) == len(graph.edges)
    widths = {
        (edge.get("data-source"), edge.get("data-target")): float(edge.find("svg:path", space).get("stroke-width"))
        for edge in edges
    }
    for edge in graph.edges:
        assert widths[key(edge.source), key(edge.target)] == pytest.approx(thickness(edge.score), abs=0.01)
    assert thickness(0.9) > thickness(0.5) > thickness(0.1)
    dashed = [edge for edge in edges if edge.find("svg:path", space).get("stroke-dasharray")]
    assert len(dashed) == sum(graph.weak(edge) for edge in graph.edges) > 0
    text = {name: " ".join(card.itertext()) for name, card in cards.items()}
    assert "processed" in text[key(tale.node("old", "resid_post.2"))]
    assert "born" in text[key(tale.node("new", "resid_post.2"))]
    assert "ends" in text[key(tale.node("old", "resid_post.3"))]
    assert EVIL in text[key(tale.node("old", "resid_post.2"))]  # as text, not as an element


def test_weak_matches_of_modules_are_drawn_of_a_single_chain(graph, tale):
    one = trace(tale.suite, tale.node("old", "resid_post.2"), cuts=CUTS)
    faint = key(tale.node("faint", "attn_out.1"))
    assert faint in svg(one)
    assert faint not in svg(one, weak=False)
    assert faint not in svg(graph)  # of two
    assert graph._repr_html_() == svg(graph)
    assert key(tale.node("fed", "mlp_out.2")) in svg(graph)


class Page(HTMLParser):
    """What a browser would load, the elements with an id, and all text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.tags.append(tag)
        self.ids += [known["id"]] if "id" in known else []
        self.links += [known["href"]] if tag == "a" else []
        self.loads += [known[name] for name in ("src", "srcset") if name in known]
        self.loads += [known["href"]] if tag == "link" else []


def test_the_page_loads_nothing_and_has_every_latent(graph, tmp_path):
    paths = [write_graph(tmp_path / name, graph, command="…", weak=True) for name in ("a.html", "b.html")]
    source = paths[0].read_text()
    assert source == paths[1].read_text()
    page = Page(source)
    assert page.loads == ["data:,"]
    assert not re.search(r"https?://", source)
    assert page.tags.count("script") == 1
    assert {key(node) for node in graph.vertices} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert len(page.links) > len(graph.edges)  # matches and successors
    assert "alert(" in source
    assert EVIL not in source
    for said in ("by judge", "density 1 %", "s(R) high", "0.707", "born here", "ends here"):
        assert said in source


def test_the_page_says_when_all_began_alike(tmp_path):
    one = trace(story(start=1).suite, "resid_post.2/0", cuts=CUTS)
    assert "the same random numbers" in write_graph(tmp_path / "a.html", one).read_text()
    assert "the same random numbers" not in write_graph(tmp_path / "b.html", replace(one, same_start=None)).read_text()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Three layers of dictionaries of a tiny model on disk, one with a label and two that promote known tokens."""
    folder = tmp_path_factory.mktemp("flow")
    lm = tiny.llama()
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    identity = {**lm.identity(), "name": str(folder / "model")}
    for layer in range(3):
        for place, kind in enumerate(("resid_post", "mlp_out", "attn_out")):
            rows = unit(10, 32, 3 * layer + place)
            if kind == "resid_post":
                rows[:5] = unit(5, 32) + 0.1 * unit(5, 32, layer + 50)
            sae = autoencoder(rows, info={"site": f"{kind}.{layer}", "model": identity})
            save(sae, folder / "suite/saes" / f"{kind}.{layer}")
    write_labels(folder / "suite/saes/resid_post.1", [Label(2, "songs of birds", "judge", 1, "o", {})])
    return folder, lm


def test_notes_are_what_there_is_and_nothing_else(stored):
    folder, lm = stored
    saes = Suite.load(folder / "suite")
    nodes = [saes.node("resid_post.1/2"), saes.node("resid_post.1/3"), saes.node("mlp_out.0/4")]
    found = notes(nodes, saes)
    assert found == {nodes[0]: Note("songs of birds", "judge"), nodes[1]: Note(), nodes[2]: Note()}
    with_tokens = notes(nodes, saes, lm)
    logits = lm.unembed(saes[nodes[2].site].W_dec[4:5].detach())[0]
    assert with_tokens[nodes[2]].promoted[0] == lm.tokenizer.decode([int(logits.argmax())])
    assert with_tokens[nodes[2]].suppressed[0] == lm.tokenizer.decode([int(logits.argmin())])
    assert with_tokens[nodes[0]].caption == "songs of birds"
    assert (
        Note(promoted=("\x1b[2J", " a\nb ")).caption == "\\x1b[2J  a\\nb"
    )  # nothing that moves a cursor or breaks XML


def test_latents_are_found_by_label_and_by_promoted_token(stored):
    folder, lm = stored
    saes = Suite.load(folder / "suite")
    (hit,) = find_latents(saes, "Birds")
    assert (str(hit.node), hit.label, hit.score) == ("resid_post.1/2", "songs of birds", 1.0)
    best = {}
    for layer in range(3):
        logits = lm.unembed(saes[Site("resid_post", layer)].W_dec.detach())
        best |= {Node(Site("resid_post", layer), row): int(token) for row, token in enumerate(logits.argmax(1))}
    node, token = next((node, token) for node, token in best.items() if lm.tokenizer.decode([token]).strip().isalpha())
    word = lm.tokenizer.decode([token]).strip()
    found = {hit.node: hit for hit in find_latents(saes, word, lm)}
    assert found[node].score == 0.5
    assert "rank 1" in found[node].reason
    assert all(one.node.site.kind == "resid_post" for one in found.values())
    with pytest.raises(InputError, match="no latent of 3 sites belongs to 'zeppelin'"):
        find_latents(saes, "zeppelin", lm)


@pytest.fixture
def call(stored, monkeypatch, capsys):
    return run_folder.caller(stored[0], monkeypatch, capsys)


def test_the_command_lists_and_writes(call, stored):
    folder, _ = stored
    outs = ["a.html", "a.svg", "a.json", "a.attribution.json"]
    flags = [word for name in outs for word in ("--out", name)]
    status, out, err = call("flow", "resid_post.1/2", "--suite", "suite", "--cuts", "published", *flags)
    assert status == 0, err
    assert out.splitlines()[0].startswith("layer")
    assert "songs of birds" in out
    assert all(f"written: {name}" in out for name in outs)
    assert "songs of birds" in (folder / "a.html").read_text()
    ElementTree.fromstring((folder / "a.svg").read_text())
    assert json.loads((folder / "a.json").read_text())["format"] == "monosem.flow"
    assert json.loads((folder / "a.attribution.json").read_text())["metadata"]["slug"] == "a"
    status, out, _ = call("flow", "resid_post.1/2", "--suite", "suite", "--cut-resid", "0.2", "--no-tokens", "--json")
    value = json.loads(out)
    assert (status, value["seeds"], value["cuts"]["resid_post.0"]) == (0, ["resid_post.1/2"], 0.2)
    assert value["cuts"]["mlp_out.1"] > 0.5  # chance in 32 dimensions
    (seed,) = (one for one in value["nodes"] if one["node"] == "resid_post.1/2")
    assert seed["note"]["label"] == "songs of birds"
    assert not seed["note"]["promoted"]
    status, out, _ = call("flow", "--find", "birds", "--suite", "suite", "--json")
    assert json.loads(out)["latents"][0]["node"] == "resid_post.1/2"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resid_post.1/10"], "10 latents"),
        (["resid_post.7/1"], "no autoencoder at resid_post.7"),
        ([], "no latent was named"),
        (["resid_post.1/2", "--out", "a.pdf"], "has to end in .html, .svg, .json"),
        (["resid_post.1/2", "--find", "bird"], "draws nothing"),
        (["resid_post.1/2", "--prune", "--cut-resid", "0.999", "--cut-module", "0.999"], "is below the cut 1.00 at"),
        (["resid_post.1/2", "--matcher", "pearson"], "how they were trained"),
        (["resid_post.1/2", "--model", "nowhere"], "nowhere"),
    ],
)
def test_the_command_refuses(call, arguments, said):
    run_folder.assert_refused(call("flow", *arguments, "--suite", "suite"), said)


def test_tokens_are_left_out_where_there_is_no_model(call, stored, tmp_path):
    for layer in (0, 1):
        save(autoencoder(unit(6, 8), info={"site": f"resid_post.{layer}"}), tmp_path / f"{layer}")
    status, out, err = call("flow", "resid_post.1/2", "--suite", str(tmp_path / "0"), str(tmp_path / "1"))
    assert status == 0
    assert "promoted tokens are left out" in err
    assert "resid_post" not in err
    assert torch.is_grad_enabled()
    assert "persisted" not in out  # without modules nothing is classified
