"""`monosem steer`: from the command line to texts, scores, vectors and a page."""

from __future__ import annotations

import json

import pytest
import torch

import planted
import tiny
from flow_steer_text import NATURE, TOWN, corpus, writer
from monosem.cli import main
from monosem.flow import Node, Suite
from monosem.flow.bench import opened
from monosem.flow.graph_file import save_graph
from monosem.flow.request import Request
from monosem.flow.steering import Steering
from monosem.flow.tracing import trace
from monosem.sae import SAE, DenseEncoder, JumpReLU, save
from monosem.shapes import InputError
from monosem.shapes.exclusion import Exclusion
from run_folder import assert_refused, caller

pytestmark = pytest.mark.slow

SITE = "resid_post.0"


def token(word: str) -> int:
    return tiny.tokenizer()(f" {word}")["input_ids"][0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The model, its dictionary (latent i is token i) and the two kinds of text."""
    folder, lm = tmp_path_factory.mktemp("steer"), writer()
    lm.model.save_pretrained(folder / "pairs")
    lm.tokenizer.save_pretrained(folder / "pairs")
    size = lm.d_model
    info = {
        "site": SITE,
        "model": lm.identity() | {"name": str(folder / "pairs")},
        "exclusion": Exclusion(special=False).describe(),
    }
    sae = SAE(DenseEncoder(size, size), JumpReLU(size), subtract_b_dec=False, info=info)
    with torch.no_grad():
        sae.encoder.weight.copy_(torch.eye(size))
        sae.W_dec.copy_(torch.eye(size))
        sae.rule.threshold.fill_(0.5)
    save(sae, folder / "suite" / "saes" / SITE)
    (folder / "nature.txt").write_text("\n\n".join(corpus(NATURE).documents))
    (folder / "town.txt").write_text("\n\n".join(corpus(TOWN).documents))
    return folder


@pytest.fixture
def steer(place, monkeypatch, capsys):
    call = caller(place, monkeypatch, capsys)
    return lambda *words: call("steer", *words)


PLAIN = ["--temperature", "0.9", "--top-p", "1", "--new-tokens", "12", "--dtype", "float32"]
RAIN = ["--suite", "suite", "--feature", f"{SITE}/{token('rain')}", *PLAIN]
SCORED = ["--theme", "nature.txt", "--other", "town.txt", "--pieces", "90", "--samples", "6"]


def test_plain_and_steered_text_stand_side_by_side(steer):
    answer = steer(" cat sat", *RAIN, "--strength", "6", "--samples", "2")
    assert answer.status == 0
    plain, steered = zip(*(line.split("│") for line in answer.out.splitlines() if "│" in line))
    assert "cat sat mat" in " ".join(plain)
    assert "birds" in " ".join(steered)
    assert "birds" not in " ".join(plain)
    assert "cumulative, s = 6" in answer.out


def test_json_is_one_object_and_no_strength_is_plain_text(steer):
    answer = steer(" cat", " mat", *RAIN, "--strength", "0,6", "--samples", "2", "--json")
    found = json.loads(answer.out)
    texts = {row["name"]: [one["text"] for one in row["texts"]] for row in found["rows"]}
    assert list(texts) == ["plain", "cumulative, s = 0", "cumulative, s = 6"]
    assert texts["plain"] == texts["cumulative, s = 0"] != texts["cumulative, s = 6"]
    assert found["prompts"] == [" cat", " mat"]
    assert [(one["prompt"], one["sample"]) for one in found["rows"][0]["texts"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found["nodes"] == [f"{SITE}/{token('rain')}"]


def test_rescaling_turns_a_token_around(steer):
    """Latent i is token i: without the part of `cat`, what follows it is anything."""
    kept = ["--suite", "suite", "--feature", f"{SITE}/{token('cat')}", *PLAIN, "--samples", "4", "--json"]
    found = json.loads(steer(" mat cat", *kept, "--rescale=1,0", "--temperature", "0").out)
    first = {row["name"]: row["texts"][0]["ids"][0] for row in found["rows"]}
    assert first["plain"] == first["cumulative, r = 1"] == token("sat") != first["cumulative, r = 0"]
    assert found["rows"][2]["norms"][SITE]["added"] > 0.1


def test_vectors_are_saved_and_applied_without_the_suite(steer, place, monkeypatch):
    saved = json.loads(steer(" cat", *RAIN, "--strength", "6", "--save", "vectors", "--json").out)
    monkeypatch.setenv("MONOSEM_CACHE", str(place / "empty"))  # where no text is kept yet
    again = json.loads(steer(" cat", "--steering", "vectors", *PLAIN, "--json").out)
    assert [row["texts"] for row in again["rows"]] == [row["texts"] for row in saved["rows"]]
    (push,) = Steering.load(place / "vectors").pushes.values()
    assert push.latents.tolist() == [token("rain")]
    several = steer(" cat", *RAIN, "--strength", "1,2", "--save", "vectors")
    assert_refused(several, "--save is for one setting, this has 2")
    cat = ["--suite", "suite", "--feature", f"{SITE}/{token('cat')}", "--rescale", "0"]
    assert steer(" cat", *cat, "--save", "scales", *PLAIN).status == 0
    assert_refused(steer("cat", "--steering", "scales", *PLAIN), "these vectors rescale activations")


def test_graphs_are_steered_whole(steer, place):
    suite = Suite.load(place / "suite")
    graph = trace(suite, [Node.parse(f"{SITE}/{token(word)}") for word in ("rain", "pale")])
    save_graph(graph, place / "graph.json")
    found = json.loads(steer(" cat", "--suite", "suite", "--graph", "graph.json", *PLAIN, "--json").out)
    assert set(found["nodes"]) == {f"{SITE}/{token(word)}" for word in ("rain", "pale")}
    along = json.loads(steer(" cat", *RAIN, "--along-flow", "--json").out)
    assert along["nodes"] == [f"{SITE}/{token('rain')}"]


@pytest.fixture(scope="module")
def compared(place):
    """One scored comparison with all baselines and a judge that reads, kept in a folder."""
    with pytest.MonkeyPatch.context() as patch, planted.endpoint() as server:
        server.answer = lambda system, user: json.dumps(
            {"coherence": 4, "behavioral": min(5, sum(word in user.split('"""')[1] for word in NATURE))}
        )
        patch.setenv("MONOSEM_PROGRESS", "off")
        patch.setenv("MONOSEM_CACHE", str(place / "cache"))
        patch.chdir(place)
        judge = ["--judge", f"endpoint:{server.url}#grader", "--subject", "weather"]
        words = ["steer", " cat", " mat", *RAIN, *SCORED, *judge, "--strength", "6", "--out", "kept"]
        assert main(words) == 0
        asked = len(server.requests)
        assert main(words) == 0
        assert len(server.requests) == asked
    return json.loads((place / "kept" / "steering.json").read_text())


