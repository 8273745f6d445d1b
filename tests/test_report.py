from __future__ import annotations

import copy
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import tiny
from monosem.evaluation import Context, FeatureStatistics, evaluate, feature_statistics
from monosem.lm import LanguageModel
from monosem.lm.spelling import Piece, Spelling, byte_level, pieces, sentence_piece
from monosem.report import Subject, budget, cost, plot, write_report
from monosem.report.about import about
from monosem.report.choice import Choice
from monosem.report.colour import PALETTE
from monosem.report.context import Span, line, peak
from monosem.report.mark import marked
from monosem.report.number import short
from monosem.report.parent import Sibling, dead_parents, factors, siblings
from monosem.report.table import COLUMNS, speed, table
from monosem.sae import SAE, DenseEncoder, JumpReLU, KronEncoder, Rule, TopK
from monosem.shapes import InputError, KronShape
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows

D, F = 32, 40
SITE = "resid_post.1"
SCRIPT = "<script>alert('&')</script>"
SAID = f'the cat {SCRIPT} sat\n\non  a <b title="x"> mat 🐈 sang über \u202e river'
VOID = {"meta", "link", "input", "br", "path", "use", "img"}


class Page(HTMLParser):
    """Every element with its attributes and enclosing elements; asserts that each one is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str], tuple[str, ...]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        attributes = {key: value or "" for key, value in attrs}
        assert len(attributes) == len(attrs), (tag, attrs)
        self.elements.append((tag, attributes, tuple(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {key: value or "" for key, value in attrs}, tuple(self._open)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        return [
            attributes
            for name, attributes, _ in self.elements
            if name == tag and (not kind or kind in attributes.get("class", "").split())
        ]

    @property
    def text(self) -> str:
        return "".join(text for tag, text in self.texts if tag not in ("style", "script"))


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny.llama()


def windows(length: int = 24) -> Windows:
    """Windows that start at different places of `SAID` said over and over, each with an EOS inside."""
    ids = tiny.tokenizer()(" ".join([SAID] * 12))["input_ids"]
    tokens = torch.tensor([ids[7 * row : 7 * row + length] for row in range(40)], dtype=torch.int32)
    tokens[:, 9] = 1
    return Windows(tokens, torch.zeros_like(tokens), tokens < 2, {"corpus": "said", "split": "held_out"})


def autoencoder(rule: Rule, site: str = SITE, width: int = D) -> SAE:
    training = {"tokens": 8000, "distinct_tokens": 4000, "machine": "abacus", "threads": 2, "torch": "2"}
    info = {
        "site": site,
        "exclusion": Exclusion().describe(),
        "model_source": "A model of 3 layers.",
        "text": {"corpus": "words", "split": "train", "revision": "r1", "length": 24},
        "training": training,
    }
    sae = SAE(DenseEncoder(width, F), rule, info=info)
    generator = torch.Generator().manual_seed(1)
    sae.initialise(torch.randn(256, width, generator=generator) * 3 + 1, generator)
    sae.encoder.bias.data[7] = -1e6  # a dead latent
    return sae.eval()


def log(name: str) -> list[dict]:
    return [
        {
            "step": step,
            "tokens": 1000 * step,
            "sae": name,
            "l0": 4.0,
            "explained_variance": 1 - 1 / (1 + step),
            "dead_share": 0.1,
            "step_seconds": 0.5 * step,
        }
        for step in range(1, 9)
    ]


def subjects_of(lm: LanguageModel, saes: dict[str, SAE], **options) -> list[Subject]:
    measured = evaluate(saes, lm, windows(), batch=4, **options)
    found = feature_statistics(saes, lm, windows(), batch=4)
    return [Subject(name, sae, measured[name].to_json(), found[name], log(name)) for name, sae in saes.items()]


@pytest.fixture(scope="module")
def subjects(lm) -> list[Subject]:
    jump = JumpReLU(F)
    jump.threshold.data.fill_(0.5)
    return subjects_of(lm, {"top<k>": autoencoder(TopK(F, 4)), "jump": autoencoder(jump)})


@pytest.fixture(scope="module")
def page(lm, subjects, tmp_path_factory) -> Page:
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert write_report(path, subjects, lm, command="monosem <demo>", n_features=5, seed=3) == path
    return Page(path)


def test_page_is_well_formed_and_loads_nothing(page):
    assert page.source.startswith("<!doctype html>")
    for _, attributes, _ in page.elements:
        for key in ("src", "href", "xlink:href", "action", "poster", "srcset", "data"):
            assert attributes.get(key, "#").startswith(("#", "data:,")), attributes
        assert "url(" not in attributes.get("style", "")
        assert all(value.startswith("url(#") for value in attributes.values() if "url(" in value)
    styles = "".join(text for tag, text in page.texts if tag == "style")
    assert styles.strip()
    assert "@import" not in styles
    assert "url(" not in styles
    assert "http" not in page.source.replace("http-equiv", "")


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [attributes["href"] for _, attributes, _ in page.elements if "href" in attributes]
    assert len([target for target in targets if target.startswith("#")]) > 10
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)


def test_text_of_tokens_and_names_is_escaped(page):
    assert len(page.all("script")) == 1
    assert not [attributes for attributes in page.all("b") if attributes]
    assert "<demo>" in page.text
    assert "top<k>" in page.text
    contexts = "".join(page.source.split("<bdi>")[1:])
    assert "&lt;" in contexts
    assert "&gt;" in contexts


def test_whitespace_special_and_multi_byte_tokens_are_readable(page):
    assert "↵" in page.text
    assert "🐈" in page.text
    assert "ü" in page.text
    assert "\u202e" not in page.source
    assert "\\u202e" in page.text
    assert "\ufffd" not in page.source
    assert any(attributes.get("title") == "special token" for attributes in page.all("kbd"))
    assert any(attributes.get("title") == "excluded" for attributes in page.all("s"))


def test_as_many_random_as_strongest(page, subjects):
    cards = page.all("details", "feature")
    columns = page.source.split('<div class="column">')[1:]
    assert [column.count('<details class="feature"') for column in columns] == [5] * 2 * len(subjects)
    assert len(cards) == 10 * len(subjects)
    assert len(page.all("details", "sae")) == len(subjects)
    assert len(page.all("svg", "bars")) == len(cards)


def test_shading_is_the_share_of_the_maximum_and_the_value_is_the_title(page):
    marks = [attributes for attributes in page.all("mark") if "title" in attributes]
    assert marks
    alphas = [float(attributes["style"].removeprefix("--a:")) for attributes in marks]
    assert max(alphas) == 0.75
    assert min(alphas) >= 0.1
    assert all(float(value) >= 0 for attributes in marks for value in attributes["title"].split(", "))


def test_everything_the_script_and_the_style_name_is_there(page):
    assert len([1 for _, attributes, _ in page.elements if attributes.get("id") in ("find", "found")]) == 2
    assert page.all("span", "word")
    assert page.all("bdi")
    styles = "".join(text for tag, text in page.texts if tag == "style")
    for word in ("prefers-color-scheme: dark", ".feature[hidden]", "mark", "kbd"):
        assert word in styles


@pytest.mark.slow
def test_same_arguments_same_bytes_and_the_seed_draws_the_random_ones(lm, subjects, tmp_path):
    def write(name: str, seed: int) -> str:
        path = write_report(tmp_path / name, subjects, lm, command="c", n_features=5, seed=seed)
        return path.read_text(encoding="utf-8")

    assert write("a.html", 1) == write("new/b.html", 1) != write("c.html", 2)
    features = subjects[0].features
    assert Choice(features, 5, 1).random == Choice(features, 5, 1).random != Choice(features, 5, 2).random
    assert Choice(features, 5, 1).strongest == Choice(features, 5, 2).strongest
    assert "seed 2" in Page(tmp_path / "c.html").text


def test_without_matplotlib_the_page_says_how_to_get_it(lm, subjects, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = Page(write_report(tmp_path / "r.html", subjects, lm, command="c", n_features=2))
    assert "pip install 'monosem[plots]'" in page.text
    assert not page.all("figure")
    assert page.all("svg", "bars")


def test_about_says_what_was_recorded(page, subjects):
    said = " ".join(about(subjects))
    assert said in page.text
    for part in (
        "residual stream after a block",
        "A model of 3 layers.",
        "8,000 tokens, 4,000 of them distinct, of words (train part, revision r1, windows of 24 tokens)",
        str(Exclusion()),
        f"Evaluated on {subjects[0].evaluation['n_tokens']:,} tokens of said (held_out part)",
        "Attention may cross documents inside a window.",
        "abacus with 2 threads",
    ):
        assert part in said
    assert "jump:" not in said


def test_about_names_the_autoencoders_where_they_differ(subjects):
    other = autoencoder(TopK(F, 4))
    other.info["training"] = {**other.info["training"], "tokens": 9000}
    said = about([subjects[0], subjects[1]._replace(sae=other)])
    assert any(text.startswith("jump: Trained on 9,000 tokens") for text in said)
    assert any(text.startswith("top<k>: Trained on 8,000 tokens") for text in said)
    assert len(said) == len(about(subjects)) + 1
    del other.info["training"]
    assert "not recorded" in " ".join(about([subjects[0]._replace(sae=other)]))


def test_table_shows_figures_with_errors_and_every_definition(page, subjects):
    cells = table(COLUMNS, subjects)
    metrics, errors = subjects[1].evaluation["metrics"], subjects[1].evaluation["errors"]
    headings = [column.heading for column in COLUMNS]
    assert cells[1][0] == (f"{metrics['explained_variance']:.4f}", f"{errors['explained_variance']:.4f}")
    assert cells[1][headings.index("L0")].value == f"{metrics['l0']:.2f}"
    assert cells[0][headings.index("dead")].value == f"{subjects[0].evaluation['metrics']['frac_dead']:.2%}"
    titles = [attributes["title"] for attributes in page.all("abbr")]
    assert titles == [column.meaning for column in (*COLUMNS, *cost.columns(subjects))]
    for row in cells:
        for cell in row:
            assert cell.value in page.text
            assert cell.error in page.text


def kron(base: int = 2, extension: int = 5, gate: str = "mand") -> SAE:
    """h·m·n = 40 latents."""
    shape = {"heads": F // (base * extension), "base": base, "extension": extension}
    info = autoencoder(TopK(F, 4)).info
    sae = SAE(KronEncoder(D, F, **shape, gate=gate), TopK(F, 4), subtract_b_dec=False, info=info)
    generator = torch.Generator().manual_seed(1)
    sae.initialise(torch.randn(256, D, generator=generator) * 3 + 1, generator)
    return sae.eval()


def test_costs_are_those_of_the_encoder_and_say_when_it_is_dearer(subjects):
    four, one = (subjects[0]._replace(name=name, sae=sae) for name, sae in (("four", kron(4)), ("one", kron(1))))
    columns = cost.columns([subjects[0], four, one])
    dense, cheap, dear = (
        dict(zip([column.heading for column in columns], row)) for row in table(columns, [subjects[0], four, one])
    )
    assert [row["encoder"].value for row in (dense, cheap)] == ["dense", "kron, h 2, m 4, n 5, mand"]
    assert [row["encoder ÷ dense"].value for row in (dense, cheap, dear)] == ["1", "0.45", "1.2"]
    assert [row["encoder, multiply-adds"].value for row in (dense, cheap)] == [f"{F * D:,}", f"{18 * D:,}"]
    assert cheap["all, multiply-adds"].value == f"{18 * D + F + 4 * D:,}"
    assert cheap["dense ÷ all"].value == f"{(F * D + 4 * D) / (18 * D + F + 4 * D):.4g}"
    assert cheap["parameters"].value == f"{18 * (D + 1) + F * D + D:,}"
    (remark,) = cost.remarks([subjects[0], four, one])
    assert remark.startswith("one has a dearer encoder")
    assert "48 rows for 40 latents, 1.2 times" in remark
    assert "dead bases" not in [column.heading for column in cost.columns(subjects)]


def test_a_parent_is_dead_if_all_its_latents_are(subjects):
    alive = np.zeros((2, 2, 3), dtype=bool)  # two heads of 2 bases and 3 extensions
    alive[0, 0, 0] = alive[0, 1, 0] = alive[1, 1, 2] = True
    assert dead_parents(KronShape(2, 2, 3), alive.flatten()) == (0.25, pytest.approx(4 / 6))
    silent = statistics([[1.0] if latent in (0, 12) else [] for latent in range(F)], 100)
    one = subjects[0]._replace(sae=kron(4), features=silent)
    columns = cost.columns([one])
    found = dict(zip([column.heading for column in columns], [cell.value for cell in table(columns, [one])[0]]))
    dead = [found[name] for name in ("dead latents", "dead bases", "dead extensions")]
    assert dead == ["95.00%", "75.00%", "80.00%"]  # latents (0, 0, 0) and (0, 2, 2)


def test_siblings_share_a_parent_of_one_head():
    sae = kron(2)  # 4 heads of 2 bases and 5 extensions
    assert factors(sae, 17) == (1, 1, 2)
    assert factors(autoencoder(TopK(F, 4)), 17) is None
    found = siblings(sae, 17, [15, 12, 17, 11, 7, 27, 15])
    assert found == [Sibling(15, "base"), Sibling(12, "extension")]
    assert siblings(autoencoder(TopK(F, 4)), 17, [15, 12]) == []


def test_features_of_a_kron_autoencoder_show_their_parents_and_link_to_siblings(lm, tmp_path):
    subjects = subjects_of(lm, {"kron": kron(2)}, loss_windows=0)
    page = Page(write_report(tmp_path / "r.html", subjects, lm, command="c", n_features=9))
    chosen = Choice(subjects[0].features, 9, 0)
    for latent in chosen.strongest + chosen.random:
        head, rest = divmod(latent, 10)
        assert f"head {head}, base {rest // 5}, extension {rest % 5}" in page.source
    ids = [attributes["id"] for _, attributes, _ in page.elements if attributes.get("id", "").startswith("latent-1-")]
    assert sorted(ids) == sorted({f"latent-1-{latent}" for latent in chosen.strongest + chosen.random})
    links = {attributes["href"] for attributes in page.all("a") if attributes["href"].startswith("#latent-1-")}
    assert links
    assert links <= {f"#{target}" for target in ids}
    assert "(head, base, extension)" in page.text


def test_losses_that_were_not_measured_are_not_shown(lm, tmp_path):
    subjects = subjects_of(lm, {"sae": autoencoder(TopK(F, 4))}, loss_windows=0)
    page = Page(write_report(tmp_path / "r.html", subjects, lm, command="c", n_features=1))
    figures = page.source.split("<h2>Plots</h2>")[0]
    assert figures.count('title="not measured"') == 3
    assert "Losses were not measured." in page.text


def test_speed_is_the_median_interval_and_passes_over_a_resume():
    def lines(*pairs):
        return [{"tokens": tokens, "step_seconds": seconds} for tokens, seconds in pairs]

    assert speed([]) is None
    assert speed(lines((100, 10), (200, 11), (300, 12))) == 100
    assert speed(lines((100, 1), (200, 0.5), (300, 1.0))) == 150


def statistics(values: list[list[float]], n_tokens: int) -> FeatureStatistics:
    """Latent i has `values[i]` on the first tokens of one window."""
    counts = np.array([len(own) for own in values])
    arrays = {
        "starts": np.concatenate([[0], counts.cumsum()]),
        "tokens": np.concatenate([np.arange(count) for count in counts]).astype(np.int32),
        "values": np.array([value for own in values for value in own], dtype=np.float32),
        "window_tokens": np.zeros((1, n_tokens), dtype=np.int32),
        "excluded": np.zeros((1, n_tokens), dtype=bool),
        "density": counts / n_tokens,
        "mean": np.array([np.mean(own or [0]) for own in values]),
        "max": np.array([max(own or [0]) for own in values], dtype=np.float32),
    }
    return FeatureStatistics(arrays, {"n_latents": len(values), "n_tokens": n_tokens})


def test_strongest_have_the_greatest_mean_among_those_that_qualify():
    often, rare, good, better, dead = [9.0] * 40, [8.0] * 9, [2.0] * 20, [3.0] * 20, []
    features = statistics([often, rare, good, better, dead], 10_000)
    chosen = Choice(features, 2, 0)
    assert chosen.strongest == [3, 2]
    assert (chosen.live, chosen.dead, chosen.qualified) == (4, 1, 2)
    assert Choice(features, 9, 0).strongest == [3, 2, 0, 1]
    assert Choice(features, 9, 0).random == [0, 1, 2, 3]
    assert Choice(statistics([dead, dead], 10), 3, 0).random == []


def test_every_byte_of_a_text_is_spelled():
    spelling = Spelling(tiny.tokenizer())
    ids = tiny.tokenizer()(SAID)["input_ids"]
    assert b"".join(map(spelling.spell, ids)) == SAID.encode()
    assert spelling.spell(0) == b"<s>"
    assert spelling.special == {0, 1}
    assert spelling.spell(10_000) == b"[10000]"
    found = spelling.pieces(ids)
    assert "".join(piece.text for piece in found) == SAID
    assert [piece.start for piece in found] == [0, *(piece.stop for piece in found[:-1])]
    assert found[-1].stop == len(ids)


def test_added_tokens_are_spelled_as_they_are_written():
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_tokens(["ü Ġ"])
    spelling = Spelling(tokenizer)
    added = tokenizer.convert_tokens_to_ids("ü Ġ")
    assert spelling.spell(added) == "ü Ġ".encode()
    assert added not in spelling.special


def test_byte_alphabets():
    letters = "".join(map(chr, range(1, 0x800))) + "".join(map(chr, range(0x10000, 0x10100)))
    spelling = Spelling(tiny.tokenizer())
    assert b"".join(map(spelling.spell, tiny.tokenizer()(letters)["input_ids"])) == letters.encode()
    assert byte_level("ĠaĊ") == b" a\n"
    assert byte_level("ðŁĺĢ") == "😀".encode()
    assert sentence_piece("▁New") == b" New"
    assert sentence_piece("<0xE2>") == b"\xe2"
    assert sentence_piece("<0x>") == b"<0x>"


def test_pieces_are_the_fewest_tokens_that_are_whole_characters():
    cat = "🐈".encode()
    assert pieces([b"a", cat[:2], cat[2:], b"b"]) == [
        Piece(0, 1, "a"),
        Piece(1, 3, "🐈"),
        Piece(3, 4, "b"),
    ]
    assert [piece.text for piece in pieces([cat[2:], b"x", cat[:3]])] == [r"\x90\x88", "x", r"\xf0\x9f\x90"]
    assert [piece.text for piece in pieces([cat[:1], b"x"])] == [r"\xf0", "x"]
    assert [piece.text for piece in pieces([b"\xe2", b"\x80\x99\xe2", b"\x80\x99s"])] == ["’’s"]


def test_marks():
    assert marked("a b<i>") == "a b&lt;i&gt;"
    assert marked("\n\t") == "<i>↵</i><i>⇥</i>"
    assert marked(" ") == "<i>·</i>"
    assert marked("a  b") == "a<i>·</i><i>·</i>b"
    assert marked(" a") == " a"
    assert marked(" a", alone=True) == "<i>·</i>a"
    assert marked("\x00\u202e") == r"<i>\x00</i><i>\u202e</i>"
    assert marked("👩\u200d🚀") == "👩\u200d🚀"


def test_numbers():
    assert [short(value) for value in (0.12345, 12.34, 999.4, 12345.6, -2.0)] == [
        "0.123",
        "12.3",
        "999",
        "12,346",
        "-2",
    ]


def test_line_of_a_context():
    spelling = Spelling(tiny.tokenizer())
    ids = [0, *tiny.tokenizer()("🐈", add_special_tokens=False)["input_ids"]]
    plain = tiny.tokenizer()("ab", add_special_tokens=False)["input_ids"]
    assert (len(ids), len(plain)) == (5, 2)
    tokens = [*ids, *plain]
    features = statistics([[4.0]], 20)
    features.excluded(0)[[3, 9]] = True  # the first token, and the second of "ab"
    context = Context(0, 5, 2.0, 3, tokens, [0, 0, 2.0, 1.0, 0, 0, 0])
    found = line(context, 0, features, spelling)
    assert found.spans == [
        Span("<s>", "special", (0,), 0.0, False),
        Span("🐈", "active", (0, 2.0, 1.0, 0), 0.5, True),
        Span("a", "plain"),
        Span("b", "excluded", (0,), 0.0, False),
    ]
    assert (found.before, found.after, found.value) == (True, True, 2.0)
    assert peak(context, spelling) == "🐈"
    whole = line(context._replace(start=0, position=2), 0, statistics([[4.0]], 7), spelling)
    assert (whole.before, whole.after) == (False, False)
    assert whole.spans[-1] == Span("ab", "plain")


def test_plots_are_the_pages_own_and_one_colour_is_one_autoencoder(subjects, page):
    plots = [*plot.PLOTS, *(one for one in budget.PLOTS if one.name == "budget-variance")]
    pictures = plot.pictures([*plot.PLOTS, *budget.PLOTS], subjects)
    assert [picture.title for picture in pictures] == [one.title for one in plots]
    for picture, one in zip(pictures, plots):
        svg = str(picture.svg)
        assert svg in page.source
        assert "currentColor" in svg
        assert "#010203" not in svg
        assert one.x in svg
        assert "<style" not in svg
        for place, subject in enumerate(subjects):
            assert (PALETTE[place].lower() in svg) == one.shows(subject), (one.name, place)
    assert plot.pictures(plot.PLOTS, subjects) == plot.pictures(plot.PLOTS, subjects)


def test_no_training_curves_without_a_log(subjects):
    bare = [subject._replace(log=[]) for subject in subjects]
    names = [one.name for one in plot.PLOTS if any(one.shows(subject) for subject in bare)]
    assert names == ["density", "active"]
    assert len(plot.pictures(plot.PLOTS, bare)) == 2


def row(k: int | None, l0: float, ev: float, **losses: float | None) -> dict:
    return {"k": k, "explained_variance": ev, "l0": l0, **losses}


def measured(subject: Subject, per_k: list[dict], at: dict[str, list[dict]] | None = None, **metrics) -> Subject:
    """`subject` with other figures; `at` has the curve of each further budget, whose last row are its metrics."""
    evaluation = {"metrics": metrics, "curves": {"per_k": per_k} if per_k else {}}
    further = {k: {"metrics": rows[-1], "curves": {"per_k": rows}} for k, rows in (at or {}).items()}
    return subject._replace(evaluation=subject.evaluation | evaluation | ({"at": further} if further else {}))


@pytest.fixture
def budgets(subjects) -> Subject:
    """TopK of k = 4, measured at 6 as well, where 5.5 latents are active."""
    own = [row(1, 1, 0.1, ce_loss_score=0.2), row(2, 1.9, 0.2), row(3, 2.8, 0.3), row(4, 3.7, 0.4)]
    larger = [*own, row(5, 4.6, 0.45), row(6, 5.5, 0.48, ce_loss_score=0.7)]
    return measured(subjects[0], own, {"6": larger}, l0=3.7, explained_variance=0.4, ce_loss_score=0.5)


def test_budgets_have_the_losses_of_their_own_and_of_further_k(subjects, budgets):
    found = budget.rows(budgets)
    assert [one["k"] for one in found] == [1, 2, 3, 4, 5, 6]
    assert [one.get("ce_loss_score") for one in found] == [0.2, None, None, 0.5, None, 0.7]
    assert [budget.beyond(budgets, one) for one in found] == [False] * 4 + [True] * 2
    alone = measured(subjects[1], [], l0=3.2, explained_variance=0.3, kl_div=1.0)
    assert budget.rows(alone) == [{"k": None, "l0": 3.2, "explained_variance": 0.3, "kl_div": 1.0}]
    assert [(line.k, line.beyond, line.cells[:2]) for line in budget.lines([budgets])] == [
        (1, False, ["1.00", "0.1000"]),
        (2, False, ["1.90", "0.2000"]),
        (4, False, ["3.70", "0.4000"]),
        (6, True, ["5.50", "0.4800"]),
    ]


def test_budgets_are_drawn_over_active_latents_and_shaded_beyond_training(subjects, budgets):
    pen = {"color": "k", "linewidth": 1.0}
    variance, losses, _ = budget.PLOTS
    axes = Figure().add_subplot()
    variance.draw(axes, budgets, pen)
    inside, outside, small, large = axes.lines
    assert inside.get_xdata().tolist() == [1, 1.9, 2.8, 3.7]
    assert outside.get_xdata().tolist() == [3.7, 4.6, 5.5]
    assert outside.get_linestyle() == "--"
    (shade,) = axes.patches
    assert [shade.get_x(), shade.get_x() + shade.get_width()] == pytest.approx([3.7, 5.5])
    assert small.get_xdata().tolist() == [1, 1.9, 3.7, 5.5]
    assert (large.get_xdata().tolist(), large.get_ydata().tolist()) == ([3.7], [0.4])
    alone = measured(subjects[1], [], l0=3.2, explained_variance=0.3)
    assert not variance.worth(alone)
    assert not losses.shows(alone)
    assert [picture.title for picture in plot.pictures(budget.PLOTS, [budgets, alone])] == [
        variance.title,
        losses.title,
    ]
    assert plot.pictures(budget.PLOTS, [alone]) == []
    axes = Figure().add_subplot()
    variance.draw(axes, alone, pen)
    assert axes.lines[-1].get_xydata().tolist() == [[3.2, 0.3]]


def test_budgets_beyond_training_are_those_above_the_largest_trained(budgets):
    sae = copy.copy(budgets.sae)
    sae.info = sae.info | {"budgets": {"J": [1, 3], "weights": [0.25, 0.75], "rank_weights": [1.0, 0.75, 0.75]}}
    several = budgets._replace(sae=sae)
    assert [line.k for line in budget.lines([several]) if line.beyond] == [4, 6]
    weights = budget.PLOTS[2]
    assert not weights.shows(budgets)
    axes = Figure().add_subplot()
    weights.draw(axes, several, {"color": "k"})
    assert axes.patches[0].get_data().values.tolist() == [1.0, 0.75, 0.75]
    assert axes.patches[0].get_data().edges.tolist() == [0.5, 1.5, 2.5, 3.5]


def test_page_has_the_figures_of_budgets(page, subjects):
    lines = budget.lines(subjects)
    assert [line.k for line in lines] == [1, 2, 4, None]
    assert all(cell in page.text for one in lines for cell in one.cells)
    assert "beyond its training" not in page.text


def test_active_latents_of_all_autoencoders_fit_in_their_plot(subjects):
    def of(low: int, high: int) -> Subject:
        curves = {"l0_histogram": [{"low": low, "high": high, "tokens": 10}]}
        return subjects[0]._replace(evaluation={"curves": curves})

    active = next(one for one in plot.PLOTS if one.name == "active")
    axes = Figure().add_subplot()
    for subject in (of(4, 4), of(3, 20)):
        active.draw(axes, subject, {"color": "k"})
    assert axes.lines[0].get_xydata().tolist() == [[0, 0], [3, 0], [4, 1]]
    assert axes.get_xlim()[0] <= 0
    assert axes.get_xlim()[1] >= 20


def test_latents_that_are_always_active_have_a_place_in_the_density_plot(subjects):
    always = subjects[0]._replace(features=statistics([[1.0] * 10], 10))
    density = next(one for one in plot.PLOTS if one.name == "density")
    axes = Figure().add_subplot()
    density.draw(axes, always, {"color": "k"})
    assert axes.patches[0].get_data().values.tolist() == [1]


def test_rows_that_are_no_directions_of_the_stream_promote_nothing(lm, tmp_path):
    site = "attn_z.1"
    subjects = subjects_of(lm, {"heads": autoencoder(TopK(F, 4), site, lm.width(site))}, loss_windows=0)
    page = Page(write_report(tmp_path / "r.html", subjects, lm, command="c", n_features=1))
    assert "no promoted tokens are shown" in page.text
    assert not page.all("p", "words")


def test_autoencoder_that_never_fires(lm, subjects, tmp_path):
    sae = autoencoder(JumpReLU(F))
    sae.encoder.bias.data.fill_(-1e6)
    silent = Subject("silent", sae, subjects[0].evaluation, statistics([[] for _ in range(F)], 100), [])
    silent.features.metadata.update(subjects[0].features.metadata)
    page = Page(write_report(tmp_path / "r.html", [silent], lm, command="c"))
    assert page.text.count("No latent is active on this text.") == 2


def test_parts_that_do_not_belong_together_are_refused(lm, subjects, tmp_path):
    def write(*parts: Subject, model: LanguageModel = lm, n: int = 2) -> None:
        write_report(tmp_path / "r.html", list(parts), model, command="c", n_features=n)

    with pytest.raises(InputError, match="at least one"):
        write()
    with pytest.raises(InputError, match="share a name"):
        write(subjects[0], subjects[0])
    with pytest.raises(InputError, match="0 features"):
        write(*subjects, n=0)
    with pytest.raises(InputError, match=r"tiny-llama.*weights or tokenizer differ"):
        write(*subjects, model=tiny.llama(seed=1))
    small = statistics([[1.0]] * 3, 10)
    small.metadata.update(subjects[0].features.metadata | {"n_latents": 3})
    small.n_latents = 3
    with pytest.raises(InputError, match="40 latents and its feature statistics 3"):
        write(subjects[0]._replace(features=small))
    assert not (tmp_path / "r.html").exists()
