"""HierarchicalTopK (arXiv 2505.24473): the numbered tests are what any right implementation satisfies.

The oracle is the naive form: gathered rows of shape [B, K, D], their cumulative sum, dense autograd. Residuals are
target − decoded and losses means over B·D; signs and factors below follow from that.
"""

import tracemalloc

import pytest
import torch
from torch.autograd.profiler import profile

from monosem import kernels
from monosem.kernels import cpu
from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, KronEncoder, TopK, load, save
from monosem.sae.fit import Whole
from monosem.sae.function import nested_loss
from monosem.sae.hierarchical import Hierarchical
from monosem.sae.objective import Objective
from monosem.sae.penalty import NoPenalty
from monosem.shapes import InputError
from monosem.shapes.codes import Codes
from monosem.training.budget import parse_budgets, parse_weights

B, K, D, F = 5, 7, 13, 11
EXACT = {"rtol": 1e-10, "atol": 1e-12}
BUDGETS = {
    "full": ("all", "uniform"),
    "stride": ("stride:3", "uniform"),
    "powers": ("pow2", "uniform"),
    "1/j": ("all", "1/j"),
    "one": ("5", "uniform"),
    "last": ("7", "uniform"),
    "two": ("2,7", "8,1"),
    "a zero": ("1,3,6", "0.5,0,2"),
}

both = pytest.mark.parametrize("backend", ["cpu", "reference"])
every_j = pytest.mark.parametrize("j", BUDGETS)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def nesting(j: str, k: int = K) -> Hierarchical:
    budgets = parse_budgets(BUDGETS[j][0], k)
    return Hierarchical(budgets, parse_weights(BUDGETS[j][1], budgets))


def ranked(random, rows=B, k=K, n_latents=F, dtype=torch.float64):
    """Values in descending order, every other row ending in zeros; latents with a duplicate in every row."""
    values = torch.rand(rows, k, generator=random, dtype=torch.float64).sort(dim=1, descending=True).values
    values[::2, -2:] = 0
    indices = torch.randint(n_latents, (rows, k), generator=random)
    indices[:, 2] = indices[:, 0]
    return values.to(dtype), indices


def problem(random, dtype=torch.float64):
    values, indices = ranked(random, dtype=dtype)
    weight = torch.randn(F, D, generator=random, dtype=torch.float64).to(dtype)
    target = torch.randn(B, D, generator=random, dtype=torch.float64).to(dtype)
    return values, indices, weight, target


def prefix_residuals(values, indices, weight, target):
    """r_j for j = 1..K, [B, K, D]."""
    return target[:, None] - (values[..., None] * weight[indices]).cumsum(1)


def oracle(nesting, values, indices, weight, target):
    """1/(B·D) Σ_j w_j Σ_b ‖r_j‖²."""
    errors = prefix_residuals(values, indices, weight, target).square().sum((0, 2))
    wanted = torch.tensor(nesting.weights, dtype=values.dtype)
    return (errors[torch.tensor(nesting.budgets) - 1] * wanted).sum() / target.numel()


def some_sae(random, rule=None, dtype=torch.float64) -> tuple[SAE, torch.Tensor]:
    x = torch.randn(20, D, generator=random) * 2 + 1
    sae = SAE(DenseEncoder(D, 40), rule or TopK(40, K), info={"site": "resid_post.1"})
    sae.initialise(x, random)
    with torch.no_grad():
        sae.encoder.bias.normal_(0, 0.1, generator=random)
    return sae.to(dtype), x.to(dtype)


def objective(nesting) -> Objective:
    return Objective(NoPenalty(), nesting, aux_coefficient=0.0)


def gradients(loss, parameters):
    return torch.autograd.grad(loss, parameters)


def assert_close(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **(tolerance or EXACT))


# The numbered identities ---------------------------------------------------------------------------------------------


@both
@every_j
def test_01_loss_and_gradients_equal_the_cumulative_sum(random, j, backend):
    leaves = values, _, weight, target = problem(random)
    parameters = [leaf.requires_grad_() for leaf in (values, weight, target)]
    expected = oracle(nesting(j), *leaves)
    with kernels.backend(backend):
        fit = nesting(j).fit(Codes(values, leaves[1], F), weight, target)
    torch.testing.assert_close(fit.loss, expected, **EXACT)
    found = gradients(fit.loss, parameters)
    assert_close(found, gradients(expected, parameters))
    left = prefix_residuals(*leaves).detach()[:, torch.tensor(nesting(j).budgets) - 1]
    torch.testing.assert_close(fit.errors, left.square().mean((0, 2)), **EXACT)
    torch.testing.assert_close(fit.residual, left[:, -1], **EXACT)
    torch.testing.assert_close(fit.mse, left[:, -1].square().mean(), **EXACT)


