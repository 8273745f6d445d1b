from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import tiny
from flow_dictionary import WHERE, A, B, C, autoencoder, generator, of_model, suite, text, unit
from monosem.evaluation import evaluate
from monosem.evaluation.variation import Variation
from monosem.flow import (
    Cosine,
    Permutation,
    RandomPermutation,
    Suite,
    WeightCosine,
    carried,
    composition_over,
    match_error,
    skip_layers,
    together,
    transcoder,
    with_own_thresholds,
)
from monosem.flow.firing import Fired, Firing
from monosem.flow.passage import Part, Passage, Tally
from monosem.flow.shortcut import controls, mixture, through, usual, valued
from monosem.flow.transport import kept, mixed
from monosem.lm import LanguageModel
from monosem.sae import SAE, BatchTopK, DenseEncoder, KronEncoder, boosted
from monosem.shapes import InputError

pytestmark = pytest.mark.slow

D, F = 24, 16


def orthonormal(seed: int, count: int = F, width: int = D) -> Tensor:
    return torch.linalg.qr(torch.randn(width, count, generator=generator(seed)))[0].T.contiguous()


def ratios():
    """Two layers with orthonormal dictionaries and tied encoders; y has θ_j/θ_i times what x has of each latent."""
    order = torch.randperm(F, generator=generator(1))
    theta = torch.rand(F, generator=generator(2)) + 0.5
    further = torch.rand(F, generator=generator(3)) * 3 + 0.2
    W, there = orthonormal(4), torch.empty(F)
    skew = 0.02 * torch.randn(D, D, generator=generator(5))
    turned = W @ torch.linalg.matrix_exp(skew - skew.T)
    later, there[order] = torch.empty(F, D), further
    later[order] = turned
    # The first works in other units inside than the stream's.
    first = autoencoder(W * 2, W / 2, theta=theta, scale=2.0, code_scale=1.0)
    second = autoencoder(later, theta=there)
    active = torch.rand(300, F, generator=generator(6)) < 0.2
    codes = active * (1 + torch.rand(300, F, generator=generator(7))) * theta
    return suite(resid_post_1=first, resid_post_2=second), order, codes @ W, codes / theta * further @ turned


