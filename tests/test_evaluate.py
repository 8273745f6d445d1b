from __future__ import annotations

import argparse
import contextlib
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import tiny
from monosem.cli import evaluate as command
from monosem.cli import subject
from monosem.evaluation import Evaluation, evaluate, loss, replacement
from monosem.evaluation.batch import Batch
from monosem.evaluation.density import Density
from monosem.evaluation.l0 import L0Distribution
from monosem.evaluation.per_k import PerK, powers
from monosem.evaluation.ratio import Ratio, Sums
from monosem.evaluation.reconstruction import RATIOS, Reconstruction
from monosem.evaluation.variation import Variation
from monosem.lm import LanguageModel
from monosem.progress import Bar
from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, KronEncoder, ReLU, Rule, TopK, save
from monosem.shapes import InputError
from monosem.shapes.codes import Codes
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows
from monosem.training.config import TrainConfig

D, F = 32, 64
SITE = "resid_post.1"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny.llama()


def text(count: int = 12, length: int = 10, seed: int = 0) -> Windows:
    """Random tokens; ids 0 and 1 are special."""
    tokens = torch.randint(0, 300, (count, length), generator=torch.Generator().manual_seed(seed)).int()
    tokens[:, 4] = 1
    return Windows(tokens, torch.zeros_like(tokens), tokens < 2, {"corpus": "random", "seed": seed})


def autoencoder(rule: Rule, n_latents: int = F, site: str = SITE, **exclusion) -> SAE:
    info = {"site": site, "exclusion": Exclusion(**exclusion).describe()}
    sae = SAE(DenseEncoder(D, n_latents), rule, info=info)
    generator = torch.Generator().manual_seed(1)
    sae.initialise(torch.randn(256, D, generator=generator) * 3 + 1, generator)
    return sae.eval()


def exact() -> SAE:
    """relu(x) − relu(−x) = x, to the last bit."""
    sae = autoencoder(ReLU(2 * D), 2 * D)
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    sae.scale = 1.0
    for weight, value in ((sae.encoder.weight, both), (sae.W_dec, both), (sae.b_dec, torch.zeros(D))):
        weight.data.copy_(value)
    return sae


def constant(value: Tensor) -> SAE:
    """The same reconstruction for every token."""
    sae = autoencoder(TopK(F, 2))
    sae.scale = 1.0
    sae.encoder.weight.data.zero_()
    sae.W_dec.data.zero_()
    sae.b_dec.data.copy_(value)
    return sae


def batch_of(x: Tensor, recon: Tensor) -> Batch:
    codes = Codes(torch.ones(len(x), 1), torch.zeros(len(x), 1, dtype=torch.int64), F)
    return Batch(x.double(), recon.double(), codes)


def measured(x: Tensor, recon: Tensor, sizes: list[int]) -> dict[str, float]:
    """Reconstruction metrics of one stream cut into batches of these sizes."""
    metrics, variation = Reconstruction(autoencoder(TopK(F, 4))), Variation()
    for one, other in zip(x.split(sizes), recon.split(sizes)):
        variation.update(one)
        metrics.update(batch_of(one, other))
    values = {name: figure.value for name, figure in metrics.figures(variation).items()}
    return values | metrics.compat()


def noisy(tokens: int = 210, mean: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, D, generator=generator) * torch.linspace(0.5, 2, D) + mean
    return x, x + 0.4 * torch.randn(tokens, D, generator=generator) + 0.2


def test_predicting_the_mean_explains_nothing_even_with_a_large_mean():
    x, _ = noisy(mean=1e4)
    mean = x.double().mean(0).expand_as(x)
    assert abs(measured(x, mean, [50, 3, 100, 57])["explained_variance"]) < 1e-9


def test_a_perfect_reconstruction_explains_everything():
    x, _ = noisy()
    found = measured(x, x, [70, 70, 70])
    for name in (
        "explained_variance",
        "explained_variance_legacy",
        "ev_centered_residual",
        "cossim",
        "l2_ratio",
    ):
        assert found[name] == pytest.approx(1, abs=1e-12)
    assert found["fvu_batch"] == found["mse"] == 0


def test_explained_variance_is_its_definition_however_the_stream_is_cut():
    x, recon = noisy()
    far = x.double().numpy()
    direct = 1 - ((far - recon.double().numpy()) ** 2).sum() / ((far - far.mean(0)) ** 2).sum()
    for sizes in ([210], [1, 9, 200], [70] * 3, [1] * 210):
        assert measured(x, recon, sizes)["explained_variance"] == pytest.approx(direct, abs=1e-12)


