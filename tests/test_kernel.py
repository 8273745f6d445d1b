"""Every fast kernel equals the plain definition, on odd shapes, ties, zeros and empty rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem import kernels
from monosem.kernels import cpu, reference
from monosem.shapes import InputError, KronShape

shapes = st.tuples(st.integers(1, 9), st.integers(1, 70), st.integers(1, 70), st.integers(0, 10**6))


def some_pre(rows: int, n_latents: int, seed: int, ties: bool) -> torch.Tensor:
    pre = torch.randn(rows, n_latents, generator=torch.Generator().manual_seed(seed))
    return (pre * 2).round() / 2 if ties else pre


@settings(max_examples=60, deadline=None)
@given(shapes, st.booleans())
def test_topk_equals_the_sort(shape, ties):
    rows, n_latents, k, seed = shape
    k = min(k, n_latents)
    pre = some_pre(rows, n_latents, seed, ties)
    found, expected = cpu.topk(pre, k), reference.topk(pre, k)
    assert torch.equal(found.values, expected.values)
    active = expected.values > 0
    assert torch.equal(found.indices[active], expected.indices[active])


@settings(max_examples=60, deadline=None)
@given(shapes, st.booleans())
def test_batch_topk_equals_the_sort(shape, ties):
    rows, n_latents, k, seed = shape
    pre = some_pre(rows, n_latents, seed, ties)
    for found, expected in zip(cpu.batch_topk(pre, k), reference.batch_topk(pre, k), strict=True):
        assert torch.equal(found, expected)


@settings(max_examples=30, deadline=None)
@given(shapes, st.booleans())
def test_above_equals_the_definition(shape, ties):
    rows, n_latents, _, seed = shape
    pre = some_pre(rows, n_latents, seed, ties)
    low = some_pre(1, n_latents, seed + 1, ties)[0]
    for found, expected in zip(cpu.above(pre, low), reference.above(pre, low), strict=True):
        assert torch.equal(found, expected)
    assert cpu.count_above(pre, low) == reference.count_above(pre, low) == int((pre > low).sum())


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("zeros", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("rows", "n_latents", "k", "width"), [(1, 3, 1, 1), (7, 40, 5, 33), (64, 300, 9, 130)])
def test_rows_of_a_weight_equal_dense_products(ragged, zeros, rows, n_latents, k, width):
    generator = torch.Generator().manual_seed(rows + k)
    values = torch.rand(rows, k, generator=generator, dtype=torch.float64)
    values *= torch.rand(rows, k, generator=generator) >= zeros
    indices = torch.randint(n_latents, (rows, k), generator=generator)
    weight = torch.randn(n_latents, width, generator=generator, dtype=torch.float64)
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    dense = torch.zeros(rows, n_latents, dtype=torch.float64).scatter_add_(1, indices, values)
    expected_dots = torch.einsum("bkd,bd->bk", weight[indices], x)
    offsets = None
    if ragged:
        keep = torch.rand(rows, k, generator=generator) < 0.5
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), keep.sum(1).cumsum(0)])
        dense = torch.zeros_like(dense).scatter_add_(1, indices, values * keep)
        values, indices, expected_dots = values[keep], indices[keep], expected_dots[keep]
    for kernel in (cpu, reference):
        torch.testing.assert_close(kernel.decode(values, indices, offsets, weight), dense @ weight)
        torch.testing.assert_close(kernel.row_dots(indices, offsets, weight, x), expected_dots)
        torch.testing.assert_close(kernel.scatter(values, indices, offsets, x, n_latents), dense.T @ x)


def assert_same_latents(found, expected):
    """Values to the bit; latents wherever there is a value, and 0 elsewhere."""
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.indices, torch.where(expected.values > 0, expected.indices, 0))


@settings(max_examples=40, deadline=None)
@given(shapes, st.booleans())
def test_topk_adds_a_bias_before_it_selects(shape, ties):
    rows, n_latents, k, seed = shape
    pre, bias = some_pre(rows, n_latents, seed, ties), some_pre(1, n_latents, seed + 1, ties)[0]
    before = pre.clone()
    found = cpu.topk(pre, min(k, n_latents), bias)
    assert_same_latents(found, reference.topk(pre + bias, min(k, n_latents)))
    assert torch.equal(pre, before), "the products are not changed"


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 5), st.integers(1, 5), st.integers(1, 20), st.integers(0, 10**6)),
    st.sampled_from(["mand", "product", "raw", "min"]),
    st.booleans(),
    st.sampled_from([0.0, 1.0]),
)
def test_kron_topk_equals_the_sort_of_all_products(sizes, gate, ties, lower):
    heads, base, extension, k, seed = sizes
    shape = KronShape(heads, base, extension)
    pre = some_pre(4, shape.n_rows, seed, ties) - lower
    k = min(k, shape.n_latents)
    found, expected = cpu.kron_topk(pre, shape, gate, k), reference.kron_topk(pre, shape, gate, k)
    # torch's root of float32 is not correctly rounded.
    torch.testing.assert_close(found.values, expected.values, rtol=1e-6 if gate == "mand" else 0, atol=0)
    assert torch.equal(found.indices, torch.where(expected.values > 0, expected.indices, 0))


@pytest.mark.parametrize("gate", ["mand", "product", "raw", "min"])
def test_kron_topk_of_equal_products_takes_the_first(gate):
    shape = KronShape(3, 2, 2)
    found = cpu.kron_topk(torch.ones(1, shape.n_rows), shape, gate, 5)
    assert found.indices.tolist() == [[0, 1, 2, 3, 4]]
    assert found.values.tolist() == [[1.0] * 5]


def test_kron_topk_of_tiny_factors_takes_roots_of_each():
    pre = torch.full((1, 2), 2e-22)  # the product, 4e-44, has 28 units in its last place
    for kernel in (cpu, reference):
        value = kernel.kron_topk(pre, KronShape(1, 1, 1), "mand", 1).values.item()
        assert value == pytest.approx(2e-22, rel=1e-6, abs=0)


def nested_case(seed, rows, n_latents, k, width, ragged, dtype=torch.float64, n_cuts=4):
    """Entries with zeros and duplicates; cuts of every token for itself, some equal, some 0, some before the end."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(rows, k, generator=generator, dtype=dtype)
    values *= torch.rand(rows, k, generator=generator) < 0.8
    indices = torch.randint(n_latents, (rows, k), generator=generator)
    counts, offsets = torch.full((rows,), k), None
    if ragged:
        keep = (torch.rand(rows, k, generator=generator) < 0.6) & (torch.rand(rows, 1, generator=generator) < 0.8)
        counts, values, indices = keep.sum(1), values[keep], indices[keep]
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    cuts = (torch.rand(rows, n_cuts, generator=generator) * (counts[:, None] + 1)).long().sort(dim=1).values
    weight = torch.randn(n_latents, width, generator=generator, dtype=dtype)
    target = torch.randn(rows, width, generator=generator, dtype=dtype)
    return (values, indices, offsets, cuts, weight, target), torch.rand(n_cuts, generator=generator, dtype=dtype)


