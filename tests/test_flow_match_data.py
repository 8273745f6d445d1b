from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from flow_dictionary import A, B, autoencoder, generator, suite, unit
from monosem.activations import Exclusion, Live, Rows
from monosem.flow import Firing, Pearson, youden
from monosem.flow.firing import Fired
from monosem.flow.pearson import correlations
from monosem.shapes import InputError, Site
from monosem.shapes.codes import Codes
from monosem.text import Windows

pytestmark = pytest.mark.slow

N, F = 400, 30


def sparse(seed: int, share: float = 0.3, count: int = F) -> Tensor:
    draws = generator(seed)
    values = torch.rand(N, count, generator=draws) + 0.1
    return torch.where(torch.rand(N, count, generator=draws) < share, values, 0.0)


def codes_of(dense: Tensor) -> Codes:
    rows, latents = dense.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (dense != 0).sum(1).cumsum(0)])
    return Codes(dense[rows, latents], latents, dense.shape[1], offsets)


def firing(x: Tensor, y: Tensor, parts: int = 3) -> Firing:
    """In several batches of uneven size."""
    fired = {site: Fired.of([codes_of(part) for part in dense.tensor_split(parts)]) for site, dense in ((A, x), (B, y))}
    return Firing(len(x), fired)


def dictionaries(a: int = F, b: int = F):
    return suite(resid_post_1=unit(a, 8), resid_post_2=unit(b, 8, 1))


def pearson(x: Tensor, y: Tensor, latents: Tensor | None = None, least: int = 0) -> np.ndarray:
    asked = torch.arange(x.shape[1]) if latents is None else latents
    return np.concatenate([r for _, r in correlations(firing(x, y), A, B, asked, least)])


def test_streamed_correlation_is_the_dense_one(monkeypatch):
    x, y = sparse(0), sparse(1, count=20)
    y[:, :10] += x[:, :10] * torch.linspace(0, 2, 10)
    expected = np.corrcoef(x.double().numpy().T, y.double().numpy().T)[:F, F:]
    np.testing.assert_allclose(pearson(x, y), expected, atol=1e-10)
    monkeypatch.setattr("monosem.flow.pearson._BLOCK", 20 * 7)
    parts = list(correlations(firing(x, y), A, B, torch.arange(F), 0))
    assert [part.stop - part.start for part, _ in parts] == [7, 7, 7, 7, 2]
    np.testing.assert_allclose(np.concatenate([r for _, r in parts]), expected, atol=1e-10)
    np.testing.assert_allclose(pearson(x, y, torch.tensor([4, 2])), expected[[4, 2]], atol=1e-10)


def test_rescaling_a_site_changes_no_correlation():
    x, y = sparse(0), sparse(1)
    np.testing.assert_allclose(pearson(x, y * 32), pearson(x, y), atol=1e-10)
    np.testing.assert_allclose(pearson(x / 8, y), pearson(x, y), atol=1e-10)


def test_what_follows_a_latent_is_its_match():
    x = sparse(0)
    order = torch.randperm(F, generator=generator(3))
    y = torch.empty_like(x)
    y[:, order] = 2 * x + (x > 0) * 0.1 * torch.randn(x.shape, generator=generator(4)).abs()
    found = Pearson(firing(x, y)).match(dictionaries(), A, B)
    assert torch.equal(found.best, order)
    assert found.score.min() > 0.95
    assert found.matcher == "pearson"
    assert Pearson(firing(x, y), k=3).match(dictionaries(), A, B, torch.tensor([5])).indices.shape == (1, 3)


def test_rare_pairs_and_constant_latents_have_no_match():
    x, y = torch.zeros(N, F), torch.zeros(N, F)
    x[:9, 0] = y[:9, 0] = torch.rand(9, generator=generator()) + 0.5
    x[:10, 1] = y[:10, 1] = torch.rand(10, generator=generator(1)) + 0.5
    x[:, 2] = y[:, 2] = 1.0
    x[::2, 3], y[1::2, 3] = 1.0, 1.0  # never together
    found = Pearson(firing(x, y)).match(dictionaries(), A, B)
    assert found.best[:4].tolist() == [-1, 1, -1, -1]
    assert Pearson(firing(x, y), least=9).match(dictionaries(), A, B).best[0] == 0


