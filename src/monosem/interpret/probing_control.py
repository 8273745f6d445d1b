"""The control that every table of probes has: an autoencoder that has learned nothing."""

from __future__ import annotations

from collections.abc import Mapping
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
    saes: Mapping[str, SAE], lm: LanguageModel, examples: Labelled, *, seed: int = 0, batch: int = 16
) -> Beside:
    """Read examples once for the autoencoders of one site and the control of the first. Raises as `read_examples`."""
    count = len(examples.ids)
    some = torch.zeros(count, dtype=torch.bool)
    some[torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:_SAMPLE]] = True
    name, first = next(iter(saes.items()))
    sample = read_examples({name: first}, lm, examples.select(some), batch=batch)
    every = {**saes, UNTRAINED: random_directions(first, sample, seed)}
    return Beside(every, read_examples(every, lm, examples, batch=batch))


def random_directions(like: SAE, read: Read, seed: int) -> SAE:
    """As many latents in random directions, and as many of them active on a token, as the first that was read has.

    Scale and b_dec are those of the examples.
    """
    k = min(max(1, round(next(iter(read.l0.values())))), like.n_latents)
    info = {key: like.info[key] for key in ("site", "exclusion", "text") if key in like.info}
    sae = SAE(DenseEncoder(like.d_in, like.n_latents), TopK(like.n_latents, k), info=info)
    sae.initialise(read.x / read.scale, torch.Generator().manual_seed(seed))
    return sae.eval().to(like.W_dec.device)