def test_metrics_of_tokens_alone_do_not_depend_on_the_batches():
    x, recon = noisy()
    whole, cut = measured(x, recon, [210]), measured(x, recon, [1, 9, 200])
    for name in set(whole) - {"explained_variance_legacy", "fvu_batch", "ev_centered_residual"}:
        assert cut[name] == pytest.approx(whole[name], rel=1e-12), name
    assert cut["explained_variance_legacy"] != pytest.approx(whole["explained_variance_legacy"], rel=1e-6)


def test_other_definitions_are_what_their_libraries_compute():
    x, recon = noisy()
    found = measured(x, recon, [70, 70, 70])
    parts = [(a.double().numpy(), b.double().numpy()) for a, b in zip(x.split(70), recon.split(70))]
    legacy = [1 - ((a - b) ** 2).sum(1) / ((a - a.mean(0)) ** 2).sum(1) for a, b in parts]
    fvu = [((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum() for a, b in parts]
    centred = [1 - (a - b).var(0).sum() / a.var(0).sum() for a, b in parts]
    a, b = x.double().numpy(), recon.double().numpy()
    saebench = 1 - ((a - b) ** 2).sum(1).mean() / ((a**2).sum(1).mean() - (a**2).mean() ** 2)
    assert found["explained_variance_legacy"] == pytest.approx(np.concatenate(legacy).mean(), rel=1e-12)
    assert found["fvu_batch"] == pytest.approx(np.mean(fvu), rel=1e-12)
    assert found["ev_centered_residual"] == pytest.approx(np.mean(centred), rel=1e-12)
    assert found["explained_variance_saebench_0_6"] == pytest.approx(saebench, rel=1e-12)
    assert found["ev_centered_residual"] > found["explained_variance"] + 0.01


def test_norms_cosine_and_bias_are_their_formulas():
    x, recon = noisy()
    x[0] = 0
    found = measured(x, recon, [100, 110])
    a, b = x.double().numpy(), recon.double().numpy()
    norm_in, norm_out = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1)[1:] / (norm_in * norm_out)[1:]
    assert found["mse"] == pytest.approx(((a - b) ** 2).sum(1).mean())
    assert found["l2_norm_in"] == pytest.approx(norm_in.mean())
    assert found["l2_norm_out"] == pytest.approx(norm_out.mean())
    assert found["l2_ratio"] == pytest.approx((norm_out / np.where(norm_in < 1e-4, 1, norm_in)).mean())
    assert found["cossim"] == pytest.approx(cosine.sum() / len(a))
    assert found["relative_reconstruction_bias"] == pytest.approx((b**2).sum() / (a * b).sum())


def test_a_shrunk_reconstruction_has_its_factor_as_bias():
    x, _ = noisy()
    assert measured(x, 0.7 * x.double(), [210])["relative_reconstruction_bias"] == pytest.approx(0.7)


def test_batches_without_variation_have_no_say_in_batch_definitions():
    x, recon = noisy(10)
    found = measured(x, recon, [9, 1])
    alone = measured(x[:9], recon[:9], [9])
    for name in ("explained_variance_legacy", "fvu_batch", "ev_centered_residual"):
        assert found[name] == pytest.approx(alone[name], rel=1e-12)


def test_standard_error_of_a_mean_is_the_usual_one():
    values = [3.0, 5.0, 4.0, 9.0]
    ratio = Ratio()
    for value in values:
        ratio.update(Sums(7 * value, 7))
    assert ratio.compute().value == pytest.approx(np.mean(values))
    assert ratio.compute().error == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))


def test_standard_error_of_a_ratio_is_the_spread_over_repetitions():
    rng = np.random.default_rng(0)

    def repetition() -> tuple[float, float]:
        ratio = Ratio()
        for den in rng.uniform(50, 150, size=40):
            ratio.update(Sums(0.3 * den + rng.normal(0, 5), den))
        figure = ratio.compute()
        assert figure.error is not None
        return figure.value, figure.error

    values, errors = np.array([repetition() for _ in range(400)]).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.1)


def test_one_batch_has_no_standard_error_and_no_denominator_no_value():
    ratio = Ratio()
    ratio.update(Sums(1, 2))
    assert ratio.compute() == (0.5, None)
    empty = Ratio()
    empty.update(Sums(0, 0))
    assert math.isnan(empty.compute().value)


