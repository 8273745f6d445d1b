"""Matryoshka: cuts of the dictionary against masks, loss and gradients against dense autograd, for every rule."""

import pytest
import torch

from monosem import kernels
from monosem.kernels.reference import stages
from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, KronEncoder, ReLU, TopK
from monosem.sae.fit import Whole
from monosem.sae.matryoshka import Matryoshka, _by_latent, _cuts
from monosem.sae.objective import Objective
from monosem.sae.penalty import NoPenalty
from monosem.shapes import InputError
from monosem.shapes.codes import Codes
from monosem.training.budget import parse_widths

B, D, F, K = 11, 9, 48, 5
WIDTHS = (6, 12, 24, 48)
EXACT = {"rtol": 1e-10, "atol": 1e-12}
RULES = {
    "topk": lambda: TopK(F, K),
    "batch_topk": lambda: BatchTopK(F, K),
    "jumprelu": lambda: JumpReLU(F, 0.4),
    "relu": lambda: ReLU(F),
}

both = pytest.mark.parametrize("backend", ["cpu", "reference"])
every_rule = pytest.mark.parametrize("rule", RULES)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def some_sae(random, rule="topk", encoder=None):
    """An autoencoder in training and scaled inputs; about half of the thresholds lie among the pre-activations."""
    x = torch.randn(B, D, generator=random) * 2 + 1
    sae = SAE(encoder or DenseEncoder(D, F), RULES[rule](), subtract_b_dec=encoder is None)
    sae.initialise(x, random)
    with torch.no_grad():
        sae.encoder.bias.normal_(0, 0.1, generator=random)
        if rule == "jumprelu":
            sae.rule.threshold.fill_(0.5).add_(torch.rand(F, generator=random) * 0.2)
    return sae.double().train(), x.double() * sae.scale


def oracle(dense, weight, target, widths):
    """1/(n·B·D) Σ_M Σ_b ‖target − Σ over latents below M‖², from dense codes."""
    below = [torch.arange(dense.shape[1]) < width for width in widths]
    return sum((target - (dense * one) @ weight).square().mean() for one in below) / len(widths)


def layouts(random, rows=B):
    """The same random codes fixed (unsorted), ragged and dense: some rows empty, one latent stored as 0."""
    dense = torch.rand(rows, F, generator=random, dtype=torch.float64)
    dense *= torch.rand(rows, F, generator=random) < 0.1
    dense[2] = 0
    indices = dense.argsort(dim=1, descending=True)[:, :20]
    assert (dense > 0).sum(1).max() <= 20
    stored = dense > 0
    stored[0, 7] = True
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), stored.sum(1).cumsum(0)])
    yield Codes(dense.gather(1, indices), indices, F), dense
    yield Codes(dense[stored], stored.nonzero()[:, 1], F, offsets), dense
    yield Codes(dense, None, F), dense


@pytest.mark.parametrize("layout", [0, 1, 2])
@pytest.mark.parametrize("widths", [WIDTHS, (48,), (1, 7, 8, 48)])
def test_cuts_say_how_many_entries_lie_below_each_width(random, layout, widths):
    codes = _by_latent(list(layouts(random))[layout][0])
    cuts = _cuts(codes, torch.tensor(widths))
    token = codes.entry_rows()
    below = codes.indices.flatten()[:, None] < torch.tensor(widths)
    expected = torch.zeros(B, len(widths), dtype=torch.int64).index_add_(0, token, below.long())
    assert torch.equal(cuts, expected)
    assert (codes.indices.flatten().diff()[token.diff() == 0] > 0).all(), "in the order of the dictionary"
    first = torch.searchsorted(torch.tensor(widths), codes.indices.flatten(), right=True)
    assert torch.equal(stages(codes.values, codes.offsets, cuts).flatten(), first)


