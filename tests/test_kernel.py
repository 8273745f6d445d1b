"""Every fast kernel equals the plain definition, on odd shapes, ties, zeros and empty rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem import kernels
from monosem.kernels import cpu, reference
from monosem.shapes import InputError

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
            results.append([*batch, weight, cpu.decode(*selected, weight), cpu.row_dots(*selected[1:], weight, x)])
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
