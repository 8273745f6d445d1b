"""Next-token losses in nats: cross-entropy, and the divergence from the unchanged model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

_ROWS = 256


@dataclass(frozen=True)
class Loss:
    """Sums over the source tokens of each window [W]: cross-entropy, and divergence from the unchanged model."""

    ce: Float64[Tensor, " W"]
    kl: Float64[Tensor, " W"]

    @classmethod
    def none(cls, windows: int) -> Loss:
        """What windows without a source token add."""
        return cls(torch.zeros(windows, dtype=torch.float64), torch.zeros(windows, dtype=torch.float64))

    @classmethod
    def joined(cls, parts: list[Loss]) -> Loss:
        """Losses of windows that follow each other."""
        return cls(torch.cat([part.ce for part in parts]), torch.cat([part.kl for part in parts]))


class Source(NamedTuple):
    """The tokens a loss is averaged over: kept ones that have a next token."""

    keep: Bool[Tensor, "B T"]
    targets: Int[Tensor, " S"]

    @classmethod
    def of(cls, tokens: Int[Tensor, "B T"], keep: Bool[Tensor, "B T"]) -> Source:
        keep = keep.clone()
        keep[:, -1] = False
        return cls(keep, tokens[:, 1:][keep[:, :-1]].long())

    def positions(self) -> Int[Tensor, "S 2"]:
        """Window and position of each source token."""
        return self.keep.nonzero()

    def tokens(self) -> Float64[Tensor, " B"]:
        """How many source tokens each window has."""
        return self.keep.sum(1).double().cpu()

    def by_window(self, values: Float64[Tensor, " S"]) -> Float64[Tensor, " B"]:
        """Sums over the source tokens of each window."""
        parts = values.cpu().split(self.keep.sum(1).tolist())
        return torch.stack([part.sum() for part in parts])


def log_probabilities(logits: Float[Tensor, "B T V"], source: Source) -> Float32[Tensor, "S V"]:
    """log softmax at the source tokens."""
    rows = source.positions()
    out = torch.empty(len(rows), logits.shape[-1], device=logits.device)
    for part in _chunks(len(rows)):
        out[part] = _log_softmax(logits, rows[part])
    return out


def cross_entropy(log_p: Float32[Tensor, "S V"], targets: Int[Tensor, " S"]) -> Float64[Tensor, " S"]:
    """−log p(next token)."""
    return -log_p.gather(1, targets[:, None])[:, 0].double()


def divergence(log_p: Float32[Tensor, "S V"], log_q: Float32[Tensor, "S V"]) -> Float64[Tensor, " S"]:
    """KL(p ‖ q) = Σ p · (log p − log q)."""
    return (log_p.exp() * (log_p - log_q)).sum(1).double()


def loss(logits: Float[Tensor, "B T V"], clean: Float32[Tensor, "S V"], source: Source) -> Loss:
    """Loss of a changed model against the log probabilities of the unchanged one."""
    rows, ce, kl = source.positions(), [], []
    for part in _chunks(len(rows)):
        log_q = _log_softmax(logits, rows[part])
        ce.append(cross_entropy(log_q, source.targets[part]))
        kl.append(divergence(clean[part], log_q))
    return Loss(source.by_window(torch.cat(ce)), source.by_window(torch.cat(kl)))


def _log_softmax(logits: Float[Tensor, "B T V"], rows: Int[Tensor, "R 2"]) -> Float32[Tensor, "R V"]:
    return logits[rows[:, 0], rows[:, 1]].float().log_softmax(-1)


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, rows, _ROWS))
