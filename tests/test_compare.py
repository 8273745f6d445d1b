"""Comparing autoencoders: paired intervals, matched latents, the command and its page."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from scipy import stats

import monosem
import run_folder
import tiny
from monosem.evaluation import compare, evaluate
from monosem.evaluation.by_window import Terms
from monosem.evaluation.match import match, mutual, nearest, one_to_one_pairs, random_like, same_start
from monosem.evaluation.paired import difference
from monosem.lm import LanguageModel
from monosem.report import write_comparison
from monosem.sae import SAE, BatchTopK, DenseEncoder, KronEncoder, ReLU, TopK
from monosem.sae.dense import unit_rows
from monosem.shapes import InputError
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows
from test_report import Page

D, F = 32, 64
SITE = "resid_post.1"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny.llama()


def text(count: int = 12, length: int = 10) -> Windows:
    """Random tokens; ids 0 and 1 are special; the second window has no kept token, the fourth fewer than others."""
    tokens = torch.randint(2, 300, (count, length), generator=torch.Generator().manual_seed(0)).int()
    tokens[:, 4] = 1
    tokens[1], tokens[3, 6:] = 1, 1
    return Windows(tokens, torch.zeros_like(tokens), tokens < 2, {"corpus": "random"})


def autoencoder(seed: int = 1, k: int = 4, n_latents: int = F, site: str = SITE, rule=None, **exclusion) -> SAE:
    info = {"site": site, "exclusion": Exclusion(**exclusion).describe(), "seed": seed, "start": seed}
    sae = SAE(DenseEncoder(D, n_latents), rule or TopK(n_latents, k), info=info)
    generator = torch.Generator().manual_seed(seed)
    sae.initialise(torch.randn(256, D, generator=generator) * 3 + 1, generator)
    if isinstance(sae.rule, BatchTopK):
        sae.rule.cut.fill_(1.0)
    return sae.eval()


def permuted(sae: SAE, order: torch.Tensor) -> SAE:
    """The same function with its latents in another order."""
    other = autoencoder(int(sae.info["seed"]))
    other.scale, other.code_scale = sae.scale, sae.code_scale
    other.b_dec.data.copy_(sae.b_dec)
    for own, its in ((other.W_dec, sae.W_dec), (other.encoder.weight, sae.encoder.weight)):
        own.data.copy_(its[order])
    other.encoder.bias.data.copy_(sae.encoder.bias[order])
    return other


# Paired differences


def terms(num, den) -> Terms:
    return Terms(np.asarray(num, dtype=np.float64), np.asarray(den, dtype=np.float64))


def test_with_windows_of_one_size_the_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(3, 1, 20), rng.normal(3.2, 1, 20)
    found = difference(terms(7 * a, np.full(20, 7.0)), terms(7 * b, np.full(20, 7.0)))
    test = stats.ttest_rel(b, a)
    low, high = test.confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(b - a), low, high), rel=1e-12)
    assert found.windows == 20
    assert found.clear == (test.pvalue < 0.05)


def test_with_windows_of_many_sizes_the_interval_is_the_linearised_formula_and_nears_the_bootstrap():
    rng = np.random.default_rng(1)
    den = rng.uniform(50, 150, 60)
    hard = rng.normal(0, 30, 60)
    a, b = 0.5 * den + hard + rng.normal(0, 2, 60), 0.55 * den + hard + rng.normal(0, 2, 60)
    found = difference(terms(a, den), terms(b, den))
    value = (b - a).sum() / den.sum()
    rest = b - a - value * den
    reach = stats.t.ppf(0.975, 59) * math.sqrt(60 / 59 * (rest**2).sum()) / den.sum()
    assert (found.value, found.low, found.high) == pytest.approx((value, value - reach, value + reach), rel=1e-9)
    drawn = rng.integers(0, 60, (4000, 60))
    bootstrap = np.quantile((b - a)[drawn].sum(1) / den[drawn].sum(1), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(bootstrap), abs=0.1 * (found.high - found.low))
    alone = difference(terms(np.zeros(60), den), terms(b, den))
    assert found.high - found.low < 0.2 * (alone.high - alone.low), "what both find hard cancels"


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(600):
        den = rng.uniform(50, 150, 12)
        found = difference(terms(np.zeros(12), den), terms(0.3 * den + rng.normal(0, 5, 12), den))
        held += found.low <= 0.3 <= found.high
    assert 0.92 <= held / 600 <= 0.98


def test_windows_without_a_say_do_not_count_and_one_window_has_no_interval():
    a, b = terms([1, 2, 0], [2, 2, 0]), terms([2, 2, 0], [2, 2, 0])
    assert difference(a, b).windows == 2
    assert difference(a, b)[:3] == difference(terms([1, 2], [2, 2]), terms([2, 2], [2, 2]))[:3]
    single = difference(terms([1], [2]), terms([2], [2]))
    assert single.value == 0.5
    assert math.isnan(single.low)
    assert not single.clear
    with pytest.raises(ValueError, match="same windows"):
        difference(a, terms([1, 1, 1], [2, 3, 0]))


def test_terms_of_an_evaluation_sum_to_its_metrics_and_are_those_of_each_window(lm):
    windows = text()
    saes = {"topk": autoencoder(), "batch": autoencoder(2, rule=BatchTopK(F, 6)), "relu": autoencoder(3, rule=ReLU(F))}
    found = evaluate(saes, lm, windows, batch=5, loss_windows=7)
    for one in found.values():
        for key, (num, den) in one.terms.items():
            assert num.sum() / den.sum() == pytest.approx(one.metrics[key], rel=1e-9, abs=1e-12), key
        assert len(one.terms["l0"].num) == 11
        assert len(one.terms["ce_loss_score"].num) == 7
    first = Windows(windows.tokens[2:3], windows.documents[2:3], windows.special[2:3], windows.identity)
    alone = evaluate(saes, lm, first)
    for name, one in alone.items():
        for key, place in (("l0", 1), ("ce_loss_sae", 2), ("kl_div", 2)):
            own = found[name].terms[key]
            assert own.num[place] / own.den[place] == pytest.approx(one.metrics[key], rel=1e-4), key
        error, mse = found[name].terms["explained_variance"], one.metrics["mse"] * one.n_tokens
        assert error.den[1] - error.num[1] == pytest.approx(mse, rel=1e-5)


def test_an_autoencoder_compared_with_itself_differs_by_nothing_and_matches_itself(lm):
    found = compare({"a": autoencoder(), "b": autoencoder()}, lm, text())
    assert {one.metric for one in found.differences} >= {"explained_variance", "l0", "ce_loss_score", "kl_div"}
    for one in found.differences:
        assert one.interval[:3] == (0, 0, 0), one
    (pair,) = found.matches
    assert pair.alive[0] == pair.alive[1] == int(found.evaluations["a"].alive.sum()) < F
    for pairs in (pair.nearest.a_to_b, pair.nearest.b_to_a, pair.mutual, pair.one_to_one):
        assert torch.equal(pairs.a, pairs.b)
        assert len(pairs.a) == pair.alive[0]
        torch.testing.assert_close(pairs.cosine, torch.ones(pair.alive[0]))
    assert pair.same_start
    assert pair.chance.a_to_b.cosine.mean() < 0.7


def test_figures_are_those_of_evaluate_to_the_last_bit_and_differences_are_their_differences(lm):
    saes = {"a": autoencoder(), "b": autoencoder(2, k=7), "c": autoencoder(3, rule=ReLU(F))}
    found = compare(saes, lm, text(), batch=5, loss_windows=6)
    measured = evaluate(saes, lm, text(), batch=5, loss_windows=6)
    for name, one in measured.items():
        assert found.evaluations[name].to_json() == one.to_json()
    for one in found.differences:
        gained = measured[one.b].metrics[one.metric] - measured[one.a].metrics[one.metric]
        assert one.interval.value == pytest.approx(gained, rel=1e-9, abs=1e-12)
        assert one.interval.low <= one.interval.value <= one.interval.high
    assert [(one.a, one.b) for one in found.matches] == [("a", "b"), ("a", "c"), ("b", "c")]
    there, back = found.difference("l0", "a", "b"), found.difference("l0", "b", "a")
    assert there.interval.value == 3
    assert (back.interval.value, back.interval.low) == (-there.interval.value, -there.interval.high)
    with pytest.raises(InputError, match=r"no difference of 'l1' .* explained_variance, l0"):
        found.difference("l1", "a", "b")
    json.dumps(found.to_json(), allow_nan=False)


# Matched latents


def rows(count: int, seed: int, width: int = D) -> torch.Tensor:
    return unit_rows(count, width, torch.Generator().manual_seed(seed)) * (1 + torch.arange(count)[:, None] % 3)


def test_nearest_is_brute_force_in_parts_of_any_size(monkeypatch):
    a, b = rows(23, 1), rows(17, 2)
    cosine = np.array([[float(x @ y / (x.norm() * y.norm())) for y in b] for x in a])
    for block in (1, 40, 1 << 20):
        monkeypatch.setattr("monosem.evaluation.match._BLOCK", block)
        found = nearest(a, b)
        np.testing.assert_allclose(found.a_to_b.cosine, cosine.max(1), atol=1e-6)
        np.testing.assert_allclose(found.b_to_a.cosine, cosine.max(0), atol=1e-6)
        assert found.a_to_b.b.tolist() == cosine.argmax(1).tolist()
        assert found.b_to_a.a.tolist() == cosine.argmax(0).tolist()
    pairs = mutual(found)
    expected = [(i, j) for i in range(23) for j in range(17) if cosine.argmax(1)[i] == j and cosine.argmax(0)[j] == i]
    assert list(zip(pairs.a.tolist(), pairs.b.tolist())) == expected
    assert 0 < len(expected) < 17


def test_the_assignment_is_the_best_of_all(monkeypatch):
    from itertools import permutations

    a, b = rows(4, 3, 3), rows(6, 4, 3)
    cosine = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T
    best = max(sum(float(cosine[i, j]) for i, j in enumerate(order)) for order in permutations(range(6), 4))
    found = one_to_one_pairs(a, b)
    assert float(found.cosine.sum()) == pytest.approx(best, rel=1e-6)
    assert len(set(found.b.tolist())) == 4
    assert float(nearest(a, b).a_to_b.cosine.sum()) > best + 0.01, "nearest may share a partner"


def test_a_permutation_of_latents_is_found_one_to_one(lm):
    sae = autoencoder()
    order = torch.randperm(F, generator=torch.Generator().manual_seed(5))
    found = compare({"a": sae, "b": permuted(sae, order)}, lm, text())
    (pair,) = found.matches
    assert torch.equal(order[pair.one_to_one.b], pair.one_to_one.a)
    torch.testing.assert_close(pair.one_to_one.cosine, torch.ones(pair.alive[0]))
    assert pair.to_json()["one_to_one"]["above_0.9"] == 1
    for one in found.differences:
        assert one.interval.value == pytest.approx(0, abs=1e-5)


def test_only_alive_latents_take_part_and_keep_their_numbers(lm):
    a, b = autoencoder(1), autoencoder(1)
    alive_a, alive_b = torch.zeros(F, dtype=torch.bool), torch.zeros(F, dtype=torch.bool)
    alive_a[[3, 9, 40]], alive_b[[9, 40]] = True, True
    found = match(("a", a, alive_a), ("b", b, alive_b))
    assert found.alive == (3, 2)
    assert found.smaller == 2
    assert found.nearest.a_to_b.a.tolist() == [3, 9, 40]
    assert set(found.nearest.a_to_b.b.tolist()) <= {9, 40}
    assert found.one_to_one.a.tolist() == found.one_to_one.b.tolist() == [9, 40]
    record = found.to_json()
    assert record["nearest"]["a_to_b"]["above_0.9"] == pytest.approx(2 / 3)
    assert record["mutual"]["above_0.9"] == record["one_to_one"]["above_0.9"] == 1
    with pytest.raises(InputError, match="b has no latent that is active"):
        match(("a", a, alive_a), ("b", b, torch.zeros(F, dtype=torch.bool)))


def test_large_dictionaries_are_assigned_only_when_asked(monkeypatch):
    pair = [(name, autoencoder(seed), torch.ones(F, dtype=torch.bool)) for name, seed in (("a", 1), ("b", 2))]
    assert match(*pair).one_to_one is not None
    assert match(*pair, one_to_one=False).one_to_one is None
    monkeypatch.setattr("monosem.evaluation.match.LIMIT", F - 1)
    assert match(*pair).one_to_one is None
    assert match(*pair).to_json()["one_to_one"] is None
    assert match(*pair, one_to_one=True).one_to_one is not None


def test_chance_has_the_mean_and_covariance_of_the_rows():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(3000, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 2
    unit = torch.nn.functional.normalize(mixed, dim=1)
    drawn = random_like(mixed, 1)
    torch.testing.assert_close(drawn.mean(0), unit.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), unit.T.cov(), atol=0.02, rtol=0)
    assert float(unit.T.cov().diag().std()) > 0.03, "a covariance that is not that of isotropic rows"
    assert random_like(rows(5, 1), 0).shape == (5, D), "fewer rows than dimensions"


def test_chance_of_directions_with_a_common_part_is_higher():
    """Without this the cosines that anisotropy alone gives would be taken for shared features."""
    plain, shifted = rows(200, 1), torch.nn.functional.normalize(rows(200, 1), dim=1) + 0.5
    chances = [float(nearest(one, random_like(one, 0)).a_to_b.cosine.mean()) for one in (plain, shifted)]
    assert chances[0] < 0.6 < 0.9 < chances[1]


def test_one_seed_is_one_start_whatever_the_size_and_kind():
    assert same_start(autoencoder(1), autoencoder(1, k=9)) is True
    assert same_start(autoencoder(1), autoencoder(2)) is False
    kron = SAE(KronEncoder(D, F, heads=8, base=1, extension=8), TopK(F, 4), info={"start": 1})
    kron.initialise(torch.randn(256, D) * 3 + 1, torch.Generator().manual_seed(1))
    small = SAE(DenseEncoder(D, F // 2), TopK(F // 2, 4), info={"start": 1})
    small.initialise(torch.randn(256, D), torch.Generator().manual_seed(1))
    large = SAE(DenseEncoder(D, F), TopK(F, 4), info={"start": 1})
    large.initialise(torch.randn(256, D), torch.Generator().manual_seed(1))
    everything = [torch.ones(one.n_latents, dtype=torch.bool) for one in (small, kron, large)]
    for name, sae, alive in zip(("small", "kron"), (small, kron), everything):
        found = match((name, sae, alive), ("large", large, everything[2]))
        assert found.same_start is True
        by = [pairs.a_to_b.cosine.mean() for pairs in (found.nearest, found.chance)]
        assert by[0] > by[1] + 0.1, "untrained ones of one seed share directions"
    kron.info = {}
    assert same_start(autoencoder(1), kron) is None


# Bad input


def test_what_cannot_be_compared_is_refused_in_one_line(lm, monkeypatch):
    good = autoencoder()
    wrong = {
        r"1 autoencoder\(s\) to compare \(a\)": {"a": good},
        "evaluate one site at a time": {"a": good, "b": autoencoder(site="resid_post.0")},
        "leave out different tokens": {"a": good, "b": autoencoder(first=2)},
    }
    monkeypatch.setattr(lm, "capture", lambda *_: pytest.fail("the model ran"))
    for message, saes in wrong.items():
        with pytest.raises(InputError, match=message) as refusal:
            compare(saes, lm, text())
        assert "\n" not in str(refusal.value)


def test_compare_is_a_public_function():
    assert monosem.compare is compare


# The command and its page


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two runs of one model and text, one of another site, and one of two sites."""
    folder = tmp_path_factory.mktemp("compare")
    named = run_folder.inputs(folder)
    settings = {**run_folder.SETTINGS, **named, "tokens": 1600, "distinct_tokens": 1600}
    runs = {"one": {"sae": "topk,jumprelu"}, "two": {"seed": 1}, "other": {"site": "resid_post.0"}}
    runs["grid"] = {"site": "resid_post.{0,1}", "seed": "0,1"}
    for run, changed in runs.items():
        run_folder.train_inside(folder, {**settings, **changed}, run)
    return folder


