"""One training step of each autoencoder against the encoder product x @ W_enc and the plain dense reference.

A step is forward, loss, all gradients, projection, clipping, Adam, renormalisation and dead counters, no latent dead.
Everything runs in one process, interleaved; figures are medians of paired ratios. The encoder product and the dense
reference are float32 whatever --precision says.

    python bench/step.py --d-model 512 --n-latents 16384 --k 64 --batch 2048 --repeats 9 --json
    python bench/step.py --n-latents 131072 --names topk,kron --repeats 3 --json
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import paired
from monosem.kernels.reference import normalise_rows, project_rows
from monosem.training import Job, TrainConfig
from monosem.training.recipe import make


def step_arguments(description: str | None) -> argparse.ArgumentParser:
    """The shape of a training step."""
    parser = paired.arguments(description)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--n-latents", type=int, default=16384)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--base", type=int, default=4, help="base rows m of a Kronecker head")
    parser.add_argument("--extension", type=int, default=8, help="extension rows n of a Kronecker head")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    return parser


class DenseStep:
    """The plain reference: dense codes, dense products, autograd, the same optimiser steps."""

    def __init__(self, sae: nn.Module, k: int) -> None:
        self.W_enc = nn.Parameter(sae.W_enc.detach().clone().contiguous())
        self.b_enc = nn.Parameter(sae.b_enc.detach().clone())
        self.W_dec = nn.Parameter(sae.W_dec.detach().clone())
        self.b_dec = nn.Parameter(sae.b_dec.detach().clone())
        self.weights = [self.W_enc, self.b_enc, self.W_dec, self.b_dec]
        self.optimiser = torch.optim.Adam(self.weights, lr=1e-4, fused=True)
        self.k, self.last_fired = k, torch.zeros(len(self.W_dec), dtype=torch.int64)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        pre = functional.relu((x - self.b_dec) @ self.W_enc + self.b_enc)
        top = pre.topk(self.k, dim=1)
        codes = torch.zeros_like(pre).scatter(1, top.indices, top.values)
        self.fired = (codes.detach() > 0).any(0)
        return (codes @ self.W_dec + self.b_dec - x).square().mean()

    def __call__(self, x: torch.Tensor) -> None:
        self.loss(x).backward()
        with torch.no_grad():
            project_rows(self.W_dec.grad, self.W_dec)
            nn.utils.clip_grad_norm_(self.weights, 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            normalise_rows(self.W_dec)
            self.last_fired[self.fired] = 1


def make_job(name: str, options, x: torch.Tensor) -> Job:
    config = TrainConfig(
        sae=(name,),
        n_latents=options.n_latents,
        k=options.k,
        batch=options.batch,
        tokens=10**9,
        lr=1e-4,
        precision=options.precision,
        base=options.base,
        extension=options.extension,
    )
    return Job(name, *make(name, config, x), config, torch.device("cpu"))


def agreement(job: Job, dense: DenseStep, x: torch.Tensor) -> dict[str, float]:
    """Relative differences of loss and gradients from the same weights."""
    xs = x * job.sae.scale
    losses = job.objective(job.sae, xs).total, dense.loss(xs)
    for loss in losses:
        loss.backward()
    ours, reference = (loss.item() for loss in losses)
    pairs = zip(
        [job.sae.encoder.weight.grad.T, job.sae.b_enc.grad, job.sae.W_dec.grad, job.sae.b_dec.grad],
        [weight.grad for weight in dense.weights],
        strict=True,
    )
    worst = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    job.sae.zero_grad()
    dense.optimiser.zero_grad()
    return {"loss_difference": abs(ours - reference) / reference, "gradient_difference": worst}


def peak_memory(name: str, arguments: list[str]) -> float:
    """MiB a fresh process needs for two steps beyond its imports."""
    command = [sys.executable, __file__, *arguments, "--only", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory(key: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most so far. Linux keeps both in one file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def only(options) -> None:
    x = torch.randn(options.batch, options.d_model)
    before = memory("VmRSS")
    if options.only == "dense":
        job = make_job("topk", options, x)
        dense = DenseStep(job.sae, options.k)
        del job
        step = lambda: dense(x)  # noqa: E731
    else:
        one = make_job(options.only, options, x)
        step = lambda: one.step(x, 1e-4, 1, torch.tensor(1.0))  # noqa: E731
    for _ in range(2):
        step()
    print(memory("VmHWM") - before)


def encoder_bytes(job: Job) -> int:
    """Encoder parameters, their gradient and both moments of Adam."""
    return sum(4 * weight.numel() * weight.element_size() for weight in job.sae.encoder.parameters())


def main() -> None:
    parser = step_arguments(__doc__)
    parser.add_argument("--only", help="print one candidate's peak memory")
    parser.add_argument(
        "--names",
        default="topk,hierarchical,kron,batch_topk,jumprelu,kron+hierarchical,dense",
        help="candidates, topk always; `dense` is the plain reference",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.only:
        only(options)
        return
    names = options.names.split(",")
    x, sst = torch.randn(options.batch, options.d_model), torch.tensor(1.0)
    jobs = {name: make_job(name, options, x) for name in names if name != "dense"}
    weight = jobs["topk"].sae.encoder.weight.detach().T.clone()
    candidates = {"encoder_product": lambda: x @ weight}
    for name, job in jobs.items():
        candidates[name] = lambda job=job: job.step(x, 1e-4, 1, sst)
    result: dict[str, object] = {}
    if "dense" in names:
        dense = DenseStep(jobs["topk"].sae, options.k)
        result |= agreement(jobs["topk"], dense, x)
        candidates["dense"] = lambda: dense(x)
    times = paired.interleaved(candidates, options.repeats)
    result |= paired.medians(times)
    for name in names:
        result[f"{name}_over_product"] = round(paired.ratio(times, name, "encoder_product"), 3)
        result[f"{name}_over_topk"] = round(paired.ratio(times, name, "topk"), 3)
    for name in names:
        result[f"{name}_peak_MiB"] = round(peak_memory(name, sys.argv[1:]))
    result |= {f"{name}_encoder_MiB": round(encoder_bytes(job) / 2**20, 1) for name, job in jobs.items()}
    keys = ("d_model", "n_latents", "k", "batch", "base", "extension", "precision", "threads", "repeats")
    shape = {key: getattr(options, key) for key in keys}
    paired.show({**shape, "machine": platform.machine(), "torch": torch.__version__, **result}, options.json)


if __name__ == "__main__":
    main()
