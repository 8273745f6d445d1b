"""KronSAE (arXiv 2505.22255): the numbered tests are what any right implementation satisfies.

The oracle is three loops over heads, bases and extensions; gradients are compared with dense autograd of all products.
"""

import math
from itertools import product

import pytest
import torch
from torch.nn import functional

from monosem import kernels
from monosem.kernels.gate import GATES
from monosem.kernels.reference import topk
from monosem.sae import SAE, BatchTopK, DenseEncoder, KronEncoder, ReLU, TopK, cost, load, multiplier, parameters, save
from monosem.sae.fit import Whole
from monosem.sae.flops import dense_cost, encoder_share
from monosem.sae.hierarchical import Hierarchical
from monosem.sae.objective import Objective
from monosem.sae.penalty import NoPenalty
from monosem.shapes import InputError, KronShape
from monosem.training import TrainConfig
from monosem.training.recipe import check

B, D, K = 12, 9, 6
SHAPE = KronShape(5, 2, 3)
EXACT = {"rtol": 1e-10, "atol": 1e-12}
SHAPES = {
    "usual": KronShape(5, 2, 3),
    "fewer heads than k": KronShape(2, 4, 5),
    "one base": KronShape(7, 1, 4),
    "one extension": KronShape(7, 4, 1),
    "many heads": KronShape(40, 2, 2),
}

both = pytest.mark.parametrize("backend", ["cpu", "reference"])
every_gate = pytest.mark.parametrize("gate", GATES)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def some_sae(random, shape=SHAPE, gate="mand", k=K, dtype=torch.float64, rule=None, **options):
    """A KronSAE with biases, and raw inputs."""
    x = torch.randn(B, D, generator=random) * 2 + 1
    encoder = KronEncoder(D, shape.n_latents, **shape._asdict(), gate=gate, **options)
    sae = SAE(encoder, rule or TopK(shape.n_latents, k), subtract_b_dec=False, info={"site": "resid_post.1"})
    sae.initialise(x, random)
    with torch.no_grad():
        encoder.weight.normal_(0, 1 / math.sqrt(D), generator=random)
        encoder.bias.normal_(0, 0.1, generator=random)
    return sae.to(dtype).train(), x.to(dtype)


def pre_of(sae, x):
    """Pre-latents of all rows, differentiable."""
    return functional.linear(x * sae.scale, sae.encoder.weight, sae.encoder.bias)


def oracle(pre: torch.Tensor, shape: KronShape, gate: str) -> torch.Tensor:
    """All latents by three loops, differentiable: exactly 0 unless the gate opens."""
    columns = []
    for k, i, j in product(range(shape.heads), range(shape.base), range(shape.extension)):
        first = k * (shape.base + shape.extension)
        u, v = pre[:, first + i], pre[:, first + shape.base + j]
        opened = (u > 0) & (v > 0)
        if gate == "raw":
            columns.append(u * v)
        elif gate == "min":
            columns.append(torch.where(opened, torch.minimum(u, v), 0.0))
        else:
            factors = torch.where(opened, u, 1.0), torch.where(opened, v, 1.0)
            value = factors[0] * factors[1] if gate == "product" else (factors[0] * factors[1]).sqrt()
            columns.append(torch.where(opened, value, 0.0))
    return torch.stack(columns, 1)