def test_mean_is_exact_for_batches_of_any_size():
    x, _ = noisy(mean=1e6)
    variation = Variation()
    for part in x.split([1, 9, 200]):
        variation.update(part)
    assert torch.allclose(variation.mean(), x.double().mean(0), rtol=1e-15)
    assert variation.tokens == 210


def sparse_batch(dense: Tensor) -> Batch:
    rows, latents = dense.nonzero(as_tuple=True)
    offsets = functional.pad((dense != 0).sum(1).cumsum(0), (1, 0))
    codes = Codes(dense[rows, latents], latents, dense.shape[1], offsets)
    return Batch(torch.zeros(len(dense), D).double(), torch.zeros(len(dense), D).double(), codes)


def test_l0_distribution_counts_every_token():
    share = torch.linspace(0.1, 0.9, 500)[:, None]
    dense = (torch.rand(500, 200, generator=torch.Generator().manual_seed(0)) < share).float()
    counts = L0Distribution(200)
    for part in dense.split(123):
        counts.update(sparse_batch(part))
    l0 = dense.sum(1).numpy()
    expected = np.quantile(l0, [0.05, 0.25, 0.5, 0.75, 0.95], method="inverted_cdf")
    assert list(counts.quantiles().values()) == expected.tolist()
    bins = counts.histogram()
    assert 30 < len(bins) <= 50
    assert (bins[0]["low"], bins[-1]["high"] >= l0.max()) == (l0.min(), True)
    for bar in bins:
        assert bar["tokens"] == ((l0 >= bar["low"]) & (l0 <= bar["high"])).sum()
    assert sum(bar["tokens"] for bar in bins) == 500


def test_a_long_tail_of_l0_does_not_blur_the_part_most_tokens_are_in():
    l0 = [0, 1, 2, 2, 3, 5, 8, 40, 41, 2900]
    counts = L0Distribution(3000)
    counts.update(sparse_batch((torch.arange(3000) < torch.tensor(l0)[:, None]).float()))
    bins = counts.histogram()
    assert len(bins) <= 50
    assert [bar["low"] for bar in bins[:6]] == [bar["high"] for bar in bins[:6]] == [0, 1, 2, 3, 4, 5]
    assert [bar["tokens"] for bar in bins[:6]] == [1, 1, 2, 1, 0, 1]
    assert (bins[-1]["high"], sum(bar["tokens"] for bar in bins)) == (2900, 10)
    assert all(one["high"] + 1 == other["low"] for one, other in pairwise(bins))
    few = L0Distribution(3000)
    few.update(sparse_batch((torch.arange(3000) < torch.tensor([1000, 1049])[:, None]).float()))
    assert [(bar["low"], bar["high"]) for bar in few.histogram()] == [(at, at) for at in range(1000, 1050)]


def test_l0_quantiles_are_values_that_occur():
    counts = L0Distribution(200)
    counts.update(sparse_batch((torch.arange(200) < 10 * torch.arange(1, 21)[:, None]).float()))
    found = counts.quantiles()
    assert found == {"l0_q05": 10, "l0_q25": 50, "l0_q50": 100, "l0_q75": 150, "l0_q95": 190}


def test_density_shares_and_histogram():
    dense = torch.zeros(1000, 5)
    for latent, tokens in enumerate((0, 10, 11, 101, 1000)):
        dense[:tokens, latent] = 1
    density = Density(5)
    for part in dense.split(300):
        density.update(sparse_batch(part))
    assert density.compute() == pytest.approx(
        {"frac_alive": 0.8, "frac_dead": 0.2, "freq_over_1_percent": 0.6, "freq_over_10_percent": 0.4}
    )
    assert sum(bar["latents"] for bar in density.histogram()) == 4
    assert density.histogram()[-1] == {"log10_low": -0.25, "log10_high": 0.0, "latents": 1}


@pytest.mark.parametrize("subtract_b_dec", [True, False])
def test_every_budget_equals_an_autoencoder_of_that_k(subtract_b_dec):
    sae = autoencoder(TopK(F, 12))
    sae.subtract_b_dec = subtract_b_dec
    x, _ = noisy()
    per_k, variation = PerK(sae), Variation()
    for part in x.split(64):
        per_k.update(Batch.of(sae, part))
        variation.update(part)
    rows = per_k.compute(variation.per_batch().sum())
    assert [row["k"] for row in rows] == list(range(1, 13))
    for row in rows:
        smaller = SAE(sae.encoder, TopK(F, int(row["k"])), scale=sae.scale, subtract_b_dec=subtract_b_dec).eval()
        smaller.W_dec, smaller.b_dec = sae.W_dec, sae.b_dec
        one = Batch.of(smaller, x)
        explained = 1 - one.squared_error.sum().item() / variation.per_batch().sum()
        assert row["explained_variance"] == pytest.approx(explained, abs=1e-6)
        assert row["l0"] == pytest.approx(one.codes.l0().float().mean().item())


