from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from flow_dictionary import A, B, C, autoencoder, generator, suite, unit
from monosem.flow import Cosine, Cuts, Direction, Node, Permutation, RandomOfTop, null_cut, thresholds
from monosem.flow.candidate import assignment_among
from monosem.flow.folding import parameters
from monosem.sae import SAE, BatchTopK, JumpReLU, KronEncoder, boosted
from monosem.shapes import InputError, Site

D, F = 64, 256
MATCHERS = [Cosine(), Permutation(), Permutation("dec"), Permutation("enc", folded=False), Permutation("dec", False)]
EACH = pytest.mark.parametrize("matcher", MATCHERS, ids=lambda matcher: matcher.name)


def permuted(sae: SAE, order: torch.Tensor, seed: int, noise: float = 0.3 / D**0.5) -> SAE:
    """Latent i of `sae` is latent order[i] of the result, with noise on every entry of both weights."""
    draws = generator(seed)
    rows = []
    for weight in (sae.W_dec, sae.W_enc.T):
        moved = torch.empty_like(weight)
        moved[order] = weight.detach()
        rows.append(moved + noise * torch.randn(weight.shape, generator=draws))
    theta = torch.empty(len(order))
    theta[order] = sae.rule.threshold.detach()
    return autoencoder(*rows, theta=theta)


def planted():
    first = autoencoder(unit(F, D), theta=0.2 + torch.rand(F, generator=generator(1)))
    orders = [torch.randperm(F, generator=generator(seed)) for seed in (2, 3)]
    second = permuted(first, orders[0], 4)
    third = permuted(second, orders[1], 5)
    return suite(resid_post_1=first, resid_post_2=second, resid_post_3=third), orders


@EACH
def test_a_dictionary_matches_itself(matcher):
    found = matcher.match(suite(resid_post_1=unit(F, D), resid_post_2=unit(F, D)), A, B)
    assert torch.equal(found.best, torch.arange(F))
    torch.testing.assert_close(found.score, torch.ones(F))
    assert found.distinct == F


@EACH
def test_a_planted_permutation_is_recovered_and_composes(matcher):
    saes, (first, second) = planted()
    ab, bc, ac = (matcher.match(saes, *pair) for pair in ((A, B), (B, C), (A, C)))
    assert torch.equal(ab.best, first)
    assert torch.equal(bc.best, second)
    assert torch.equal(ab.composed(bc).best, second[first])
    assert torch.equal(ac.best, second[first])
    assert ab.score.min() > 0.9
    # The reverse is the inverse permutation.
    assert torch.equal(matcher.match(saes, B, A).best, first.argsort())


@pytest.mark.parametrize("k", [1, 3, 7])
def test_cosine_is_the_dense_top_k_of_positive_cosines(k):
    a, b = torch.randn(30, 5, generator=generator(1)), torch.randn(6, 5, generator=generator(2))
    found = Cosine(k).match(suite(resid_post_1=a, mlp_out_2=b), A, Site("mlp_out", 2))
    cosine = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    value, index = cosine.sort(dim=1, descending=True)
    value, index = value[:, :k], index[:, :k]
    assert found.indices.shape == (30, min(k, 6))
    assert torch.equal(found.indices, torch.where(value > 0, index, -1))
    torch.testing.assert_close(found.scores, value.clamp_min(0))
    assert (found.indices < 0).any() == (k > 1)


def test_single_latents_are_rows_of_the_whole_match():
    saes = suite(resid_post_1=unit(40, 8), resid_post_2=unit(50, 8, seed=1))
    asked = torch.tensor([7, 0, 39])
    for matcher in (Cosine(3), Permutation(), RandomOfTop()):
        whole, some = matcher.match(saes, A, B), matcher.match(saes, A, B, asked)
        assert torch.equal(some.indices, whole.indices[asked])
        assert torch.equal(some.latents, asked)
        torch.testing.assert_close(some.scores, whole.of(asked).scores)
        assert torch.equal(some.of(asked.flip(0)).indices, whole.indices[asked.flip(0)])


