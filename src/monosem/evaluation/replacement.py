"""Losses of the model when a site is replaced: by reconstructions, by zero, and by the mean.

Transcoders read one site of the unchanged model and replace another, which is computed later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from monosem.evaluation.loss import Loss, Source, cross_entropy, log_probabilities, loss
from monosem.evaluation.place import Place
from monosem.lm import LanguageModel
from monosem.progress import Bar, progress
from monosem.sae import SAE
from monosem.shapes import Site
from monosem.text.window import Windows

_LOGITS = 1 << 26
"""Logits of a forward pass (256 MiB in float32): a batch goes through the model in parts of this size."""


Variant = tuple[str, int | None]
"""A reconstruction: an autoencoder's name, and how many latents of each token are kept (None: all)."""


class Trial(NamedTuple):
    """An autoencoder, and the smaller budgets at which the model is run with it as well."""

    sae: SAE
    budgets: tuple[int, ...] = ()


class Losses(NamedTuple):
    """Sums over each window [W] of a batch: source tokens, cross-entropy as the model is, losses of replacements."""

    tokens: Float64[Tensor, " W"]
    clean: Float64[Tensor, " W"]
    zero: Loss
    mean: Loss
    variants: dict[Variant, Loss]


def variants(trials: Mapping[str, Trial]) -> list[Variant]:
    """Everything the site is replaced by, beside zero and the mean."""
    return [(name, k) for name, trial in trials.items() for k in (None, *trial.budgets)]


def replacement_losses(
    trials: Mapping[str, Trial],
    lm: LanguageModel,
    windows: Windows,
    keep: Bool[Tensor, "N T"],
    place: Place,
    mean: Float[Tensor, " E"],
    batch: int,
) -> Iterator[Losses]:
    """Losses of the first N windows, one item a batch; positions not kept stay as they are in every pass.

    The progress bar counts the tokens of every pass through the model.
    """
    count, length = keep.shape
    rows = max(1, _LOGITS // (length * lm.vocab_size))
    passes = 3 + len(variants(trials))
    with progress(f"cross-entropy, {passes} passes", passes * keep.numel(), "tok") as bar:
        for start in range(0, count, batch):
            stop = min(start + batch, count)
            parts = []
            for low in range(start, stop, rows):
                part = slice(low, min(low + rows, stop))
                parts.append(_losses(trials, lm, windows.tokens[part], keep[part], place, mean, bar))
            yield _joined(parts)


def replace_kept(
    act: Float[Tensor, "B T D"], keep: Bool[Tensor, "B T"], new: Float[Tensor, "S D"]
) -> Float[Tensor, "B T D"]:
    """`act` with its kept positions replaced by `new`, in the activation's dtype."""
    replaced = act.clone()
    replaced[keep.to(act.device)] = new.to(act)
    return replaced


def _losses(
    trials: Mapping[str, Trial],
    lm: LanguageModel,
    tokens: Int[Tensor, "B T"],
    keep: Bool[Tensor, "B T"],
    place: Place,
    mean: Float[Tensor, " E"],
    bar: Bar,
) -> Losses:
    keep = keep.to(lm.device)
    source = Source.of(tokens.to(lm.device), keep)
    if not len(source.targets):
        zero = Loss.none(len(tokens))
        none = dict.fromkeys(variants(trials), zero)
        bar.advance((3 + len(none)) * keep.numel())
        return Losses(zero.ce, zero.ce, zero, zero, none)
    acts, clean = _unchanged(lm, tokens, source, place)
    bar.advance(keep.numel())
    kept, target = (acts[site].to(lm.device)[keep].float() for site in (place.site, place.target))

    def changed(new: Float[Tensor, "S E"]) -> Loss:
        with lm.hooks({place.target: lambda act: replace_kept(act, keep, new)}):
            found = loss(lm.logits(tokens), clean, source)
        bar.advance(keep.numel())
        return found

    return Losses(
        source.tokens(),
        source.by_window(cross_entropy(clean, source.targets)),
        changed(torch.zeros_like(target)),
        changed(mean.to(target).expand_as(target)),
        {variant: changed(recon) for variant, recon in _reconstructions(trials, kept)},
    )


def _reconstructions(
    trials: Mapping[str, Trial], kept: Float32[Tensor, "S D"]
) -> Iterator[tuple[Variant, Float[Tensor, "S E"]]]:
    """Each autoencoder encodes once; smaller budgets are cuts of the same codes."""
    for name, (sae, budgets) in trials.items():
        x = kept.to(sae.W_dec.device)
        codes = sae.codes(x)
        yield (name, None), sae.decode(codes, x)
        for k in budgets:
            yield (name, k), sae.decode(codes.at(k), x)


def _unchanged(
    lm: LanguageModel, tokens: Int[Tensor, "B T"], source: Source, place: Place
) -> tuple[dict[Site, Tensor], Float32[Tensor, "S V"]]:
    """The activations of site and target, and the log probabilities of the model as it is."""
    seen: dict[Site, Tensor] = {}
    with lm.hooks({site: partial(seen.__setitem__, site) for site in (place.site, place.target)}):
        clean = log_probabilities(lm.logits(tokens), source)
    return seen, clean


def _joined(parts: list[Losses]) -> Losses:
    return Losses(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.clean for part in parts]),
        Loss.joined([part.zero for part in parts]),
        Loss.joined([part.mean for part in parts]),
        {one: Loss.joined([part.variants[one] for part in parts]) for one in parts[0].variants},
    )
