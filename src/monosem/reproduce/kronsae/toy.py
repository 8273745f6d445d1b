"""Hidden blocks, an autoencoder that embeds them, and what sparse autoencoders on top recover (arXiv 2505.22255, toy).

S is a block covariance of 256 features, Lᶜ its Cholesky factor. Data are Lᶜ·TopK₈(ReLU(g)), g normal. A tied
autoencoder x̂ = ReLU(WᵀW x + b) embeds them in 64 dimensions; SAEs with 256 latents and k = 8 are trained on W x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from monosem.progress import progress
from monosem.reproduce.arm import Measured
from monosem.reproduce.kronsae.covariance import (
    Setup,
    block_covariance,
    effective_rank,
    mean_correlation,
    participation_ratio,
    trace_ratio,
)
from monosem.reproduce.kronsae.matching import assigned, match, rv
from monosem.sae import SAE, DenseEncoder
from monosem.shapes import KronShape
from monosem.training import Job, TrainConfig
from monosem.training.recipe import make
from monosem.training.schedule import learning_rate

FEATURES, WIDTH, ACTIVE = 256, 64, 8
SAMPLES, HELD_OUT = 65_536, 8_192
BATCH, RATE, STEPS = 512, 3e-3, 4_000
DEAD_EVERY = 50
"""Steps between looks for silent latents."""

SHAPES = (KronShape(2, 4, 32), KronShape(4, 2, 32), KronShape(4, 8, 8), KronShape(8, 2, 16))


class Model(NamedTuple):
    """A sparse autoencoder of the toy: its encoder's shape (None: dense), and whose decoder rows it starts from."""

    name: str
    shape: KronShape | None = None
    rows: KronShape | None = None
    trained: bool = True


def name(shape: KronShape) -> str:
    """`h4_m2_n32`."""
    return f"h{shape.heads}_m{shape.base}_n{shape.extension}"


TOPK = Model("topk")
KRON = {shape: Model(f"kron_{name(shape)}", shape, shape) for shape in SHAPES}
UNTRAINED = {shape: Model(f"kron_{name(shape)}, untrained", shape, shape, trained=False) for shape in SHAPES}
UNSTRUCTURED = {shape: Model(f"kron_{name(shape)} from random rows", shape) for shape in SHAPES}
STRUCTURED = {shape: Model(f"topk from rows of {name(shape)}", None, shape) for shape in SHAPES}
RANDOM = Model("random rows", trained=False)
MODELS = (
    TOPK,
    *KRON.values(),
    *STRUCTURED.values(),
    UNSTRUCTURED[SHAPES[1]],
    *UNTRAINED.values(),
    RANDOM,
)
"""Kron from random rows in the one shape for which the paper prints the highest RV."""


def experiment(
    setup: Setup, seed: int, steps: int = STEPS, models: Sequence[Model] = MODELS, stop: int | None = None
) -> Measured:
    """One setup and seed: `truth`, `ae`, and `models` by name with RV, spectrum, EV and the share of silent latents.

    `stop`: do this many of the steps alone, to see what they take.
    """
    covariance = block_covariance(setup, FEATURES)
    generator = torch.Generator().manual_seed(1_000 * setup.seed + seed)
    with progress(f"toy {setup.name}, seed {seed}", len(models) + 1, "models") as bar:
        x, held_out = draw(covariance, SAMPLES + HELD_OUT, generator).split([SAMPLES, HELD_OUT])
        autoencoder = tied_autoencoder(x, steps, generator, stop)
        features, embedded = autoencoder.weight.T.double(), x @ autoencoder.weight.T
        bar.advance()

        def measured(model: Model) -> Measured:
            sae = trained(model, embedded, seed, steps, stop)
            figures = recovered(covariance, features, sae.W_dec.detach().double(), seed)
            bar.advance()
            return rounded(figures | faithful(sae, held_out @ autoencoder.weight.T))

        found = side_by_side(measured, models)
    known = {"rv": rv(covariance, gram(features)), "ev": explained(autoencoder(held_out), held_out)}
    return {
        "truth": rounded(spectrum(covariance)),
        "ae": rounded(known | spectrum(gram(features))),
        "models": {model.name: figures for model, figures in zip(models, found, strict=True)},
    }


def rounded(figures: dict[str, float]) -> Measured:
    """Six decimals are far below any difference that is judged, and keep rows readable."""
    return {key: round(value, 6) for key, value in figures.items()}


def draw(covariance: Float64[Tensor, "F F"], rows: int, generator: torch.Generator) -> Float[Tensor, "N F"]:
    """Lᶜ·TopK₈(ReLU(g)) for so many g ~ N(0, I)."""
    factor = torch.linalg.cholesky(covariance).float()
    strength, index = torch.randn(rows, len(factor), generator=generator).relu().topk(ACTIVE)
    return torch.zeros(rows, len(factor)).scatter(1, index, strength) @ factor.T


