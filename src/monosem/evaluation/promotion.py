"""Which tokens a latent's decoder row makes more and less likely, read directly off the unembedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from monosem.lm import LanguageModel
from monosem.sae import SAE
from monosem.shapes import STREAM, InputError

_ROWS = 256


class Promoted(NamedTuple):
    """For each of R latents the n tokens with the greatest and the least logit, most extreme first."""

    top_ids: Int64[Tensor, "R n"]
    top_values: Float32[Tensor, "R n"]
    bottom_ids: Int64[Tensor, "R n"]
    bottom_values: Float32[Tensor, "R n"]


def promotes(sae: SAE, lm: LanguageModel) -> bool:
    """Whether decoder rows are directions of the residual stream: by width, and by the kind of site they write to."""
    return sae.d_out == lm.d_model and lm.site(_written(sae) or "embed").kind in STREAM


def _written(sae: SAE) -> str | None:
    """The site whose activations decoder rows add up to."""
    return sae.info.get("target", sae.info.get("site"))


@torch.no_grad()
def promoted(sae: SAE, lm: LanguageModel, latents: Sequence[int], n: int = 10) -> Promoted:
    """Logits of decoder rows through the final norm's gain and the unembedding, minus their mean over tokens.

    Later blocks and the norm's division are left out, so values compare tokens, not latents. Raises
    `InputError` when decoder rows are not directions of the residual stream, or a latent does not exist.
    """
    if not promotes(sae, lm):
        raise InputError(
            f"decoder rows of width {sae.d_out} at {_written(sae)} are not directions of the residual stream "
            f"(width {lm.d_model}): only {', '.join(STREAM)} promote tokens"
        )
    if wrong := [latent for latent in latents if not 0 <= latent < sae.n_latents]:
        raise InputError(f"latent {wrong[0]} does not exist: give one from 0 to {sae.n_latents - 1}")
    if not 1 <= n <= lm.vocab_size:
        raise InputError(f"{n} tokens were asked for: give a number from 1 to {lm.vocab_size}")
    rows = torch.tensor(list(latents), dtype=torch.int64, device=sae.W_dec.device)
    parts = [extremes(sae.W_dec[part], lm, n) for part in rows.split(_ROWS)]
    return Promoted(*(torch.cat(column) for column in zip(*parts)))


@torch.no_grad()
def extremes(rows: Float[Tensor, "R D"], lm: LanguageModel, n: int) -> Promoted:
    """`promoted` for directions of the residual stream, whatever they are; all logits [R, vocabulary] exist at once."""
    logits = lm.unembed(rows.to(lm.device))
    logits = logits - logits.mean(1, keepdim=True)
    top, bottom = logits.topk(n, dim=1), logits.topk(n, dim=1, largest=False)
    return Promoted(top.indices.cpu(), top.values.cpu(), bottom.indices.cpu(), bottom.values.cpu())