@pytest.mark.slow
def test_a_comparison_has_plain_text_settings_and_baselines(compared):
    names = [row["name"] for row in compared["rows"]]
    controls = [f"cumulative, s = 6: {kind}" for kind in ("random", "features", "difference")]
    assert names == ["plain", "cumulative, s = 6", *controls, "prompt"]
    norms = {row["name"]: row["norms"] for row in compared["rows"]}
    for name in controls:
        assert norms[name][SITE]["added"] == pytest.approx(norms[name.split(":")[0]][SITE]["added"], rel=1e-4)


@pytest.mark.slow
def test_every_scorer_finds_the_theme_that_was_added(compared):
    judges = compared["judges"]
    assert set(judges["offline"]["scorers"]) == {"classifier", "lexicon", "features"}
    assert all(gate["passed"] for gate in judges["offline"]["gates"])
    scores = {row["name"]: row["scores"] for row in compared["rows"]}
    (grader,) = (name for name in judges if name != "offline")
    for kind in ("offline: behaviour (classifier)", "offline: behaviour (lexicon)", f"{grader}: behaviour"):
        strong, plain = scores["cumulative, s = 6"][kind], scores["plain"][kind]
        assert strong["value"] > plain["value"] + 0.1
        assert strong["value"] > scores["cumulative, s = 6: random"][kind]["value"] + 0.1
    assert scores["plain"]["offline: coherence"]["value"] > scores["cumulative, s = 6"]["offline: coherence"]["value"]
    assert judges[grader]["missing"] == 0
    assert set(compared["best"]["offline: total (lexicon)"]) == set()  # one setting each: nothing to choose