@both
@pytest.mark.parametrize("layout", [0, 1, 2])
def test_loss_and_gradients_equal_masks_under_dense_autograd(random, layout, backend):
    codes, dense = list(layouts(random))[layout]
    weight = torch.randn(F, D, generator=random, dtype=torch.float64).requires_grad_()
    target = torch.randn(B, D, generator=random, dtype=torch.float64).requires_grad_()
    codes.values.requires_grad_()
    full = dense.detach().clone().requires_grad_()
    expected = oracle(full, weight, target, WIDTHS)
    wanted = torch.autograd.grad(expected, [full, weight, target])
    with kernels.backend(backend):
        fit = Matryoshka(WIDTHS).fit(codes, weight, target)
        found = torch.autograd.grad(fit.loss, [codes.values, weight, target])
    torch.testing.assert_close(fit.loss, expected, **EXACT)
    where = torch.arange(F).expand(B, F) if codes.indices is None else codes.indices
    by_entry = wanted[0][codes.entry_rows(), where.flatten()].view(codes.values.shape)
    for one, other in zip(found, (by_entry, *wanted[1:]), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    alone = [oracle(dense, weight, target, (width,)).double() for width in WIDTHS]
    torch.testing.assert_close(fit.errors, torch.stack(alone).detach(), **EXACT)
    torch.testing.assert_close(fit.residual, (target - dense @ weight).detach(), **EXACT)
    torch.testing.assert_close(fit.mse, alone[-1].detach(), **EXACT)


@both
@every_rule
def test_every_rule_learns_from_it_as_from_dense_autograd(random, rule, backend):
    sae, scaled = some_sae(random, rule)
    parameters = [*sae.encoder.parameters(), sae.W_dec, sae.b_dec]
    with kernels.backend(backend):
        loss = Objective(NoPenalty(), Matryoshka(WIDTHS), aux_coefficient=0.0)(sae, scaled)
        found = torch.autograd.grad(loss.total, parameters)
    pre = (scaled - sae.b_dec) @ sae.encoder.weight.T + sae.encoder.bias
    mask = (loss.codes.dense() > 0).double()
    assert 0 < mask.mean() < 0.7
    expected = oracle(pre * mask, sae.W_dec, scaled - sae.b_dec, WIDTHS)
    torch.testing.assert_close(loss.total, expected, **EXACT)
    for one, other in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_thresholds_learn_from_every_width_that_holds_their_latent(random):
    """−θ/ε times the gradient of the value: also for entries that are stored as zeros because θ is near."""
    sae, scaled = some_sae(random, "jumprelu")
    loss = Objective(NoPenalty(), Matryoshka(WIDTHS), aux_coefficient=0.0)(sae, scaled).total
    (found,) = torch.autograd.grad(loss, sae.rule.threshold)
    with torch.no_grad():
        pre = (scaled - sae.b_dec) @ sae.encoder.weight.T + sae.encoder.bias
    dense = (pre * (pre > sae.rule.threshold)).detach().requires_grad_()
    (by_value,) = torch.autograd.grad(oracle(dense, sae.W_dec, scaled - sae.b_dec, WIDTHS), dense)
    near = (pre - sae.rule.threshold).abs() < sae.rule.bandwidth / 2
    assert (near & (pre < sae.rule.threshold)).any()
    expected = -(by_value * near).sum(0) * sae.rule.threshold / sae.rule.bandwidth
    torch.testing.assert_close(found, expected.detach(), **EXACT)


@both
def test_one_width_is_the_reconstruction_loss(random, backend):
    sae, scaled = some_sae(random)
    with kernels.backend(backend):
        losses = [Objective(NoPenalty(), how)(sae, scaled).total for how in (Matryoshka((F,)), Whole())]
        grads = [torch.autograd.grad(loss, list(sae.parameters())) for loss in losses]
    torch.testing.assert_close(*losses, **EXACT)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_latents_beyond_a_width_do_not_change_its_error(random):
    codes, _ = next(layouts(random))
    weight = torch.randn(F, D, generator=random, dtype=torch.float64)
    target = torch.randn(B, D, generator=random, dtype=torch.float64)
    before = Matryoshka(WIDTHS).fit(codes, weight, target).errors
    weight[12:] *= 3
    after = Matryoshka(WIDTHS).fit(codes, weight, target).errors
    assert torch.equal(after[:2], before[:2])
    assert (after[2:] != before[2:]).all()


@both
def test_heads_of_a_kron_encoder_are_nested(random, backend):
    encoder = KronEncoder(D, F, heads=8, base=2, extension=3)
    sae, scaled = some_sae(random, encoder=encoder)
    with kernels.backend(backend):
        loss = Objective(NoPenalty(), Matryoshka(WIDTHS), aux_coefficient=0.0)(sae, scaled)
        found = torch.autograd.grad(loss.total, [sae.W_dec, sae.encoder.bias])
        dense = sae.encode(scaled / sae.scale)
    expected = oracle(dense, sae.W_dec, scaled - sae.b_dec, WIDTHS)
    torch.testing.assert_close(loss.total, expected, **EXACT)
    for one, other in zip(found, torch.autograd.grad(expected, [sae.W_dec, sae.encoder.bias]), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    assert loss.codes.values.diff(dim=1).max() <= 1e-12, "the codes themselves stay ranked"


def test_widths_from_their_words():
    assert parse_widths("pow2", 64) == (4, 8, 16, 32, 64)
    assert parse_widths("pow2", 6) == (1, 3, 6)
    assert parse_widths("8, 24,48", 48) == (8, 24, 48)
    assert Matryoshka((8, 48)).describe() == {"widths": [8, 48]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8,24", "the last one has to be n_latents = 48"),
        ("8,49", r"widths = 8,49: expected ascending numbers within 1\.\.48"),
        ("0,48", r"expected ascending numbers within 1\.\.48"),
        ("all", "widths = 'all': expected pow2, or numbers"),
    ],
)
def test_widths_that_do_not_fit_are_refused_in_one_line(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_widths(text, 48)
    assert "\n" not in str(caught.value)
