"""What fires on each token of a prompt."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.evaluation.card import prompt_table
from monosem.evaluation.place import shared_place
from monosem.evaluation.reading import evaluating
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.sae import SAE
from monosem.shapes import InputError, Site
from monosem.shapes.codes import Codes
from monosem.shapes.exclusion import Exclusion
from monosem.text.window import separator_id


class Firing(NamedTuple):
    """A latent and its activation, in units of the autoencoder's codes."""

    latent: int
    value: float


class TokenReading(NamedTuple):
    """One token: its place, id and text, how many latents are active, and the strongest of them, descending.

    `excluded` says why the token is left out of training and evaluation, and is empty where it counts; an excluded
    token has no firings.
    """

    position: int
    token: int
    text: str
    excluded: str
    l0: int
    firings: list[Firing]


class PromptReading(NamedTuple):
    """Every token of a prompt at a site, and the codes of all of them, excluded ones too (row t is token t)."""

    site: Site
    tokens: list[TokenReading]
    codes: Codes

    def to_json(self) -> dict[str, Any]:
        """JSON-able: site and tokens."""
        tokens = [one._asdict() | {"firings": [firing._asdict() for firing in one.firings]} for one in self.tokens]
        return {"site": str(self.site), "tokens": tokens}

    def _repr_html_(self) -> str:
        return prompt_table(self.site, self.tokens)


def read_prompt(sae: SAE, lm: LanguageModel, prompt: str, *, top: int = 5, lead: bool = True) -> PromptReading:
    """The `top` strongest latents on each token of `prompt`.

    With `lead` the prompt follows the token that begins a text in training (BOS, or the one between documents), where
    there is one and the prompt does not begin with it: the first position of a window is unlike all others and
    excluded, and the prompt's own first token should not be. Raises `InputError` for an empty prompt, and for an
    autoencoder that does not belong to this model.
    """
    place = shared_place({"the autoencoder": sae}, lm)
    if top < 1:
        raise InputError(f"top = {top}: give at least 1 latent a token")
    ids = prompt_ids(sae, lm, prompt, lead)
    special = torch.isin(ids, torch.tensor(sorted(Spelling(lm.tokenizer).special), dtype=torch.int64))
    sites = list(dict.fromkeys([place.site, *map(lm.site, place.exclusion.max_norm)]))
    with evaluating({"": sae}):
        acts = lm.capture(ids[None], sites)
        codes = sae.codes(acts[place.site][0].float().to(sae.W_dec.device))
    why = reasons(place.exclusion, special, {site: act[0] for site, act in acts.items()})
    return PromptReading(place.site, _readings(lm, ids, why, codes, top), codes)


def prompt_ids(sae: SAE, lm: LanguageModel, prompt: str, lead: bool = True) -> Int64[Tensor, " T"]:
    """The tokens of a prompt, after the token that begins a text in training. Raises `InputError` for none."""
    ids = lm.tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
    if not ids:
        raise InputError("the prompt is empty: give some text, such as 'The capital of France is'")
    first = _lead(sae, lm) if lead else None
    return torch.tensor(ids if first in (None, ids[0]) else [first, *ids], dtype=torch.int64)


def reasons(exclusion: Exclusion, special: Bool[Tensor, " T"], acts: dict[Site, Float[Tensor, "T D"]]) -> list[str]:
    """Why each token is left out; empty where it counts."""
    nothing = torch.zeros_like(special)[None]
    rules = {
        "first position": Exclusion(exclusion.first, False).mask(nothing, {})[0],
        "special token": special & exclusion.special,
    }
    for site, most in exclusion.max_norm.items():
        limit = Exclusion(0, False, exclusion.ratio, {site: most})
        own = {at: act[None] for at, act in acts.items() if str(at) == site}
        rules[f"norm above {most:,.0f} at {site}"] = limit.mask(nothing, own)[0]
    return [", ".join(name for name, out in rules.items() if out[t]) for t in range(len(special))]


def _lead(sae: SAE, lm: LanguageModel) -> int | None:
    """The token that begins a text in the windows of training; as those of this package where that was not stored."""
    text = sae.info.get("text", {})
    if text.get("bos", False):
        return lm.tokenizer.bos_token_id
    return separator_id(lm.tokenizer) if text.get("separator", True) else None


def _readings(
    lm: LanguageModel, ids: Int64[Tensor, " T"], why: list[str], codes: Codes, top: int
) -> list[TokenReading]:
    _, latents, values = (part.cpu() for part in codes.entries())
    active, spelling = codes.l0().tolist(), Spelling(lm.tokenizer)
    own = zip(latents.split(active), values.float().split(active))
    return [
        TokenReading(place, token, spelling.word(token), why[place], active[place], _strongest(*one, top, why[place]))
        for place, (token, one) in enumerate(zip(ids.tolist(), own))
    ]


def _strongest(latents: Tensor, values: Tensor, top: int, excluded: str) -> list[Firing]:
    if excluded:
        return []
    order = values.argsort(descending=True, stable=True)[:top]
    return [Firing(*pair) for pair in zip(latents[order].tolist(), values[order].tolist())]