def test_codes_without_ranks_have_no_curve_over_k(lm):
    curves = evaluate({"relu": autoencoder(ReLU(F))}, lm, text(), loss_windows=0)["relu"].curves
    assert "per_k" not in curves
    assert curves["l0_histogram"]


def test_powers_are_below_k():
    assert [powers(most) for most in (1, 2, 12, 16, 17)] == [
        [],
        [1],
        [1, 2, 4, 8],
        [1, 2, 4, 8],
        [1, 2, 4, 8, 16],
    ]


# On a model


def test_an_exact_reconstruction_recovers_the_whole_model(lm):
    found = evaluate({"exact": exact()}, lm, text(), batch=5)["exact"].metrics
    assert found["explained_variance"] == 1
    for name in ("ce_loss_score", "ce_loss_score_mean", "kl_div_score", "kl_div_score_mean"):
        assert found[name] == pytest.approx(1, abs=1e-6), name
    assert found["kl_div"] == pytest.approx(0, abs=1e-7)
    assert found["ce_loss_sae"] == pytest.approx(found["ce_loss_clean"], abs=1e-7)
    assert found["kl_div_zero"] > 1e-2


def kept_activations(lm: LanguageModel, windows: Windows) -> Tensor:
    act = lm.capture(windows.tokens, [SITE])[lm.site(SITE)]
    keep = ~windows.special
    keep[:, 0] = False
    return act[keep]


def test_floors_are_reached_by_autoencoders_that_give_zero_and_the_mean(lm):
    windows = text()
    mean = kept_activations(lm, windows).double().mean(0).float()
    saes = {"zero": constant(torch.zeros(D)), "mean": constant(mean)}
    found = evaluate(saes, lm, windows, batch=5)
    for name in ("ce_loss_score", "kl_div_score"):
        assert found["zero"].metrics[name] == pytest.approx(0, abs=1e-6)
        assert found["mean"].metrics[f"{name}_mean"] == pytest.approx(0, abs=1e-5)
        assert abs(found["mean"].metrics[name]) > 1e-3
    assert found["mean"].metrics["explained_variance"] == pytest.approx(0, abs=1e-9)
    assert found["zero"].metrics["explained_variance"] < -0.01


def test_losses_equal_a_direct_computation(lm):
    windows, sae = text(), autoencoder(TopK(F, 4))
    found = evaluate({"sae": sae}, lm, windows, batch=5)["sae"]
    keep = ~windows.special
    keep[:, 0] = False
    source = keep[:, :-1]
    targets = windows.tokens[:, 1:][source].long()
    with torch.no_grad():
        clean = lm.logits(windows.tokens)[:, :-1][source]
        with lm.hooks({SITE: lambda act: torch.where(keep[..., None], sae(act), act)}):
            changed = lm.logits(windows.tokens)[:, :-1][source]
        with lm.hooks({SITE: lambda act: act * ~keep[..., None]}):
            zero = lm.logits(windows.tokens)[:, :-1][source]
    ce = [functional.cross_entropy(one, targets).item() for one in (clean, changed, zero)]
    log_p = clean.log_softmax(-1)
    kl = [(log_p.exp() * (log_p - one.log_softmax(-1))).sum(-1).mean().item() for one in (changed, zero)]
    metrics = found.metrics
    assert found.provenance["loss"] == {"windows": 12, "tokens": len(targets)}
    assert [metrics[f"ce_loss_{name}"] for name in ("clean", "sae", "zero")] == pytest.approx(ce, rel=1e-5)
    assert [metrics["kl_div"], metrics["kl_div_zero"]] == pytest.approx(kl, rel=1e-4)
    assert metrics["ce_loss_score"] == pytest.approx((ce[2] - ce[1]) / (ce[2] - ce[0]), rel=1e-4)
    assert metrics["kl_div_score"] == pytest.approx(1 - kl[0] / kl[1], rel=1e-4)


