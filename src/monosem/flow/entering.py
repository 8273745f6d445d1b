"""Starting a pass in the middle: blocks before a layer are not computed, the stream enters it as given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from monosem.lm import LanguageModel


class Entering(NamedTuple):
    """The residual stream [B, S, D] before the block `layer`."""

    layer: int
    stream: Float[Tensor, "B S D"]


@contextmanager
def entering(lm: LanguageModel, start: Entering | None) -> Iterator[None]:
    """Inside the block every pass begins at `start`; hooks on the output of the block before it see the stream.

    A cache stays as it is in the layers that are left out.
    """
    if start is None or start.layer == 0:
        yield
        return
    blocks = list(lm.model.get_submodule(lm.family.blocks))[: start.layer]
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(_standing_in(block, start.stream))
        yield


@contextmanager
def _standing_in(block: nn.Module, stream: Tensor) -> Iterator[None]:
    """The block gives the stream instead of computing; in the form of its own output, a tensor."""

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return stream.to(hidden_states)

    # An attribute of the instance hides the method of the class; hooks run as ever.
    before = vars(block).get("forward")
    block.forward = forward
    try:
        yield
    finally:
        del block.forward
        if before is not None:
            block.forward = before