def kept(z: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest positive entries of each row, everything else 0; differentiable."""
    values, where = z.sort(dim=1, descending=True, stable=True)
    return torch.zeros_like(z).scatter(1, where[:, :k], values[:, :k].relu())


def codes_of(pre: torch.Tensor, shape: KronShape, gate: str, k: int) -> torch.Tensor:
    """Dense codes from pre-latents, by the kernel."""
    values, indices, _ = kernels.kron_topk(pre, shape, gate, k)
    return torch.zeros(len(pre), shape.n_latents, dtype=pre.dtype).scatter_add_(1, indices, values)


def assert_close(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **(tolerance or EXACT))


# The numbered identities ---------------------------------------------------------------------------------------------


@both
@every_gate
@pytest.mark.parametrize("sizes", ["usual", "one base", "one extension"])
def test_01_forward_equals_three_loops(random, sizes, gate, backend):
    shape = SHAPES[sizes]
    sae, x = some_sae(random, shape, gate)
    with torch.no_grad(), kernels.backend(backend):
        z = oracle(pre_of(sae, x), shape, gate)
        torch.testing.assert_close(sae.pre_acts(x), z, **EXACT)
        torch.testing.assert_close(sae.encode(x), kept(z, K), **EXACT)
        torch.testing.assert_close(sae(x), (kept(z, K) @ sae.W_dec + sae.b_dec) / sae.scale, **EXACT)


@pytest.mark.parametrize("sizes", SHAPES)
def test_01_latents_heads_and_rows_are_numbered_alike(sizes):
    shape = SHAPES[sizes]
    latents = torch.arange(shape.n_latents)
    assert torch.equal(shape.latent(*shape.factors(latents)), latents)
    rows = [[], []]
    for number, (k, i, j) in enumerate(product(*(range(size) for size in shape))):
        assert shape.factors(number) == (k, i, j)
        rows[0].append(k * (shape.base + shape.extension) + i)
        rows[1].append(k * (shape.base + shape.extension) + shape.base + j)
    assert [row.tolist() for row in shape.parents(latents)] == rows
    assert set(rows[0]) | set(rows[1]) == set(range(shape.n_rows))


@both
@pytest.mark.parametrize("k", [1, 4, 30])
def test_02_a_latent_is_active_if_and_only_if_both_parents_are(random, backend, k):
    sae, x = some_sae(random, k=k)
    with torch.no_grad(), kernels.backend(backend):
        p, q = sae.pre_latents(x)
        pairs = (p > 0)[..., None] & (q > 0)[:, :, None, :]
        assert 0.1 < pairs.double().mean() < 0.5
        assert torch.equal(sae.pre_acts(x) > 0, pairs.flatten(1))
        assert torch.equal(sae.codes(x).l0(), pairs.flatten(1).sum(1).clamp_max(k))


@both
@every_gate
@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("k", [1, 5, 10])
def test_03_pruned_selection_equals_that_of_all_products(random, sizes, k, gate, backend):
    """Random pre-latents, few positive ones, equal ones: values, and latents under the rule for ties."""
    shape = SHAPES[sizes]
    pre = torch.randn(9, shape.n_rows, generator=random)
    pre[3:6] -= 1.2
    pre[6:] = (2 * pre[6:]).round() / 2
    with kernels.backend(backend):
        found = kernels.kron_topk(pre, shape, gate, k)
    u, v = (pre[:, rows] for rows in shape.parents(torch.arange(shape.n_latents)))
    scores = {"min": torch.minimum(u, v), "raw": u * v}.get(gate, u.relu() * v.relu())
    score, indices, _ = topk(scores, k)
    positive = score > 0
    values = score.sqrt() if gate == "mand" else score
    torch.testing.assert_close(found.values, values, rtol=1e-6, atol=0)
    assert torch.equal(found.values > 0, positive)
    assert torch.equal(found.indices[positive], indices[positive])
    if gate != "raw" and k == 10:
        assert not positive.all(), "some rows have fewer active pairs than k"


@both
def test_04_what_is_selected_of_a_head_is_a_staircase(random, backend):
    shape = KronShape(3, 5, 6)
    pre = torch.randn(20, shape.n_rows, generator=random, dtype=torch.float64) + 0.5
    with kernels.backend(backend):
        chosen = (codes_of(pre, shape, "mand", 14) > 0).view(20, *shape)
    heads = pre.view(20, 3, 11)
    by_base = heads[:, :, :5].argsort(dim=2, descending=True)
    by_extension = heads[:, :, 5:].argsort(dim=2, descending=True)
    ranked = chosen.gather(2, by_base[..., None].expand_as(chosen))
    ranked = ranked.gather(3, by_extension[:, :, None].expand_as(chosen))
    assert not (ranked[:, :, 1:] & ~ranked[:, :, :-1]).any()
    assert not (ranked[:, :, :, 1:] & ~ranked[:, :, :, :-1]).any()
    assert ranked.any(3).sum(2).max() > 1


def test_04_squares_before_the_selection_have_rank_one(random):
    sae, x = some_sae(random, KronShape(4, 3, 4))
    with torch.no_grad():
        square = sae.pre_acts(x).square().view(B, 4, 3, 4)
    minors = square[:, :, :-1, :-1] * square[:, :, 1:, 1:] - square[:, :, :-1, 1:] * square[:, :, 1:, :-1]
    assert square.max() > 1
    assert minors.abs().max() < 1e-12 * square.max() ** 2


def slopes_of(gate: str, u: float, v: float, clamp: float = 100.0, dtype=torch.float64) -> tuple[float, float, float]:
    """Value of the one latent of u and v, and its derivatives by both."""
    encoder = KronEncoder(1, 1, heads=1, base=1, extension=1, gate=gate, clamp=clamp).to(dtype)
    encoder.bias.data = torch.tensor([u, v], dtype=dtype)
    codes = encoder.select(torch.zeros(1, 1, dtype=dtype), TopK(1, 1), None)
    (grad,) = torch.autograd.grad(codes.values.sum(), encoder.bias)
    return codes.values.item(), *grad.tolist()


@both
def test_05_eulers_identity_and_finite_differences(random, backend):
    pairs = torch.rand(20, 2, generator=random, dtype=torch.float64) * 3 + 0.05
    with kernels.backend(backend):
        for u, v in pairs.tolist():
            z, by_u, by_v = slopes_of("mand", u, v)
            assert [u * by_u, v * by_v] == pytest.approx([z / 2, z / 2], rel=1e-12)
            for gate in GATES:
                value, *grads = slopes_of(gate, u, v)
                assert value == pytest.approx(oracle(torch.tensor([[u, v]]).double(), KronShape(1, 1, 1), gate).item())
                step = 1e-5 * min(u, v)
                by_difference = [
                    (slopes_of(gate, u + a * step, v + b * step)[0] - slopes_of(gate, u - a * step, v - b * step)[0])
                    / (2 * step)
                    for a, b in ((1, 0), (0, 1))
                ]
                assert grads == pytest.approx(by_difference, rel=1e-7, abs=1e-7)


@both
@every_gate
@pytest.mark.parametrize("rule", ["topk", "batch_topk"])
def test_05_gradients_equal_dense_autograd(random, rule, gate, backend):
    rules = {"topk": TopK(30, K), "batch_topk": BatchTopK(30, K)}
    sae, x = some_sae(random, gate=gate, rule=rules[rule], clamp=1e9)
    x.requires_grad_()
    leaves = [x, *sae.parameters()]
    z = oracle(pre_of(sae, x), SHAPE, gate)
    mask = kept(z, K) if rule == "topk" else kept(z.view(1, -1), K * B).view_as(z)
    expected = ((z * (mask > 0)) @ sae.W_dec + sae.b_dec) / sae.scale
    target = torch.randn(B, D, generator=random, dtype=torch.float64)
    with kernels.backend(backend):
        recon = sae(x)
        found = torch.autograd.grad((recon - target).square().sum(), leaves)
    torch.testing.assert_close(recon, expected, **EXACT)
    assert_close(found, torch.autograd.grad((expected - target).square().sum(), leaves), rtol=1e-9, atol=1e-10)


@both
def test_05_gradients_equal_dense_autograd_with_a_centre(random, backend):
    sae, x = some_sae(random, clamp=1e9)
    sae.subtract_b_dec = True
    pre = functional.linear(x * sae.scale - sae.b_dec, sae.encoder.weight, sae.encoder.bias)
    expected = (kept(oracle(pre, SHAPE, "mand"), K) @ sae.W_dec + sae.b_dec) / sae.scale
    with kernels.backend(backend):
        found = torch.autograd.grad(sae(x).square().sum(), list(sae.parameters()))
    wanted = torch.autograd.grad(expected.square().sum(), list(sae.parameters()))
    assert_close(found, wanted, rtol=1e-9, atol=1e-10)


@both
def test_05_only_selected_and_active_pairs_pass_a_gradient(random, backend):
    sae, x = some_sae(random, KronShape(8, 2, 2), k=2)
    with kernels.backend(backend):
        codes = sae.codes(x[:1])
        (grad,) = torch.autograd.grad(codes.values.sum(), sae.encoder.bias)
        chosen = torch.cat(sae.encoder.parents(codes.indices[codes.values > 0]))
        assert set(grad.nonzero().flatten().tolist()) == set(chosen.tolist())
        sae.encoder.bias.data.fill_(-100.0)
        (grad,) = torch.autograd.grad(sae.codes(x).values.sum(), sae.encoder.bias)
    assert not grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_05_slopes_stay_finite_at_the_edge(dtype):
    """Clamped to half the bound, whichever parent is small; tiny values are not lost."""
    for u, v in ((1e-30, 1.0), (1.0, 1e-30), (1e-30, 1e-3)):
        z, by_u, by_v = slopes_of("mand", u, v, dtype=dtype)
        assert z == pytest.approx(math.sqrt(u) * math.sqrt(v), rel=1e-5, abs=0)
        assert (by_u if u < v else by_v) == pytest.approx(50)
        assert (by_v if u < v else by_u) == pytest.approx(0.5 * math.sqrt(min(u, v) / max(u, v)), rel=1e-5, abs=0)
    assert slopes_of("mand", -1e-30, 1.0) == slopes_of("mand", 0.0, 1.0) == (0, 0, 0)


@both
def test_06_scaling_bases_up_and_extensions_down_changes_nothing(random, backend):
    sae, x = some_sae(random)
    with torch.no_grad(), kernels.backend(backend):
        before = sae(x)
        base = torch.arange(SHAPE.n_rows) % 5 < 2
        factors = torch.rand(5, generator=random, dtype=torch.float64).add(0.3).repeat_interleave(5)
        factors = torch.where(base, factors, 1 / factors)
        sae.encoder.weight.mul_(factors[:, None])
        sae.encoder.bias.mul_(factors)
        assert (factors - 1).abs().max() > 0.2
        torch.testing.assert_close(sae(x), before, **EXACT)


@both
def test_06_exchanged_bases_and_extensions_are_the_same_function(random, backend):
    sae, x = some_sae(random)
    swapped, _ = some_sae(random, KronShape(5, 3, 2))
    with torch.no_grad(), kernels.backend(backend):
        rows = torch.arange(SHAPE.n_rows).view(5, 5)[:, [2, 3, 4, 0, 1]].flatten()
        latents = torch.arange(30).view(5, 2, 3).transpose(1, 2).flatten()
        swapped.encoder.weight.copy_(sae.encoder.weight[rows])
        swapped.encoder.bias.copy_(sae.encoder.bias[rows])
        swapped.W_dec.copy_(sae.W_dec[latents])
        swapped.b_dec.copy_(sae.b_dec)
        swapped.scale = sae.scale
        torch.testing.assert_close(swapped(x), sae(x), **EXACT)
        torch.testing.assert_close(swapped.encode(x), sae.encode(x)[:, latents], **EXACT)


@both
def test_06_permuted_heads_and_rows_are_the_same_function(random, backend):
    sae, x = some_sae(random)
    with torch.no_grad(), kernels.backend(backend):
        before, codes = sae(x), sae.encode(x)
        heads, bases = torch.randperm(5, generator=random), torch.tensor([1, 0])
        extensions = torch.tensor([2, 0, 1])
        rows = torch.arange(SHAPE.n_rows).view(5, 5)[heads][:, torch.cat([bases, 2 + extensions])].flatten()
        latents = torch.arange(30).view(5, 2, 3)[heads][:, bases][:, :, extensions].flatten()
        for weight, order in ((sae.encoder.weight, rows), (sae.encoder.bias, rows), (sae.W_dec, latents)):
            weight.copy_(weight[order])
        torch.testing.assert_close(sae(x), before, **EXACT)
        torch.testing.assert_close(sae.encode(x), codes[:, latents], **EXACT)


@both
def test_07_products_with_extensions_fixed_at_one_are_a_topk_autoencoder(random, backend):
    sae, x = some_sae(random, KronShape(4, 6, 1), "product")
    base = torch.arange(28) % 7 < 6
    sae.encoder.weight.data[~base] = 0
    sae.encoder.bias.data[~base] = 1
    dense = SAE(DenseEncoder(D, 24), TopK(24, K), scale=sae.scale, subtract_b_dec=False).double()
    dense.encoder.weight.data, dense.encoder.bias.data = sae.encoder.weight.data[base], sae.encoder.bias.data[base]
    dense.W_dec.data, dense.b_dec.data = sae.W_dec.data.clone(), sae.b_dec.data.clone()
    with kernels.backend(backend):
        torch.testing.assert_close(sae(x), dense(x), **EXACT)
        found, expected = (dict(one.named_parameters()) for one in (sae, dense))
        grads = [
            dict(zip(some, torch.autograd.grad(one(x).square().sum(), list(some.values()))))
            for one, some in ((sae, found), (dense, expected))
        ]
    for name in ("encoder.weight", "encoder.bias"):
        torch.testing.assert_close(grads[0][name][base], grads[1][name], **EXACT)
    for name in ("W_dec", "b_dec"):
        torch.testing.assert_close(grads[0][name], grads[1][name], **EXACT)


def test_08_the_initial_decoder(random):
    shape, width = KronShape(16, 4, 8), 256
    encoder = KronEncoder(width, shape.n_latents, **shape._asdict())
    rows = encoder.initialise(width, random)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(shape.n_latents))
    assert encoder.weight.std().item() == pytest.approx(1 / math.sqrt(2 * shape.n_latents), rel=0.02)
    assert not encoder.bias.any()
    head, base, extension = shape.factors(torch.arange(shape.n_latents))
    same = [one[:, None] == one for one in (head, base, extension)]
    cosine = rows @ rows.T
    shared = same[0] & (same[1] ^ same[2])
    assert cosine[shared].mean().item() == pytest.approx(0.5, abs=0.05)
    assert cosine[~same[0]].mean().item() == pytest.approx(0, abs=0.05)
    assert cosine[same[0] & ~same[1] & ~same[2]].mean().item() == pytest.approx(0, abs=0.05)
    sums = [encoder.weight[parent] for parent in encoder.parents(torch.arange(32))]
    assert torch.linalg.matrix_rank(sum(sums).double(), rtol=1e-5) == 4 + 8 - 1
    torch.testing.assert_close(rows[:32], functional.normalize(sum(sums)))


def test_08_between_different_widths_decoder_rows_have_the_same_structure(random):
    encoder = KronEncoder(D, 64, heads=2, base=4, extension=8)
    rows = encoder.initialise(300, random)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(64))
    cosine = rows @ rows.T
    assert cosine[0, 1:8].mean().item() == pytest.approx(0.5, abs=0.05)
    assert cosine[:32, 32:].mean().item() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("sizes", SHAPES)
def test_09_parameters_are_counted(sizes):
    shape = SHAPES[sizes]
    encoder = KronEncoder(D, shape.n_latents, **shape._asdict())
    sae = SAE(encoder, TopK(shape.n_latents, 1))
    latents = shape.n_latents
    assert shape.n_rows == shape.heads * (shape.base + shape.extension)
    assert parameters(sae)["total"] == shape.n_rows * (D + 1) + latents * D + D
    assert parameters(sae)["encoder"] == shape.n_rows * (D + 1)
    assert sum(weight.numel() for weight in sae.parameters()) == parameters(sae)["total"]


ACCOUNT = [
    ((4096, 1, 16), 1.0625, 0.94, 1.03),
    ((8192, 2, 4), 0.75, 1.33, 0.875),
    ((4096, 2, 8), 0.625, 1.60, 0.8125),
    ((4096, 4, 4), 0.50, 2.00, 0.75),
    ((2048, 4, 8), 0.375, 2.66, 0.6875),
    ((1024, 8, 8), 0.25, 3.98, 0.625),
    ((256, 16, 16), 0.125, 7.92, 0.5625),
]


@pytest.mark.parametrize(("sizes", "share", "tokens", "weights"), ACCOUNT)
def test_09_the_table_of_costs(sizes, share, tokens, weights):
    """F = 65,536, d = 1,536, k = 50: encoder over dense, tokens for the same FLOPs, parameters over TopK's."""
    shape, width, k = KronShape(*sizes), 1536, 50
    with torch.device("meta"):
        sae = SAE(KronEncoder(width, 65536, **shape._asdict()), TopK(65536, k))
        dense = SAE(DenseEncoder(width, 65536), TopK(65536, k))
    assert encoder_share(sae) == share == 1 / shape.base + 1 / shape.extension
    assert multiplier(sae) == pytest.approx(tokens, abs=0.005)
    assert parameters(sae)["total"] / parameters(dense)["total"] == pytest.approx(weights, abs=0.002)
    assert cost(sae).total == width * shape.n_rows + 65536 + k * width
    assert cost(sae, 7) == cost(sae)._replace(decoder=7 * width)
    assert multiplier(dense) == 1
    assert (multiplier(sae) < 1) == (shape.base == 1), "one base is dearer than dense"
    assert cost(dense) == dense_cost(width, 65536, width, k)
    assert cost(dense).total == width * 65536 + k * width


@both
def test_10_the_hierarchical_loss_of_one_budget_is_that_of_topk(random, backend):
    sae, x = some_sae(random)
    scaled = x * sae.scale
    with kernels.backend(backend):
        one = Objective(NoPenalty(), Hierarchical((4,), (1.0,)))(sae, scaled).total
        other = Objective(NoPenalty(), Whole())(sae.at(4), scaled).total
        torch.testing.assert_close(one, other, **EXACT)
        assert_close(*(torch.autograd.grad(loss, list(sae.parameters())) for loss in (one, other)))


@pytest.mark.parametrize("widths", ["20,30", "pow2"])
def test_11_matryoshka_widths_that_cut_a_head_are_refused(widths):
    config = TrainConfig(sae=("kron+matryoshka",), n_latents=30, k=4, base=2, extension=3, widths=widths)
    with pytest.raises(InputError, match=r"width \d+ cuts a head of .* use multiples") as caught:
        check("kron+matryoshka", config)
    assert "\n" not in str(caught.value)
    check("kron+matryoshka", TrainConfig(n_latents=30, k=4, base=2, extension=3, widths="6,18,30"))


def test_12_bfloat16_weights_select_the_same_latents(random):
    shape, width, k = KronShape(512, 2, 4), 256, 32
    x = torch.randn(200, width, generator=random)
    sae = SAE(KronEncoder(width, 4096, **shape._asdict()), TopK(4096, k), subtract_b_dec=False)
    sae.initialise(x, random)
    exact = sae.encode(x) > 0
    rounded = SAE(KronEncoder(width, 4096, **shape._asdict()), TopK(4096, k), scale=sae.scale, subtract_b_dec=False)
    rounded.load_state_dict(sae.state_dict())
    rounded.bfloat16()
    codes = rounded.codes(x)
    assert codes.values.dtype == torch.float32, "the gate is one in single precision"
    both_active = (exact & (codes.dense() > 0)).sum() / exact.sum()
    assert both_active > 0.99
    rounded(x).square().mean().backward()
    assert all(weight.grad.isfinite().all() for weight in rounded.parameters())


def test_a_quarter_of_all_pairs_is_active_at_the_start_on_symmetric_data(random):
    shape = KronShape(64, 2, 4)
    x = torch.randn(400, 64, generator=random)
    sae = SAE(KronEncoder(64, 512, **shape._asdict()), TopK(512, 8), subtract_b_dec=False)
    sae.initialise(torch.cat([x, -x]), random)
    active = (sae.pre_acts(torch.cat([x, -x])) > 0).double().mean().item()
    assert active == pytest.approx(0.25, abs=0.01)


# The clamp, the auxiliary loss, double backward ----------------------------------------------------------------------


@both
def test_the_clamp_bounds_the_ratio_alone_and_its_share_is_counted(random, backend):
    sae, x = some_sae(random, k=30, clamp=1.5)
    with kernels.backend(backend):
        codes = sae.codes(x)
        (grad,) = torch.autograd.grad(codes.values.sum(), sae.encoder.bias)
    pre = pre_of(sae, x).detach()
    u, v = (pre[:, rows] for rows in SHAPE.parents(torch.arange(30)))
    active = (u > 0) & (v > 0)
    expected = torch.zeros_like(pre)
    for one, other, rows in ((u, v, SHAPE.parents(torch.arange(30))[0]), (v, u, SHAPE.parents(torch.arange(30))[1])):
        slope = torch.where(active, 0.5 * (other / one).clamp_min(0).sqrt().clamp_max(1.5), 0.0)
        expected.index_add_(1, rows, slope)
    torch.testing.assert_close(grad, expected.sum(0), **EXACT)
    ratio = torch.maximum(u / v, v / u)[active]
    clamped, of = sae.encoder.take_clamped().tolist()
    assert (clamped, of) == (int((ratio > 1.5**2).sum()), int(active.sum()))
    assert 0 < clamped < of
    assert sae.encoder.take_clamped().tolist() == [0, 0]


def test_the_clamp_does_not_depend_on_the_scale_of_activations(random):
    sae, x = some_sae(random, k=30, clamp=1.5)
    grads = []
    for scale in (1.0, 1e-4):
        codes = sae.encoder.select(x * scale, sae.rule, None)
        (grad,) = torch.autograd.grad(codes.values.sum(), sae.encoder.bias)
        grads.append(grad)
        sae.encoder.bias.data.mul_(1e-4)
    torch.testing.assert_close(grads[0], grads[1], **EXACT)


@pytest.mark.parametrize("gate", ["product", "raw", "min"])
def test_gates_without_a_ratio_have_nothing_to_clamp(random, gate):
    sae, x = some_sae(random, gate=gate)
    sae(x).sum().backward()
    assert sae.encoder.take_clamped().tolist() == [0, 0]


def auxiliary(sae, x, dead, k_aux, backend="cpu"):
    """Gradients of the auxiliary loss alone: with it less without."""
    grads = []
    for some in (dead, None):
        objective = Objective(NoPenalty(), aux_coefficient=1.0, k_aux=k_aux)
        with kernels.backend(backend):
            loss = objective(sae, x * sae.scale, some)
            grads.append(torch.autograd.grad(loss.total, list(sae.parameters())))
        if some is not None:
            aux = loss.aux
    names = [name for name, _ in sae.named_parameters()]
    return aux, {name: one - other for name, one, other in zip(names, *grads, strict=True)}


DEAD = torch.tensor([1, 4, 13, 26])
K_AUX = 3


def silenced(random, gate, revival, clamp=1e9):
    """Latent 13's parents never fire, latent 26 has one that does."""
    sae, x = some_sae(random, gate=gate, revival=revival, clamp=clamp)
    base, extension = (int(rows[2]) for rows in SHAPE.parents(DEAD))
    sae.encoder.bias.data[[base, extension]] -= 6.0
    sae.encoder.bias.data[int(SHAPE.parents(DEAD)[0][3])] -= 6.0
    return sae, x


@both
@every_gate
@pytest.mark.parametrize("revival", ["soft", "post"])
def test_the_auxiliary_loss_equals_dense_autograd(random, revival, gate, backend):
    sae, x = silenced(random, gate, revival)
    aux, found = auxiliary(sae, x, DEAD, K_AUX, backend)
    scaled, pre = x * sae.scale, pre_of(sae, x)
    residual = (scaled - sae.b_dec - sae.encode(x) @ sae.W_dec).detach()
    u, v = (pre[:, rows] for rows in SHAPE.parents(DEAD))
    z = oracle(pre, SHAPE, gate)[:, DEAD]
    if revival == "soft":
        z = (functional.softplus(u) * functional.softplus(v)).sqrt()
    expected = (residual - kept(z, K_AUX) @ sae.W_dec[DEAD]).square().mean()
    torch.testing.assert_close(aux, expected.detach(), **EXACT)
    for name, parameter in sae.named_parameters():
        (wanted,) = torch.autograd.grad(expected, parameter, retain_graph=True, allow_unused=True)
        wanted = torch.zeros_like(parameter) if wanted is None else wanted
        torch.testing.assert_close(found[name], wanted, rtol=1e-8, atol=1e-10)


@both
def test_soft_revival_reaches_both_parents_of_a_silent_latent_and_post_does_not(random, backend):
    parents = torch.stack(SHAPE.parents(DEAD), 1)
    others = torch.ones(SHAPE.n_rows, dtype=torch.bool)
    others[parents.flatten()] = False
    assert others.any()
    alive = torch.ones(30, dtype=torch.bool)
    alive[DEAD] = False
    for revival in ("soft", "post"):
        state = torch.Generator().manual_seed(0)
        sae, x = silenced(state, "mand", revival)
        _, grads = auxiliary(sae, x, DEAD, len(DEAD), backend)
        per_row = grads["encoder.weight"].abs().sum(1)
        silent = per_row[parents[2]]
        assert (silent > 1e-12).all() if revival == "soft" else (silent < 1e-14).all()
        assert (per_row[parents[0]] > 1e-6).all()
        assert (per_row[others] < 1e-14).all()
        assert (grads["W_dec"][alive].abs() < 1e-14).all()
        assert grads["W_dec"][DEAD].abs().sum() > 0


def test_selecting_among_some_latents_leaves_all_other_rows_exactly_untouched(random):
    sae, x = some_sae(random)
    codes = sae.encoder.select_among(DEAD, x * sae.scale, 2, None)
    grads = torch.autograd.grad(codes.values.square().sum(), [sae.encoder.weight, sae.encoder.bias])
    touched = set(torch.cat(SHAPE.parents(DEAD)).tolist())
    assert {int(row) for row in grads[0].abs().sum(1).nonzero()} <= touched
    assert {int(row) for row in grads[1].nonzero()} <= touched
    assert set(codes.indices.flatten().tolist()) <= set(DEAD.tolist())


def test_revival_in_chunks_is_revival_at_once(random, monkeypatch):
    sae, x = silenced(random, "mand", "soft")
    whole = auxiliary(sae, x, DEAD, 2)
    monkeypatch.setattr("monosem.sae.kron._CHUNK", 3 * len(DEAD))
    parts = auxiliary(sae, x, DEAD, 2)
    torch.testing.assert_close(whole, parts, **EXACT)


def test_a_second_derivative_is_refused(random):
    sae, x = some_sae(random)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(sae(x).square().sum(), sae.encoder.weight, create_graph=True)


# Units, disk, bad input ----------------------------------------------------------------------------------------------


@every_gate
@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("units", ["scaled", "raw"])
def test_folding_changes_nothing_but_units(random, gate, units, subtract):
    sae, x = some_sae(random, gate=gate)
    sae.subtract_b_dec = subtract
    folded = sae.fold(units)
    assert folded.scale == 1
    assert folded.space == units
    torch.testing.assert_close(folded(x), sae(x), **EXACT)
    factor = 1 if units == "scaled" else sae.scale
    torch.testing.assert_close(folded.encode(x) * factor, sae.encode(x), **EXACT)
    assert abs(sae.scale - 1) > 0.1


@every_gate
@pytest.mark.parametrize("rule", ["topk", "batch_topk"])
def test_save_and_load_give_back_every_bit(random, rule, gate, tmp_path):
    rules = {"topk": TopK(30, K), "batch_topk": BatchTopK(30, K)}
    options = {"gate": gate, "clamp": 7.0, "revival": "post"}
    sae, x = some_sae(random, dtype=torch.float32, rule=rules[rule], **options)
    sae.codes(x)
    sae.eval()
    again = load(save(sae, tmp_path / "one"))
    assert again.encoder.config() == sae.encoder.config() == {**SHAPE._asdict(), **options}
    assert (again.subtract_b_dec, again.scale) == (False, sae.scale)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in sae.state_dict().items())
    assert torch.equal(again(x), sae(x))