def of_budget(sae: SAE, k: int) -> SAE:
    """The same weights with another k."""
    smaller = SAE(sae.encoder, TopK(F, k), scale=sae.scale, info={key: sae.info[key] for key in ("site", "exclusion")})
    smaller.W_dec, smaller.b_dec = sae.W_dec, sae.b_dec
    return smaller.eval()


def test_losses_at_smaller_budgets_are_those_of_autoencoders_of_that_k(lm):
    saes = {"topk": autoencoder(TopK(F, 6)), "relu": autoencoder(ReLU(F))}
    found = evaluate(saes, lm, text(3), batch=2, loss_per_k=True)
    assert "per_k" not in found["relu"].curves
    smaller = {str(k): of_budget(saes["topk"], k) for k in (1, 2, 4, 6)}
    alone = evaluate(smaller, lm, text(3), batch=2)
    rows = {row["k"]: row for row in found["topk"].curves["per_k"]}
    assert sorted(rows) == [1, 2, 3, 4, 5, 6]
    for k, row in rows.items():
        measured_here = {"ce_loss_score", "ce_loss_score_mean", "kl_div"} & set(row)
        assert len(measured_here) == (3 if str(k) in alone else 0)
        for key in measured_here:
            assert row[key] == pytest.approx(alone[str(k)].metrics[key], rel=1e-5), (k, key)
    assert len({row["kl_div"] for row in rows.values() if "kl_div" in row}) == 4


def test_losses_at_smaller_budgets_are_asked_for_or_trained_for(lm):
    plain, several, one = (autoencoder(TopK(F, 4)) for _ in range(3))
    several.info["budgets"] = {"J": [1, 2, 3, 4]}
    one.info["budgets"] = {"J": [4]}
    larger = autoencoder(TopK(F, 4))
    larger.info |= {"budgets": {"J": [1, 2]}, "budget": {"k": 4, "trained": 2, "extrapolated": True}}
    saes = {"plain": plain, "several": several, "one": one, "larger": larger}

    def with_losses(**options) -> set[str]:
        found = evaluate(saes, lm, text(1), **options)
        return {name for name, one in found.items() if any("kl_div" in row for row in one.curves["per_k"])}

    assert with_losses() == {"several"}
    assert with_losses(loss_per_k=True) == set(saes)
    assert with_losses(loss_per_k=False) == set()
    assert with_losses(loss_per_k=True, loss_windows=0) == set()


def test_the_progress_bar_counts_every_pass_through_the_model(lm, monkeypatch):
    passes, bars = [], []
    monkeypatch.setattr(lm, "logits", lambda tokens, run=lm.logits: passes.append(tokens.numel()) or run(tokens))

    @contextlib.contextmanager
    def watched(label, total, unit):
        bar = Bar(label, total, unit, 0)
        bars.append(bar)
        yield bar

    monkeypatch.setattr(replacement, "progress", watched)
    windows = text()
    windows.special[:5] = True
    evaluate({"sae": autoencoder(TopK(F, 4))}, lm, windows, batch=5, loss_per_k=True)
    (bar,) = bars
    assert bar.total == bar.done == (3 + 3) * windows.tokens.numel()
    assert sum(passes) == 6 * windows.tokens[5:].numel()
    assert "6 passes" in bar.label


def test_excluded_positions_keep_their_activation_in_every_replacement(lm):
    windows, seen = text(), []
    clean = lm.capture(windows.tokens, [SITE])[lm.site(SITE)]
    keep = ~windows.special
    keep[:, 0] = False
    with lm.hooks({"resid_pre.2": seen.append}):
        evaluate({"sae": autoencoder(TopK(F, 4))}, lm, windows, batch=12)
    unchanged, *replaced = seen
    assert torch.equal(unchanged, clean)
    assert len(replaced) == 3
    for act in replaced:
        assert torch.equal(act[~keep], clean[~keep])
        assert not torch.isclose(act[keep], clean[keep], atol=1e-3).all(1).any()
    assert torch.equal(replaced[0][keep], torch.zeros_like(clean[keep]))


