"""What each feature adds to a token's logit: directly through the unembedding, or by its gradient.

With a direction u_t of the written site for every position t, an activation y_t is taken apart exactly:

u_t · y_t = Σ_i f_ti (u_t · W_dec[i]) / out_scale + u_t · b_dec / out_scale + u_t · skip_t + u_t · error_t

* direct: u is the unembedding of the target token (minus that of another) behind the final norm, whose division is
  held at what it is in this pass; only the last position has one, and Σ is the logit (difference) to rounding.
* gradient: u_t is the gradient of that logit with respect to y_t through everything after it, so that a value is
  feature × gradient (as in arXiv 2403.19647, from a baseline of 0) and Σ is the first-order change if the site
  went to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from monosem.evaluation import promotes, shared_place
from monosem.evaluation.place import Place
from monosem.evaluation.prompt import prompt_ids
from monosem.evaluation.reading import evaluating
from monosem.interpret.attribution_logit import (
    Contrast,
    contrast,
    direct_logit,
    gradient_logit,
    random_contrast,
)
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.sae import SAE
from monosem.shapes import InputError, Site

METHODS = {"direct": direct_logit, "gradient": gradient_logit}


@dataclass(frozen=True)
class Attribution:
    """Every active feature of a prompt with what it adds, strongest first, and all that is added beside features.

    `parts` sums each kind of addend: `features`, the autoencoder's `error`, `b_dec` and (transcoders) `skip`, the
    activations of tokens the rule has `left out`, and for the direct method the `rest` of the stream and the
    `constant` of norm and unembedding biases. They add up to `total`, which was computed without them; `rounding` is
    what is missing. Activations are in units of the autoencoder's codes, values in logits.
    """

    method: str
    site: Site
    contrast: Contrast
    tokens: list[str]
    positions: Int64[Tensor, " N"]
    latents: Int64[Tensor, " N"]
    activations: Float64[Tensor, " N"]
    values: Float64[Tensor, " N"]
    parts: dict[str, float]
    total: float
    logit: float

    @property
    def rounding(self) -> float:
        """total − Σ parts."""
        return self.total - sum(self.parts.values())

    def value_of(self, position: int, latent: int) -> float:
        """What a feature adds at a position of the prompt; 0 where it is not active."""
        here = (self.positions == position) & (self.latents == latent)
        return float(self.values[here].sum())

    def to_json(self, top: int | None = None) -> dict[str, Any]:
        """JSON-able, with the `top` strongest features (None: all)."""
        columns = (self.positions, self.latents, self.activations, self.values)
        rows = zip(*(column[:top].tolist() for column in columns))
        features = [
            {"position": place, "token": self.tokens[place], "latent": latent, "activation": activation, "value": value}
            for place, latent, activation, value in rows
        ]
        return {
            "method": self.method,
            "site": str(self.site),
            **self.contrast._asdict(),
            "logit": self.logit,
            "total": self.total,
            "parts": self.parts,
            "rounding": self.rounding,
            "n_features": len(self.values),
            "features": features,
        }


class Parted(NamedTuple):
    """Σ_t u_t · y_t by addend, in float64; positions count from the first that was given."""

    positions: Int64[Tensor, " N"]
    latents: Int64[Tensor, " N"]
    activations: Float64[Tensor, " N"]
    values: Float64[Tensor, " N"]
    parts: dict[str, float]


def attribute(
    sae: SAE,
    lm: LanguageModel,
    prompt: str,
    target: str,
    against: str | None = None,
    *,
    method: str = "direct",
    lead: bool = True,
) -> Attribution:
    """What each active feature of `prompt` adds to the logit of `target` (minus that of `against`) as next token.

    `beside_random` asks the same of random tokens. `lead` as in `read_prompt`. Raises `InputError` for an empty
    prompt, a target that is not one token, an autoencoder that does not belong to this model and, with the direct
    method, for a site whose decoder rows are no directions of the residual stream.
    """
    return attribute_to(sae, lm, prompt, contrast(lm, target, against), method=method, lead=lead)


def beside_random(
    sae: SAE, lm: LanguageModel, prompt: str, found: Attribution, *, seed: int = 0, lead: bool = True
) -> Attribution:
    """The control of an attribution: the same prompt and method, for tokens drawn at random by `seed`.

    A feature that adds as much to them says nothing of the target.
    """
    aim = random_contrast(lm, found.contrast, seed)
    return attribute_to(sae, lm, prompt, aim, method=found.method, lead=lead)


def attribute_to(
    sae: SAE, lm: LanguageModel, prompt: str, aim: Contrast, *, method: str = "direct", lead: bool = True
) -> Attribution:
    """`attribute` of tokens by number. Raises as it does."""
    if method not in METHODS:
        raise InputError(f"method = {method!r}: give {' or '.join(METHODS)}")
    place = shared_place({"the autoencoder": sae}, lm)
    if method == "direct" and not promotes(sae, lm):
        raise InputError(
            f"decoder rows at {place.target} are not directions of the residual stream: use the gradient method"
        )
    ids = prompt_ids(sae, lm, prompt, lead)
    found = METHODS[method](lm, place, ids, aim)
    kept = _kept(lm, place, ids, found.acts)
    with evaluating({"": sae}):
        x, y = (found.acts[site][found.first :] for site in (place.site, place.target))
        parted = part(sae, x, y, found.direction, kept[found.first :])
    spelling = Spelling(lm.tokenizer)
    words = [spelling.word(token) for token in ids.tolist()]
    parts = {name: value for name, value in (parted.parts | found.beside).items() if name in _shown(sae, found.beside)}
    positions = parted.positions + found.first
    return Attribution(method, place.target, aim, words, positions, *parted[1:4], parts, found.total, found.logit)


def part(
    sae: SAE,
    x: Float[Tensor, "T D"],
    y: Float[Tensor, "T E"],
    u: Float64[Tensor, "T E"],
    kept: Bool[Tensor, " T"],
) -> Parted:
    """Take Σ_t u_t · y_t apart, strongest features first; tokens that are not `kept` are one addend."""
    x, y = x.to(sae.W_dec), y.to(sae.W_dec)
    codes, scale = sae.codes(x), sae.out_scale
    rows, latents, activations = codes.entries()
    inside = kept.to(rows.device)[rows]
    rows, latents, activations = rows[inside].cpu(), latents[inside].cpu(), activations[inside].cpu().double()
    values = activations * (sae.W_dec.detach()[latents.to(sae.W_dec.device)].cpu().double() * u[rows]).sum(1) / scale
    order = values.abs().argsort(descending=True, stable=True)
    skipped = sae.skipped(x)
    own = u * kept[:, None]
    parts = {
        "features": float(values.sum()),
        "error": _along(own, y - sae.decode(codes, x)),
        "b_dec": float((own @ sae.b_dec.detach().cpu().double()).sum()) / scale,
        "skip": 0.0 if skipped is None else _along(own, skipped),
        "left out": _along(u - own, y),
    }
    return Parted(rows[order], latents[order], activations[order], values[order], parts)


def _along(u: Float64[Tensor, "T E"], y: Float[Tensor, "T E"]) -> float:
    return float((u * y.detach().cpu().double()).sum())


def _shown(sae: SAE, beside: dict[str, float]) -> set[str]:
    """The addends that there are."""
    return {"features", "error", "b_dec", "left out", *beside} | ({"skip"} if sae.W_skip is not None else set())


def _kept(
    lm: LanguageModel, place: Place, ids: Int64[Tensor, " T"], acts: dict[Site, Float[Tensor, "T D"]]
) -> Bool[Tensor, " T"]:
    special = torch.isin(ids, torch.tensor(sorted(Spelling(lm.tokenizer).special), dtype=torch.int64))
    return ~place.exclusion.mask(special[None], {site: act[None] for site, act in acts.items()})[0].cpu()