@torch.no_grad()
def explained(recon: Tensor, x: Tensor) -> float:
    return float(1 - (recon - x).square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.parametrize("matcher", [Cosine(), Permutation("dec"), Permutation()], ids=lambda one: one.name)
def test_transport_along_a_planted_permutation_is_exact_when_folded(matcher):
    saes, order, x, y = ratios()
    match = matcher.match(saes, A, B)
    assert torch.equal(match.best, order)
    codes = saes[A].codes(x)
    assert explained(carried(saes, match).decode(codes), y) == pytest.approx(1, abs=1e-5)
    assert explained(carried(saes, match, folded=False).decode(codes), y) < 0.9


def transition(match) -> Tensor:
    T = torch.zeros(len(match), match.n_targets)
    rows = match.matched.nonzero().flatten()
    T[rows, match.best[rows]] = 1
    return T


def random_suite(count: int = 20, later: int = 14, **options) -> Suite:
    theta = [torch.rand(size, generator=generator(size)) + 0.1 for size in (count, later)]
    first = autoencoder(unit(count, 6), theta=theta[0], scale=1.5, code_scale=0.8, **options)
    second = autoencoder(unit(later, 6, 1) * 2, theta=theta[1], scale=0.7, **options)
    with torch.no_grad():
        first.b_dec.copy_(torch.linspace(-1, 1, 6))
        second.b_dec.copy_(torch.linspace(0, 1, 6))
    return suite(resid_post_1=first, resid_post_2=second)


@pytest.mark.parametrize("folded", [True, False])
def test_many_to_one_contributions_add_up_and_unmatched_ones_are_lost(folded):
    saes = random_suite()
    match = Cosine().match(saes, A, B)
    match.indices[3] = -1
    assert match.distinct < match.matched.sum() == 19
    x = torch.randn(40, 6, generator=generator(9))
    sae, later = saes[A], saes[B]
    T = transition(match)
    assert T.sum(1).tolist() == [1.0] * 3 + [0.0] + [1.0] * 16
    if folded:
        f = sae.encode(x) / sae.rule.threshold @ T * later.rule.threshold
        expected = later.decode(f)
    else:
        expected = later.decode(sae.encode(x) / sae.code_scale @ T * later.code_scale)
    found = carried(saes, match, folded=folded).decode(sae.codes(x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_transition_of_a_permutation_is_its_transpose_backwards():
    saes = random_suite(14, 14)
    matcher = Permutation()
    forward, back = (transition(matcher.match(saes, *pair)) for pair in ((A, B), (B, A)))
    assert torch.equal(forward, back.T)
    assert (forward.sum(0) == 1).all()


def test_kept_values_are_the_entries_of_t():
    saes = random_suite()
    match = Cosine(3).match(saes, A, B)
    T = torch.zeros(20, 14).scatter_add_(1, match.indices.clamp_min(0), match.scores)
    x = torch.randn(40, 6, generator=generator(9))
    f = saes[A].encode(x) / saes[A].rule.threshold @ T * saes[B].rule.threshold
    found = carried(saes, match, values=True).decode(saes[A].codes(x))
    torch.testing.assert_close(found, saes[B].decode(f), rtol=1e-4, atol=1e-5)


def test_ends_of_the_quantile_mix():
    saes = random_suite()
    match = Cosine().match(saes, A, B)
    codes = saes[A].codes(torch.randn(40, 6, generator=generator(9)))
    own = saes[A].decode(codes) - saes[A].b_dec / saes[A].out_scale + saes[B].b_dec / saes[B].out_scale
    torch.testing.assert_close(mixed(saes, match, 1.0).decode(codes), carried(saes, match).decode(codes))
    torch.testing.assert_close(mixed(saes, match, 0.0).decode(codes), own)
    torch.testing.assert_close(kept(saes, A, B).decode(codes), own)
    torch.testing.assert_close(kept(saes, A).decode(codes), saes[A].decode(codes))
    half = mixed(saes, match, 0.5)
    later = (half.rows - carried(saes, match).rows).abs().sum(1) < 1e-6
    error = match_error(saes, match).dec
    assert int(later.sum()) == 10
    assert error[later].max() < error[~later].min()
    # A latent without a match keeps its own decoder, however near the first of the others is.
    match.indices[int(error.argmin())] = -1
    lone = mixed(saes, match, 1.0).rows == kept(saes, A).rows
    assert lone.all(1).nonzero().flatten().tolist() == [int(error.argmin())]
    with pytest.raises(InputError, match=r"quantile 1\.5"):
        mixed(saes, match, 1.5)


@pytest.mark.parametrize("kind", ["dense", "kron", "boosted"])
def test_a_transport_is_a_transcoder(kind):
    saes = random_suite(24)
    sae = saes[A]
    if kind == "kron":
        sae = SAE(KronEncoder(6, 24, heads=4, base=2, extension=3), BatchTopK(24, 3), info=dict(sae.info))
        sae.initialise(torch.randn(60, 6, generator=generator(2)) + 1, generator())
        sae.rule.cut.fill_(0.2)
    if kind == "boosted":
        sae = boosted(sae, {"more": autoencoder(unit(5, 6, 4), theta=0.3, subtract_b_dec=False)})
    saes = suite(resid_post_1=sae.eval(), resid_post_2=saes[B])
    decoder = carried(saes, Cosine().match(saes, A, B))
    made = transcoder(saes, A, B, decoder)
    x = torch.randn(50, 6, generator=generator(5))
    torch.testing.assert_close(made.encode(x), saes[A].encode(x), rtol=1e-4, atol=1e-4)
    assert made.encode(x).any()
    torch.testing.assert_close(made(x), decoder.decode(saes[A].codes(x)), rtol=1e-4, atol=1e-4)
    assert (made.info["site"], made.info["target"]) == ("resid_post.1", "resid_post.2")


def test_codes_are_carried_by_a_match_of_all():
    saes = random_suite()
    with pytest.raises(InputError, match=r"2 latents of resid_post\.1 were matched"):
        carried(saes, Cosine().match(saes, A, B, torch.tensor([0, 1])))


@pytest.mark.parametrize("pair", ["enc-enc", "dec-enc", "dec-dec", "sum"])
def test_cosines_of_other_rows(pair):
    first, second = (autoencoder(unit(9, 5, seed), unit(9, 5, seed + 2) * 3, scale=2.0) for seed in (0, 1))
    saes = suite(resid_post_1=first, resid_post_2=second)
    enc, dec = ([one.W_enc.detach().T / 3 for one in (first, second)], [one.W_dec.detach() for one in (first, second)])
    every = {"enc-enc": enc[0] @ enc[1].T, "dec-enc": dec[0] @ enc[1].T, "dec-dec": dec[0] @ dec[1].T}
    every["sum"] = (every["enc-enc"] + every["dec-enc"] + every["dec-dec"]) / 3
    value, index = every[pair].topk(2)
    found = WeightCosine(pair, 2).match(saes, A, B)
    assert torch.equal(found.indices, torch.where(value > 0, index, -1))
    torch.testing.assert_close(found.scores, value.clamp_min(0))
    with pytest.raises(InputError, match="expected one of enc-enc, dec-enc, dec-dec, sum"):
        WeightCosine("enc-dec")


def test_errors_of_a_match_are_mean_squares_of_folded_weights():
    saes = random_suite()
    match = Cosine().match(saes, A, B)
    match.indices[2] = -1
    first, second = saes[A], saes[B]
    theta, further = first.rule.threshold.detach(), second.rule.threshold.detach()
    dec = first.W_dec * theta[:, None] / 1.5, second.W_dec * further[:, None] / 0.7
    enc = first.encoder.weight * 1.5 / theta[:, None], second.encoder.weight * 0.7 / further[:, None]
    found = match_error(saes, match)
    assert found.dec.isnan().nonzero().flatten().tolist() == [2]
    some = match.matched
    for error, (a, b) in ((found.dec, dec), (found.enc, enc)):
        torch.testing.assert_close(error[some], (a - b[match.best]).square().mean(1)[some], rtol=1e-4, atol=1e-6)
    assert match_error(saes, match, encoder=False).enc is None
    # Folded matching is nearer than unfolded and both than chance, in what it minimises.
    errors = [
        float(match_error(saes, one.match(saes, B, A)).dec.nanmean())
        for one in (Permutation("dec"), Permutation("dec", folded=False), RandomPermutation())
    ]
    assert errors[0] < errors[1] < errors[2]


def test_a_random_permutation_is_one_to_one_and_seeded():
    saes = random_suite()
    found = RandomPermutation().match(saes, A, B)
    assert found.distinct == found.matched.sum() == 14
    cosine = saes.direction(A).unit @ saes.direction(B).unit.T
    rows = found.matched.nonzero().flatten()
    torch.testing.assert_close(found.score[rows], cosine[rows, found.best[rows]])
    assert torch.equal(RandomPermutation().match(saes, A, B, rows).best, found.best[rows])
    assert not torch.equal(RandomPermutation(1).match(saes, A, B).best, found.best)


def test_matched_latents_that_fire_together_are_counted():
    x = torch.tensor([[1.0, 0, 2], [1, 1, 0], [0, 1, 0], [1, 0, 0]])
    y = torch.tensor([[0.0, 3, 1], [0, 1, 0], [0, 0, 0], [0, 0, 5]])
    saes = suite(resid_post_1=unit(3, 4), resid_post_2=unit(3, 4, 1))
    fired = {}
    for site, dense in ((A, x), (B, y)):
        rows, latents = dense.T.nonzero(as_tuple=True)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), (dense != 0).sum(0).cumsum(0)])
        fired[site] = Fired(starts.numpy(), latents.numpy(), dense.T[rows, latents].numpy())
    match = Cosine().match(saes, A, B)
    match.indices[:, 0] = torch.tensor([1, -1, 1])
    found = together(Firing(4, fired), match)
    # 0 fires on three tokens, its match on two of them; 1 on two without a match; 2 on one, with its match.
    assert found == (6, 4, 3)
    assert found.score == 0.5
    assert found.jaccard == 3 / 7


