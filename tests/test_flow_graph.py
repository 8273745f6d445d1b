"""Flow graphs: what a trace finds, what cuts make of it, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from flow_dictionary import autoencoder, suite, unit
from flow_story import FIXED, story
from monosem.flow import Cosine, Cuts, Graph, Node, Permutation, Span, classify, load_graph, save_graph, trace, union
from monosem.flow.attribution_layout import to_attribution
from monosem.flow.classification import ORIGINS
from monosem.flow.graph_file import from_json, to_json
from monosem.flow.listing import lost, rows
from monosem.flow.note import Note
from monosem.shapes import InputError, Site

CUTS = Cuts(FIXED, None)


@pytest.fixture(scope="module")
def tale():
    return story()


def origins(graph: Graph) -> dict[str, str | None]:
    return {str(node): graph.origin(node) for node in graph.vertices if node.site.kind == "resid_post"}


def stream(graph: Graph) -> set[Node]:
    return {node for node in graph.vertices if node.site.kind == "resid_post"}


@pytest.mark.parametrize("matcher", [None, Permutation("dec", folded=False)], ids=["cosine", "permutation"])
def test_a_feature_is_followed_from_where_it_begins_to_where_it_ends(tale, matcher):
    graph = trace(tale.suite, str(tale.node("old", "resid_post.2")), matcher, cuts=CUTS)
    chain = [tale.node("old", f"resid_post.{layer}") for layer in range(4)]
    if matcher is None:  # what one-to-one assignment gives a latent without any similar one is arbitrary
        assert stream(graph) == set(chain)
    assert [graph.origin(node) for node in chain] == [None, "persisted", "processed", "persisted"]
    scores = graph.vertices[chain[2]].scores
    assert scores["resid"] == pytest.approx(0.5**0.5, abs=1e-6)
    assert scores["mlp"] == pytest.approx(0.5**0.5, abs=1e-6)
    assert scores["attn"] == 0
    assert graph.vertices[chain[2]].matches["mlp"] == tale.node("fed", "mlp_out.2")
    flags = [graph.flags(node) for node in chain]
    assert flags == [{"source"}, set(), {"seed"}, {"death"}]
    assert graph.span == Span(0, 3)


def test_births_are_told_apart(tale):
    graph = trace(tale.suite, [tale.node("new", "resid_post.4"), tale.node("odd", "resid_post.3")], cuts=CUTS)
    born, odd = tale.node("new", "resid_post.2"), tale.node("odd", "resid_post.3")
    assert graph.origin(born) == "newborn"
    assert graph.flags(born) == {"birth"}
    assert graph.high(born) == ("attn",)
    assert graph.origin(odd) == "unexplained"
    assert graph.flags(odd) == {"birth", "seed", "death"}
    assert graph.flags(tale.node("new", "resid_post.4")) == {"seed", "sink"}
    assert graph.seeds == (tale.node("new", "resid_post.4"), odd)


def test_both_ways_are_the_two_ways_together(tale):
    seed = tale.node("old", "resid_post.1")
    ways = [trace(tale.suite, seed, cuts=CUTS, direction=way) for way in ("backward", "forward", "both")]
    back, ahead, both = (set(graph.vertices) for graph in ways)
    assert back | ahead == both
    assert {node.site.layer for node in back} == {0, 1}
    assert {node.site.layer for node in stream(ways[1])} == {1, 2, 3}
    edges = [{(edge.source, edge.target) for edge in graph.edges} for graph in ways]
    assert edges[0] | edges[1] == edges[2]


def test_a_trace_asks_for_one_latent_at_a_time(tale):
    asked = []

    class Spy(Cosine):
        def match(self, suite, source, target, latents=None):
            asked.append((str(source), str(target), None if latents is None else len(latents)))
            return super().match(suite, source, target, latents)

    trace(tale.suite, tale.node("old", "resid_post.2"), Spy(), cuts=CUTS)
    assert {count for *_, count in asked} == {1}
    assert len(asked) == len(set(asked))  # nothing is asked twice


def test_pruning_ends_chains_and_drops_weak_modules(tale):
    seed = tale.node("old", "resid_post.3")
    graph = trace(tale.suite, seed, cuts=CUTS)
    faint = tale.node("faint", "attn_out.1")
    assert faint in graph.vertices
    sides = {node for node in graph.pruned(chain=False).vertices if node.site.kind != "resid_post"}
    assert sides == {tale.node("fed", "mlp_out.2")}
    assert faint in graph.pruned({Site("attn_out", 1): 0.15}).vertices
    high = dict.fromkeys(graph.cuts, 0.8)
    cut = graph.pruned(high)
    assert stream(cut) == {seed, tale.node("old", "resid_post.2")}
    assert cut.span == Span(2, 3)
    assert stream(graph.pruned(high, chain=False)) == stream(graph)
    # Going forward a chain ends before a child whose s(R) is low; the seed itself stays.
    ahead = trace(tale.suite, tale.node("old", "resid_post.1"), cuts=CUTS).pruned(high)
    assert stream(ahead) == {tale.node("old", f"resid_post.{layer}") for layer in (0, 1)}
    # Two seeds on either side of a cut both stay, the edge between them does not.
    apart = trace(tale.suite, [tale.node("old", "resid_post.1"), tale.node("old", "resid_post.2")], cuts=CUTS)
    assert len(apart.edges) - len(apart.pruned(high).edges) > 0
    assert (*apart.seeds,) not in {(edge.source, edge.target) for edge in apart.pruned(high).edges}
    assert (*apart.seeds,) in {(edge.source, edge.target) for edge in apart.pruned(high, chain=False).edges}
    alone = trace(tale.suite, tale.node("odd", "resid_post.3"), cuts=CUTS).pruned()
    assert list(alone.vertices) == [tale.node("odd", "resid_post.3")]
    assert (alone.edges, alone.span) == ((), Span(3, 3))


def branching():
    """Of three latents at layer 1 two go on as one at layer 2, of which one is nearer; that one has four heirs."""
    e = torch.eye(16)
    before = torch.stack([e[0], (0.8 * e[0] + 0.6 * e[1]), e[5]])
    mixed = ((0.9, 3), (0.7, 4), (0.3, 6))
    after = torch.stack([e[0], *(share * e[0] + (1 - share**2) ** 0.5 * e[axis] for share, axis in mixed)])
    return suite(resid_post_1=before, resid_post_2=after)


def test_forward_rules():
    saes = branching()
    graph = trace(saes, "resid_post.1/1", cuts=CUTS)
    (edge,) = graph.edges
    assert (edge.target.latent, edge.mutual) == (0, False)
    assert edge.score == pytest.approx(0.8)
    assert graph.vertices[edge.target].matches["resid"] == Node(Site("resid_post", 1), 0)
    # What ends a chain is the child's s(R), which is 1 here, not its likeness to this one.
    strict = trace(saes, "resid_post.1/1", cuts=Cuts({"resid": 0.85}, None))
    assert strict.span == Span(1, 2)
    assert strict.pruned().edges == strict.edges
    assert strict.flags(strict.seeds[0]) == {"source", "seed", "death"}
    ended = trace(saes, "resid_post.1/1", cuts=CUTS, forward="mutual")
    assert ended.edges == ()
    assert "death" in ended.flags(ended.seeds[0])
    assert trace(saes, "resid_post.1/0", cuts=CUTS, forward="mutual").edges[0].mutual
    heirs = trace(saes, "resid_post.1/0", cuts=CUTS, forward="inverse")
    assert [edge.target.latent for edge in heirs.edges] == [0, 1, 2]  # the fourth is below the cut
    assert heirs.vertices[heirs.seeds[0]].successors == 4
    assert "death" in (none := trace(saes, "resid_post.1/2", cuts=CUTS, forward="inverse")).flags(none.seeds[0])


def test_a_chain_goes_back_to_the_best_match_alone():
    """Of two seeds one leads, over a birth and one-way, to the other; the way back from that is another."""
    first = branching()
    before, after = (first[Site("resid_post", layer)].W_dec.detach() for layer in (1, 2))
    faint = 0.6 * before[1] + 0.8 * torch.eye(16)[8]
    saes = suite(resid_post_0=faint[None], resid_post_1=before, resid_post_2=after)
    graph = trace(saes, ["resid_post.0/0", "resid_post.2/0"], cuts=Cuts({"resid": 0.7}, None))
    between = {node.latent for node in graph.vertices if node.site.layer == 1}
    assert between == {0, 1}
    assert {node.latent for node in graph.pruned().vertices if node.site.layer == 1} == {0}


def test_a_modules_latent_enters_the_stream_at_its_layer(tale):
    seed = tale.node("new", "attn_out.2")
    graph = trace(tale.suite, seed, cuts=CUTS)
    assert stream(graph) == {tale.node("new", f"resid_post.{layer}") for layer in (2, 3, 4)}
    entry = next(edge for edge in graph.edges if edge.source == seed)
    assert (entry.target, entry.lane, entry.mutual) == (tale.node("new", "resid_post.2"), "attn", True)
    assert seed in graph.pruned().vertices
    assert graph.pruned().span == Span(2, 4)  # that nothing like it was in the stream before does not end the chain
    with pytest.raises(InputError, match="trace it forward"):
        trace(tale.suite, seed, cuts=CUTS, direction="backward")


def gapped():
    """Layer 2 is missing."""
    rows = unit(8, 16)
    return suite(resid_post_1=rows, resid_post_3=rows, resid_post_4=rows, mlp_out_3=unit(8, 16, 1))


def test_a_gap_needs_permission():
    saes = gapped()
    for seed in ("resid_post.1/2", "resid_post.4/2"):
        with pytest.raises(InputError, match=r"no resid_post\.2 .*allow gaps \(--gaps\)"):
            trace(saes, seed, cuts=CUTS)
    assert trace(saes, "resid_post.4/2", cuts=CUTS, direction="forward").edges == ()
    graph = trace(saes, "resid_post.1/2", cuts=CUTS, gaps=True)
    assert {(str(edge.target), edge.gap) for edge in graph.edges if edge.lane == "resid"} == {
        ("resid_post.3/2", 1),
        ("resid_post.4/2", 0),
    }
    assert trace(saes, "resid_post.4/2", cuts=CUTS, gaps=True).vertices.keys() == graph.vertices.keys()


def test_bad_seeds(tale):
    for seed, said in (
        ("resid_post.2/12", "12 latents"),
        ("resid_post.9/0", "no autoencoder at resid_post.9"),
        ("resid_post.2", "write SITE/NUMBER"),
    ):
        with pytest.raises(InputError, match=said):
            trace(tale.suite, seed, cuts=CUTS)
    rows = unit(8, 16)
    rows[3] = 0
    with pytest.raises(InputError, match="length 0"):
        trace(suite(resid_post_1=rows), "resid_post.1/3", cuts=CUTS)
    with pytest.raises(InputError, match="flow follows"):
        trace(suite(resid_mid_1=unit(4, 16)), "resid_mid.1/0", cuts=CUTS)


def test_a_union_has_everything_once(tale):
    seeds = [tale.node("old", "resid_post.1"), tale.node("old", "resid_post.3"), tale.node("new", "resid_post.3")]
    graphs = [trace(tale.suite, seed, cuts=CUTS) for seed in seeds]
    whole = union(graphs)
    assert whole == trace(tale.suite, seeds, cuts=CUTS)
    assert set(whole.vertices) == set().union(*(graph.vertices for graph in graphs))
    pairs = [(edge.source, edge.target) for edge in whole.edges]
    assert len(pairs) == len(set(pairs))
    assert len(stream(whole)) == 4 + 3
    first = tale.node("old", "resid_post.1")  # from the third layer it is only come to, from itself gone on
    assert whole.vertices[first].onward == union(graphs[::-1]).vertices[first].onward == pytest.approx(0.5**0.5)
    assert graphs[1].vertices[first].onward is None
    with pytest.raises(InputError, match="differ in their cuts"):
        union([graphs[0], trace(tale.suite, seeds[1], cuts=Cuts({"resid": 0.9}, None))])
    with pytest.raises(InputError, match="differ in their matcher"):
        union([graphs[0], trace(tale.suite, seeds[1], Permutation("dec", folded=False), cuts=CUTS)])
    with pytest.raises(InputError, match="differ in their sites"):
        union([graphs[0], replace(graphs[1], sites={**graphs[1].sites, Site("mlp_out", 1): "other"})])


def test_all_latents_of_a_site_are_classified_as_their_graphs_say():
    saes = suite(
        **{f"resid_post_{layer}": unit(40, 12, layer) for layer in (0, 1, 2)},
        **{
            f"{kind}_{layer}": unit(40, 12, 10 + place + 2 * layer)
            for layer in (1, 2)
            for place, kind in enumerate(("mlp_out", "attn_out"))
        },
    )
    cuts = Cuts({"resid": 0.7, "mlp": 0.75, "attn": 0.75}, None)
    found = classify(saes, Site("resid_post", 2), cuts=cuts)
    assert min(found.counts().values()) > 0  # every class is there
    assert sum(found.counts().values()) == 40
    for latent in range(40):
        graph = trace(saes, f"resid_post.2/{latent}", cuts=cuts, direction="backward")
        assert ORIGINS[int(found.labels[latent])] == graph.origin(graph.seeds[0])


def test_what_cannot_be_told_is_not_classified():
    rows = unit(8, 16)
    for missing in ({"resid_post_2": rows, "mlp_out_2": rows}, {"resid_post_1": rows, "resid_post_2": rows}):
        found = classify(suite(**missing), Site("resid_post", 2), cuts=CUTS)
        assert set(found.labels.tolist()) == {-1}
    partial = classify(
        suite(resid_post_1=rows, resid_post_2=rows, attn_out_2=unit(8, 16, 1)), Site("resid_post", 2), cuts=CUTS
    )
    assert set(partial.matches) == {"resid", "attn"}
    assert -1 not in partial.labels
    with pytest.raises(InputError, match="residual site"):
        classify(suite(mlp_out_2=rows), Site("mlp_out", 2), cuts=CUTS)


def test_one_start_for_all_is_said():
    same, other = story(start=3).suite, suite(resid_post_1=unit(8, 16), resid_post_2=unit(8, 16))
    assert trace(same, "resid_post.2/0", cuts=CUTS).same_start is True
    assert trace(other, "resid_post.2/0", cuts=CUTS).same_start is None
    graph = trace(other, "resid_post.2/5", cuts=CUTS)
    assert graph.equal_numbers == 1
    different = suite(
        resid_post_1=autoencoder(unit(8, 16), info={"start": 1}),
        resid_post_2=autoencoder(unit(8, 16), info={"start": 2}),
    )
    assert trace(different, "resid_post.2/5", cuts=CUTS).same_start is False


def test_json_gives_the_same_graph_back(tale, tmp_path):
    graph = trace(tale.suite, [tale.node("old", "resid_post.2"), tale.node("new", "resid_post.3")], cuts=CUTS)
    note = Note("birds", "judge", (" bird", "\n"), (), 0.01, 1.5, 4.0)
    graph = replace(graph, notes={graph.seeds[0]: note})
    assert load_graph(save_graph(graph, tmp_path / "graph.json")) == graph
    for other in (
        trace(branching(), "resid_post.1/1", cuts=CUTS),
        trace(gapped(), "resid_post.3/2", cuts=CUTS, gaps=True),
    ):
        assert from_json(json.loads(json.dumps(to_json(other)))) == other
    value = json.loads((tmp_path / "graph.json").read_text())
    assert value["span"] == [0, 4]
    assert value["sites"]["resid_post.2"] == tale.suite.hash(Site("resid_post", 2))
    assert {one["origin"] for one in value["nodes"]} >= {"persisted", "processed", "newborn"}
    for change in ({"version": 2}, {"nodes": value["nodes"][1:]}, {"edges": [{"source": "x"}]}, {"cuts": None}):
        (tmp_path / "bad.json").write_text(json.dumps({**value, **change}))
        with pytest.raises(InputError, match=r"bad\.json"):
            load_graph(tmp_path / "bad.json")
    with pytest.raises(InputError, match=r"expected 'monosem\.flow'"):
        from_json({})


REQUIRED = {
    "node_id": str,
    "feature": int,
    "layer": str,
    "ctx_idx": int,
    "feature_type": str,
    "jsNodeId": str,
    "clerp": str,
    "token_prob": float,
    "is_target_logit": bool,
    "run_idx": int,
    "reverse_ctx_idx": int,
}
"""What the viewers' schema asks of a node, with circuit-tracer's types."""


def test_the_attribution_layout_is_what_viewers_read(tale):
    graph = trace(tale.suite, tale.node("old", "resid_post.2"), cuts=CUTS)
    graph = replace(graph, notes={graph.seeds[0]: Note("birds")})
    value = json.loads(json.dumps(to_attribution(graph, "birds")))
    assert set(value) == {"metadata", "qParams", "nodes", "links"}
    assert {"slug", "scan", "prompt_tokens", "prompt", "transcoder_list", "schema_version"} <= set(value["metadata"])
    assert set(value["qParams"]) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    for node in value["nodes"]:
        assert {key: type(node[key]) for key in REQUIRED} == REQUIRED
    ids = [node["node_id"] for node in value["nodes"]]
    assert len(set(ids)) == len(ids) == len(graph.vertices)
    assert len({node["jsNodeId"] for node in value["nodes"]}) == len(ids)
    assert {end for link in value["links"] for end in (link["source"], link["target"])} <= set(ids)
    assert {node["ctx_idx"] for node in value["nodes"]} <= set(range(len(value["metadata"]["prompt_tokens"])))
    rows = unit(4, 16)
    alike = trace(suite(resid_post_1=rows, resid_post_2=rows, mlp_out_2=rows), "resid_post.2/3", cuts=CUTS)
    assert len({node["node_id"] for node in to_attribution(alike)["nodes"]}) == 3  # one number at three sites
    seed = next(node for node in value["nodes"] if node["node_id"] == value["qParams"]["clickedId"])
    number = graph.seeds[0].latent
    assert (seed["clerp"], seed["layer"]) == ("birds", "2")
    assert seed["feature"] == (2 + number) * (3 + number) // 2 + number
    # The Cantor pair can be undone, as viewers do to look a latent up.
    total = int(((8 * seed["feature"] + 1) ** 0.5 - 1) // 2)
    assert (total - number, seed["feature"] - total * (total + 1) // 2) == (2, number)


def test_the_list_says_what_is_high_and_what_cut_everything(tale):
    graph = trace(tale.suite, tale.node("old", "resid_post.2"), cuts=CUTS)
    lines = {line[0]: line for line in rows(graph)}
    assert list(lines) == ["3", "2", "1", "0"]
    assert lines["2"][2:6] == ["processed", "0.71*", str(tale.node("old", "resid_post.1").latent), "0.71*"]
    assert lines["1"][7] == "0.20 "  # below the cut, without a star
    assert lines["2"][-2] == "seed"
    assert lines["3"][-2] == "ends"
    assert lines["0"][3] == "–"
    odd = trace(tale.suite, tale.node("odd", "resid_post.3"), cuts=CUTS)
    assert lost(odd).count("nothing matches") == 3
    strict = Cuts({"resid": 0.95, "mlp": 0.9, "attn": 0.9}, None)
    weak = trace(tale.suite, tale.node("old", "resid_post.2"), cuts=strict)
    assert f"s(R) 0.71 of {weak.seeds[0]} is below the cut 0.95 at resid_post.1" in lost(weak)
    assert to_json(weak)["span"] == [2, 3]