@both
@pytest.mark.parametrize("j", ["full", "two"])
def test_01_gradients_equal_finite_differences(random, j, backend):
    values, indices, weight, target = problem(random)
    parameters = [leaf.requires_grad_() for leaf in (values, weight, target)]
    with kernels.backend(backend):
        found = gradients(nesting(j).fit(Codes(values, indices, F), weight, target).loss, parameters)
        for parameter, grad in zip(parameters, found, strict=True):
            direction = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            ends = []
            for step in (1e-3, -1e-3):
                moved = [
                    one.detach() + step * direction if one is parameter else one for one in (values, weight, target)
                ]
                ends.append(nesting(j).fit(Codes(moved[0], indices, F), *moved[1:]).loss)
            # The loss is a quadratic function of each, so central differences have no error of their own.
            torch.testing.assert_close((grad * direction).sum(), (ends[0] - ends[1]) / 2e-3, rtol=1e-7, atol=1e-9)


@both
def test_01_the_gradient_of_b_dec_and_of_the_encoder(random, backend):
    sae, x = some_sae(random)
    sae.train()
    scaled, parameters = x * sae.scale, list(sae.parameters())
    with kernels.backend(backend):
        found = gradients(objective(nesting("full"))(sae, scaled).total, parameters)
    pre = sae.pre_acts(x).relu()
    values, indices = pre.sort(dim=1, descending=True, stable=True)
    expected = oracle(nesting("full"), values[:, :K], indices[:, :K], sae.W_dec, scaled - sae.b_dec)
    assert_close(found, gradients(expected, parameters))


@both
def test_02_the_last_budget_alone_is_the_topk_loss(random, backend):
    sae, x = some_sae(random)
    sae.train()
    with kernels.backend(backend):
        losses = [objective(how)(sae, x * sae.scale).total for how in (Hierarchical((K,), (1.0,)), Whole())]
        torch.testing.assert_close(*losses, **EXACT)
        assert_close(*(gradients(loss, list(sae.parameters())) for loss in losses))


@both
def test_03_ranks_after_the_last_budget_get_nothing(random, backend):
    values, indices, weight, target = problem(random)
    weight = torch.cat([weight, weight])
    indices += F * (torch.arange(K) >= 3)  # ranks after the third have latents of their own
    values.requires_grad_()
    weight.requires_grad_()
    with kernels.backend(backend):
        fit = Hierarchical((3,), (1.0,)).fit(Codes(values, indices, 2 * F), weight, target)
        by_values, by_weight = gradients(fit.loss, [values, weight])
        cut = Whole().fit(Codes(values[:, :3], indices[:, :3], 2 * F), weight, target)
    assert not by_values[:, 3:].any()
    assert not by_weight[F:].any()
    torch.testing.assert_close(fit.loss, cut.loss, **EXACT)
    assert_close([by_values, by_weight], gradients(cut.loss, [values, weight]))


@both
def test_04_uniform_budgets_are_the_mean_over_tokens_prefixes_and_dimensions(random, backend):
    values, indices, weight, target = problem(random)
    with kernels.backend(backend):
        loss = nesting("full").fit(Codes(values, indices, F), weight, target).loss
    torch.testing.assert_close(loss, prefix_residuals(values, indices, weight, target).square().mean(), **EXACT)


@both
def test_05_the_error_of_every_prefix_is_that_of_a_topk_of_that_size(random, backend):
    sae, x = some_sae(random)
    scaled = x * sae.scale
    with torch.no_grad(), kernels.backend(backend):
        errors = nesting("full").fit(sae.codes(x), sae.W_dec, scaled - sae.b_dec).errors
        alone = [((x - sae.at(k)(x)) * sae.scale).square().mean() for k in range(1, K + 1)]
    torch.testing.assert_close(errors, torch.stack(alone), **EXACT)