def test_ties_go_to_the_lower_number_and_lengths_do_not_matter():
    rows = unit(3, 8)
    there = torch.cat([unit(2, 8, seed=1), rows[1:2], rows[1:2], rows])
    for length in (1.0, 2.0 ** torch.arange(7.0)[:, None]):
        found = Cosine(3).match(suite(resid_post_1=rows, resid_post_2=there * length), A, B)
        assert found.indices[1].tolist() == [2, 3, 5]
        assert found.best.tolist() == [4, 2, 6]


def test_no_positive_cosine_is_no_match():
    away = torch.eye(4)[:3]
    found = Cosine(2).match(suite(resid_post_1=away, resid_post_2=-away), A, B)
    assert found.indices.tolist() == [[-1, -1]] * 3
    assert not found.scores.any()
    assert not found.matched.any()
    assert found.distinct == 0


@pytest.mark.parametrize("matcher", [Cosine(2), Permutation(folded=False)], ids=lambda one: one.name)
def test_dead_rows_are_never_matched(matcher):
    a, b = unit(5, 8), unit(6, 8, seed=1)
    a[2], b[4] = 0, a[3] * 1e-9
    found = matcher.match(suite(resid_post_1=a, resid_post_2=b), A, B)
    assert found.best[2] == -1
    assert found.score[2] == 0
    assert 4 not in found.indices


@pytest.mark.parametrize("sizes", [(12, 20), (20, 12), (16, 16)])
@pytest.mark.parametrize("weights", ["all", "dec", "enc"])
def test_the_assignment_minimises_squared_distances_of_folded_weights(sizes, weights):
    theta = [0.1 + torch.rand(size, generator=generator(size + place)) for place, size in enumerate(sizes)]
    saes = [
        autoencoder(unit(size, 6, seed), unit(size, 6, seed + 5), theta=own, bias=torch.linspace(-1, 1, size))
        for size, seed, own in zip(sizes, (0, 1), theta)
    ]
    found = Permutation(weights).match(suite(resid_post_1=saes[0], resid_post_2=saes[1]), A, B)
    a, b = (parameters(sae, own).rows(weights) for sae, own in zip(saes, theta))
    rows, columns = linear_sum_assignment(a.double() @ b.double().T, maximize=True)
    expected = torch.full((sizes[0],), -1)
    expected[torch.from_numpy(rows)] = torch.from_numpy(columns)
    assert torch.equal(found.best, expected)
    assert found.distinct == min(sizes)
    if sizes[0] == sizes[1]:
        _, by_distance = linear_sum_assignment(torch.cdist(a, b).square())
        assert found.best.tolist() == by_distance.tolist()


def test_folding_by_thresholds_changes_the_assignment_and_not_the_cosine():
    theta = torch.tensor([0.1, 5.0, 0.1, 5.0])
    b = autoencoder(unit(4, 3, seed=3), theta=theta)
    a = autoencoder(unit(4, 3, seed=2), theta=theta.flip(0))
    saes = suite(resid_post_1=a, resid_post_2=b)
    folded, plain = (Permutation("dec", folded=one).match(saes, A, B) for one in (True, False))
    assert not torch.equal(folded.best, plain.best)
    scaled = suite(resid_post_1=a, resid_post_2=b.W_dec.detach() * theta[:, None])
    assert torch.equal(Cosine(4).match(saes, A, B).indices, Cosine(4).match(scaled, A, B).indices)


