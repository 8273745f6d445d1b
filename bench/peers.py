"""One training step of monosem and of three other libraries on the same batch, over the bare encoder product.

`make bench-peers` builds the environment this runs in and measures both shapes. CPU, float32, one process, interleaved;
figures are medians of paired ratios. Every library is set up and stepped as its own trainer does it, with its own
optimiser, and no latent is dead in any. What a step includes stands beside each in PEERS.

    python bench/peers.py --d-model 512 --n-latents 16384 --k 64 --batch 2048 --repeats 9 --json
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import paired
from step import make_job, memory, step_arguments

LR = 1e-4
Step = Callable[[], object]


def ours(options: argparse.Namespace, x: Tensor) -> Step:
    job = make_job("topk", options, x)
    return lambda: job.step(x, LR, 1, (x - x.mean(0)).square().sum())


def sae_lens(options: argparse.Namespace, x: Tensor, **settings: bool) -> Step:
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    shape = {"d_in": options.d_model, "d_sae": options.n_latents, "k": options.k}
    config = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=options.batch, lr=LR, lr_end=LR / 10
    )
    trainer = SAETrainer(config, TopKTrainingSAE(TopKTrainingSAEConfig(**shape, **settings)), itertools.repeat(x))
    kept = {}

    def step() -> None:
        trainer.maybe_reset_sparsity()
        # Its loop holds a step's output until the next one's replaces it.
        kept["output"] = trainer.step(x)
        trainer.n_training_steps += 1

    return step


def sae_lens_sparse(options: argparse.Namespace, x: Tensor) -> Step:
    # With its default, codes scaled by decoder norms, sparse codes do not run on a CPU.
    return sae_lens(options, x, use_sparse_activations=True, rescale_acts_by_decoder_norm=False)


def dictionary_learning(options: argparse.Namespace, x: Tensor) -> Step:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10**6,
        activation_dim=options.d_model,
        dict_size=options.n_latents,
        k=options.k,
        layer=0,
        lm_name="",
        lr=LR,
        device="cpu",
    )
    trainer.update(0, x)
    # The running threshold joins in after step 1,000.
    steps = itertools.count(trainer.threshold_start_step + 1)
    return lambda: trainer.update(next(steps), x)


def eai_sparsify(options: argparse.Namespace, x: Tensor) -> Step:
    from transformers import get_linear_schedule_with_warmup

    coder = sparse_coder(options, x)
    optimiser = torch.optim.Adam(coder.parameters(), lr=LR)
    return sparsify_step(coder, x, optimiser, get_linear_schedule_with_warmup(optimiser, 1000, 10**6))


def eai_sparsify_signum(options: argparse.Namespace, x: Tensor) -> Step:
    from schedulefree import ScheduleFreeWrapper
    from sparsify.sign_sgd import SignSGD

    coder = sparse_coder(options, x)
    optimiser = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=LR), momentum=0.95)
    optimiser.train()
    return sparsify_step(coder, x, optimiser, None)


def sparse_coder(options: argparse.Namespace, x: Tensor):
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(
        options.d_model, SparseCoderConfig(num_latents=options.n_latents, k=options.k), dtype=torch.float32
    )
    coder.b_dec.data = x.mean(0)
    return coder


def sparsify_step(coder, x: Tensor, optimiser, scheduler) -> Step:
    """One pass through the hook and the end of the loop of its trainer, which cannot be called without a model."""
    silent = torch.zeros(coder.num_latents, dtype=torch.long)
    fired = torch.zeros(coder.num_latents, dtype=torch.bool)

    def step() -> None:
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x, y=x, total_variance=(x - x.mean(0)).pow(2).sum())
        fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        out.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        if scheduler is not None:
            scheduler.step()
        silent.add_(len(x))
        silent[fired] = 0
        fired.zero_()

    return step


class Peer(NamedTuple):
    """A library: its name on the package index, the module of its step, how a step is made, what it includes."""

    package: str
    module: str
    make: Callable[[argparse.Namespace, Tensor], Step]
    step: str


LENS = "gradients, firing counts, clipping, Adam, schedule"
SPARSIFY = (
    "decoder to unit norm, fused encoder, embedding-bag decoder, loss as a share of variance, gradients, projection"
)
PEERS = {
    "ours": Peer(
        "monosem",
        "monosem.training.job",
        ours,
        "`Job.step`: top-k codes, loss, gradients, projection, clipping, fused Adam, decoder to unit norm, counters, "
        "log sums",
    ),
    "sae_lens": Peer(
        "sae-lens",
        "sae_lens.training.sae_trainer",
        sae_lens,
        f"`SAETrainer.step`: dense codes scaled by decoder norms, loss, {LENS}",
    ),
    "sae_lens_sparse": Peer(
        "sae-lens",
        "sae_lens.training.sae_trainer",
        sae_lens_sparse,
        f"`SAETrainer.step` with its option for sparse codes, not scaled: loss, {LENS}",
    ),
    "dictionary_learning": Peer(
        "dictionary-learning",
        "dictionary_learning.trainers.top_k",
        dictionary_learning,
        "`TopKTrainer.update`: dense codes, loss, gradients, projection, clipping, Adam, schedule, decoder to unit "
        "norm, running threshold, counters",
    ),
    "eai_sparsify": Peer(
        "eai-sparsify",
        "sparsify",
        eai_sparsify,
        f"`SparseCoder` in the order of its `Trainer`: {SPARSIFY}, Adam, schedule, counters",
    ),
    "eai_sparsify_signum": Peer(
        "eai-sparsify",
        "sparsify",
        eai_sparsify_signum,
        f"the same with its default optimiser, schedule-free signum (one moment): {SPARSIFY}, signum, counters",
    ),
}


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    # Its Triton decoder is for GPUs; asked for on a CPU it would fail.
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    if options.memory:
        print(*peak(options.memory, options))
        return
    failed = {name: reason for name in options.only if (reason := why_not(name))}
    names = [name for name in options.only if name not in failed]
    for name, reason in failed.items():
        print(f"{name} is not measured: {reason}", file=sys.stderr)
    result = described(options, names) | measured(names, options)
    steps = {name: PEERS[name].step for name in names}
    paired.show(result | {"step": steps, "not_measured": failed}, options.json)


def arguments() -> argparse.Namespace:
    parser = step_arguments(__doc__)
    parser.add_argument("--only", type=named, default=list(PEERS), help="some of " + ",".join(PEERS))
    parser.add_argument("--memory", choices=list(PEERS), help="print one library's peak memory")
    options = parser.parse_args()
    if options.precision != "float32":
        parser.error("the libraries are compared in float32: leave --precision out")
    return options


def named(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"{name!r}: choose from {','.join(PEERS)}")
    return names


def why_not(name: str) -> str:
    """The reason why a library cannot be imported, or nothing."""
    try:
        load(name)
    except Exception as error:  # noqa: BLE001 (anything may go wrong in a foreign import; the rest is still measured)
        return f"{type(error).__name__}: {error}"
    return ""


def load(name: str) -> None:
    # One of them prints while it is imported, which would end up in the JSON.
    with redirect_stdout(sys.stderr):
        __import__(PEERS[name].module)


def made(name: str, options: argparse.Namespace, x: Tensor) -> Step:
    torch.manual_seed(0)
    with redirect_stdout(sys.stderr):
        return PEERS[name].make(options, x)


def described(options: argparse.Namespace, names: list[str]) -> dict[str, object]:
    keys = ("d_model", "n_latents", "k", "batch", "threads", "repeats")
    about = {"machine": platform.machine(), "torch": torch.__version__}
    versions = {PEERS[name].package: metadata.version(PEERS[name].package) for name in names}
    return {key: getattr(options, key) for key in keys} | about | {"versions": versions}


def measured(names: list[str], options: argparse.Namespace) -> dict[str, object]:
    torch.manual_seed(0)
    x = torch.randn(options.batch, options.d_model)
    weight = torch.randn(options.n_latents, options.d_model)
    candidates: dict[str, Step] = {"encoder_product": lambda: functional.linear(x, weight)}
    candidates |= {name: made(name, options, x) for name in names}
    times = paired.interleaved(candidates, options.repeats)
    result: dict[str, object] = dict(paired.medians(times))
    for name in names:
        result[f"{name}_over_product"] = round(paired.ratio(times, name, "encoder_product"), 3)
        if "ours" in names and name != "ours":
            result[f"{name}_over_ours"] = round(paired.ratio(times, name, "ours"), 3)
    candidates.clear()
    for name in names:
        result |= peak_of_process(name)
    return result


def peak_of_process(name: str) -> dict[str, int]:
    command = [sys.executable, __file__, *sys.argv[1:], "--memory", name]
    step, process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return {f"{name}_peak_MiB": round(float(step)), f"{name}_process_MiB": round(float(process))}


def peak(name: str, options: argparse.Namespace) -> list[float]:
    """MiB this process needs for two steps beyond its code and the batch, and altogether."""
    load(name)
    small = argparse.Namespace(**vars(options) | {"d_model": 32, "n_latents": 128, "k": 4, "batch": 16})
    # Some code is compiled or loaded at the first step; imports count for nobody.
    made(name, small, torch.randn(small.batch, small.d_model))()
    x = torch.randn(options.batch, options.d_model)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = memory("VmRSS")
    step = made(name, options, x)
    step()
    step()
    return [memory("VmHWM") - before, memory("VmHWM")]


if __name__ == "__main__":
    main()
