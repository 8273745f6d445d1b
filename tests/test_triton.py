"""Triton kernels: their cases run in a process of their own, and every kernel compiles for a GPU without one."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

CASES = Path(__file__).with_name("triton_case.py")
MODES = ["1", "0"] if torch.cuda.is_available() else ["1"]

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is made for Linux")


def run(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("interpret", MODES)
def test_kernels_equal_the_definitions(interpret):
    """On the CPU by Triton's interpreter; where there is a GPU, on it too."""
    run("-m", "pytest", str(CASES), TRITON_INTERPRET=interpret)


@pytest.mark.slow
def test_some_kernels_equal_the_definitions():
    """Selection, a sum of rows and a walk over cuts, by Triton's interpreter."""
    some = "test_topk or test_ragged_rules or test_kron_topk or test_rows_without or own-False"
    assert "passed" in run("-m", "pytest", str(CASES), "-k", some, TRITON_INTERPRET="1")


def test_triton_is_imported_with_its_kernels_alone():
    run("-c", "import sys, monosem.kernels, monosem.sae; assert 'triton' not in sys.modules")


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type
from monosem.kernels import triton as kernel
from monosem.shapes import KronShape

compiled = set()

def compile_only(function, grid, *arguments):
    assert len(arguments) == len(function.params)
    signature, constants = {}, {}
    for place, (parameter, argument) in enumerate(zip(function.params, arguments)):
        fixed = parameter.is_constexpr or argument is None
        signature[parameter.name] = "constexpr" if fixed else mangle_type(argument)
        if fixed:
            constants[(place,)] = argument
    source = ASTSource(function, signature, constants)
    triton.compile(source, target=GPUTarget("cuda", 90, 32))
    compiled.add(function.__name__)

kernel._launch = compile_only
indices, ends = torch.zeros(3, 2, dtype=torch.int64), None
cuts = torch.ones(3, 1, dtype=torch.int64)
for dtype in (torch.float32, torch.bfloat16, torch.float64):
    values, weight, x = (torch.zeros(size, dtype=dtype) for size in ((3, 2), (7, 200), (3, 200)))
    kernel.decode(values, indices, None, weight)
    kernel.row_dots(indices, None, weight, x)
    for owned in (False, True):
        torch.use_deterministic_algorithms(owned)
        kernel.scatter(values, indices, None, x, 7)
        kernel.nested_gradients(values, indices, None, cuts, weight, x, weight[0, :1])
    if dtype != torch.float64:
        kernel.topk(torch.zeros(3, 700, dtype=dtype), 2)
        kernel.topk(torch.zeros(3, 700, dtype=dtype), 2, torch.zeros(700))
        for gate in ("product", "raw", "min"):
            kernel.kron_topk(torch.zeros(3, 35, dtype=dtype), KronShape(5, 3, 4), gate, 2)
kernels = {name for name in vars(kernel) if hasattr(getattr(kernel, name), "params")}
print(*sorted(kernels - compiled))
"""


@pytest.mark.slow
def test_every_kernel_compiles_for_a_gpu(tmp_path):
    """The interpreter takes what the compiler refuses: types that change in a loop, sizes that are no constants."""
    not_compiled = run("-c", COMPILE, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path)).split()
    assert not_compiled == ["_entry", "_extremes", "_key", "_place", "_span"]  # parts of other kernels
