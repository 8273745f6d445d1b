"""Running one token of a window again, with other activations, many times side by side.

Keys and values of the tokens before it are those of the clean pass, which do not depend on what is changed at a
later token; so a run costs one token, not a window. It can begin at the first block that is changed, and stops at the
last site that is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor

from monosem.flow.entering import Entering, entering
from monosem.lm import LanguageModel
from monosem.lm.hook import Hook
from monosem.shapes import Site


class Clean(NamedTuple):
    """The unchanged pass of one window: its tokens, activations by site, and the model's keys and values."""

    tokens: Int[Tensor, " T"]
    acts: dict[Site, Float[Tensor, "T D"]]
    cache: Any


class Rerun:
    """Token `position` of a window and, for losses, those after it, in `rows` copies.

    Rounding may differ between rows of a batch and between shapes of passes, so changed rows are compared with the
    same rows of an unchanged run.
    """

    def __init__(self, lm: LanguageModel, clean: Clean, position: int, rows: int) -> None:
        self._lm, self._tokens, self._position, self._rows = lm, clean.tokens.to(lm.device).long(), position, rows
        self._acts = clean.acts
        self._cache = _before(clean.cache, position, rows)

    @torch.no_grad()
    def activations(
        self,
        sites: Sequence[Site],
        changes: Mapping[Site, Float32[Tensor, "R D"]] | None = None,
        start: Entering | None = None,
    ) -> dict[Site, Float[Tensor, "R D"]]:
        """Activations of the token at `sites`, with what is added to them; [rows, D] each.

        `start`: the stream [rows, 1, D] before a block that no change and no site lies before.
        """
        found: dict[Site, Tensor] = {}
        wanted = set(sites)

        def hook(site: Site, change: Tensor | None) -> Hook:
            def fn(act: Float[Tensor, "R S D"]) -> Float[Tensor, "R S D"] | None:
                new = None if change is None else _added(act, change)
                if site in wanted:
                    found[site] = (act if new is None else new)[:, 0].to(self._lm.device)
                    if len(found) == len(wanted):
                        raise _Complete
                return new

            return fn

        given = changes or {}
        hooks = {site: hook(site, given.get(site)) for site in (*sites, *given)}
        with suppress(_Complete), entering(self._lm, start), self._lm.hooks(hooks):
            self._pass(slice(self._position, self._position + 1))
        return {site: found[site] for site in sites}

    @torch.no_grad()
    def losses(
        self, changes: Mapping[Site, Float32[Tensor, "R D"]] | None = None, layer: int = 0
    ) -> Float64[Tensor, " R"]:
        """Mean next-token loss of the tokens from this one on, in nats, of each row.

        The pass begins at the block `layer` where the clean pass kept the stream before it.
        """
        given, before = changes or {}, self._acts.get(Site("resid_post", layer - 1))
        stream = None if before is None else before[self._position : -1].expand(self._rows, -1, -1)
        start = None if stream is None else Entering(layer, stream)
        with (
            entering(self._lm, start),
            self._lm.hooks({site: lambda act, site=site: _added(act, given[site]) for site in given}),
        ):
            logits = self._pass(slice(self._position, len(self._tokens) - 1)).logits
        after = self._tokens[self._position + 1 :]
        return torch.stack([-_log_probability(row, after).mean() for row in logits]).cpu()

    def _pass(self, part: slice) -> Any:
        tokens = self._tokens[part].expand(self._rows, -1)
        return self._lm.model(input_ids=tokens, past_key_values=_copied(self._cache), use_cache=True)


@torch.no_grad()
def clean_pass(lm: LanguageModel, tokens: Int[Tensor, " T"], sites: Sequence[Site]) -> Clean:
    """Run a window as it is and keep what later runs need."""
    from transformers import DynamicCache

    found: dict[Site, Tensor] = {}
    # Without the configuration every layer keeps all tokens, so that any beginning of the window can be cut out;
    # the model's masks still see to sliding windows.
    cache = DynamicCache()
    with lm.hooks({site: lambda act, site=site: found.__setitem__(site, act[0].to(lm.device)) for site in sites}):
        lm.model(input_ids=tokens[None].to(lm.device).long(), past_key_values=cache, use_cache=True)
    return Clean(tokens, found, cache)


def _before(cache: Any, position: int, rows: int) -> Any:
    """Keys and values of the tokens before `position`, for every row."""
    from transformers import DynamicCache

    found = DynamicCache()
    for number, layer in enumerate(cache.layers):
        keys, values = (part[:, :, :position].expand(rows, -1, -1, -1) for part in (layer.keys, layer.values))
        found.update(keys, values, number)
    return found


def _copied(cache: Any) -> Any:
    """A cache that can grow while this one stays: tensors are shared, growing makes new ones."""
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) for layer in cache.layers]
    return found


def _added(act: Float[Tensor, "R S D"], change: Float32[Tensor, "R D"]) -> Float[Tensor, "R S D"]:
    """The sum in float32 at the first token of the pass: a change of zeros gives the very same activation."""
    new = act.clone()
    new[:, 0] = (act[:, 0].float() + change.to(act.device)).to(act.dtype)
    return new


def _log_probability(logits: Float[Tensor, "S V"], after: Int[Tensor, " S"]) -> Float64[Tensor, " S"]:
    return logits.float().log_softmax(-1).gather(1, after[:, None].to(logits.device))[:, 0].double()


class _Complete(Exception):  # noqa: N818
    """Every wanted activation was seen; the rest of the pass is not needed."""
