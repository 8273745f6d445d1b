"""Sums of autoencoders: what they compute, what they keep, what is refused."""

import pytest
import torch

from monosem.sae import (
    SAE,
    BatchTopK,
    DenseEncoder,
    JumpReLU,
    KronEncoder,
    ReLU,
    TopK,
    added,
    boosted,
    groups,
    load,
    merged,
    origin,
    save,
    stitch,
    without,
)
from monosem.shapes import InputError
from monosem.shapes.codes import Codes

D, F, M, B = 12, 24, 8, 40


def filled(encoder, rule, seed, **options):
    sae = SAE(encoder, rule, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in sae.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    if isinstance(rule, JumpReLU):
        rule.threshold.data.abs_()
    if isinstance(rule, BatchTopK):
        rule.cut.fill_(0.5)
    return sae.eval()


def core(rule=None, **options):
    return filled(DenseEncoder(D, F), rule or JumpReLU(F), 0, scale=0.5, info={"site": "resid_post.0"}, **options)


def residual(seed=1, rule=None, encoder=None, **options):
    options = {"scale": 0.25, "out_scale": 2.0, "subtract_b_dec": False} | options
    sae = filled(encoder or DenseEncoder(D, M), rule or BatchTopK(M, 2), seed, **options)
    with torch.no_grad():
        sae.b_dec.zero_()
    return sae


RESIDUALS = {
    "batch_topk": residual,
    "topk": lambda: residual(rule=TopK(M, 3)),
    "relu": lambda: residual(rule=ReLU(M)),
    "kron": lambda: residual(encoder=KronEncoder(D, M, heads=2, base=2, extension=2), rule=BatchTopK(M, 2)),
}
CORES = {
    "jumprelu": core,
    "uncentred": lambda: core(subtract_b_dec=False),
    "topk": lambda: core(TopK(F, 4)),
    "relu": lambda: core(ReLU(F)),
    "folded scaled": lambda: core().fold("scaled"),
    "folded raw": lambda: core().fold("raw"),
}


@pytest.fixture
def x():
    return 3 * torch.randn(B, D, generator=torch.Generator().manual_seed(9)) + 1


def close(a, b):
    torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", CORES)
@pytest.mark.parametrize("other", RESIDUALS)
def test_the_sum_is_what_its_parts_add_up_to(kind, other, x):
    one, added = CORES[kind](), RESIDUALS[other]()
    both = boosted(one, {"domain": added})
    close(both(x), one(x) + added(x))
    close(both.decode(both.encode(x)), both(x))
    assert torch.equal(both.encode(x)[:, :F], one.encode(x))
    units = added.encode(x) * one.code_scale / added.code_scale
    close(both.encode(x)[:, F:], units)
    close(both.pre_acts(x)[:, :F], one.pre_acts(x))


def test_a_residual_that_never_fires_leaves_every_bit_of_the_core(x):
    one, added = core(), residual()
    added.rule.cut.fill_(float("inf"))
    assert torch.equal(boosted(one, {"domain": added})(x), one(x))


def test_tokens_without_a_residual_latent_keep_every_bit(x):
    one, added = core(), residual()
    added.rule.cut.fill_(6.0)
    both = boosted(one, {"domain": added})
    silent = (both.encode(x)[:, F:] == 0).all(1)
    assert 0 < silent.sum() < B
    assert torch.equal(both(x)[silent], one(x)[silent])
    assert not torch.equal(both(x)[~silent], one(x)[~silent])


@pytest.mark.parametrize("kind", ["jumprelu", "uncentred", "relu", "folded raw"])
def test_stitching_is_one_plain_autoencoder_of_the_same_function(kind, x):
    both = boosted(CORES[kind](), {"a": residual(1), "b": residual(2)})
    plain = stitch(both)
    assert isinstance(plain.encoder, DenseEncoder)
    assert isinstance(plain.rule, JumpReLU)
    close(plain(x), both(x))
    close(plain.encode(x), both.encode(x))
    assert [group.name for group in groups(plain)] == ["core", "a", "b"]


def test_one_topk_over_all_latents_is_another_function_and_refused(x):
    one, added = core(TopK(F, 4)), residual(rule=TopK(M, 2))
    both = boosted(one, {"domain": added})
    joint = SAE(DenseEncoder(D, F + M), TopK(F + M, 6), scale=0.5)
    with torch.no_grad():
        encoders = list(both.encoder)
        joint.encoder.weight.copy_(torch.cat([part.weight for part in encoders]))
        joint.encoder.bias.copy_(torch.cat([part.bias for part in encoders]))
        joint.W_dec.copy_(both.W_dec)
        joint.b_dec.copy_(both.b_dec)
    assert (joint(x) - both(x)).norm() > 0.01 * both(x).norm()
    with pytest.raises(InputError, match=r"core keeps a fixed number of latents \(TopK\)"):
        stitch(both)


def test_a_kronecker_residual_stays_a_sum():
    with pytest.raises(InputError, match="domain has a Kronecker encoder"):
        stitch(boosted(core(), {"domain": RESIDUALS["kron"]()}))


def test_order_of_domains_changes_nothing_but_numbers(x):
    one, a, b = core(), residual(1), residual(2)
    ab, ba = boosted(one, {"a": a, "b": b}), boosted(one, {"b": b, "a": a})
    close(ab(x), ba(x))
    close(ab(x), one(x) + a(x) + b(x))
    assert torch.equal(ab.encode(x)[:, F : F + M], ba.encode(x)[:, F + M :])


def test_residuals_can_be_taken_away_again(x):
    one, a, b = core(), residual(1), residual(2)
    both = boosted(one, {"a": a, "b": b})
    assert torch.equal(without(both, "b")(x), boosted(one, {"a": a})(x))
    assert torch.equal(without(both, "a")(x), boosted(one, {"b": b})(x))
    alone = without(both, "a", "b")
    assert torch.equal(alone(x), one(x))
    assert isinstance(alone.encoder, DenseEncoder)
    assert "groups" not in alone.info
    with pytest.raises(InputError, match="no residual 'c' to take away: this autoencoder has a, b"):
        without(both, "c")
    with pytest.raises(InputError, match="no residual 'core'"):
        without(both, "core")


def test_a_composition_can_be_boosted_again(x):
    one, a, b = core(), residual(1), residual(2)
    twice = boosted(boosted(one, {"a": a}), {"b": b})
    assert torch.equal(twice(x), boosted(one, {"a": a, "b": b})(x))
    assert [(group.name, group.first, group.n_latents) for group in groups(twice)] == [
        ("core", 0, F),
        ("a", F, M),
        ("b", F + M, M),
    ]


def test_latents_keep_their_origin():
    both = boosted(core(), {"a": residual(1), "b": residual(2)})
    assert origin(both, 3) == ("core", 3)
    assert origin(both, F) == ("a", 0)
    assert origin(both, F + 2 * M - 1) == ("b", M - 1)
    assert origin(core(), 5) == ("core", 5)
    with pytest.raises(InputError, match="does not exist"):
        origin(both, F + 2 * M)


def test_the_same_residual_twice_is_refused():
    one, a = core(), residual(1)
    both = boosted(one, {"a": a})
    with pytest.raises(InputError, match="part of this autoencoder already"):
        boosted(both, {"again": a})
    with pytest.raises(InputError, match="there is a group 'a' already"):
        boosted(both, {"a": residual(2)})


def test_what_is_no_residual_of_this_core_is_refused():
    biased = residual()
    biased.b_dec.data.fill_(1)
    with pytest.raises(InputError, match="decoder bias"):
        boosted(core(), {"a": biased})
    with pytest.raises(InputError, match="maps widths 5 to 5, the core 12 to 12"):
        boosted(core(), {"a": SAE(DenseEncoder(5, M), BatchTopK(M, 2))})
    with pytest.raises(InputError, match=r"reads mlp_out\.0, the core resid_post\.0"):
        boosted(core(), {"a": residual(info={"site": "mlp_out.0"})})


@pytest.mark.parametrize("other", RESIDUALS)
def test_saved_and_loaded_it_is_the_same_to_the_last_bit(other, tmp_path, x):
    both = boosted(core(), {"domain": RESIDUALS[other]()})
    again = load(save(both, tmp_path / "both"))
    assert torch.equal(again(x), both(x))
    assert groups(again) == groups(both)


def test_codes_beside_each_other_keep_tokens_and_zeros():
    fixed = Codes(torch.tensor([[2.0, 0.0], [3.0, 1.0]]), torch.tensor([[1, 0], [0, 2]]), 3)
    ragged = Codes(torch.tensor([5.0]), torch.tensor([1]), 2, torch.tensor([0, 0, 1]))
    dense = Codes(torch.tensor([[0.0, 7.0], [0.0, 0.0]]), None, 2)
    joined = Codes.beside([fixed, ragged, dense])
    assert torch.equal(joined.dense(), torch.cat([fixed.dense(), ragged.dense(), dense.dense()], 1))
    assert joined.l0().tolist() == [2, 3]
    assert len(joined.values) == 6
    assert Codes.beside([ragged, ragged]).rows == 2


def test_a_notebook_shows_every_group():
    shown = boosted(core(), {"<domain>": residual()})._repr_html_()
    assert "&lt;domain&gt;" in shown
    assert "8 latents; dense; batch_topk, k = 2" in shown
    assert "24 latents; dense; jumprelu" in shown


def test_a_stitched_sum_is_cut_where_its_groups_are(x):
    both = boosted(core(), {"a": residual(1), "b": residual(2)})
    plain = stitch(both)
    close(without(plain, "a")(x), without(both, "a")(x))
    close(added(plain, x)["b"], added(both, x)["b"])
    close(stitch(plain)(x), plain(x))
    more = boosted(plain, {"c": residual(3)})
    assert [group.name for group in groups(more)] == ["core", "a", "b", "c"]
    close(more(x), plain(x) + residual(3)(x))
    assert "c" in more._repr_html_()


def test_sums_beside_one_core_are_merged_and_others_refused(x):
    one = core()
    a, b = boosted(one, {"a": residual(1)}), boosted(one, {"b": residual(2)})
    assert torch.equal(merged([a, b])(x), boosted(one, {"a": residual(1), "b": residual(2)})(x))
    further = [boosted(a, {"c": residual(3)}), boosted(a, {"d": residual(4)})]
    assert [group.name for group in groups(merged(further))] == ["core", "a", "c", "d"]
    with pytest.raises(InputError, match="there is a group 'a' already"):
        merged([boosted(one, {"b": residual(2), "a": residual(1)}), boosted(one, {"a": residual(1)})])
    other = core()
    other.rule.threshold.data.mul_(2)
    with pytest.raises(InputError, match="different cores"):
        merged([a, boosted(other, {"b": residual(2)})])
    topk = [boosted(core(TopK(F, k)), {name: residual(k)}) for k, name in ((4, "a"), (9, "b"))]
    with pytest.raises(InputError, match="different cores"):
        merged(topk)


def test_without_a_residual_nothing_is_said_of_it():
    one = core()
    one.info |= {"text": {"corpus": "general"}, "training": {"l0": 4.0}}
    both = boosted(one, {"a": residual(1)})
    both.info |= {"text": {"corpus": "domain"}, "calibration": {"factor": 2}, "core": {"sha256": "x"}, "name": "a"}
    left = without(both, "a").info
    assert left["text"] == {"corpus": "general"}
    assert left["training"] == {"l0": 4.0}
    assert not {"calibration", "core", "groups"} & left.keys()


def test_rows_of_dense_groups_can_be_seen_and_those_of_others_not(x):
    both = boosted(core(), {"a": residual(1)})
    assert both.W_enc.shape == (D, F + M)
    close(both.b_enc, torch.cat([part.bias for part in both.encoder]))
    with pytest.raises(InputError, match="no row for each latent"):
        _ = boosted(core(), {"a": RESIDUALS["kron"]()}).W_enc


def test_a_residual_of_another_target_is_refused():
    one = core()
    one.info["target"] = "mlp_out.0"
    with pytest.raises(InputError, match=r"explains resid_post\.0, the core mlp_out\.0"):
        boosted(one, {"a": residual(info={"site": "resid_post.0"})})