class TiedAutoencoder(NamedTuple):
    """x̂ = ReLU(Wᵀ W x + b)."""

    weight: Float[Tensor, "D F"]
    bias: Float[Tensor, " F"]

    def __call__(self, x: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        return (x @ self.weight.T @ self.weight + self.bias).relu()


def tied_autoencoder(
    x: Float[Tensor, "N F"], steps: int, generator: torch.Generator, stop: int | None = None
) -> TiedAutoencoder:
    """Trained on random batches of `x` by AdamW without decay, the rate falling as a cosine."""
    start = torch.randn(WIDTH, x.shape[1], generator=generator) / WIDTH**0.5
    model = TiedAutoencoder(start.requires_grad_(), torch.zeros(x.shape[1], requires_grad=True))
    optimiser = torch.optim.AdamW(model, lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps)[:stop]:
        batch = x[torch.randint(len(x), (BATCH,), generator=generator)]
        (model(batch) - batch).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    return TiedAutoencoder(*(tensor.detach() for tensor in model))


def settings(shape: KronShape | None, seed: int, steps: int) -> TrainConfig:
    """The training settings of a model; with decay 0, AdamW is the Adam that jobs use."""
    factors = {} if shape is None else shape._asdict()
    return TrainConfig(
        sae=("topk" if shape is None else "kron",),
        n_latents=FEATURES,
        k=ACTIVE,
        tokens=BATCH * steps,
        batch=BATCH,
        lr=RATE,
        warmup=0.0,
        decay=1.0,
        schedule="cosine",
        seed=seed,
        **factors,
    )


def started(model: Model, config: TrainConfig, first: Float[Tensor, "B D"]) -> tuple[SAE, Any]:
    """A new autoencoder with the decoder rows its model asks for, and its objective."""
    sae, objective = make(config.sae[0], config, first)
    if model.rows == model.shape:
        return sae, objective
    other, _ = make("topk" if model.rows is None else "kron", settings(model.rows, config.seed, config.steps), first)
    with torch.no_grad():
        sae.W_dec.copy_(other.W_dec)
        if model.shape is None:
            assert isinstance(sae.encoder, DenseEncoder)
            sae.encoder.weight.copy_(other.W_dec)
    return sae, objective


def trained(model: Model, x: Float[Tensor, "N D"], seed: int, steps: int, stop: int | None = None) -> SAE:
    """A model after its steps, or as it starts; every model of a seed sees the same batches."""
    config = settings(model.shape, seed, steps)
    sae, objective = started(model, config, x[:BATCH])
    if not model.trained:
        return sae.eval()
    job, generator = Job(model.name, sae, objective, config, torch.device("cpu")), torch.Generator().manual_seed(seed)
    energy = torch.ones(())
    for step in range(steps)[:stop]:
        batch = x[torch.randint(len(x), (BATCH,), generator=generator)]
        tokens = (step + 1) * BATCH
        job.step(batch, learning_rate(step, config), tokens, energy)
        if step % DEAD_EVERY == 0:
            job.refresh_dead(tokens)
    return job.sae.eval()


def gram(rows: Float64[Tensor, "F D"]) -> Float64[Tensor, "F F"]:
    """Inner products of rows."""
    return rows @ rows.T


def recovered(
    covariance: Float64[Tensor, "F F"],
    features: Float64[Tensor, "F D"],
    rows: Float64[Tensor, "F D"],
    seed: int,
) -> dict[str, float]:
    """RV of the truth and the rows' Gram matrix, after matching rows to embedded features in two ways.

    `rv`: the published matching, of Gram matrices alone. `rv_assigned`: rows and features live in one space, so the
    largest total cosine says directly which row is which feature. `search`: what the published matching maximises,
    over its value at the assigned order; below 1 the search has stopped at a worse place.
    """
    truth, order = gram(features), assigned(features, rows)
    searched, direct = gram(rows[match(truth, gram(rows), seed=seed)]), gram(rows[order])
    agreement = float((truth * searched).sum() / (truth * direct).sum())
    figures = {"rv": rv(covariance, searched), "rv_assigned": rv(covariance, direct), "search": agreement}
    return figures | spectrum(direct)


def spectrum(matrix: Float64[Tensor, "F F"]) -> dict[str, float]:
    """How many directions a covariance or Gram matrix has, three ways, and its mean correlation."""
    return {
        "effective_rank": effective_rank(matrix),
        "participation_ratio": participation_ratio(matrix),
        "trace_ratio": trace_ratio(matrix),
        "mean_correlation": mean_correlation(matrix),
    }


@torch.no_grad()
def faithful(sae: SAE, x: Float[Tensor, "N D"]) -> dict[str, float]:
    """Explained variance on samples that were not trained on, and the share of latents silent on them."""
    codes = sae.codes(x)
    _, latents, _ = codes.entries()
    return {"ev": explained(sae.decode(codes), x), "dead": 1 - len(latents.unique()) / sae.n_latents}


def explained(recon: Float[Tensor, "N D"], x: Float[Tensor, "N D"]) -> float:
    """1 − Σ‖x − x̂‖² / Σ‖x − mean‖²."""
    x, recon = x.double(), recon.double()
    return 1 - float((x - recon).square().sum() / (x - x.mean(0)).square().sum())


def side_by_side(work: Callable[[Model], Measured], models: Sequence[Model]) -> list[Measured]:
    """`work` on every model, as many at once as torch has threads and with one thread each.

    A model this small does not fill two threads.
    """
    workers = torch.get_num_threads()

    def alone(model: Model) -> Measured:
        torch.set_num_threads(1)
        return work(model)

    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(alone, models))
    finally:
        torch.set_num_threads(workers)
