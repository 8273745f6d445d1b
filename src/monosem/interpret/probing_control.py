"""The control that every table of probes has: an autoencoder that has learned nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from monosem.interpret.probing_example import Labelled, Read, read_examples
from monosem.lm import LanguageModel
from monosem.sae import SAE, DenseEncoder, TopK

UNTRAINED = "random directions"
_SAMPLE = 64


class Beside(NamedTuple):
    """Autoencoders, the last of random directions, and what was read of the examples for all of them."""

    saes: dict[str, SAE]
    read: Read


def read_beside(
    saes: Mapping[str, SAE],
    lm: LanguageModel,
    examples: Labelled,
    *,
    seed: int = 0,
    batch: int = 16,
    keep: Path | None = None,
) -> Beside:
    """Read examples once for the autoencoders of one site and the control of the first.

    `keep` and what is raised are those of `read_examples`.
    """
    count = len(examples.ids)
    some = torch.zeros(count, dtype=torch.bool)
    some[torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:_SAMPLE]] = True
    name, first = next(iter(saes.items()))
    sample = read_examples({name: first}, lm, examples.select(some), batch=batch, keep=keep)
    every = {**saes, UNTRAINED: random_directions(first, sample, seed)}
    return Beside(every, read_examples(every, lm, examples, batch=batch, keep=keep))


def random_directions(like: SAE, read: Read, seed: int) -> SAE:
    """As many latents in random directions, and as many of them active on a token, as the first that was read has.

    Scale and mean are those of the examples; a transcoder's rows are of the width and size of its target.
    """
    k = min(max(1, round(next(iter(read.l0.values())))), like.n_latents)
    transcoder = "target" in like.info
    info = {key: like.info[key] for key in ("site", "target", "exclusion", "text") if key in like.info}
    encoder = DenseEncoder(like.d_in, like.n_latents)
    sae = SAE(encoder, TopK(like.n_latents, k), d_out=like.d_out, subtract_b_dec=not transcoder, info=info)
    x, generator = read.x / read.scale, torch.Generator().manual_seed(seed)
    # Of a transcoder's target only its size is read: vectors of that norm set the scale of its rows.
    sae.initialise(x, generator, torch.full((len(x), like.d_out), 1 / read.unit) if transcoder else None)
    if transcoder:
        with torch.no_grad():
            encoder.bias.copy_(-encoder.weight @ (sae.scale * x.mean(0)))
    return sae.eval().to(like.W_dec.device)
