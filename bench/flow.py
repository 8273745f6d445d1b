"""Memory and time of matching two dictionaries: each matcher in a process of its own.

  python bench/flow.py                                    16,384 × 16,384 latents, d_model 2,304
  python bench/flow.py --latents 4096 --names cosine,pearson --json

Extra memory is the peak of the process above what it held when both autoencoders, their directions and, for pearson,
their codes were there. `single` is one latent asked about; its time is the median of 20.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from monosem.flow import Cosine, Firing, Pearson, Permutation, Suite
from monosem.flow.firing import Fired
from monosem.sae import SAE, DenseEncoder, JumpReLU
from monosem.shapes import Site
from monosem.shapes.codes import Codes

A, B = Site("resid_post", 11), Site("resid_post", 12)
NAMES = ("single", "cosine", "cosine-5", "pearson", "permutation", "permutation-dec", "approximate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--width", type=int, default=2304, help="d_model")
    parser.add_argument("--tokens", type=int, default=100_000, help="for pearson")
    parser.add_argument("--k", type=int, default=32, help="active latents a token, for pearson")
    parser.add_argument("--names", default="single,cosine,cosine-5,pearson,approximate,permutation")
    parser.add_argument("--noise", type=float, default=1.0, help="of the planted permutation, in units of a row's norm")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.one:
        print(json.dumps(measured(parsed)))
        return
    found = {name: apart(parsed, name) for name in parsed.names.split(",")}
    sizes = {key: getattr(parsed, key) for key in ("latents", "width", "tokens", "k", "noise", "threads")}
    if parsed.json:
        print(json.dumps({**sizes, "torch": torch.__version__, "matchers": found}))
        return
    print(", ".join(f"{key} {value:,}" for key, value in sizes.items()))
    for name, one in found.items():
        print(f"{name:16} {one['seconds']:10.3f} s {one['extra_MiB']:8.0f} MiB extra   planted {one['planted']:.1%}")


def apart(parsed: argparse.Namespace, name: str) -> dict[str, float]:
    """One matcher in a fresh process."""
    values = {key: value for key, value in vars(parsed).items() if key not in ("names", "json", "one")}
    flags = [f"--{key}={value}" for key, value in values.items()]
    done = subprocess.run([sys.executable, __file__, *flags, "--one", name], capture_output=True, text=True, check=True)
    print(f"{name}: {done.stdout.strip()}", file=sys.stderr, flush=True)
    return json.loads(done.stdout)


def measured(parsed: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(parsed.threads)
    suite, order = planted(parsed)
    for site in suite:
        suite.direction(site)
        suite.hash(site)
    matcher = {
        "single": Cosine,
        "cosine": Cosine,
        "cosine-5": lambda: Cosine(5),
        "pearson": lambda: Pearson(firing(parsed, order)),
        "permutation": Permutation,
        "permutation-dec": lambda: Permutation("dec"),
        "approximate": lambda: Permutation(approximate=True),
    }[parsed.one]()
    if parsed.one == "single":
        asked = torch.randint(parsed.latents, (20, 1))
        times, extra, hits = [], 0.0, 0
        for latents in asked:
            seconds, more, found = watched(lambda latents=latents: matcher.match(suite, A, B, latents))
            times.append(seconds)
            extra, hits = max(extra, more), hits + int(found.best[0] == order[latents[0]])
        return {"seconds": statistics.median(times), "extra_MiB": extra, "planted": hits / len(asked)}
    seconds, extra, found = watched(lambda: matcher.match(suite, A, B))
    return {"seconds": seconds, "extra_MiB": extra, "planted": float((found.best == order).double().mean())}


def planted(parsed: argparse.Namespace) -> tuple[Suite, torch.Tensor]:
    """Unit rows, and the same permuted with noise."""
    draws = torch.Generator().manual_seed(0)
    shape = (parsed.latents, parsed.width)
    order = torch.randperm(parsed.latents, generator=draws)
    rows = torch.randn(shape, generator=draws) / parsed.width**0.5
    moved = torch.empty(shape)
    moved[order] = rows + parsed.noise / parsed.width**0.5 * torch.randn(shape, generator=draws)
    return Suite({A: autoencoder(rows), B: autoencoder(moved)}), order


def autoencoder(rows: torch.Tensor) -> SAE:
    sae = SAE(DenseEncoder(rows.shape[1], len(rows)), JumpReLU(len(rows)), info={})
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.encoder.weight.copy_(rows)
        sae.rule.threshold.copy_(torch.rand(len(rows), generator=torch.Generator().manual_seed(1)) + 0.5)
    return sae.eval()


def firing(parsed: argparse.Namespace, order: torch.Tensor) -> Firing:
    """k latents of a token, drawn with unequal frequencies; half of their matches fire too, and others."""
    draws = torch.Generator().manual_seed(2)
    weights = torch.linspace(0.02, 1, parsed.latents)
    parts: dict[Site, list[Codes]] = {A: [], B: []}
    for start in range(0, parsed.tokens, 1000):
        count = min(1000, parsed.tokens - start)
        own = torch.multinomial(weights.expand(count, -1), parsed.k, generator=draws)
        other = torch.multinomial(weights.expand(count, -1), parsed.k, generator=draws)
        keep = torch.rand(own.shape, generator=draws) < 0.5
        # A latent twice on a token is the same entry: its stored zero is not active.
        there = torch.where(keep, order[own], other)
        there, _ = there.sort(1)
        values = torch.rand(own.shape, generator=draws) + 0.5
        values[:, 1:][there[:, 1:] == there[:, :-1]] = 0
        parts[A].append(Codes(torch.rand(own.shape, generator=draws) + 0.5, own, parsed.latents))
        parts[B].append(Codes(values, there, parsed.latents))
    return Firing(parsed.tokens, {site: Fired.of(codes) for site, codes in parts.items()})


def watched(run):
    """Seconds, peak MiB above what the process held before, and what it returned."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak of the preparation
    begun = time.perf_counter()
    found = run()
    return time.perf_counter() - begun, max(memory("VmHWM") - before, 0.0), found


def memory(key: str) -> float:
    """A line of the kernel's account of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


if __name__ == "__main__":
    main()