@pytest.mark.parametrize("kind", ["jumprelu", "batch_topk", "boosted"])
def test_folded_parameters_are_the_same_function(kind):
    options = {"scale": 3.0, "code_scale": 0.7, "out_scale": 2.0}
    sae = autoencoder(unit(20, 8), unit(20, 8, seed=1), theta=0.3, rule=kind.replace("boosted", "jumprelu"), **options)
    with torch.no_grad():
        sae.b_dec.copy_(torch.linspace(-1, 1, 8))
        sae.encoder.bias.copy_(torch.linspace(-0.2, 0.2, 20))
        if isinstance(sae.rule, JumpReLU):
            sae.rule.threshold.copy_(torch.linspace(0.1, 0.6, 20))
    if kind == "boosted":
        residual = autoencoder(unit(6, 8, seed=2), theta=0.4, rule="batch_topk", subtract_b_dec=False)
        sae = boosted(sae, {"more": residual})
    theta = thresholds(sae)
    assert len(theta) == sae.n_latents
    x = torch.randn(50, 8, generator=generator(3))
    own = parameters(sae, theta)
    pre = x @ own.enc.T + own.bias
    z = torch.where(pre > 1, pre, 0.0)
    assert 0.05 < (z > 0).float().mean() < 0.9
    torch.testing.assert_close(z, sae.encode(x) / theta, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(z @ own.dec + sae.b_dec / sae.out_scale, sae(x), rtol=1e-4, atol=1e-5)
    plain = parameters(sae)
    torch.testing.assert_close(x @ plain.enc.T + plain.bias, sae.pre_acts(x) / sae.code_scale, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_folded_is_refused_unless_pseudo_thresholds_are_given():
    saes = suite(resid_post_1=autoencoder(unit(9, 4), rule="topk"), resid_post_2=autoencoder(unit(9, 4), theta=0.0))
    with pytest.raises(InputError, match=r"TopK autoencoders have no thresholds.*unfolded"):
        Permutation().match(saes, A, B)
    given = {A: torch.ones(9)}
    with pytest.raises(InputError, match=r"9 of 9 latents at resid_post\.2 have a threshold of 0"):
        Permutation(thresholds=given).match(saes, A, B)
    assert torch.equal(Permutation(thresholds={**given, B: torch.ones(9)}).match(saes, A, B).best, torch.arange(9))
    with pytest.raises(InputError, match="expected one of all, dec, enc"):
        Permutation("both")


def test_a_kronecker_encoder_matches_by_decoders_alone():
    kron = SAE(KronEncoder(8, 16, heads=2, base=2, extension=4), BatchTopK(16, 2))
    kron.initialise(torch.randn(40, 8, generator=generator()), generator())
    kron.rule.cut.fill_(0.5)
    saes = suite(resid_post_1=kron, resid_post_2=kron.W_dec.detach().flip(0))
    with pytest.raises(InputError, match=r"resid_post\.1 has no encoder row for each latent.*decoder"):
        Permutation().match(saes, A, B)
    for matcher in (Permutation("dec"), Cosine()):
        assert torch.equal(matcher.match(saes, A, B).best, torch.arange(16).flip(0))


@pytest.mark.parametrize("sizes", [(60, 60), (40, 60), (60, 40)])
def test_the_approximate_assignment_is_one_to_one_and_nearly_as_good(sizes):
    a, b = (unit(size, 8, seed) for seed, size in enumerate(sizes))
    products = a @ b.T
    rows, columns = linear_sum_assignment(products, maximize=True)
    best = float(products[rows, columns].sum())
    found = assignment_among(a, b, candidates=4)
    assert len(found.a.unique()) == len(found.b.unique()) == min(sizes)
    torch.testing.assert_close(found.cosine, products[found.a, found.b])
    assert 0.98 * best < float(found.cosine.sum()) <= best + 1e-4
    whole = assignment_among(a, b, candidates=60)
    torch.testing.assert_close(float(whole.cosine.sum()), best)


def test_rows_without_a_candidate_left_share_what_is_left():
    a = torch.eye(4)[[0, 0, 0, 1]]
    b = torch.eye(4)
    found = assignment_among(a, b, candidates=1)
    assert found.b[3] == 1
    assert sorted(found.b.tolist()) == [0, 1, 2, 3]


def test_the_approximate_matcher_recovers_what_is_planted():
    saes, (first, _) = planted()
    matcher = Permutation(approximate=True)
    assert torch.equal(matcher.match(saes, A, B).best, first)
    assert matcher.name == "permutation (approximate)"


def test_the_random_control_is_one_of_the_top_five_each_as_likely():
    saes = suite(resid_post_1=unit(2000, 16), resid_post_2=unit(100, 16, seed=1))
    top, drawn = Cosine(5).match(saes, A, B), RandomOfTop(5).match(saes, A, B)
    place = (drawn.best[:, None] == top.indices).long()
    assert (place.sum(1) == 1).all()
    share = place.double().mean(0)
    assert (share - 0.2).abs().max() < 4 * (0.16 / 2000) ** 0.5
    torch.testing.assert_close(drawn.score, (top.scores * place).sum(1))
    assert not torch.equal(RandomOfTop(5, seed=1).match(saes, A, B).best, drawn.best)
    assert torch.equal(RandomOfTop(5).match(saes, A, B).best, drawn.best)


def test_directions_are_in_raw_units():
    sae = autoencoder(3 * torch.eye(4), out_scale=2.0, code_scale=1.0, scale=2.0)
    found = Direction.of(sae)
    torch.testing.assert_close(found.norm, torch.full((4,), 1.5))
    assert torch.equal(found.unit, torch.eye(4))
    # The output moves by norm · unit for one unit of code.
    moved = sae.decode(torch.eye(4)) - sae.decode(torch.zeros(4, 4))
    torch.testing.assert_close(moved, found.unit * found.norm[:, None])
    tiny = Direction.of(autoencoder(torch.eye(4) * 1e-9))
    assert tiny.dead.all()
    assert not tiny.unit.any()


@pytest.mark.parametrize(("width", "count", "expected"), [(64, 256, 0.52), (128, 1024, 0.40)])
def test_chance_is_as_measured_for_random_dictionaries(width, count, expected):
    assert abs(null_cut(Direction.rows(unit(count, width))) - expected) < 0.02


def test_cuts_are_the_greater_of_published_and_chance():
    saes = suite(
        resid_post_1=unit(256, 64), mlp_out_2=unit(256, 64, 1), attn_out_2=unit(4, 64, 2), resid_post_2=unit(9, 64, 3)
    )
    chance = null_cut(saes.direction(A))
    both = Cuts().of(saes, B)
    assert both["resid"] == max(0.5, chance) > 0.5
    assert both["attn"] == max(0.25, null_cut(saes.direction(Site("attn_out", 2))))
    assert list(both) == ["resid", "mlp", "attn"]
    assert Cuts(quantile=None).of(saes, B) == {"resid": 0.5, "mlp": 0.25, "attn": 0.25}
    assert Cuts(fixed={}).of(saes, B)["resid"] == chance
    assert Cuts({"resid": 0.9}, None).of(saes, B) == {"resid": 0.9, "mlp": 0.0, "attn": 0.0}
    assert Cuts().of(saes, Site("mlp_out", 2)) == {}
    with pytest.raises(InputError, match="no parent is called 'heads'"):
        Cuts({"heads": 0.1})


def test_a_match_is_followed_only_by_one_that_starts_where_it_ends():
    saes, _ = planted()
    ab = Cosine().match(saes, A, B)
    with pytest.raises(InputError, match=r"to resid_post\.2 cannot be followed by one from resid_post\.1"):
        ab.composed(ab)
    with pytest.raises(InputError, match=r"latent 3 of resid_post\.1 is not among the 1 that were matched"):
        Cosine().match(saes, A, B, torch.tensor([5])).of(torch.tensor([3]))


def test_nodes_are_written_site_and_number():
    node = Node.parse("resid_post.12/4711")
    assert node == Node(Site("resid_post", 12), 4711)
    assert str(node) == "resid_post.12/4711"
    assert str(Node.parse("model.layers.6.mlp:out/3")) == "model.layers.6.mlp:out/3"
    for text in ("resid_post.12", "resid_post.12/", "resid_post.12/x", "4711", "nowhere.3/1"):
        with pytest.raises(InputError):
            Node.parse(text)