@both
def test_06_orthonormal_rows_remove_the_squares_of_their_values(random, backend):
    weight = torch.linalg.qr(torch.randn(D, D, generator=random, dtype=torch.float64)).Q
    x = torch.randn(B, D, generator=random, dtype=torch.float64)
    x = (x @ weight.T).abs() @ weight  # so that every <x, e_i> is positive
    values, indices = (x @ weight.T).sort(dim=1, descending=True)
    with kernels.backend(backend):
        errors = nesting("full").fit(Codes(values[:, :K].contiguous(), indices[:, :K], D), weight, x).errors
    expected = x.square().sum() - values.square().cumsum(1).sum(0)[:K]
    torch.testing.assert_close(errors * x.numel(), expected, **EXACT)


@both
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-5)])
def test_07_the_walk_back_returns_to_the_target(random, backend, dtype, tolerance):
    """An empty prefix has residual r_0, which the walk rebuilds last: its gradient shows it."""
    width, n_latents, k = 96, 300, 64
    values, indices = ranked(random, 9, k, n_latents, dtype)
    weight = torch.nn.functional.normalize(torch.randn(n_latents, width, generator=random, dtype=dtype))
    target = torch.randn(9, width, generator=random, dtype=dtype)
    cuts, weights = torch.arange(k + 1).expand(9, -1), torch.zeros(k + 1, dtype=dtype)
    weights[0] = 1
    with kernels.backend(backend):
        found = kernels.nested_gradients(values, indices, None, cuts, weight, target, weights)
    assert not torch.equal(found.residual, target)
    assert float((found.target / 2 - target).norm() / target.norm()) < tolerance
    assert not found.values.any(), "an empty prefix holds no entry"
    assert not found.weight.any()


def test_07_debug_mode_checks_the_walk(random, monkeypatch):
    values, indices, weight, target = problem(random)
    arguments = values, indices, None, torch.arange(1, K + 1).expand(B, K), weight, target, torch.ones(K).double()
    right = kernels.nested_gradients(*arguments)
    wrong = right._replace(residual=right.residual * 1.01)
    monkeypatch.setattr(cpu, "nested_gradients", lambda *_: wrong)
    kernels.nested_gradients(*arguments)
    with kernels.debug(), pytest.raises(InputError, match="does not return to its target") as caught:
        kernels.nested_gradients(*arguments)
    assert "\n" not in str(caught.value)


@both
def test_08_gradients_scale_with_what_comes_from_above(random, backend):
    values, indices, weight, target = problem(random)
    parameters = [leaf.requires_grad_() for leaf in (values, weight, target)]
    with kernels.backend(backend):
        loss = nesting("1/j").fit(Codes(values, indices, F), weight, target).loss
        once = gradients(loss, parameters)
        loss = nesting("1/j").fit(Codes(values, indices, F), weight, target).loss
        assert_close(gradients(-2.5 * loss, parameters), [-2.5 * grad for grad in once])


@both
def test_08_losses_add_as_their_weights(random, backend):
    values, indices, weight, target = problem(random)
    parameters = [leaf.requires_grad_() for leaf in (values, weight, target)]
    weights = torch.rand(2, K, generator=random, dtype=torch.float64)
    cuts = torch.arange(1, K + 1).expand(B, K)

    def of(some):
        loss = nested_loss(Codes(values, indices, F), cuts, weight, target, some)[0]
        return [loss.detach(), *gradients(loss, parameters)]

    with kernels.backend(backend):
        one, other, sums = of(weights[0]), of(weights[1]), of(weights.sum(0))
    assert_close([a + b for a, b in zip(one, other, strict=True)], sums)


def test_09_permuted_latents_change_nothing(random):
    sae, x = some_sae(random)
    order = torch.randperm(40, generator=random)
    again = some_sae(torch.Generator().manual_seed(0))[0]
    again.encoder.weight.data, again.encoder.bias.data = sae.encoder.weight[order].data, sae.encoder.bias[order].data
    again.W_dec.data = sae.W_dec[order].data
    one, other = (objective(nesting("full"))(some, x * sae.scale) for some in (sae, again))
    torch.testing.assert_close(one.total, other.total, **EXACT)
    torch.testing.assert_close(one.codes.values, other.codes.values, **EXACT)
    assert torch.equal(one.codes.indices, order[other.codes.indices])