def test_composed_matches_agree_with_direct_ones_where_something_is_planted():
    saes = {"resid_post_1": unit(60, 16)}
    for layer in (2, 3):
        before = saes[f"resid_post_{layer - 1}"]
        order = torch.randperm(60, generator=generator(layer))
        saes[f"resid_post_{layer}"] = (before + 0.02 * torch.randn(60, 16, generator=generator(layer + 5)))[order]
    planted = suite(**saes)
    assert composition_over(planted, Permutation(), [A, B, C]).agreement == 1
    unrelated = suite(**{name: unit(60, 16, seed) for seed, name in enumerate(saes)})
    assert composition_over(unrelated, RandomPermutation(), [A, B, C]).agreement < 0.2
    with pytest.raises(InputError, match="at least two"):
        composition_over(planted, Cosine(), [A])


def test_own_thresholds_keep_every_latents_rate():
    sae = SAE(DenseEncoder(6, 40), BatchTopK(40, 4), info={"site": "resid_post.1"}, scale=2.0)
    sae.initialise(torch.randn(50, 6, generator=generator(1)), generator())
    with torch.no_grad():
        sae.encoder.bias.copy_(torch.linspace(-2, 2, 40))
    batches = list((torch.randn(90, 6, generator=generator(2)) * torch.linspace(0.5, 2, 90)[:, None]).split(30))
    counts = torch.zeros(40)
    for x in batches:
        pre = sae.pre_acts(x).relu()
        kth = pre.flatten().topk(30 * 4).values[-1]
        counts += (pre >= kth).sum(0)
    assert (counts == 0).any()
    sae.rule.cut.fill_(0.7)
    made = with_own_thresholds(sae, batches)
    found = torch.stack([(made.encode(x) > 0).sum(0) for x in batches]).sum(0)
    assert torch.equal(found, counts.long())
    assert (made.rule.threshold > 0).all()
    assert float(sae.rule.cut) == pytest.approx(0.7)
    with pytest.raises(InputError, match="JumpReLU: only BatchTopK has one threshold"):
        with_own_thresholds(made, batches)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny.llama(4)