@pytest.fixture
def call(place, monkeypatch, capsys):
    return run_folder.caller(place, monkeypatch, capsys)


def test_the_command_prints_tables_json_and_a_page(call, place):
    few = ("--windows", "12", "--loss-windows", "4")
    status, out, err = call("compare", "one", "two", *few, "--output", "page.html")
    assert status == 0, err
    assert "minus one/topk" in out
    assert "two/topk in one/topk" in out
    assert "page: page.html" in out
    status, out, _ = call("compare", "one", "two", *few, "--json")
    assert status == 0
    found = json.loads(out)
    assert list(found["evaluations"]) == ["one/topk", "one/jumprelu", "two/topk"]
    assert len(found["matches"]) == 3
    status, out, _ = call("evaluate", "one", *few, "--json")
    assert json.loads(out)["topk"]["metrics"] == found["evaluations"]["one/topk"]["metrics"]
    page = Page(place / "page.html")
    assert "one/jumprelu" in page.text
    assert "Explained variance against L0" in page.text
    assert "Cross-entropy recovered against L0" in page.text
    assert "http" not in page.source.replace("http-equiv", "")
    assert not page.all("script")


def test_several_sites_are_compared_each_by_itself_and_chosen_by_name_and_pattern(call):
    few = ("--windows", "4", "--loss-windows", "2", "--json")

    def compared(*words):
        status, out, err = call("compare", "grid", *words, *few)
        assert status == 0, err
        return json.loads(out)

    both, first = compared(), compared("--site", "resid_post.0")
    assert list(both["evaluations"]) == [f"resid_post.{layer}/topk-seed{seed}" for layer in (0, 1) for seed in (0, 1)]
    pairs = [(f"resid_post.{layer}/topk-seed0", f"resid_post.{layer}/topk-seed1") for layer in (0, 1)]
    assert [(one["a"], one["b"]) for one in both["matches"]] == pairs
    assert {(one["a"], one["b"]) for one in both["differences"]} == set(pairs)
    assert list(first["evaluations"]) == list(pairs[0])
    for key in ("differences", "matches"):
        assert first[key] == [one for one in both[key] if one["a"] == pairs[0][0]]
    assert compared("--site", "blocks.0.hook_resid_post")["matches"] == first["matches"]
    assert list(compared("--sae", "resid_post.1/*")["evaluations"]) == list(pairs[1])
    status, out, _ = call("compare", "grid", *few[:-1])
    assert status == 0
    assert out.startswith("at resid_post.0\n")
    assert (
        out.index("minus resid_post.0/topk-seed0") < out.index("at resid_post.1\n") < out.index("minus resid_post.1/")
    )
    status, out, err = call("compare", "grid", "two", "--site", "resid_post.1", "--sae", "grid/*/topk-*,two/topk", *few)
    assert (status, out) == (2, "")
    assert "leave out different tokens" in err, "at two sites a token counts where it counts at both"


