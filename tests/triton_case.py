"""The Triton kernels equal the plain definitions; run by test_triton.py, in a process of its own.

With TRITON_INTERPRET=1, which has to be set before triton is imported, on the CPU; without it on a GPU.
"""

import os

import pytest
import torch

from monosem import kernels
from monosem.kernels import dispatch, reference
from monosem.kernels import triton as kernel
from monosem.sae import SAE, DenseEncoder, TopK
from monosem.sae.function import decode, nested_loss
from monosem.shapes.codes import Codes
from monosem.shapes.kron import KronShape

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
EXACT = {"rtol": 1e-12, "atol": 1e-12}
SINGLE = {"rtol": 2e-5, "atol": 2e-5}
ODD = [(1, 3, 1, 1), (7, 40, 5, 17), (9, 6, 3, 130)]
"""Tokens, latents, entries a token, width: no power of two, more columns than a tile, more tokens than a program's."""

torch.set_num_threads(1)


@pytest.fixture(params=["atomic", "owned"])
def mode(request, monkeypatch):
    if request.param == "owned":
        refuse_atomics(monkeypatch)
    torch.use_deterministic_algorithms(request.param == "owned")
    yield request.param
    torch.use_deterministic_algorithms(False)


def refuse_atomics(monkeypatch):
    """The interpreter adds in order whatever a GPU would do, so there one order shows in that no atomic runs."""
    if INTERPRETED:
        from triton.runtime.interpreter import interpreter_builder

        def refuse(*_, **__):
            raise AssertionError("an atomic addition in deterministic mode")

        monkeypatch.setattr(interpreter_builder, "create_atomic_rmw", refuse)


@pytest.fixture
def random():
    return torch.Generator(DEVICE).manual_seed(0)


class Entries:
    """Values and latents of some tokens, zeros and duplicates among them; ragged ones have empty rows."""

    def __init__(self, random, rows, n_latents, k, width, ragged=False, dtype=torch.float64):
        options = {"generator": random, "device": DEVICE}
        self.values = (torch.rand(rows, k, **options) * (torch.rand(rows, k, **options) < 0.8)).to(dtype)
        self.indices = torch.randint(n_latents, (rows, k), **options)
        counts = torch.full((rows,), k, device=DEVICE)
        self.offsets = None
        if ragged:
            keep = (torch.rand(rows, k, **options) < 0.6) & (torch.rand(rows, 1, **options) < 0.7)
            counts = keep.sum(1)
            self.offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            self.values, self.indices = self.values[keep], self.indices[keep]
        self.weight = torch.randn(n_latents, width, **options).to(dtype)
        self.x = torch.randn(rows, width, **options).to(dtype)
        self.counts, self.token = counts, torch.repeat_interleave(torch.arange(rows, device=DEVICE), counts)
        self.rank = torch.cat([torch.arange(int(count), device=DEVICE) for count in counts])

    @property
    def place(self):
        return self.indices, self.offsets

    def decoded(self, values, weight):
        """Σ of rows, without the kernels: [N, D] products, added by token."""
        rows = values.flatten()[:, None] * weight[self.indices.flatten()]
        return torch.zeros(self.x.shape, dtype=rows.dtype, device=DEVICE).index_add(0, self.token, rows)

    def scattered(self):
        rows = self.values.double().flatten()[:, None] * self.x.double()[self.token]
        return torch.zeros(self.weight.shape, dtype=torch.float64, device=DEVICE).index_add(
            0, self.indices.flatten(), rows
        )

    def dots(self):
        return (self.weight.double()[self.indices.flatten()] * self.x.double()[self.token]).sum(1)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("shape", ODD)
def test_rows_of_a_weight(random, mode, shape, ragged):
    some = Entries(random, *shape, ragged=ragged)
    found = kernel.decode(some.values, *some.place, some.weight)
    torch.testing.assert_close(found, some.decoded(some.values, some.weight), **EXACT)
    found = kernel.row_dots(*some.place, some.weight, some.x)
    torch.testing.assert_close(found.flatten(), some.dots(), **EXACT)
    found = kernel.scatter(some.values, *some.place, some.x, len(some.weight))
    torch.testing.assert_close(found, some.scattered(), **EXACT)