def test_parts_and_chunks_change_nothing(lm, monkeypatch):
    saes, windows = {"sae": autoencoder(TopK(F, 4))}, text()
    whole = evaluate(saes, lm, windows, batch=12)["sae"].metrics
    monkeypatch.setattr(replacement, "_LOGITS", 5 * windows.tokens.shape[1] * lm.vocab_size)
    monkeypatch.setattr(loss, "_ROWS", 3)
    parts = evaluate(saes, lm, windows, batch=12)["sae"].metrics
    smaller = evaluate(saes, lm, windows, batch=5)["sae"].metrics
    by_batch = {"explained_variance_legacy", "fvu_batch", "ev_centered_residual"}
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        if name not in by_batch:
            assert smaller[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_many_autoencoders_are_measured_as_each_alone(lm):
    saes = {"topk": autoencoder(TopK(F, 4)), "jump": autoencoder(JumpReLU(F)), "relu": autoencoder(ReLU(F))}
    together = evaluate(saes, lm, text(), batch=5)
    for name, sae in saes.items():
        alone = evaluate({name: sae}, lm, text(), batch=5)[name]
        assert together[name].metrics == alone.metrics
        assert together[name].errors == alone.errors
    assert together["topk"].metrics["mse"] != together["relu"].metrics["mse"]


def test_the_first_windows_alone_get_a_loss(lm):
    sae, windows = autoencoder(TopK(F, 4)), text()
    few = evaluate({"sae": sae}, lm, windows, batch=2, loss_windows=4)["sae"]
    first = Windows(windows.tokens[:4], windows.documents[:4], windows.special[:4], windows.identity)
    alone = evaluate({"sae": sae}, lm, first, batch=2)["sae"]
    assert few.provenance["loss"] == alone.provenance["loss"]
    assert few.metrics["ce_loss_sae"] == pytest.approx(alone.metrics["ce_loss_sae"], rel=1e-6)
    assert few.n_tokens > alone.n_tokens
    none = evaluate({"sae": sae}, lm, windows, loss_windows=0)["sae"]
    assert not [name for name in none.metrics if name.startswith(("ce_", "kl_"))]


def test_tokens_are_counted_and_strong_ones_left_out_by_the_stored_rule(lm):
    windows = text()
    norms = lm.capture(windows.tokens, [SITE])[lm.site(SITE)].norm(dim=-1)
    limit = float(norms.flatten().kthvalue(norms.numel() - 20).values)
    other = lm.capture(windows.tokens, ["resid_mid.0"])[lm.site("resid_mid.0")].norm(dim=-1)
    limits = {SITE: limit, "resid_mid.0": float(other.flatten().kthvalue(norms.numel() - 20).values)}
    sae = autoencoder(TopK(F, 4), max_norm=limits)
    found = evaluate({"sae": sae}, lm, windows)["sae"]
    out = windows.special | (norms > limit) | (other > limits["resid_mid.0"])
    out[:, 0] = True
    assert found.n_excluded == int(out.sum())
    assert found.n_tokens + found.n_excluded == windows.tokens.numel()
    expected = lm.capture(windows.tokens, [SITE])[lm.site(SITE)][~out].norm(dim=-1).mean().item()
    assert found.metrics["l2_norm_in"] == pytest.approx(expected, rel=1e-6)


def test_metrics_are_in_raw_space_whatever_the_scale(lm):
    sae = autoencoder(TopK(F, 4))
    assert sae.scale != 1
    scaled, raw = (evaluate({"sae": one}, lm, text())["sae"] for one in (sae, sae.fold("raw")))
    for name, value in scaled.metrics.items():
        assert raw.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert scaled.space == "raw"


def test_an_autoencoder_in_training_is_measured_as_at_inference_and_left_as_it_was(lm):
    sae = autoencoder(BatchTopK(F, 4))
    sae.train()
    sae(torch.randn(100, D))
    cut = sae.rule.cut.clone()
    training = evaluate({"sae": sae}, lm, text(), loss_windows=0)["sae"]
    assert sae.training
    assert torch.equal(sae.rule.cut, cut)
    assert evaluate({"sae": sae.eval()}, lm, text(), loss_windows=0)["sae"].metrics == training.metrics


def test_a_result_is_json_with_its_provenance(lm):
    sae = constant(torch.zeros(D))
    sae.info["seed"] = 3
    found = evaluate({"sae": sae}, lm, text(), command="monosem evaluate RUN")["sae"]
    assert isinstance(found, Evaluation)
    assert math.isnan(found.metrics["relative_reconstruction_bias"])
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["metrics"]["relative_reconstruction_bias"] is None
    origin = record["provenance"]
    assert origin["command"] == "monosem evaluate RUN"
    assert origin["model"] == lm.identity()
    assert origin["text"] == {"corpus": "random", "seed": 0}
    assert (origin["site"], origin["dtype"], origin["seed"]) == (SITE, "float32", 3)
    assert origin["exclusion"] == Exclusion().describe()
    assert (origin["tokens"]["windows"], origin["tokens"]["total"]) == (12, 120)
    assert origin["sae"]["groups"][0]["rule"] == {"name": "topk", "k": 2}


def bad(case: str) -> dict[str, SAE]:
    good = autoencoder(TopK(F, 4))
    wide = SAE(DenseEncoder(2 * D, F), TopK(F, 4), info=dict(good.info))
    narrow = SAE(DenseEncoder(D, F), TopK(F, 4), d_out=8, subtract_b_dec=False, info=dict(good.info))
    bare = SAE(DenseEncoder(D, F), TopK(F, 4), info={"site": SITE})
    odd = SAE(DenseEncoder(D, F), TopK(F, 4), info={"site": SITE, "exclusion": {"last": 1}})
    return {
        "width 64 to 64, but resid_post.1 of tiny-llama has width 32": {"sae": wide},
        "width 32 to 8": {"sae": narrow},
        "evaluate one site at a time": {"a": good, "b": autoencoder(TopK(F, 4), site="resid_post.0")},
        "leave out different tokens": {"a": good, "b": autoencoder(TopK(F, 4), first=2)},
        "does not say its exclusion": {"sae": bare},
        "expected the keys first, special": {"sae": odd},
        "no autoencoder": {},
    }[case]


@pytest.mark.parametrize(
    "case",
    [
        "width 64 to 64, but resid_post.1 of tiny-llama has width 32",
        "width 32 to 8",
        "evaluate one site at a time",
        "leave out different tokens",
        "does not say its exclusion",
        "expected the keys first, special",
        "no autoencoder",
    ],
)
def test_bad_autoencoders_are_refused_before_the_model_runs(lm, monkeypatch, case):
    monkeypatch.setattr(lm, "capture", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(InputError, match=case) as refusal:
        evaluate(bad(case), lm, text())
    assert "\n" not in str(refusal.value)


def test_bad_requests_are_refused(lm):
    saes = {"sae": autoencoder(TopK(F, 4))}
    with pytest.raises(InputError, match="no windows"):
        evaluate(saes, lm, text(0))
    with pytest.raises(InputError, match="batch 0"):
        evaluate(saes, lm, text(), batch=0)
    with pytest.raises(InputError, match="loss_windows -1"):
        evaluate(saes, lm, text(), loss_windows=-1)
    with pytest.raises(InputError, match="no token is left"):
        evaluate({"sae": autoencoder(TopK(F, 4), first=10)}, lm, text())


def test_activations_that_are_not_finite_are_refused_with_their_place(lm):
    def spoil(act: Tensor) -> Tensor:
        act = act.clone()
        act[1, 3, 5] = float("nan")
        return act

    windows = text()
    windows.special[:, 3] = False
    broken = lm.hooks({"resid_mid.1": spoil})
    with broken, pytest.raises(InputError, match="window 1, position 3 is not finite"):
        evaluate({"sae": autoencoder(TopK(F, 4))}, lm, windows)


def test_windows_without_any_kept_token_are_passed_over(lm):
    windows = text()
    windows.special[:5] = True
    found = evaluate({"sae": autoencoder(TopK(F, 4))}, lm, windows, batch=5)["sae"]
    rest = Windows(windows.tokens[5:], windows.documents[5:], windows.special[5:], windows.identity)
    alone = evaluate({"sae": autoencoder(TopK(F, 4))}, lm, rest, batch=5)["sae"]
    assert found.n_tokens == alone.n_tokens
    for name, value in alone.metrics.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_every_ratio_has_a_standard_error(lm):
    found = evaluate({"sae": autoencoder(TopK(F, 4))}, lm, text(), batch=4)["sae"]
    assert set(RATIOS) | {"explained_variance", "ce_loss_score", "kl_div"} <= set(found.errors)
    assert set(found.errors) < set(found.metrics)
    assert found.errors["ce_loss_clean"] > 0


# The command


def opened(lm: LanguageModel, folder: Path, saes: dict[str, SAE]) -> subject.Subject:
    folders = {name: folder / name for name in saes}
    for path in folders.values():
        path.mkdir()
    return subject.Subject(saes, folders, lm, text(4), TrainConfig(), own=True)


def test_further_budgets_are_rows_of_their_own_and_stored_with_their_autoencoder(lm, tmp_path):
    sae = autoencoder(TopK(F, 4))
    found = command.measure(opened(lm, tmp_path, {"topk": sae}), 2, further=(2, 9))
    assert list(found) == ["topk", "topk@2", "topk@9"]
    assert [one["metrics"]["l0"] for one in found.values()] == [4, 2, 9]
    rows = found["topk"]["curves"]["per_k"]
    assert rows[1]["explained_variance"] == pytest.approx(found["topk@2"]["metrics"]["explained_variance"], abs=1e-6)
    table = command.summary(found, {"topk": 5.0})
    assert "topk@9: beyond its trained budget, which is 4" in table
    assert "topk@2: " not in table
    stored = json.loads((tmp_path / "topk" / "evaluation.json").read_text())
    assert stored.pop("at") == {"2": found["topk@2"], "9": found["topk@9"]}
    assert stored == found["topk"]


def test_the_table_says_what_an_encoder_costs_only_where_it_is_not_dense(lm, tmp_path):
    kron = SAE(KronEncoder(D, F, heads=8, base=1, extension=8), TopK(F, 4), info=autoencoder(TopK(F, 4)).info)
    kron.initialise(torch.randn(256, D), torch.Generator())
    saes = {"topk": autoencoder(TopK(F, 4)), "kron": kron.eval()}
    found = command.measure(opened(lm, tmp_path, saes), 0)
    header, _, topk, row, *notes = command.summary(found, {}).splitlines()
    assert header.endswith("encoder ÷ dense")
    assert (topk.split()[-1], row.split()[-1]) == ("1", "1.125")
    assert any(note.startswith("encoder ÷ dense: ") for note in notes)
    assert found["kron"]["provenance"]["cost"]["parameters"] == 72 * (D + 1) + F * D + D
    assert "encoder ÷ dense" not in command.summary({"topk": found["topk"]}, {})


def test_further_budgets_need_ranks_and_whole_numbers(lm, tmp_path):
    saes = {"topk": autoencoder(TopK(F, 4)), "relu": autoencoder(ReLU(F))}
    both = opened(lm, tmp_path, saes)
    for further, message in (((2,), "relu cannot be measured at --k 2"), ((0,), "topk cannot"), ((65,), "topk cannot")):
        with pytest.raises(InputError, match=message) as refusal:
            command.measure(both, 0, further=further)
        assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match=r"--k 4,x: give whole numbers"):
        command.budgets("4,x")
    assert command.budgets("16, 4,16") == (16, 4)
    assert command.budgets("") == ()


def test_stored_evaluations_are_taken_together_only_if_they_are_of_one_text(lm, tmp_path):
    both = opened(lm, tmp_path, {name: autoencoder(TopK(F, 4)) for name in ("one", "two")})
    command.measure(both, 0)
    assert command.stored_or_measured(both, 3)["one"]["provenance"]["loss"]["windows"] == 0
    command.measure(
        both._replace(saes={"one": both.saes["one"]}, folders={"one": both.folders["one"]}, windows=text(5)), 0
    )
    assert command.stored_or_measured(both, 3)["one"]["provenance"]["loss"]["windows"] == 3


def test_autoencoders_of_several_runs_are_named_by_their_run_and_need_one_text(lm, monkeypatch, tmp_path):
    def folder(run: str, name: str, **settings) -> Path:
        sae = autoencoder(TopK(F, 4), **settings.pop("rule", {}))
        sae.info["training"] = {"config": TrainConfig(**settings).describe()}
        sae.info["model"] = lm.identity()
        (tmp_path / run / "saes").mkdir(parents=True, exist_ok=True)
        save(sae, tmp_path / run / "saes" / name)
        return tmp_path / run

    def asked(*folders: Path) -> subject.Subject:
        none = dict.fromkeys(("model", "text", "dtype", "device"))
        return subject.open_subject(argparse.Namespace(folder=folders[0], windows=2, **none), folders[1:])

    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: lm)
    monkeypatch.setattr("monosem.training.run.run_windows", lambda *_: text(4))
    first, second = folder("a", "topk", sae=("x", "topk")), folder("b", "topk", batch=4096)
    folder("a", "x", sae=("x", "topk"))
    assert list(asked(first).saes) == ["x", "topk"]
    assert list(asked(first, second / "saes" / "topk").saes) == ["a/x", "a/topk", "b/topk"]
    with pytest.raises(InputError, match="two of the folders give an autoencoder a/x"):
        asked(first, first)
    with pytest.raises(InputError, match="c/topk was trained with window = 128, a/x with 256"):
        asked(first, folder("c", "topk", window=128))
    with pytest.raises(InputError, match="leave out different tokens"):
        asked(first, folder("d", "topk", rule={"first": 3}))