@pytest.mark.slow
def test_the_page_has_judges_and_texts(compared, place):
    page = (place / "kept" / "index.html").read_text()
    for said in ("offline: behaviour (lexicon)", "shuffled over whole", "grader", "prompt"):
        assert said in page
    assert compared["rows"][1]["texts"][0]["text"].split()[0] in page


def test_latents_of_a_theme_are_found(steer):
    given = ["--suite", "suite", "--from-theme", SITE, "--seeds", "2", *SCORED, *PLAIN, "--baselines", "none"]
    answer = steer(" cat", *given, "--strength", "3", "--samples", "2", "--json")
    found = json.loads(answer.out)
    assert {int(one.split("/")[1]) for one in found["nodes"]} <= {token(word) for word in NATURE}
    assert len(found["nodes"]) == 2
    assert "latents of the theme" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "suite"], "say what is steered, in one way"),
        (["--feature", f"{SITE}/1"], "steering by latents needs their autoencoders"),
        (["--suite", "suite", "--feature", f"{SITE}/99999"], f"{SITE}/99999 does not exist"),
        (["--suite", "suite", "--feature", "resid_post.3/1"], "the suite has no autoencoder at resid_post.3"),
        (["--suite", "suite", "--feature", "17"], "'17' names no latent"),
        (["--suite", "suite", "--from-theme", SITE], "--from-theme needs text of the theme"),
        ([*RAIN, "--strength", "much"], "--strength much: give numbers"),
        ([*RAIN, "--rescale=0,x"], "--rescale 0,x: give numbers"),
        ([*RAIN, "--schedule", "cosine"], "--schedule 'cosine' is unknown"),
        ([*RAIN, "--strategy", "both"], "--strategy 'both' is unknown"),
        ([*RAIN, "--layer", "first"], "--layer first: give all, each, or numbers"),
        ([*RAIN, "--layer", "4", "--strategy", "single"], "no latent is at the layers asked for: they are at 0"),
        ([*RAIN, "--baselines", "noise"], "--baselines 'noise' is unknown"),
        ([*RAIN, "--baselines", "difference"], "the difference in means needs texts"),
        ([*RAIN, "--judge", "local:none"], "name it with --subject"),
        ([*RAIN, "--theme", "nature.txt"], "offline scores compare the theme with other text"),
        ([*RAIN, "--theme", "nature.txt", "--other", "nature.txt"], "the theme and the other text are both nature.txt"),
        ([*RAIN, "--samples", "0"], "give at least 1 each"),
        ([*RAIN, "--new-tokens", "500"], "reads at most 128"),
        ([*RAIN, "--out", "pairs"], "holds something else than steered texts"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(steer, words, message):
    assert_refused(steer("cat", *words), message)


def test_a_request_from_python_is_what_the_command_asks(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    asked = Request((" cat",), suite=["suite"], feature=[f"{SITE}/{token('rain')}"], strengths=(2.0,), dtype="float32")
    found = opened(asked, lambda text: None).run()
    assert [row["name"] for row in found["rows"]] == ["plain", "cumulative, s = 2"]
    with pytest.raises(InputError, match="a prompt is empty"):
        opened(Request(("",), suite=["suite"], feature=asked.feature), lambda text: None).run()
