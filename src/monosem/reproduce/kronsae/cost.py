"""C8: what the encoder costs in time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from monosem import kernels
from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.claim import Claim, Evidence, Finding, Line, Plot, Table
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import interval
from monosem.sae import SAE
from monosem.training import TrainConfig
from monosem.training.recipe import make

SLOPE, WITHIN = 1.0, 0.2
DENSE = "dense"

Work = Callable[[], object]


def settings(scale: Scale) -> dict[str, Any]:
    """Sizes of the trial."""
    return {"trial": "encoder", **scale.extra["encoder"]}


def run(scale: Scale, seed: int | None) -> Measured:
    """Times of each size (d, F), smallest product first."""
    shape = settings(scale)
    sizes = [timed(d, f, shape, shape["repeats"]) for d, f in shape["sizes"]]
    return {**shape, "device": _device(), "threads": torch.get_num_threads(), "measured": sizes}


def predict(scale: Scale) -> float:
    """Seconds, from one round at the largest size, in proportion to the encoder's product."""
    shape = settings(scale)
    products = {d * f: (d, f) for d, f in shape["sizes"]}
    for product in (min(products), max(products)):  # the first compiles kernels
        d_model, n_latents = products[product]
        start = time.perf_counter()
        timed(d_model, n_latents, shape, 0)
        seconds = time.perf_counter() - start
    return seconds * (shape["repeats"] + 1) * sum(products) / max(products)