def test_pre_latents_keep_the_shape_of_the_tokens(random):
    sae, x = some_sae(random)
    p, q = sae.pre_latents(x.view(3, 4, D))
    assert (p.shape, q.shape) == ((3, 4, 5, 2), (3, 4, 5, 3))
    assert (sae.pre_latents(x[0])[0].shape, sae.pre_latents(x[0])[1].shape) == ((5, 2), (5, 3))
    z = (p[..., None].sqrt() * q[..., None, :].sqrt()).flatten(2)
    torch.testing.assert_close(z.view(B, 30), sae.pre_acts(x), **EXACT)
    assert (p >= 0).all()
    raw, _ = some_sae(random, gate="raw")
    assert (raw.pre_latents(x)[0] < 0).any(), "two negatives make a positive there"


BAD = {
    r"heads 5 × base 2 × extension 3 = 30 latents, n_latents is 31": {"n_latents": 31},
    r"heads 0 × base 2": {"n_latents": 0, "heads": 0},
    "gate = 'and': choose one of mand, product, raw, min": {"gate": "and"},
    "clamp = 0.0: expected a positive bound": {"clamp": 0.0},
    "clamp = nan": {"clamp": float("nan")},
}


@pytest.mark.parametrize("message", BAD)
def test_wrong_shapes_and_words_are_refused_in_one_line(message):
    options = {"n_latents": 30, **SHAPE._asdict(), **BAD[message]}
    with pytest.raises(InputError, match=message) as caught:
        KronEncoder(D, options.pop("n_latents"), **options)
    assert "\n" not in str(caught.value)


def test_rules_that_need_a_row_for_each_latent_are_refused(random):
    sae, x = some_sae(random, rule=ReLU(30))
    with pytest.raises(InputError, match="use topk or batch_topk"):
        sae.codes(x)
    with pytest.raises(InputError, match=r"see sae\.encoder\.weight and sae\.encoder\.parents"):
        _ = sae.W_enc
    with pytest.raises(InputError, match="only a Kronecker encoder has pre-latents"):
        SAE(DenseEncoder(D, 5), TopK(5, 1)).pre_latents(x)


# At the edges --------------------------------------------------------------------------------------------------------


def test_soft_revival_of_parents_far_below_zero_is_finite(random):
    sae, x = some_sae(random, dtype=torch.float32)
    sae.encoder.bias.data[:5] = -200.0
    dead = torch.arange(6)
    loss = Objective(NoPenalty(), aux_coefficient=1.0, k_aux=2)(sae, x * sae.scale, dead)
    loss.total.backward()
    assert all(weight.grad.isfinite().all() for weight in sae.parameters())
