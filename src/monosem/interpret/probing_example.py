"""Labelled pieces of text, and what the model and its autoencoders make of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.evaluation import shared_place
from monosem.evaluation.reading import evaluating
from monosem.interpret.probing_activation import blocks
from monosem.lm import LanguageModel
from monosem.sae import SAE
from monosem.shapes import InputError

_TOKENS = 2048


class Labelled(NamedTuple):
    """N pieces of text as tokens with a class each, and which of them are to learn from.

    `last`: what counts is the last token of a piece; else the mean over all its tokens. `source` says in a sentence
    what they are, `settings` how they were drawn, as JSON.
    """

    ids: list[list[int]]
    labels: Int64[Tensor, " N"]
    classes: tuple[str, ...]
    train: Bool[Tensor, " N"]
    last: bool
    source: str
    settings: dict[str, Any]

    def select(self, which: Bool[Tensor, " N"]) -> Labelled:
        """Some of them."""
        ids = [own for own, here in zip(self.ids, which.tolist()) if here]
        return self._replace(ids=ids, labels=self.labels[which], train=self.train[which])


class Latents(NamedTuple):
    """The latents that fire on any example, ascending, and their activations there."""

    latents: Int64[Tensor, " A"]
    values: Float[Tensor, "N A"]


class Read(NamedTuple):
    """Examples that could be read, their activations, and those of each autoencoder's latents.

    Activations are multiplied by `scale`, so that their mean squared norm is D. A latent counts by what it adds to the
    reconstruction, activation × norm of its decoder row, so that units of codes do not matter; that is multiplied by
    `unit`, which is `scale`, or of transcoders what makes the mean squared norm of a token at the predicted site its
    width. `l0` is the mean number of latents active on a token, `left_out` how many examples the rule left without a
    token.
    """

    examples: Labelled
    x: Float[Tensor, "N D"]
    latents: dict[str, Latents]
    l0: dict[str, float]
    scale: float
    unit: float
    left_out: int


def read_examples(
    saes: Mapping[str, SAE], lm: LanguageModel, examples: Labelled, *, batch: int = 16, keep: Path | None = None
) -> Read:
    """One pass over the examples, shorter ones beside each other, each behind the token that begins a text.

    With `keep`, a folder, activations are kept there and not read twice, whatever autoencoders are given. Raises
    `InputError` for autoencoders of several sites, and where the rule leaves nothing.
    """
    place = shared_place(saes, lm)
    first = next(iter(saes.values()))
    count, squares = len(examples.ids), 0.0
    x, counts = torch.zeros(count, lm.width(place.site)), torch.zeros(count, dtype=torch.int64)
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in saes}
    active = dict.fromkeys(saes, 0)
    with evaluating(saes):
        for block in blocks(first, lm, place, examples, batch=batch, keep=keep):
            acts, owner, weight = block.acts.float(), block.owner, block.weight
            counts[block.rows] = block.counts
            squares += float(block.squares.sum())
            x.index_add_(0, owner, acts * weight[:, None])
            for name, sae in saes.items():
                for found in _sums(sae, acts, owner, weight):
                    parts[name].append(found[:3])
                    active[name] += found[3]
    read, tokens = counts > 0, int(counts.sum())
    if not tokens:
        raise InputError(f"no token is left of {count} examples: {place.exclusion}")
    scale = math.sqrt(x.shape[1] / float(x[read].square().sum(1).mean()))
    unit = scale if place.predicted is None else math.sqrt(lm.width(place.target) * tokens / squares)
    latents = {name: _gathered(own, read, unit) for name, own in parts.items()}
    l0 = {name: value / tokens for name, value in active.items()}
    return Read(examples.select(read), x[read] * scale, latents, l0, scale, unit, int((~read).sum()))


def read_with(sae: SAE, name: str, read: Read) -> Read:
    """What another autoencoder of the site makes of the same activations, in place of what was read.

    Raises `InputError` for examples of more than one token each, whose mean says nothing of single activations.
    """
    if not read.examples.last:
        raise InputError(f"{read.examples.source}: of texts only means were kept, read them with this autoencoder")
    count = len(read.x)
    with evaluating({name: sae}):
        found = list(_sums(sae, read.x / read.scale, torch.arange(count), torch.ones(count)))
    latents = _gathered([one[:3] for one in found], torch.ones(count, dtype=torch.bool), read.unit)
    return read._replace(latents={name: latents}, l0={name: sum(one[3] for one in found) / count})


def _sums(
    sae: SAE, x: Float[Tensor, "B D"], owner: Int64[Tensor, " B"], weight: Float[Tensor, " B"]
) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
    """`_summed` of a few thousand tokens at a time, so that no more pre-activations exist at once."""
    for part in torch.arange(len(x)).split(_TOKENS):
        yield _summed(sae, x[part], owner[part], weight[part])


def _summed(
    sae: SAE, x: Float[Tensor, "B D"], owner: Int64[Tensor, " B"], weight: Float[Tensor, " B"]
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Example, latent and weighted sum of every latent that fires, in raw units; and how many entries there were."""
    codes = sae.codes(x.to(sae.W_dec.device))
    rows, latents, values = (part.cpu() for part in codes.entries())
    values = values.float() * sae.W_dec.detach().norm(dim=1).cpu()[latents] / sae.out_scale * weight[rows]
    keys, inverse = (owner[rows] * sae.n_latents + latents).unique(return_inverse=True)
    sums = torch.zeros(len(keys)).index_add_(0, inverse, values)
    return keys // sae.n_latents, keys % sae.n_latents, sums, len(rows)


def _gathered(parts: list[tuple[Tensor, Tensor, Tensor]], read: Bool[Tensor, " N"], unit: float) -> Latents:
    rows, latents, values = (torch.cat(column) for column in zip(*parts))
    index, column = latents.unique(return_inverse=True)
    dense = torch.zeros(len(read), len(index))
    dense.index_put_((rows, column), values * unit, accumulate=True)
    return Latents(index, dense[read])
