"""Changing single latents of sparse codes, at every token, whether they are active there or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from operator import index
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.shapes import InputError
from monosem.shapes.codes import Codes

Edit = Callable[[Codes], Codes | Tensor]
"""Codes [*B, F] to other codes: sparse, or a dense tensor of the same shape."""

Latents = int | Iterable[int]
Amount = float | Float[Tensor, "*B"]
"""A number, or one for each token."""


def scale(codes: Codes, latents: Latents, factor: float) -> Codes:
    """The same codes with `latents` multiplied by `factor`. Raises `InputError` for a latent that does not exist."""
    there = _places(codes, _checked(codes, latents))
    return _ranked(replace(codes, values=torch.where(there, factor * codes.values, codes.values)))


def ablate(codes: Codes, latents: Latents) -> Codes:
    """The same codes with `latents` at 0. Raises `InputError` as `scale`."""
    there = _places(codes, _checked(codes, latents))
    return _ranked(replace(codes, values=torch.where(there, 0.0, codes.values)))


def put(codes: Codes, latents: Latents, value: Amount) -> Codes:
    """The same codes with `latents` at `value`, active or not before. Raises `InputError` as `scale`."""
    wanted = _checked(codes, latents)
    changed, amount = ablate(codes, wanted), _per_token(codes, value)
    for latent in wanted:
        changed = _stored(changed, latent, amount)
    return _ranked(changed)


def add(codes: Codes, latents: Latents, amount: Amount) -> Codes:
    """The same codes with `amount` more of `latents`, active or not before. Raises `InputError` as `scale`."""
    changed, more = codes, _per_token(codes, amount)
    for latent in _checked(codes, latents):
        there = _places(changed, [latent]) & changed.active
        before = _total(changed, torch.where(there, changed.values, 0.0))
        changed = replace(changed, values=torch.where(there, 0.0, changed.values))
        changed = _stored(changed, latent, before + more)
    return _ranked(changed)


def _checked(codes: Codes, latents: Latents) -> list[int]:
    wanted = list(dict.fromkeys(_numbers(latents)))
    if wrong := [latent for latent in wanted if not 0 <= latent < codes.n_latents]:
        raise InputError(f"latent {wrong[0]} does not exist: give one from 0 to {codes.n_latents - 1}")
    return wanted


def _numbers(latents: Any) -> list[int]:
    """One number (of Python, numpy or torch), or several."""
    try:
        return [index(latents)]
    except TypeError:
        return [index(latent) for latent in latents]


def _places(codes: Codes, latents: list[int]) -> Bool[Tensor, "*stored"]:
    """Which stored values belong to `latents`."""
    chosen = torch.zeros(codes.n_latents, dtype=torch.bool, device=codes.values.device)
    chosen[latents] = True
    return chosen.expand_as(codes.values) if codes.indices is None else chosen[codes.indices]


def _per_token(codes: Codes, amount: Amount) -> Float[Tensor, " rows"]:
    """One number a token. Raises `InputError` for a tensor of another shape than the tokens'."""
    given = torch.as_tensor(amount, dtype=codes.values.dtype, device=codes.values.device)
    if given.ndim and given.shape != codes.batch_shape:
        raise InputError(f"amounts of shape {tuple(given.shape)} for tokens {codes.batch_shape}: give one for each")
    return given.expand(codes.batch_shape).reshape(codes.rows)


def _total(codes: Codes, values: Float[Tensor, "*stored"]) -> Float[Tensor, " rows"]:
    """The sum of stored values of each token."""
    if codes.offsets is None:
        return values.sum(1)
    return values.new_zeros(codes.rows).index_add(0, codes.entry_rows(), values)


def _stored(codes: Codes, latent: int, amount: Float[Tensor, " rows"]) -> Codes:
    """The same codes with an entry of `latent` more for each token; what it had of it is 0."""
    if codes.indices is None:
        column = torch.arange(codes.n_latents, device=codes.values.device) == latent
        return replace(codes, values=torch.where(column, amount[:, None], codes.values))
    own = torch.full_like(amount, latent, dtype=codes.indices.dtype)
    if codes.offsets is None:
        values, indices = torch.cat([codes.values, amount[:, None]], 1), torch.cat([codes.indices, own[:, None]], 1)
        return replace(codes, values=values, indices=indices)
    rows = torch.arange(codes.rows, device=amount.device)
    order = torch.cat([codes.entry_rows(), rows]).sort(stable=True).indices
    return replace(
        codes,
        values=torch.cat([codes.values, amount])[order],
        indices=torch.cat([codes.indices, own])[order],
        offsets=codes.offsets + torch.arange(codes.rows + 1, device=amount.device),
    )


def _ranked(codes: Codes) -> Codes:
    """Fixed codes are sorted by value, for those who cut them at k."""
    if codes.indices is None or codes.offsets is not None:
        return codes
    values, order = codes.values.sort(dim=1, descending=True, stable=True)
    return replace(codes, values=values, indices=codes.indices.gather(1, order))
