"""Losses of the model when a site is replaced: by reconstructions, by zero, and by the mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from monosem.evaluation.loss import Loss, Source, cross_entropy, log_probabilities, loss
from monosem.evaluation.place import Place
from monosem.lm import LanguageModel
from monosem.progress import Bar, progress
from monosem.sae import SAE
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
    """Sums over one batch: source tokens, cross-entropy as the model is, losses of each replacement."""

    tokens: int
    clean: float
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
    mean: Float[Tensor, " D"],
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
            yield _sum(parts)


def replace_kept(
    act: Float[Tensor, "B T D"], keep: Bool[Tensor, "B T"], new: Float[Tensor, "S D"]
) -> Float[Tensor, "B T D"]:
    """`act` with its kept positions replaced by `new`, in the activation's dtype."""
    replaced = act.clone()
    replaced[keep] = new.to(act)
    return replaced


def _losses(
    trials: Mapping[str, Trial],
    lm: LanguageModel,
    tokens: Int[Tensor, "B T"],
    keep: Bool[Tensor, "B T"],
    place: Place,
    mean: Float[Tensor, " D"],
    bar: Bar,
) -> Losses:
    keep = keep.to(lm.device)
    source = Source.of(tokens.to(lm.device), keep)
    if not len(source.targets):
        none = dict.fromkeys(variants(trials), Loss())
        bar.advance((3 + len(none)) * keep.numel())
        return Losses(0, 0.0, Loss(), Loss(), none)
    act, clean = _unchanged(lm, tokens, source, place)
    bar.advance(keep.numel())
    kept = act[keep].float()

    def changed(new: Float[Tensor, "S D"]) -> Loss:
        with lm.hooks({place.site: lambda act: replace_kept(act, keep, new)}):
            found = loss(lm.logits(tokens), clean, source)
        bar.advance(keep.numel())
        return found

    return Losses(
        len(source.targets),
        cross_entropy(clean, source.targets),
        changed(torch.zeros_like(kept)),
        changed(mean.to(kept).expand_as(kept)),
        {variant: changed(recon) for variant, recon in _reconstructions(trials, kept)},
    )


def _reconstructions(
    trials: Mapping[str, Trial], kept: Float32[Tensor, "S D"]
) -> Iterator[tuple[Variant, Float[Tensor, "S D"]]]:
    """Each autoencoder encodes once; smaller budgets are cuts of the same codes."""
    for name, (sae, budgets) in trials.items():
        codes = sae.codes(kept.to(sae.W_dec.device))
        yield (name, None), sae.decode(codes)
        for k in budgets:
            yield (name, k), sae.decode(codes.at(k))


def _unchanged(
    lm: LanguageModel, tokens: Int[Tensor, "B T"], source: Source, place: Place
) -> tuple[Float[Tensor, "B T D"], Float32[Tensor, "S V"]]:
    """The site's activation and the log probabilities of the model as it is."""
    seen: list[Tensor] = []
    with lm.hooks({place.site: seen.append}):
        clean = log_probabilities(lm.logits(tokens), source)
    return seen[0], clean


def _sum(parts: list[Losses]) -> Losses:
    return Losses(
        sum(part.tokens for part in parts),
        sum(part.clean for part in parts),
        sum((part.zero for part in parts), Loss()),
        sum((part.mean for part in parts), Loss()),
        {one: sum((part.variants[one] for part in parts), Loss()) for one in parts[0].variants},
    )