def nested_by_autograd(arguments, weights):
    """Products of shape [N, D] added by token, a mask for every cut, dense autograd."""
    values, indices, offsets, cuts, weight, target = arguments
    counts = torch.full((len(target),), values.shape[-1]) if offsets is None else offsets.diff()
    token = torch.repeat_interleave(torch.arange(len(target)), counts)
    rank = torch.cat([torch.arange(int(count)) for count in counts])
    leaves = [tensor.clone().requires_grad_() for tensor in (values, weight, target)]
    rows = leaves[0].flatten()[:, None] * leaves[1][indices.flatten()]
    left = [
        leaves[2] - torch.zeros_like(target).index_add(0, token, rows * (rank < cuts[token, s])[:, None])
        for s in range(cuts.shape[1])
    ]
    errors = torch.stack([residual.square().sum() for residual in left])
    return errors.detach(), left[-1].detach(), *torch.autograd.grad((errors * weights).sum(), leaves)


@pytest.mark.parametrize("n_cuts", [1, 4])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("sizes", [(1, 3, 1, 1), (7, 10, 5, 33), (20, 30, 9, 130)])
def test_nested_prefixes_equal_dense_autograd(sizes, ragged, n_cuts):
    arguments, weights = nested_case(sum(sizes), *sizes, ragged, n_cuts=n_cuts)
    expected = nested_by_autograd(arguments, weights)
    for kernel in (cpu, reference):
        found = kernel.nested_gradients(*arguments, weights)
        assert found.errors.dtype == torch.float64
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        for one, other in zip(kernel.nested(*arguments), expected[:2], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_nested_prefixes_in_single_precision_and_shared_cuts():
    arguments, weights = nested_case(0, 20, 30, 9, 130, ragged=False, dtype=torch.float32)
    shared = torch.tensor([1, 4, 9, 9])[None].expand(20, 4)
    arguments = (*arguments[:3], shared, *arguments[4:])
    exact = [tensor.double() if tensor is not None and tensor.is_floating_point() else tensor for tensor in arguments]
    expected = nested_by_autograd(exact, weights.double())
    for kernel in (cpu, reference):
        for one, other in zip(kernel.nested_gradients(*arguments, weights), expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
        own = kernel.nested_gradients(*arguments[:3], shared.contiguous(), *arguments[4:], weights)
        assert all(torch.equal(*pair) for pair in zip(own, kernel.nested_gradients(*arguments, weights), strict=True))


@pytest.mark.parametrize("kernel", [cpu, reference])
@pytest.mark.parametrize("ends", [[3], [0, 1, 3]])
def test_entries_after_the_last_cut_are_as_if_they_were_not_there(kernel, ends):
    arguments, weights = nested_case(3, 7, 10, 5, 33, ragged=False)
    values, indices, _, _, weight, target = arguments
    cuts, weights = torch.tensor(ends)[None].expand(7, -1), weights[: len(ends)]
    whole = kernel.nested_gradients(values, indices, None, cuts, weight, target, weights)
    shorter = values[:, :3].contiguous(), indices[:, :3].contiguous()
    cut = kernel.nested_gradients(*shorter, None, cuts, weight, target, weights)
    assert not whole.values[:, 3:].any()
    assert torch.equal(whole.values[:, :3], cut.values)
    assert all(torch.equal(getattr(whole, name), getattr(cut, name)) for name in ("errors", "residual", "weight"))


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize(("rows", "n_latents", "k", "width"), [(2, 3, 3, 1), (70, 400, 40, 33)])
def test_linear_topk_selects_from_the_product(rows, n_latents, k, width, low):
    generator = torch.Generator().manual_seed(rows)
    x, weight = (torch.randn(size, width, generator=generator) for size in (rows, n_latents))
    bias = torch.randn(n_latents, generator=generator)
    expected = reference.linear_topk(x, weight, bias, k, low)
    found = cpu.linear_topk(x, weight, bias, k, low)
    torch.testing.assert_close(found.values, expected.values)
    same = (found.indices == expected.indices) | (expected.values == 0)
    assert same.double().mean() > 0.99
    assert low or same.all()
    assert (found.values.diff(dim=1) <= 0).all()
    exact = (x @ weight.T + bias).relu()
    torch.testing.assert_close(found.values, exact.gather(1, found.indices) * (found.values > 0))


def test_rows_are_projected_and_normalised_in_place():
    generator = torch.Generator().manual_seed(0)
    weight, grad = torch.randn(50, 33, generator=generator), torch.randn(50, 33, generator=generator)
    weight[3] = 0
    results = []
    for kernel in (cpu, reference):
        unit, projected = weight.clone(), grad.clone()
        kernel.normalise_rows(unit)
        kernel.project_rows(projected, unit)
        results.append((unit, projected))
    torch.testing.assert_close(results[0], results[1])
    unit, projected = results[0]
    assert (unit.norm(dim=1) - 1).abs()[weight.norm(dim=1) > 0].max() < 1e-6
    assert (unit * projected).sum(1).abs().max() < 1e-5
    torch.testing.assert_close(projected, grad - (grad * unit).sum(1, keepdim=True) * unit)


def test_results_do_not_depend_on_the_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    pre, x = torch.randn(50, 400, generator=generator), torch.randn(50, 48, generator=generator)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            selected = cpu.topk(pre, 7)
            batch = cpu.batch_topk(pre, 7)
            weight = cpu.scatter(*selected, x, 400)
            kron = cpu.kron_topk(pre, KronShape(40, 4, 6), "mand", 7)[:2]
            nested = cpu.nested(*selected, torch.arange(1, 8).expand(50, 7), weight, x)
            rows = [*kron, *nested, cpu.decode(*selected, weight), cpu.row_dots(*selected[1:], weight, x)]
            results.append([*batch, weight, *rows])
    finally:
        torch.set_num_threads(before)
    for one in results[1:]:
        assert all(torch.equal(found, expected) for found, expected in zip(one, results[0], strict=True))


def test_float64_and_non_contiguous_inputs():
    pre = torch.randn(30, 20, dtype=torch.float64).T
    with kernels.backend("cpu"):
        found = kernels.topk(pre, 4)
    np.testing.assert_array_equal(found.values, reference.topk(pre, 4).values)


def test_a_backend_that_cannot_run_says_why():
    with pytest.raises(InputError, match="unknown kernel backend 'cuda'"), kernels.backend("cuda"):
        pass
    with kernels.backend("cpu"), pytest.raises(InputError, match="bfloat16"):
        kernels.topk(torch.zeros(2, 3, dtype=torch.bfloat16), 1)


@pytest.mark.parametrize("kernel", [cpu, reference])
def test_projection_leaves_only_what_changes_directions(kernel):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    kernel.normalise_rows(weight)
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(6, dtype=torch.float64))
    grad = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    expected = grad - (grad * weight).sum(1, keepdim=True) * weight
    kernel.project_rows(grad, weight)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("low", [False, True])
def test_a_fused_product_selects_and_its_values_are_exact(low, monkeypatch):
    """In parts of three rows; with low products the order may differ, never a value."""
    monkeypatch.setattr(cpu, "_ROWS", 3)
    monkeypatch.setattr(cpu, "_PRODUCTS", 1)
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(8, 12, generator=generator), torch.randn(70, 12, generator=generator)
    bias = torch.randn(70, generator=generator)
    found, expected = cpu.linear_topk(x, weight, bias, 9, low), reference.linear_topk(x, weight, bias, 9, low)
    torch.testing.assert_close(found.values, expected.values)
    dense = x @ weight.T + bias
    active = found.values > 0
    torch.testing.assert_close(found.values[active], dense.gather(1, found.indices)[active])
    assert (found.values.diff(dim=1) <= 0).all()
    if not low:
        assert torch.equal(found.indices[active], dense.relu().topk(9).indices[active])


@pytest.mark.parametrize("low", [False, True])
def test_no_token_gives_no_entry(low):
    found = cpu.linear_topk(torch.zeros(0, 4), torch.zeros(9, 4), torch.zeros(9), 2, low)
    assert found.values.shape == found.indices.shape == (0, 2)