def test_a_copy_of_a_run_differs_by_nothing(call, place):
    shutil.copytree(place / "one/saes/topk", place / "copy/saes/topk", dirs_exist_ok=True)
    status, out, err = call("compare", "one/saes/topk", "copy", "--windows", "8", "--loss-windows", "0", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert {one["metric"] for one in found["differences"]} == {"explained_variance", "l0"}
    assert all(one["value"] == one["low"] == one["high"] == 0 for one in found["differences"])
    assert found["matches"][0]["one_to_one"]["mean"] == pytest.approx(1, abs=1e-5)
    assert found["matches"][0]["same_start"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["two"], "topk is the only autoencoder at resid_post.1: name another run or autoencoder to compare it with\n"),
        (["one", "two", "--sae", "jumprelu"], "one/jumprelu is the only autoencoder at resid_post.1: name another"),
        (["one", "two", "--sae", "kron,one"], "--sae kron,one: the autoencoders are one/topk, one/jumprelu, two/topk"),
        (["one", "two", "--site", "mlp_out.*"], "--site mlp_out.*: the autoencoders are at resid_post.1\n"),
        (["one", "two", "--site", "resid_post.7"], "has no site 'resid_post.7'"),
        (["grid", "--output", "page.html"], "choose with --site among resid_post.0, resid_post.1"),
        (["one", "one"], "name each run once"),
        (["one", "other"], "or choose with --site among resid_post.1, resid_post.0\n"),
        (["one", "nothing"], "holds no autoencoder"),
        (["one", "two", "--windows", "0"], "at least 1"),
        (["one", "two", "--loss-windows", "-1"], "loss_windows -1"),
    ],
)
def test_bad_input_is_one_line(call, arguments, message):
    run_folder.assert_refused(call("compare", *arguments), message)


def test_the_page_says_what_was_not_measured_and_escapes_names(lm, tmp_path, monkeypatch):
    saes = {"<a>": autoencoder(), "b": autoencoder(2)}
    found = compare(saes, lm, text(), loss_windows=0, one_to_one=False)
    page = Page(write_comparison(tmp_path / "page.html", found, saes, lm, command="monosem <x>"))
    assert "<a>" in page.text
    assert "Cross-entropy recovered against L0" not in page.text
    assert any(one.get("title") == "not measured" for one in page.all("span", "none"))
    monkeypatch.setattr("monosem.report.plot.find_spec", lambda _: None)
    page = Page(write_comparison(tmp_path / "plain.html", found, saes, lm, command="x"))
    assert "Plots need matplotlib" in page.text
