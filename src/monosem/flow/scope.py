"""Which tokens of a running model are steered: all, the prompt's, its last one, or those that were generated."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Int64
from torch import Tensor

from monosem.lm.running import Tokens

Scope = Literal["all", "generated", "prompt", "last"]
"""`last` is the prompt's last token alone, the one that the first new token is predicted from."""


class Prompt:
    """How many tokens of each text are its prompt.

    Where `lengths` is not given, what a pass without a cache reads is the prompt, and what later passes read was
    generated.
    """

    def __init__(self, lengths: Int64[Tensor, " B"] | None = None) -> None:
        self._given, self._seen = lengths, lengths

    def within(self, tokens: Tokens, scope: Scope) -> Bool[Tensor, "B T"]:
        """Tokens of a pass that `scope` means; padding never is."""
        there = ~tokens.padding
        if scope == "all":
            return there
        ends = self._lengths(tokens).to(there.device)[:, None]
        match scope:
            case "prompt":
                return there & (tokens.positions < ends)
            case "last":
                return there & (tokens.positions == ends - 1)
            case "generated":
                return there & (tokens.positions >= ends)

    def _lengths(self, tokens: Tokens) -> Int64[Tensor, " B"]:
        begins = bool(((tokens.positions == 0) & ~tokens.padding).any())
        if self._given is None and begins:
            self._seen = (~tokens.padding).sum(1)
        assert self._seen is not None, "the first pass of a text begins at position 0"
        return self._seen
