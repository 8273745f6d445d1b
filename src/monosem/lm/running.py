"""What the running forward pass was given: its tokens, and where in their windows they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from monosem.lm.tokenizer import special_ids
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.lm.model import LanguageModel


class Tokens(NamedTuple):
    """The tokens of one pass; `ids` is None where embeddings were given.

    `positions` counts from the first token of a window that is not padding: in a pass with a cache they go on.
    """

    ids: Int[Tensor, "B T"] | None
    positions: Int[Tensor, "B T"]
    padding: Bool[Tensor, "B T"]
    special: Bool[Tensor, "B T"]


@contextmanager
def running(lm: LanguageModel) -> Iterator[Callable[[], Tokens]]:
    """Inside the block, a function that says what the pass that runs was given.

    It raises `InputError` where a part of the model is run by itself, which does not say where its tokens are.
    """
    special = torch.tensor(special_ids(lm.tokenizer), dtype=torch.int64)
    seen: list[Tokens] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[:] = [_tokens(args, kwargs, special)]

    def forget(*_: Any) -> None:
        seen.clear()

    def current() -> Tokens:
        if not seen:
            raise InputError("a part of the model was run by itself: use lm.logits, lm.model(…) or lm.model.generate")
        return seen[0]

    handles = [
        lm.model.register_forward_pre_hook(note, with_kwargs=True),
        lm.model.register_forward_hook(forget, always_call=True),
    ]
    try:
        yield current
    finally:
        for handle in handles:
            handle.remove()


def _tokens(args: tuple[Any, ...], given: Mapping[str, Any], special: Int[Tensor, " S"]) -> Tokens:
    ids = args[0] if args else given.get("input_ids")
    if ids is None:
        embeds = given["inputs_embeds"]
        shape, device = embeds.shape[:2], embeds.device
        marked = torch.zeros(shape, dtype=torch.bool, device=device)
    else:
        shape, device = ids.shape, ids.device
        marked = torch.isin(ids, special.to(device))
    positions, padding = _places(given, shape, device)
    return Tokens(ids, positions, padding, marked)


def _places(given: Mapping[str, Any], shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions, and what is padding: by the attention mask where it covers the cache and this pass."""
    cache = given.get("past_key_values")
    past = 0 if cache is None else int(cache.get_seq_length())
    mask = given.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == past + shape[1]:
        mask = mask.to(device).bool()
        return (mask.long().cumsum(1) - 1)[:, past:], ~mask[:, past:]
    positions = torch.arange(past, past + shape[1], device=device).expand(shape)
    return positions, torch.zeros(shape, dtype=torch.bool, device=device)