def timed(d_model: int, n_latents: int, shape: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Median milliseconds of one size and, round by round, what the encoder costs over the dense one.

    Interleaved, after one round that does not count, so that a busy machine slows all alike.
    """
    works = {DENSE: _works(DENSE, d_model, n_latents, shape)}
    works |= {f"m{m}_n{n}": _works((m, n), d_model, n_latents, shape) for m, n in shape["factors"]}
    taken = {(name, kind): [] for name, kinds in works.items() for kind in kinds}
    for number in range(repeats + 1):
        for name, kind in taken:
            start = time.perf_counter()
            works[name][kind]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                taken[name, kind].append(1e3 * (time.perf_counter() - start))
    if not repeats:
        return {}
    milliseconds = {
        name: {kind: round(statistics.median(taken[name, kind]), 3) for kind in works[name]} for name in works
    }
    ratios = {
        name: [round(ours / dense, 5) for ours, dense in zip(taken[name, "step"], taken[DENSE, "step"], strict=True)]
        for name in works
        if name != DENSE
    }
    return {"d_model": d_model, "n_latents": n_latents, "ms": milliseconds, "ratios": ratios}


def _works(factors: str | tuple[int, int], d_model: int, n_latents: int, shape: dict[str, Any]) -> dict[str, Work]:
    """`step`: forward and backward pass of an encoder; `select`: forward alone; `dense`: through all F products."""
    x = torch.randn(shape["batch"], d_model, generator=torch.Generator().manual_seed(0))
    sae = _sae(factors, n_latents, shape, x).to(_device())
    x = x.to(_device()) * sae.scale

    def step() -> None:
        sae.encoder.select(x, sae.rule, sae.centre).values.sum().backward()
        sae.zero_grad()

    @torch.no_grad()
    def select() -> object:
        return sae.encoder.select(x, sae.rule, sae.centre)

    @torch.no_grad()
    def dense() -> object:
        return kernels.topk(sae.encoder.pre_acts(x, sae.centre), shape["k"])

    return {"step": step, "select": select, **({} if factors == DENSE else {"dense": dense})}


def _sae(factors: str | tuple[int, int], n_latents: int, shape: dict[str, Any], x: torch.Tensor) -> SAE:
    name = "topk" if isinstance(factors, str) else "kron"
    base, extension = (2, 4) if isinstance(factors, str) else factors
    config = TrainConfig(
        sae=(name,), n_latents=n_latents, k=shape["k"], batch=len(x), tokens=len(x), base=base, extension=extension
    )
    return make(name, config, x)[0].train()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class Fit(NamedTuple):
    """A straight line."""

    slope: float
    intercept: float


def line(ratios: dict[str, list[float]], factors: list[tuple[int, int]]) -> list[Fit]:
    """Round by round, the cost over the dense encoder's against 1/m + 1/n."""
    x = [1 / m + 1 / n for m, n in factors]
    rounds = zip(*(ratios[f"m{m}_n{n}"] for m, n in factors), strict=True)
    return [Fit(*np.polyfit(x, y, 1).tolist()) for y in rounds]


def judge(evidence: Evidence) -> Finding:
    """The line at the largest size, and m = 1 there."""
    found = evidence.measured("encoder")
    largest = max(found["measured"], key=lambda size: size["d_model"] * size["n_latents"])
    factors = [(m, n) for m, n in found["factors"]]
    fits = line(largest["ratios"], factors)
    slope = interval([fit.slope for fit in fits])
    dear = {f"m{m}_n{n}": statistics.median(largest["ratios"][f"m{m}_n{n}"]) for m, n in factors if m == 1}
    middle = statistics.median(slope.values)
    holds = abs(middle - SLOPE) <= WITHIN and min(dear.values()) > 1
    where = f"d {largest['d_model']}, F {largest['n_latents']}, B {found['batch']}, k {found['k']}"
    return Finding(
        "confirmed" if holds else "contradicted",
        (slope.low, slope.high),
        {
            "slope": middle,
            "intercept": statistics.median(fit.intercept for fit in fits),
            "m1_over_dense": dear,
            "at": where,
            "sizes": found["measured"],
        },
        {"device": found["device"], "threads": found["threads"]},
        [_table(size, found) for size in found["measured"]],
        [_plot(found, factors)],
        f"Judged at {where}; slopes of single rounds have the interval given. Selection, and gradients in proportion "
        "to k, do not shrink with the rows: they are the intercept.",
    )


def _table(size: dict[str, Any], found: Measured) -> Table:
    rows = [["dense TopK", "1", f"{size['ms'][DENSE]['step']:.2f}", "1", f"{size['ms'][DENSE]['select']:.2f}", ""]]
    for m, n in found["factors"]:
        name = f"m{m}_n{n}"
        step, select, dense = (f"{size['ms'][name][kind]:.2f}" for kind in ("step", "select", "dense"))
        rows.append(
            [name, f"{1 / m + 1 / n:.3f}", step, f"{statistics.median(size['ratios'][name]):.3f}", select, dense]
        )
    title = f"Encoder, ms: d {size['d_model']}, F {size['n_latents']}, B {found['batch']}, k {found['k']}, "
    title += f"{found['device']}, {found['threads']} thread(s)"
    header = ["encoder", "1/m + 1/n", "forward + backward", "over dense", "forward", "forward through all products"]
    return Table(title, header, rows)


def _plot(found: Measured, factors: list[tuple[int, int]]) -> Plot:
    order = sorted(factors, key=lambda factor: 1 / factor[0] + 1 / factor[1])
    x = [1 / m + 1 / n for m, n in order]
    lines = [
        Line(
            f"d {size['d_model']}, F {size['n_latents']}",
            x,
            [statistics.median(size["ratios"][f"m{m}_n{n}"]) for m, n in order],
        )
        for size in found["measured"]
    ]
    caption = "Forward and backward pass of the encoder over the dense one's; dashed: in proportion to the rows."
    lines.append(Line("1/m + 1/n", x, x, dashed=True))
    return Plot("encoder", "Time of the encoder", caption, "1/m + 1/n", "time over dense", lines)


ENCODER = Trial("encoder", run, predict, settings, seeded=False)

CLAIM = Claim(
    "C8",
    "The encoder costs 1/m + 1/n of a dense one; m = 1 is dearer than dense",
    "Median of paired ratios of the time of an encoder's forward and backward pass (product, selection among the "
    "products that can be in the top k, sparse gradients) to a dense TopK encoder's. Confirmed if, at the largest "
    "d · F, the slope of a straight line against 1/m + 1/n is 1 within 20 % and m = 1 is slower than dense; else "
    "contradicted.",
    judge,
    kind="timing",
    trials=lambda scale: (ENCODER,),
)
