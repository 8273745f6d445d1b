"""What arms are trained and measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.activations import Source
from monosem.reproduce.scale import Scale
from monosem.shapes import Site

NOTHING: dict[str, Tensor] = {}


class Text(NamedTuple):
    """Where held-out tokens stand: windows of vocabulary ids, and which of their tokens, in order, those are.

    `info` is what an autoencoder says of how it is read: the rule by which tokens were left out, and the text.
    """

    windows: Int[Tensor, "W T"]
    keep: Bool[Tensor, "W T"]
    tokenizer: Any
    info: dict[str, Any]


class Data(NamedTuple):
    """A source to train on, and raw activations of other tokens: to report on, and to choose learning rates on.

    `tokens` are vocabulary ids of `held_out`, `text` is where they stand; `truth` is what is known
    of data that were made, such as `atoms` [A, D].
    """

    source: Source
    site: Site
    held_out: Float[Tensor, "N D"]
    validation: Float[Tensor, "N D"]
    identity: dict[str, Any]
    tokens: Int[Tensor, " N"] | None = None
    truth: dict[str, Tensor] = NOTHING
    text: Text | None = None


@dataclass(frozen=True)
class Dataset:
    """How data come to be: `seeded` ones are other data for every seed."""

    open: Callable[[Scale, int], Data]
    width: Callable[[Scale], int]
    predict: Callable[[Scale], float] = field(default=lambda scale: 0.0)
    """Seconds that opening takes from now."""
    seeded: bool = True
