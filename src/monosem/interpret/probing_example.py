"""Labelled pieces of text, and what the model and its autoencoders make of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.evaluation import shared_place
from monosem.evaluation.place import Place
from monosem.evaluation.prompt import prompt_ids
from monosem.evaluation.reading import evaluating
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.progress import progress
from monosem.sae import SAE
from monosem.shapes import InputError


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
    """Labelled that could be read, their activations, and those of each autoencoder's latents.

    Everything is in one unit, in which the mean squared norm of the activations is D. A latent counts by what it
    adds to the reconstruction, activation × norm of its decoder row, so that units of codes do not matter. `l0` is
    the mean number of latents active on a token, `left_out` how many examples the rule left without a token.
    """

    examples: Labelled
    x: Float[Tensor, "N D"]
    latents: dict[str, Latents]
    l0: dict[str, float]
    scale: float
    left_out: int


def read_examples(saes: Mapping[str, SAE], lm: LanguageModel, examples: Labelled, *, batch: int = 16) -> Read:
    """One pass over the examples, shorter ones beside each other.

    Each is read behind the token that begins a text in training. Raises `InputError` for autoencoders of several
    sites, and where the rule leaves nothing.
    """
    place = shared_place(saes, lm)
    first = next(iter(saes.values()))
    count = len(examples.ids)
    x, counted = torch.zeros(count, lm.width(place.site)), torch.zeros(count)
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in saes}
    active, tokens = dict.fromkeys(saes, 0.0), 0
    with evaluating(saes):
        for rows, acts, weight in _batches(first, lm, place, examples, batch):
            kept = weight > 0
            tokens += int(kept.sum())
            counted[rows] = kept.sum(1).float()
            x[rows] = (acts * weight[..., None]).sum(1)
            owner = rows[kept.nonzero()[:, 0]]
            for name, sae in saes.items():
                found = _summed(sae, acts[kept], owner, weight[kept])
                parts[name].append(found[:3])
                active[name] += found[3]
    read = counted > 0
    if not read.any():
        raise InputError(f"no token is left of {count} examples: {place.exclusion}")
    scale = math.sqrt(x.shape[1] / float(x[read].square().sum(1).mean()))
    latents = {name: _gathered(own, read, scale) for name, own in parts.items()}
    l0 = {name: value / tokens for name, value in active.items()}
    return Read(examples.select(read), x[read] * scale, latents, l0, scale, int((~read).sum()))


def _batches(
    sae: SAE, lm: LanguageModel, place: Place, examples: Labelled, batch: int
) -> Iterator[tuple[Int64[Tensor, " R"], Float[Tensor, "R T D"], Float[Tensor, "R T"]]]:
    """Row numbers, activations, and the weight of every token in its example's mean; 0 where it does not count."""
    special = torch.tensor(sorted(Spelling(lm.tokenizer).special), dtype=torch.int64)
    lead = _lead(sae, lm)
    sites = list(dict.fromkeys([place.site, *map(lm.site, place.exclusion.max_norm)]))
    order = torch.tensor([len(own) for own in examples.ids]).argsort(stable=True)
    with progress("reading examples", total=len(order), unit="examples") as bar:
        for rows in order.split(batch):
            own = [torch.tensor([*lead, *examples.ids[row]]) for row in rows.tolist()]
            tokens = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
            # Nothing before a padded end sees it: attention is causal.
            there = torch.arange(tokens.shape[1]) < torch.tensor([len(one) for one in own])[:, None]
            acts = lm.capture(tokens, sites)
            out = place.exclusion.mask(torch.isin(tokens, special) | ~there, acts)
            kept = there & ~out.cpu()
            if examples.last:
                ends = there.sum(1, keepdim=True) - 1
                kept = kept & (torch.arange(tokens.shape[1]) == ends)
            yield rows, acts[place.site].float().cpu(), kept / kept.sum(1, keepdim=True).clamp_min(1)
            bar.advance(len(rows))


def _lead(sae: SAE, lm: LanguageModel) -> list[int]:
    """What stands before a text in training, as in front of a prompt."""
    some = lm.tokenizer("a", add_special_tokens=False)["input_ids"]
    return prompt_ids(sae, lm, "a").tolist()[: -len(some)]


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


def _gathered(parts: list[tuple[Tensor, Tensor, Tensor]], read: Bool[Tensor, " N"], scale: float) -> Latents:
    rows, latents, values = (torch.cat(column) for column in zip(*parts))
    index, column = latents.unique(return_inverse=True)
    dense = torch.zeros(len(read), len(index))
    dense[rows, column] = values * scale
    return Latents(index, dense[read])