RULE = {"first": 1, "special": True}


def test_a_way_past_a_layer_is_measured_as_its_transcoder_is(lm):
    saes = of_model(lm, **RULE)
    found = skip_layers(saes, lm, text(), [through(Cosine()), *controls()], loss_windows=3, batch=2)
    assert found.n_tokens == 5 * 11
    assert [str(one.target) for one in found.of("cosine, folded")] == ["resid_post.1", "resid_post.2"]
    (_, passage) = found.of("cosine, folded")
    crossing = transcoder(saes, WHERE[1], WHERE[2], carried(saes, Cosine().match(saes, WHERE[1], WHERE[2])))
    expected = evaluate({"t": crossing}, lm, text(), loss_windows=3)["t"].metrics
    assert passage.ev == pytest.approx(expected["explained_variance"], abs=1e-5)
    assert passage.delta_ce.value == pytest.approx(expected["ce_loss_sae"] - expected["ce_loss_clean"], abs=1e-5)
    for name, site, sae in (("encode-decode t", 1, saes[WHERE[1]]), ("encode-decode t+1", 2, saes[WHERE[2]])):
        (_, passage) = found.of(name)
        assert passage.place == WHERE[site]
        expected = evaluate({"s": sae}, lm, text(), loss_windows=3)["s"].metrics
        assert passage.ev == pytest.approx(expected["explained_variance"], abs=1e-5)
        assert passage.delta_ce.value == pytest.approx(expected["ce_loss_sae"] - expected["ce_loss_clean"], abs=1e-5)
    assert found.provenance["loss_tokens"] == 3 * 10


