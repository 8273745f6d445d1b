from __future__ import annotations

import importlib.util
import json
import re
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import monosem
import run_folder
import tiny
from monosem.evaluation import Evaluation
from monosem.sae import SAE, DenseEncoder, JumpReLU, KronEncoder, TopK
from monosem.shapes import InputError, card
from monosem.shapes.codes import Codes
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs/tutorial.ipynb"
PORTING = ROOT / "docs/porting.md"
SMALL = {"SITE": "resid_post.1", "TOKENS": "3200", "LATENTS": "64", "WINDOW": "16"}


def runner():
    """bench/notebook.py, which executes notebooks."""
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "bench/notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path, monkeypatch) -> dict[str, str]:
    """A tiny model and text on disk, and nothing kept from elsewhere."""
    given = run_folder.inputs(tmp_path)
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    monkeypatch.chdir(tmp_path)
    return given


# ---- the tutorial


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(folder, monkeypatch):
    for name, value in {**SMALL, "MODEL": folder["model"], "TEXT": folder["text"]}.items():
        monkeypatch.setenv(f"TUTORIAL_{name}", value)
    notebook, names = runner().read(TUTORIAL), {}
    assert runner().run(notebook, names) > 10
    assert names["same"] is True
    assert set(names["saes"]) == {"topk", "batch_topk"}
    assert names["config"].n_latents == 64
    assert not torch.equal(names["ablated"], names["clean"][0, -1].float())
    shown = ["".join(part["data"].get("text/html", "")) for part in displayed(notebook)]
    for wanted in ("llama", "L0", "splice at resid_post.1", f"feature {names['latent']}", "difference"):
        assert any(wanted in html for html in shown), wanted