def test_a_row_far_longer_than_the_mean(random):
    some = Entries(random, 1, 40, 30, 9)
    some.offsets = torch.tensor([0, 0, 0, 30, 30], device=DEVICE)
    some.values, some.indices = some.values[0], some.indices[0]
    x = torch.cat([torch.full((2, 9), torch.nan, dtype=torch.float64, device=DEVICE), some.x, some.x])
    torch.testing.assert_close(kernel.row_dots(*some.place, some.weight, x), some.dots(), **EXACT)


def test_rows_without_an_entry(mode):
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE), torch.zeros(4, dtype=torch.int64, device=DEVICE)
    weight, x = torch.ones(5, 17, device=DEVICE), torch.ones(3, 17, device=DEVICE)
    assert torch.equal(kernel.decode(weight.new_zeros(0), *none, weight), torch.zeros_like(x))
    assert torch.equal(kernel.scatter(weight.new_zeros(0), *none, x, 5), torch.zeros_like(weight))
    assert kernel.row_dots(*none, weight, x).shape == (0,)
    cuts = torch.zeros(3, 2, dtype=torch.int64, device=DEVICE)
    found = kernel.nested_gradients(weight.new_zeros(0), *none, cuts, weight, x, weight.new_ones(2))
    assert found.errors.tolist() == [51.0, 51.0]
    assert torch.equal(found.target, 4 * x)
    assert not found.weight.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_run_in_single_precision(random, mode, dtype):
    # With 150 entries a row, sums in the inputs' own precision would be some ten times further off.
    some = Entries(random, 2, 3, 150, 9, dtype=dtype)
    tolerance = {"rtol": torch.finfo(dtype).eps, "atol": 1e-4}
    pairs = [
        (
            kernel.decode(some.values, *some.place, some.weight),
            some.decoded(some.values.double(), some.weight.double()),
        ),
        (kernel.row_dots(*some.place, some.weight, some.x).flatten(), some.dots()),
        (kernel.scatter(some.values, *some.place, some.x, 3), some.scattered()),
    ]
    for found, expected in pairs:
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, **tolerance)


# Nested prefixes ---------------------------------------------------------------------------------------------------


def some_cuts(some, kind, random):
    """All ranks, as one row for all tokens; some of them, entries left over; or other ones for every token."""
    rows, k = len(some.x), int(some.counts.max())
    if kind == "all":
        return torch.arange(1, k + 1, device=DEVICE).expand(rows, k)
    if kind == "some":
        return torch.tensor([1, max(1, k - 2)], device=DEVICE).expand(rows, 2).contiguous()
    places = torch.rand(rows, 3, generator=random, device=DEVICE) * (some.counts[:, None] + 1)
    return places.long().sort(dim=1).values


def nested_by_autograd(some, cuts, weights):
    """Errors, residual and gradients from products of shape [N, D] and dense autograd, in float64."""
    leaves = [tensor.double().requires_grad_() for tensor in (some.values, some.weight, some.x)]
    values, weight, target = leaves
    left = [
        target - some.decoded(values.flatten() * (some.rank < cuts[some.token, s]), weight)
        for s in range(cuts.shape[1])
    ]
    errors = torch.stack([residual.square().sum() for residual in left])
    grads = torch.autograd.grad((errors * weights).sum(), leaves)
    return errors.detach(), left[-1].detach(), *grads


NESTED = [(ODD[1], kind, False) for kind in ("all", "some", "own")]
NESTED += [(ODD[0], "all", False), (ODD[1], "own", True), (ODD[2], "own", True)]


@pytest.mark.parametrize(("shape", "kind", "ragged"), NESTED)
def test_nested(random, mode, shape, kind, ragged):
    some = Entries(random, *shape, ragged=ragged)
    cuts = some_cuts(some, kind, random)
    weights = torch.rand(cuts.shape[1], generator=random, dtype=torch.float64, device=DEVICE)
    expected = nested_by_autograd(some, cuts, weights)
    arrays = some.values, *some.place, cuts, some.weight, some.x
    for found, wanted in zip(kernel.nested(*arrays), expected[:2], strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)
    for found, wanted in zip(kernel.nested_gradients(*arrays, weights), expected, strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)


