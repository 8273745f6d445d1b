"""What trials will take: some steps and readings of their real sizes, on noise."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from monosem.evaluation.batch import Batch
from monosem.reproduce import recording
from monosem.reproduce.arm import Arm
from monosem.reproduce.boost import learning, recorded
from monosem.reproduce.boost.arm import CORE, representatives
from monosem.reproduce.boost.ground import DRAWN, width
from monosem.reproduce.scale import Scale
from monosem.reproduce.synthetic import SITE, Synthetic
from monosem.sae import SAE, BatchTopK, DenseEncoder, save
from monosem.shapes import Site
from monosem.training import together

STEPS = (2, 6)
"""Two short runs, so that what happens once does not count as steps."""
TOKENS = 2048
LOSSES = 1.5
"""What a replacement and its losses take over a bare pass through the part of the model up to the site."""


def rates(scale: Scale) -> float:
    """Seconds of choosing learning rates: a core and every representative at each of them."""
    count = len(scale.rates)
    beside = training(scale, list(representatives(scale).values()))
    return count * (_core(scale) + beside + len(representatives(scale)) * _reading(scale))


def core(scale: Scale) -> float:
    """Seconds of a seed's core, and its share of recording the texts of most claims once."""
    texts = (scale.settings.get("text", ""), *scale.extra["domains"])
    return _core(scale) + _reading(scale) + _recording(scale, texts) / len(scale.seeds)


def trial(scale: Scale, arms: Sequence[Arm], *, read: int, losses: int = 0, domain: str = "") -> float:
    """Seconds of arms on one domain; `read` autoencoders are evaluated, `losses` of them inside the model.

    A domain that few claims are tested on is recorded here, and the model is not run on it.
    """
    seconds = training(scale, arms) + 2 * read * _reading(scale)
    if domain in scale.extra["wide"]:
        return seconds + _recording(scale, [domain]) / len(scale.seeds)
    return seconds + 2 * losses * _losses(scale)


def training(scale: Scale, arms: Sequence[Arm]) -> float:
    """Seconds of arms beside a core, in one pass; those of equal cost as if of equal tokens."""
    if not arms:
        return 0.0
    with TemporaryDirectory() as folder:
        beside = save(_noise_core(scale), Path(folder) / "core")
        return _extrapolated(scale, arms, beside, scale.tokens // scale.settings["batch"])


def _core(scale: Scale) -> float:
    settings = scale.extra["core"]
    batch = settings.get("batch", scale.settings["batch"])
    return _extrapolated(scale, [CORE], None, settings["tokens"] // batch)


def _extrapolated(scale: Scale, arms: Sequence[Arm], beside: Path | None, steps: int) -> float:
    _timed(scale, arms, beside, 1)  # compiles kernels
    few, more = (_timed(scale, arms, beside, count) for count in STEPS)
    return few + max(more - few, 0.0) / (STEPS[1] - STEPS[0]) * steps


def _timed(scale: Scale, arms: Sequence[Arm], beside: Path | None, steps: int) -> float:
    configs = {}
    for arm in arms:
        given = learning.config(scale, arm, 0, scale.rates[0], beside)
        tokens = {"tokens": steps * given.batch, "equal": "tokens"}
        configs[arm.name] = type(given).from_dict({**given.describe(), **tokens})
    dimensions = width(scale)
    source = Synthetic(lambda generator, count: torch.randn(count, dimensions, generator=generator), 64, 0)
    start = time.perf_counter()
    together(source, SITE, configs, label="timing")
    return time.perf_counter() - start


def _noise_core(scale: Scale) -> SAE:
    """An untrained autoencoder of the core's size."""
    latents, dimensions = scale.extra["core"]["n_latents"], width(scale)
    sae = SAE(DenseEncoder(dimensions, latents), BatchTopK(latents, scale.extra["core"]["k"]), info={"site": str(SITE)})
    x = torch.randn(TOKENS, dimensions, generator=torch.Generator().manual_seed(0))
    sae.initialise(x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.codes(x)  # sets the threshold
    return sae.eval()


def _reading(scale: Scale) -> float:
    """Seconds to evaluate one autoencoder of the core's size on held-out tokens."""
    sae, x = _noise_core(scale), torch.randn(TOKENS, width(scale))
    Batch.of(sae, x)
    start = time.perf_counter()
    Batch.of(sae, x).squared_error.sum()
    return (time.perf_counter() - start) * scale.held_out / TOKENS


def _losses(scale: Scale) -> float:
    """Seconds of the model's losses with one autoencoder in place."""
    if scale.data == DRAWN:
        return 0.0
    lm = recording.model(scale)
    windows, _ = recorded.training(scale, scale.settings["text"], lm)
    depth = lm.n_layers / ((_site(scale).layer or 0) + 1)
    return LOSSES * depth * scale.extra["losses"] * recording.window_seconds(lm, windows, _site(scale))


def _site(scale: Scale) -> Site:
    return recording.model(scale).site(recording.settings(scale).site)


def _recording(scale: Scale, texts: Sequence[str]) -> float:
    """Seconds to record what the cache lacks of these texts."""
    if scale.data == DRAWN:
        return 0.0
    lm, site, missing = recording.model(scale), _site(scale), 0
    for text in texts:
        windows, count = recorded.training(scale, text, lm)
        rest = recorded.held_out(scale, text, lm)
        missing += recording.missing(lm, windows, site, count) + recording.missing(lm, rest, site, len(rest.tokens))
    windows, _ = recorded.training(scale, scale.settings["text"], lm)
    return missing * recording.window_seconds(lm, windows, site) if missing else 0.0