@pytest.mark.slow
def test_the_tutorial_runs_on_the_embedded_model(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_TOKENS", "16384")
    monkeypatch.setenv("TUTORIAL_LATENTS", "1024")
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    runner().run(runner().read(TUTORIAL), names)
    assert names["lm"].d_model == 576
    assert names["same"] is True
    assert names["results"]["topk"].metrics["explained_variance"] > 0.2


def displayed(notebook) -> list[dict]:
    return [part for cell in runner().code_cells(notebook) for part in cell["outputs"] if "data" in part]


def test_the_tutorial_is_kept_with_what_a_real_run_showed():
    notebook = runner().read(TUTORIAL)
    cells = runner().code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    text = json.dumps(notebook, ensure_ascii=False)
    assert "smollm2-135m" in json.dumps(displayed(notebook)[0])
    assert len(displayed(notebook)) >= 8
    assert not re.search(r"/(home|root|work|tmp)/|Traceback|\"output_type\": \"error\"", text)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def test_the_runner_keeps_what_a_cell_prints_and_shows():
    cells = [
        "x, seen = 2, []\nprint(x)\nseen.append(1) or 3 * x * len(seen)",
        "x;",
        "class A:\n    def _repr_html_(self):\n        return f'<b>{x}</b>'\nA()",
        "y = x",
    ]
    notebook = {"cells": [{"cell_type": "code", "source": [cell]} for cell in cells]}
    assert runner().run(notebook) == 4
    printed, six = notebook["cells"][0]["outputs"]
    assert printed == {"name": "stdout", "output_type": "stream", "text": ["2\n"]}
    assert six["data"] == {"text/plain": ["6"]}
    assert notebook["cells"][2]["outputs"][0]["data"]["text/html"] == ["<b>2</b>"]
    assert [cell["outputs"] for cell in (notebook["cells"][1], notebook["cells"][3])] == [[], []]
    with pytest.raises(ZeroDivisionError):
        runner().run({"cells": [{"cell_type": "code", "source": ["1 / 0"]}]})


# ---- the port of a SAELens notebook


def monosem_blocks() -> list[str]:
    """The code of docs/porting.md that is this package's."""
    blocks = re.findall(r"```python\n(.*?)```", PORTING.read_text(), flags=re.DOTALL)
    assert all(block.startswith(("# SAELens\n", "# monosem\n")) for block in blocks)
    assert len(blocks) == 2 * len(re.findall("<table>", PORTING.read_text()))
    return [block for block in blocks if block.startswith("# monosem\n")]


@pytest.mark.slow
def test_every_monosem_line_of_the_port_runs(folder, monkeypatch, capsys):
    """With a tiny model that has as many layers as needed in place of the real one, and as few tokens."""
    lm = tiny.llama(n_layers=13)
    lm.model.save_pretrained(folder["model"])
    small = {
        '"smollm2-135m"': repr(folder["model"]),
        '"news"': repr(folder["text"]),
        'site="resid_post.12", tokens=1_000_000': f"""site="resid_post.12", model={folder["model"]!r},
            text={folder["text"]!r}, tokens=3200, batch=32, n_latents=96, k=4, window=16""",
        'part="held_out")': 'part="held_out", length=16)',
    }
    names: dict = {}
    for block in monosem_blocks():
        for real, tiny_one in small.items():
            block = block.replace(real, tiny_one)
        exec(compile(block, "porting.md", "exec"), names)
    assert str(names["lm"].site("blocks.12.hook_resid_post")) == names["sae"].info["site"] == "resid_post.12"
    assert names["attribution"].shape == (names["ids"].shape[1], 96)
    torch.testing.assert_close(names["by_token"].sum(), names["attribution"].sum())
    assert capsys.readouterr().out.count("best: [") == 4


# ---- objects that show themselves


class Shown(HTMLParser):
    """Text and elements; every element has to be closed, and nothing is loaded or run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self._open, self.shades = "", [], 0
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        assert tag not in {"script", "link", "img", "iframe"}
        assert not [name for name, _ in attrs if name.startswith("on") or name in {"src", "href"}]
        self.shades += "rgba" in dict(attrs).get("style", "")
        self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data + " "


def shown(value) -> Shown:
    return Shown(value._repr_html_())


def autoencoder(kind: str = "topk") -> SAE:
    encoder = KronEncoder(32, 64, heads=8, base=2, extension=4) if kind == "kron" else DenseEncoder(32, 64)
    info = {"site": "resid_post.1", "exclusion": Exclusion(max_norm={"resid_post.1": 40.0}).describe()}
    sae = SAE(encoder, JumpReLU(64) if kind == "jumprelu" else TopK(64, 4), info=info)
    generator = torch.Generator().manual_seed(0)
    sae.initialise(torch.randn(256, 32, generator=generator), generator)
    return sae.eval()


def text(count: int = 6, length: int = 12) -> Windows:
    tokens = torch.randint(2, 300, (count, length), generator=torch.Generator().manual_seed(0)).int()
    return Windows(tokens, torch.zeros_like(tokens), tokens < 2, {"corpus": "random"})


def test_everything_that_is_shown_is_escaped():
    evil = "<script>alert(1)</script>&\n"
    html = card.card(evil, {evil: evil}, card.table([evil], [[evil]], evil), card.shaded([(evil, 0.5, evil + '"')]))
    assert Shown(html).text.count("<script>alert(1)</script>&↵") == 7
    assert "<script" not in html


def test_a_model_shows_itself():
    text = shown(tiny.gpt2()).text
    for wanted in ("tiny-gpt2", "gpt2", "width 32", "float32", "resid_mid", "(.0 to .2)"):
        assert wanted in text


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "kron"])
def test_an_autoencoder_shows_itself(kind):
    sae = autoencoder(kind)
    text = shown(sae).text
    for wanted in ("resid_post.1", "64, from 32", f"{sae.scale:.4g}", "norms above 40", "not recorded"):
        assert wanted in text
    assert {"topk": "topk, k = 4", "jumprelu": "bandwidth = 0.3", "kron": "heads = 8"}[kind] in text
    sae.info |= {"training": {"tokens": 4096, "distinct_tokens": 2048}, "text": {"corpus": "news"}, "name": "mine"}
    sae.info["target"] = "mlp_out.1"
    text = shown(sae).text
    for wanted in ("4,096 tokens, 2,048 of them distinct, of news", "mine", "resid_post.1 → mlp_out.1"):
        assert wanted in text


def test_codes_show_their_strongest_latents():
    indices = torch.tensor([[3, 1, 0], [2, 4, 0]])
    codes = Codes(torch.tensor([[2.0, 1.0, 0.0], [0.5, 0.0, 0.0]]), indices, 6)
    text = shown(codes).text
    for wanted in ("codes of 2 tokens over 6 latents", "1.5 latents a token", "fixed", "3: 2, 1: 1", "2: 0.5"):
        assert wanted in text
    ragged = Codes(torch.tensor([1.0, 7.0]), torch.tensor([5, 2]), 6, torch.tensor([0, 2, 2]), (1, 2))
    text = shown(ragged).text
    for wanted in ("codes of 1 × 2 tokens", "ragged", "2: 7, 5: 1"):
        assert wanted in text
    assert "dense" in shown(Codes(torch.eye(30), None, 30)).text
    assert "the first 20 of 30 tokens" in shown(Codes(torch.eye(30), None, 30)).text


def test_a_splice_shows_the_features_of_its_pass():
    lm, sae = tiny.llama(), autoencoder()
    ids = torch.tensor([lm.tokenizer("the cat sat on a mat")["input_ids"]])
    with torch.no_grad(), lm.splice(sae) as spliced:
        assert "no forward pass has run" in shown(spliced).text
        lm.logits(ids)
        spliced.set(9, 77.0)
        lm.logits(ids)
    text = shown(spliced).text
    for wanted in ("splice at resid_post.1", " cat ", "left out", "9: 77", f"{ids.shape[1] - 1} of them replaced"):
        assert wanted in text, wanted


def test_an_evaluation_shows_its_figures():
    lm, saes = tiny.llama(), {"one": autoencoder(), "two": autoencoder("jumprelu")}
    results = monosem.evaluate(saes, lm, text(), loss_windows=2)
    assert isinstance(results["one"], Evaluation)
    seen = shown(results).text
    for wanted in ("one", "two", "explained variance", "CE recovered (zero)", "losses on", "resid_post.1"):
        assert wanted in seen
    assert f"{results['one'].metrics['explained_variance']:.4g}" in seen
    assert f"{results['one'].metrics['frac_alive']:.1%}" in seen
    assert "explained variance" in shown(results["two"]).text
    without = monosem.evaluate(saes, lm, text(), loss_windows=0)
    assert "CE recovered" not in shown(without).text
    assert "losses not measured" in shown(without).text
    compared = shown(monosem.compare(saes, lm, text(), loss_windows=0)).text
    for wanted in ("two − one", "one in two", "chance"):
        assert wanted in compared


def test_a_feature_and_a_prompt_show_themselves():
    lm, sae = tiny.llama(), autoencoder()
    statistics = monosem.feature_statistics({"one": sae}, lm, text())["one"]
    latent = int(statistics.maxima.argmax())
    portrait = monosem.read_feature(statistics, latent, lm, sae, contexts=3)
    assert portrait.max == pytest.approx(float(statistics.maxima.max()))
    assert len(portrait.promoted) == len(portrait.suppressed) == 8
    found = shown(portrait)
    assert f"feature {latent}" in found.text
    assert portrait.promoted[0].strip() in found.text
    assert found.shades >= len(portrait.contexts) > 0
    assert monosem.read_feature(statistics, latent, lm).promoted == []
    small = SAE(DenseEncoder(32, 32), TopK(32, 2), info=sae.info)
    others = monosem.feature_statistics({"small": small}, lm, text())["small"]
    with pytest.raises(InputError, match="has 64 latents and the statistics 32"):
        monosem.read_feature(others, 0, lm, sae)
    reading = monosem.read_prompt(sae, lm, "the cat sat")
    seen = shown(reading).text
    strongest = reading.tokens[-1].firings[0]
    assert f"{strongest.latent}: {strongest.value:.3g}" in seen
    assert "left out: first position" in seen


# ---- data frames


class Frame:
    """Stands for pandas.DataFrame: what it was given."""

    def __init__(self, columns, index=None) -> None:
        self.columns, self.index = columns, index


def test_tables_are_data_frames_where_there_is_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=Frame))
    lm, saes = tiny.llama(), {"one": autoencoder(), "two": autoencoder("jumprelu")}
    compared = monosem.compare(saes, lm, text(20), loss_windows=2)
    results = compared.evaluations
    table = results.frame()
    assert table.index == ["one", "two"]
    assert table.columns["l0"] == [one.metrics["l0"] for one in results.values()]
    assert table.columns["l0_error"] == [one.errors["l0"] for one in results.values()]
    assert {len(column) for column in table.columns.values()} == {2}
    one = results["one"].frame()
    assert dict(zip(one.index, one.columns["value"])) == results["one"].metrics
    differences = compared.frame().columns
    assert differences["metric"] == [each.metric for each in compared.differences]
    statistics = monosem.feature_statistics(saes, lm, text())["one"]
    assert statistics.frame().columns["max"] == statistics.maxima.tolist()
    codes = Codes(torch.tensor([[2.0, 0.0], [1.0, 0.5]]), torch.tensor([[3, 1], [0, 2]]), 6)
    assert codes.frame().columns == {"token": [0, 1, 1], "latent": [3, 0, 2], "value": [2.0, 1.0, 0.5]}


def test_without_pandas_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="needs pandas: pip install pandas") as caught:
        Codes(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), 2).frame()
    assert "\n" not in str(caught.value)