def test_entries_after_the_last_cut_get_exactly_nothing(random, mode):
    some = Entries(random, 7, 40, 5, 17, dtype=torch.float32)
    some.indices += 40 * (some.rank.view_as(some.indices) >= 2)
    weight = torch.cat([some.weight, some.weight])
    cuts = torch.tensor([[1, 2]], device=DEVICE).expand(7, 2)
    found = kernel.nested_gradients(some.values, some.indices, None, cuts, weight, some.x, weight.new_ones(2))
    assert not found.values[:, 2:].any()
    assert not found.weight[40:].any()
    assert found.weight[:40].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nested_in_lower_precision(random, mode, dtype):
    some = Entries(random, 3, 20, 20, 33, dtype=dtype)
    cuts, weights = some_cuts(some, "all", random), torch.ones(20, device=DEVICE)
    found = kernel.nested_gradients(some.values, *some.place, cuts, some.weight, some.x, weights)
    expected = nested_by_autograd(some, cuts, weights)
    assert [tensor.dtype for tensor in found] == [torch.float64] + 4 * [torch.float32]
    for tensor, wanted in zip(found, expected, strict=True):
        # The inputs are those of the oracle: what differs is the rounding of single-precision sums.
        torch.testing.assert_close(tensor.double(), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


# Selection ---------------------------------------------------------------------------------------------------------


def some_pre(random, rows, n_latents, ties=False):
    pre = torch.randn(rows, n_latents, generator=random, device=DEVICE)
    return (pre * 2).round() / 2 if ties else pre


def assert_same(found, expected):
    """Values to the bit, and the same latents wherever there is a value; no latent but 0 elsewhere."""
    assert found.values.dtype == expected.values.dtype
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.indices, torch.where(expected.values > 0, expected.indices, 0))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n_latents", "k"), [(1, 1), (40, 40), (130, 3), (1000, 1), (1000, 5)])
def test_topk(random, n_latents, k, ties):
    pre = some_pre(random, 3, n_latents, ties)
    pre[1] -= 2.5
    pre[2] = 0
    assert_same(kernel.topk(pre, k), reference.topk(pre, k))
    bias = some_pre(random, 1, n_latents, ties)[0]
    assert_same(kernel.topk(pre, k, bias), reference.topk(pre, k, bias))


def test_topk_of_a_row_of_equal_values_takes_the_first():
    pre = torch.ones(1, 700, device=DEVICE)
    pre[0, 650] = 2
    assert kernel.topk(pre, 5).indices.tolist() == [[650, 0, 1, 2, 3]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_topk_adds_a_bias_in_single_precision(random, dtype):
    pre, bias = some_pre(random, 2, 600).bfloat16(), some_pre(random, 1, 600)[0].to(dtype)
    expected = reference.topk(pre.float(), 9, bias.float())
    assert_same(kernel.topk(pre, 9, bias), expected._replace(values=expected.values.to(dtype)))
    assert_same(kernel.topk(pre, 9), reference.topk(pre, 9))


@pytest.mark.parametrize("low", [False, True])
def test_topk_of_a_product(random, low):
    x, weight = some_pre(random, 3, 17), some_pre(random, 200, 17)
    bias = some_pre(random, 1, 200)[0]
    found, expected = kernel.linear_topk(x, weight, bias, 40, low), reference.linear_topk(x, weight, bias, 40, low)
    torch.testing.assert_close(found.values, expected.values, **SINGLE)
    assert torch.equal(found.indices, expected.indices)


def test_topk_of_doubles_stays_double(random):
    pre = some_pre(random, 2, 50).double() * (1 + 1e-12)
    assert_same(kernel.topk(pre, 4), reference.topk(pre, 4))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("rows", "n_latents", "k"), [(1, 3, 1), (7, 130, 5), (4, 6, 60)])
def test_ragged_rules(random, rows, n_latents, k, ties):
    pre, low = some_pre(random, rows, n_latents, ties), some_pre(random, 1, n_latents, ties)[0]
    pairs = [
        (kernel.batch_topk(pre, k), reference.batch_topk(pre, k)),
        (kernel.batch_topk(pre - 2.5, k), reference.batch_topk(pre - 2.5, k)),
        (kernel.above(pre, low), reference.above(pre, low)),
    ]
    for found, expected in pairs:
        for tensor, wanted in zip(found, expected, strict=True):
            assert torch.equal(tensor, wanted)
    assert kernel.count_above(pre, low) == int((pre > low).sum())