def test_medians_are_those_of_each_latents_positive_activations():
    x = sparse(0, share=0.05)
    x[:, 7] = 0
    found = firing(x, x).medians(A)
    every = np.median(x[x > 0].numpy())
    expected = [np.median(x[:, i][x[:, i] > 0].numpy()) if x[:, i].any() else every for i in range(F)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    with pytest.raises(InputError, match=r"no latent at resid_post\.1 is active on these 400 tokens"):
        firing(x * 0, x).medians(A)


class Recorded:
    """A source whose activations are given: windows of 10 tokens, of which the first is left out."""

    sites = (A, B, Site("mlp_out", 2))

    def __init__(self, acts: dict[Site, Tensor]) -> None:
        self.acts, self.n_windows = acts, len(next(iter(acts.values()))) // 10

    def rows(self, windows: np.ndarray) -> Rows:
        kept = [window * 10 + place for window in windows.tolist() for place in range(1, 10)]
        places = torch.tensor(kept)
        return Rows({site: act[places] for site, act in self.acts.items()}, places // 10, places % 10)


@pytest.mark.parametrize(("asked", "tokens"), [(None, None), ([B, A], 25)])
def test_encoding_keeps_tokens_aligned(asked, tokens):
    saes = suite(
        resid_post_1=autoencoder(unit(12, 6), scale=2.0, code_scale=0.5), resid_post_2=autoencoder(unit(9, 6, 1))
    )
    acts = {site: torch.randn(70, 6, generator=generator(place)) for place, site in enumerate(Recorded.sites)}
    found = Firing.record(saes, Recorded(acts), asked, tokens=tokens, windows=2)
    keep = torch.arange(70) % 10 != 0
    assert list(found.fired) == (asked or [A, B])
    assert found.n_tokens == (tokens or 63)
    for site in found.fired:
        expected = saes[site].encode(acts[site][keep][:tokens]).detach()
        assert expected.any()
        np.testing.assert_allclose(found.matrix(site).toarray().T, expected, atol=1e-6)
        np.testing.assert_allclose(found.density(site), (expected > 0).double().mean(0))
        assert found.matrix(site, binary=True).sum() == (expected > 0).sum()


def test_sites_without_activations_are_refused():
    saes, acts = dictionaries(), {site: torch.randn(20, 8) for site in Recorded.sites}
    with pytest.raises(InputError, match=r"autoencoder's site mlp_out\.2: there are resid_post\.1"):
        Firing.record(saes, Recorded(acts), [Site("mlp_out", 2)])
    x = sparse(0)
    saes = suite(resid_post_1=unit(F, 8), attn_out_2=unit(F, 8))
    with pytest.raises(InputError, match=r"nothing was encoded at attn_out\.2: there are codes at resid_post\.1"):
        Pearson(firing(x, x)).match(saes, A, Site("attn_out", 2))


def test_a_model_that_runs_is_a_source():
    lm = tiny.llama()
    tokens = torch.randint(2, 300, (6, 12), generator=generator())
    tokens[2, 5] = 0
    windows = Windows(tokens, torch.zeros_like(tokens), tokens == 0, {})
    sites = [Site("resid_post", 0), Site("mlp_out", 1)]
    saes = suite(resid_post_0=unit(20, 32), mlp_out_1=unit(16, 32, 1))
    found = Firing.record(saes, Live(lm, windows, sites, Exclusion()))
    keep = tokens != 0
    keep[:, 0] = False
    assert found.n_tokens == int(keep.sum())
    for site, act in lm.capture(tokens, sites).items():
        expected = saes[site].encode(act[keep].float()).detach()
        np.testing.assert_allclose(found.matrix(site).toarray().T, expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_youdens_cut_is_the_best_of_all(seed):
    draws = generator(seed)
    active = torch.rand(200, generator=draws) < 0.3
    scores = ((torch.randn(200, generator=draws) + active) * 5).round() / 10
    found = youden(scores, active)

    def index(cut):
        high = scores >= cut
        return float((high & active).sum() / active.sum() - (high & ~active).sum() / (~active).sum())

    every = {float(cut): index(cut) for cut in scores.unique()}
    assert index(found.cut) == pytest.approx(max(every.values()))
    assert found.informedness == pytest.approx(max(every.values()))
    assert found.cut == min(cut for cut, value in every.items() if value > max(every.values()) - 1e-9)


def test_a_cut_needs_both_outcomes():
    with pytest.raises(InputError, match="3 of 3 matches were active"):
        youden(torch.rand(3), torch.ones(3, dtype=torch.bool))
    perfect = youden(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([False, False, True, True]))
    assert perfect.cut == pytest.approx(0.6)
    assert perfect[1:] == (1.0, 1.0)