@both
def test_09_permuted_ranks_change_the_loss_but_not_the_last_residual(random, backend):
    values, indices, weight, target = problem(random)
    order = torch.randperm(K, generator=random)
    assert order.tolist() != list(range(K))
    with kernels.backend(backend):
        one = nesting("full").fit(Codes(values, indices, F), weight, target)
        other = nesting("full").fit(Codes(values[:, order], indices[:, order], F), weight, target)
    torch.testing.assert_close(other.residual, one.residual, **EXACT)
    assert abs(float(other.loss / one.loss) - 1) > 1e-3


def test_09_unsorted_values_are_refused_in_debug_mode(random):
    values, indices, weight, target = problem(random)
    flipped = Codes(values.flip(1), indices, F)
    nesting("full").fit(flipped, weight, target)
    with kernels.debug():
        nesting("full").fit(Codes(values, indices, F), weight, target)
        with pytest.raises(InputError, match="values of token 0 are not sorted") as caught:
            nesting("full").fit(flipped, weight, target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [70, 330])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_10_column_splits_and_repeats(random, width, dtype):
    """Decoder and target gradients keep every bit however columns are split; errors and slopes are sums of parts."""
    values, indices = ranked(random, 40, K, F, dtype)
    weight = torch.randn(F, width, generator=random, dtype=dtype)
    target = torch.randn(40, width, generator=random, dtype=dtype)
    cuts, weights = torch.arange(1, K + 1).expand(40, K), torch.rand(K, generator=random, dtype=dtype)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5, 5):
            torch.set_num_threads(threads)
            assert len(cpu._tiles(width)) == min(threads, width // 64)
            found.append(cpu.nested_gradients(values, indices, None, cuts, weight, target, weights))
    finally:
        torch.set_num_threads(before)
    for one in found[1:]:
        for name in ("weight", "target", "residual"):
            assert torch.equal(getattr(one, name), getattr(found[0], name)), name
        torch.testing.assert_close(one.values, found[0].values, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(one.errors, found[0].errors, rtol=1e-5, atol=0)
    assert all(torch.equal(*pair) for pair in zip(found[3], found[4], strict=True))


def allocated(random, k: int) -> int:
    """Bytes that one forward and backward pass allocates, by torch in total and by numpy at most."""
    rows, width, n_latents = 8, 4096, 64
    values, indices = ranked(random, rows, k, n_latents, torch.float32)
    weight = torch.randn(n_latents, width, generator=random).requires_grad_()
    target = torch.randn(rows, width, generator=random)
    how = Hierarchical(tuple(range(1, k + 1)), (1.0,) * k)
    codes = Codes(values.requires_grad_(), indices, n_latents)
    gradients(how.fit(codes, weight, target).loss, [values, weight])  # kernels are loaded
    tracemalloc.start()
    try:
        with profile(profile_memory=True) as seen:
            gradients(how.fit(codes, weight, target).loss, [values, weight])
            of_numpy = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return sum(max(0, event.self_cpu_memory_usage) for event in seen.function_events) + of_numpy


def test_11_memory_does_not_grow_with_the_number_of_budgets(random):
    few, many = allocated(random, 32), allocated(random, 256)
    assert few > 64 * 4096 * 4, "the decoder's gradient at least"
    assert many < 1.05 * few
    assert many < 256 * 8 * 4096 * 4 / 10, "a tenth of one array of shape [B, K, D]"


@both
def test_12_bfloat16_parameters_keep_the_loss_and_sum_in_single_precision(random, backend):
    sae, x = some_sae(random, dtype=torch.float32)
    exact = objective(nesting("full"))(sae, x * sae.scale).total.item()
    rounded, x = sae.bfloat16().train(), x.bfloat16()
    loss = objective(nesting("full"))(rounded, x * rounded.scale)
    assert abs(loss.total.item() / exact - 1) < 1e-2
    loss.total.backward()
    assert all(weight.grad.isfinite().all() for weight in rounded.parameters())
    assert any(weight.grad.any() for weight in rounded.parameters())
    values, indices, weight, target = problem(random, torch.bfloat16)
    arguments = values, indices, None, torch.arange(1, K + 1).expand(B, K), weight, target, torch.ones(K)
    found = kernels.nested_gradients(*arguments)
    assert [tensor.dtype for tensor in found] == [torch.float64] + 4 * [torch.float32]
    with kernels.backend(backend):
        wide = [one.float() if one is not None and one.is_floating_point() else one for one in arguments]
        assert_close(found, kernels.nested_gradients(*wide), rtol=1e-5, atol=1e-5)


@both
def test_13_codes_at_k_are_the_first_of_those_at_the_largest(random, backend):
    sae, x = some_sae(random, dtype=torch.float32)
    with torch.no_grad(), kernels.backend(backend):
        whole = sae.codes(x)
        for k in (1, 3, K):
            cut = sae.at(k).codes(x)
            assert torch.equal(cut.values, whole.values[:, :k])
            assert torch.equal(cut.indices, whole.indices[:, :k])


# Budgets and their weights -------------------------------------------------------------------------------------------


def test_budgets_from_their_words():
    assert parse_budgets("all", 4) == (1, 2, 3, 4)
    assert parse_budgets("stride:3", 10) == (3, 6, 9, 10)
    assert parse_budgets("stride:5", 10) == (5, 10)
    assert parse_budgets("pow2", 12) == (1, 2, 4, 8, 12)
    assert parse_budgets("pow2", 8) == (1, 2, 4, 8)
    assert parse_budgets("8, 32", 128) == (8, 32)
    assert parse_weights("uniform", (1, 2, 4)) == (1 / 3, 1 / 3, 1 / 3)
    assert parse_weights("1/j", (1, 2, 4)) == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    assert parse_weights("8,1", (32, 128)) == pytest.approx((8 / 9, 1 / 9))
    assert Hierarchical((32, 128), (8.0, 1.0)).weights == pytest.approx((8 / 9, 1 / 9))


BAD_BUDGETS = {
    "0,4": r"budgets = 0,4: expected ascending numbers within 1\.\.8",
    "4,9": r"budgets = 4,9: expected ascending numbers within 1\.\.8",
    "stride:0": "budgets = 'stride:0': expected all, stride:8, pow2, or numbers",
    "half": "budgets = 'half'",
    "": "budgets = ''",
    "3,,4": "budgets = '3,,4'",
    "²": "budgets = '²'",
    "stride:²": "budgets = 'stride:²'",
    "8,4": "budgets = 8,4: expected ascending numbers",  # weights are given in the same order
    "4,4": "budgets = 4,4: expected ascending numbers",
}
BAD_WEIGHTS = {
    "1,2,3": r"budget_weights = 1,2,3: expected uniform, 1/j, or 2 numbers",
    "1,-1": "at least 0",
    "1,0": "the last above 0",
    "1,nan": "budget_weights = 1,nan",
    "1,inf": "budget_weights = 1,inf",
    "1,x": "'x' is not a number",
}


@pytest.mark.parametrize("text", BAD_BUDGETS)
def test_budgets_outside_of_the_ranks_are_refused_in_one_line(text):
    with pytest.raises(InputError, match=BAD_BUDGETS[text]) as caught:
        parse_budgets(text, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", BAD_WEIGHTS)
def test_weights_that_fit_no_budgets_are_refused_in_one_line(text):
    with pytest.raises(InputError, match=BAD_WEIGHTS[text]) as caught:
        parse_weights(text, (4, 8))
    assert "\n" not in str(caught.value)


@every_j
def test_rank_weights_are_the_share_of_the_loss_that_a_rank_takes_part_in(random, j):
    how = nesting(j)
    assert sum(how.weights) == pytest.approx(1)
    found = torch.tensor(how.rank_weights(), dtype=torch.float64)
    member = torch.arange(1, how.budgets[-1] + 1)[:, None] <= torch.tensor(how.budgets)
    torch.testing.assert_close(found, (member * torch.tensor(how.weights, dtype=torch.float64)).sum(1))
    assert how.describe() == {
        "J": list(how.budgets),
        "weights": list(how.weights),
        "rank_weights": how.rank_weights(),
    }


# Codes of varying count, budgets at inference, double backward -------------------------------------------------------


def test_codes_without_a_fixed_count_are_refused(random):
    sae, x = some_sae(random, BatchTopK(40, 3))
    with pytest.raises(InputError, match="use the rule topk"):
        nesting("full").fit(sae.train().codes(x), sae.W_dec, x)


def test_a_budget_shares_the_weights_and_says_what_was_trained(random, tmp_path):
    sae, x = some_sae(random, dtype=torch.float32)
    small, large = sae.at(3), sae.at(2 * K)
    assert small.W_dec is sae.W_dec
    assert small.b_dec is sae.b_dec
    assert small.encoder is sae.encoder
    assert (small.scale, small.code_scale, small.training) == (sae.scale, sae.code_scale, sae.training)
    assert small.info["budget"] == {"k": 3, "trained": K, "extrapolated": False}
    assert large.info["budget"] == {"k": 2 * K, "trained": K, "extrapolated": True}
    assert large.at(K).info["budget"] == {"k": K, "trained": K, "extrapolated": False}
    assert "budget" not in sae.info
    again = load(save(small, tmp_path / "small"))
    assert again.info["budget"]["k"] == again.K == 3
    assert torch.equal(again(x), small(x))
    with pytest.raises(InputError, match="k = 41 does not fit 40 latents"):
        sae.at(41)
    with pytest.raises(InputError, match="k = 0"):
        sae.at(0)


def test_budgets_below_k_decide_what_is_extrapolation(random):
    sae, _ = some_sae(random)
    sae.info["budgets"] = Hierarchical((2, 4), (1.0, 1.0)).describe()
    assert sae.at(6).info["budget"] == {"k": 6, "trained": 4, "extrapolated": True}


@pytest.mark.parametrize("rule", [lambda: BatchTopK(40, 3), lambda: JumpReLU(40)])
def test_only_topk_can_be_cut(random, rule):
    sae, _ = some_sae(random, rule())
    with pytest.raises(InputError, match="has no fixed budget"):
        sae.at(2)


def test_a_second_derivative_is_refused(random):
    values, indices, weight, target = problem(random)
    weight.requires_grad_()
    loss = nesting("full").fit(Codes(values, indices, F), weight, target).loss
    # Without a gradient above it, and beside a term that has a second derivative, it would be left out in silence.
    for some in (loss, loss.square(), loss + weight.square().sum()):
        with pytest.raises(RuntimeError, match="differentiated once"):
            torch.autograd.grad(some, weight, create_graph=True, retain_graph=True)
    assert torch.autograd.grad(loss, weight, retain_graph=True)[0].any()


def test_hierarchical_over_a_kron_encoder_needs_no_class(random):
    """A Kronecker encoder's values and slopes, the hierarchical loss's gradients: against dense autograd."""
    x = torch.randn(20, D, generator=random) * 2 + 1
    sae = SAE(KronEncoder(D, 48, heads=6, base=2, extension=4), TopK(48, K), subtract_b_dec=False)
    sae.initialise(x, random)
    sae, x = sae.double().train(), x.double()
    scaled, parameters = x * sae.scale, list(sae.parameters())
    found = objective(nesting("full"))(sae, scaled)
    u = (scaled @ sae.encoder.weight.T + sae.encoder.bias).view(len(x), 6, 6)
    z = (u[:, :, :2, None].relu() * u[:, :, None, 2:].relu()).flatten(1)
    values, indices = z.sort(dim=1, descending=True, stable=True)
    positive = values[:, :K] > 0
    values = torch.where(positive, torch.where(positive, values[:, :K], 1.0).sqrt(), 0.0)
    expected = oracle(nesting("full"), values, indices[:, :K], sae.W_dec, scaled - sae.b_dec)
    torch.testing.assert_close(found.total, expected, **EXACT)
    # The clamp of the ratio of pre-latents is far from what occurs here.
    assert_close(gradients(found.total, parameters), gradients(expected, parameters), rtol=1e-9, atol=1e-11)


# At the edges --------------------------------------------------------------------------------------------------------


def test_budgets_beyond_the_ranks_of_the_codes_are_refused(random):
    values, indices, weight, target = problem(random)
    with kernels.backend("reference"), pytest.raises(InputError, match=f"budget {K + 1} is beyond the {K} ranks"):
        Hierarchical((2, K + 1), (1.0, 1.0)).fit(Codes(values, indices, F), weight, target)


def test_debug_mode_takes_bfloat16(random):
    values, indices, weight, target = problem(random, torch.bfloat16)
    with kernels.debug():
        assert nesting("full").fit(Codes(values, indices, F), weight, target.requires_grad_()).loss.isfinite()