GATES = ["mand", "product", "raw", "min"]
KRON = [(1, 1, 1, 1), (30, 2, 3, 4), (5, 3, 7, 9), (3, 1, 5, 2), (4, 5, 1, 3), (2, 2, 2, 20)]
"""Heads, base, extension, k: fewer and more heads than k, one base, one extension, more k than latents."""


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("sizes", KRON)
def test_kron_topk(random, sizes, gate, ties):
    shape, k = KronShape(*sizes[:3]), sizes[3]
    pre = some_pre(random, 2, shape.n_rows, ties)
    pre[1] -= 1  # few products of two positive ones; many of two negative ones
    assert_same(kernel.kron_topk(pre, shape, gate, k), reference.kron_topk(pre, shape, gate, k))


def test_kron_products_of_tiny_and_of_double_factors(random):
    shape = KronShape(3, 2, 2)
    pre = some_pre(random, 2, shape.n_rows).abs() * 1e-18
    found = kernel.kron_topk(pre, shape, "mand", 5)
    assert_same(found, reference.kron_topk(pre, shape, "mand", 5))
    assert (found.values > 1e-19).all()  # the product is 1e-36; half precision of it would be nothing
    assert_same(kernel.kron_topk(pre.double(), shape, "mand", 5), reference.kron_topk(pre.double(), shape, "mand", 5))


def test_pruning_looks_at_few_candidates(random, monkeypatch):
    looked = []
    strongest = kernel._strongest
    monkeypatch.setattr(kernel, "_strongest", lambda keys, k: looked.append(keys.shape[1]) or strongest(keys, k))
    kernel.topk(some_pre(random, 1, 3000), 3)
    assert looked == [94, 96]  # blocks of 32, then three of them, out of 3,000
    looked.clear()
    shape = KronShape(50, 3, 4)
    assert_same(
        kernel.kron_topk(pre := some_pre(random, 1, shape.n_rows), shape, "mand", 4),
        reference.kron_topk(pre, shape, "mand", 4),
    )
    assert looked == [50, 12, 16]  # heads, bases of four, pairs of four bases, out of 600


def test_every_operation_has_a_triton_form():
    assert [name for name in dispatch.OPERATIONS if not callable(getattr(kernel, name, None))] == []


# Autograd ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def backend():
    with kernels.backend("triton"):
        yield


@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_of_decoding(random, mode, backend, ragged):
    some = Entries(random, 7, 40, 5, 17, ragged=ragged)
    leaves = [some.values.requires_grad_(), some.weight.requires_grad_()]
    codes = Codes(some.values, some.indices, 40, some.offsets)
    cuts, weights = some_cuts(some, "own", random), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, device=DEVICE)
    found = torch.autograd.grad((decode(codes, some.weight) * some.x).sum(), leaves)
    expected = torch.autograd.grad((some.decoded(some.values, some.weight) * some.x).sum(), leaves)
    for tensor, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(tensor, wanted, **EXACT)
    loss = nested_loss(codes, cuts, some.weight, some.x, weights)[0]
    for tensor, wanted in zip(torch.autograd.grad(3 * loss, leaves), nested_by_autograd(some, cuts, 3 * weights)[2:4]):
        torch.testing.assert_close(tensor, wanted, **EXACT)


def test_gradients_of_a_topk_autoencoder(random, mode, backend):
    width, n_latents, k = 17, 90, 4
    sae = SAE(DenseEncoder(width, n_latents), TopK(n_latents, k)).to(DEVICE)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_(generator=random)
    x = torch.randn(6, width, generator=random, device=DEVICE)
    parameters = [sae.W_dec, sae.b_dec, sae.encoder.weight, sae.encoder.bias]
    acts = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
    kept = torch.zeros_like(acts).scatter_(1, acts.topk(k).indices, 1.0)
    expected = torch.autograd.grad(((acts * kept) @ sae.W_dec + sae.b_dec - x).square().mean(), parameters)
    for tensor, wanted in zip(torch.autograd.grad((sae(x) - x).square().mean(), parameters), expected, strict=True):
        torch.testing.assert_close(tensor, wanted, **SINGLE)


def test_two_runs_in_deterministic_mode_are_bitwise_equal(random, monkeypatch):
    rows = 9 if INTERPRETED else 4000
    some = Entries(random, rows, 6, 4, 40, dtype=torch.float32)
    cuts, weights = some_cuts(some, "all", random), torch.ones(4, device=DEVICE)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (
            (
                kernel.scatter(some.values, *some.place, some.x, 6),
                *kernel.nested_gradients(some.values, *some.place, cuts, some.weight, some.x, weights),
            )
            for _ in range(2)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