def test_a_dropped_layer_is_a_model_without_it(lm):
    saes = of_model(lm, first=0, special=False)
    found = skip_layers(saes, lm, text(), controls()[:1], layers=[2])
    (passage,) = found.passages
    tokens = text().tokens.long()

    def cross_entropy(model):
        logits = model.logits(tokens)[:, :-1]
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    without = tiny.llama(4)
    del without.model.model.layers[2]
    with torch.no_grad():
        expected = cross_entropy(without) - cross_entropy(lm)
    assert passage.delta_ce.value == pytest.approx(float(expected), abs=1e-4)
    assert abs(passage.delta_ce.value) > 1e-3
    acts = lm.capture(tokens, WHERE)
    x, y = (acts[site].reshape(-1, 32).double() for site in WHERE[1:])
    assert passage.ev == pytest.approx(explained(x, y), abs=1e-5)
    assert passage.ev_literal == pytest.approx(float(1 - (x - y).var(0).sum() / y.var(0).sum()), abs=1e-5)


def test_literal_explained_variance_is_never_smaller(lm):
    found = skip_layers(of_model(lm, **RULE), lm, text(), usual(), loss_windows=0)
    assert found.ways == [
        "layer dropped",
        "encode-decode t",
        "x̂_t as x_{t+1}",
        "encode-decode t+1",
        "permutation, folded",
        "permutation, unfolded",
        "cosine, folded",
        "cosine, unfolded",
    ]
    assert all(one.ev_literal >= one.ev for one in found.passages)
    assert max(one.ev_literal - one.ev for one in found.passages) > 1e-4
    assert all(one.delta_ce is None for one in found.passages)
    assert found.to_json()["passages"][0].keys() == {
        "source", "target", "place", "way", "explained_variance", "explained_variance_literal",
    }  # fmt: skip


def test_a_tally_over_batches_is_one_over_all():
    x, recon = torch.randn(40, 5, generator=generator()) + 3, torch.randn(40, 5, generator=generator(1)) + 2
    tally, variation = Tally(), Variation()
    for part in (slice(0, 15), slice(15, 40)):
        counts = [5] * (len(x[part]) // 5)
        tally.add(Part.of(recon[part], x[part], counts, []))
        for window in x[part].split(counts):
            variation.update(window)
    terms, offset = tally.explained(variation)
    one = Passage(A, B, "way", B, terms, offset, None)
    assert len(terms.num) == 8
    assert one.ev == pytest.approx(explained(recon, x), abs=1e-6)
    assert one.ev_literal == pytest.approx(float(1 - (recon - x).var(0).sum() / x.var(0).sum()), abs=1e-6)


def test_ways_are_compared_in_pairs_of_windows(lm):
    found = skip_layers(of_model(lm, **RULE), lm, text(), [*controls(), *valued(["dec-dec"], 2)], loss_windows=4)
    a, b = "layer dropped", "encode-decode t+1"
    gap = found.difference(a, b)
    means = [sum(one.ev for one in found.of(way)) / 2 for way in (a, b)]
    assert gap.value == pytest.approx(means[1] - means[0], abs=1e-6)
    assert gap.low < gap.value < gap.high
    losses = found.difference(a, b, "delta_ce")
    means = [sum(one.delta_ce.value for one in found.of(way)) / 2 for way in (a, b)]
    assert losses.value == pytest.approx(means[1] - means[0], abs=1e-6)
    assert losses.windows == 4
    assert found.difference(a, a).value == 0
    with pytest.raises(InputError, match="no way 'nothing' was measured"):
        found.difference(a, "nothing")


def test_only_layers_between_two_autoencoders_can_be_skipped(lm):
    saes = of_model(lm, **RULE)
    with pytest.raises(InputError, match=r"layer 3 cannot be skipped: layers with .* are \[1, 2\]"):
        skip_layers(saes, lm, text(), controls(), layers=[3])
    with pytest.raises(InputError, match=r"no two neighbouring layers .* there are layers \[0\]"):
        skip_layers(Suite({WHERE[0]: saes[WHERE[0]]}), lm, text(), controls())
    assert mixture(Cosine(), 0.25).name == "cosine, nearest 25%"
