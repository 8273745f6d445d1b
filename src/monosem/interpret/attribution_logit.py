"""The direction of a site along which a logit moves: through the frozen final norm, or by the gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from monosem.evaluation.place import Place
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.shapes import InputError, Site


class Contrast(NamedTuple):
    """The token whose logit is explained, and the one it is compared with."""

    target: str
    against: str | None
    target_id: int
    against_id: int | None

    def of(self, values: Float[Tensor, "V ..."]) -> Float64[Tensor, "*rest"]:
        """The row of the target, minus that of the other token if there is one."""
        row = values[self.target_id].double()
        return row if self.against_id is None else row - values[self.against_id].double()


class Logit(NamedTuple):
    """A direction u for every position from the `first` on, and what was seen of the pass.

    `acts` has the sites that were read, `logit` is the model's own, `total` what the addends have to reach, and
    `beside` what is added to it outside the site.
    """

    direction: Float64[Tensor, "S E"]
    first: int
    acts: dict[Site, Float[Tensor, "T D"]]
    total: float
    logit: float
    beside: dict[str, float]


def contrast(lm: LanguageModel, target: str, against: str | None) -> Contrast:
    """Raises `InputError` unless each text is one token, and not the same one."""
    ids = [None if text is None else _token(lm, text) for text in (target, against)]
    if ids[0] == ids[1]:
        raise InputError(f"{target!r} was given as target and against: give another token")
    assert ids[0] is not None
    return Contrast(target, against, ids[0], ids[1])


def random_contrast(lm: LanguageModel, aim: Contrast, seed: int) -> Contrast:
    """The same question of as many tokens drawn at random, none special or asked about: what any token would be told.

    Raises `InputError` for a vocabulary without a token that is spelled as itself.
    """
    spelling, generator = Spelling(lm.tokenizer), torch.Generator().manual_seed(seed)
    asked, found = {aim.target_id, aim.against_id}, []
    for token in torch.randperm(min(len(lm.tokenizer), lm.vocab_size), generator=generator).tolist():
        text = "" if token in spelling.special | asked else spelling.word(token)
        if text and lm.tokenizer(text, add_special_tokens=False)["input_ids"] == [token]:
            found.append((text, token))
        if len(found) == (1 if aim.against is None else 2):
            (target, target_id), (against, against_id) = (*found, (None, None))[:2]
            return Contrast(str(target), against, int(target_id or 0), against_id)
    raise InputError(f"{lm.name}: no token of the vocabulary can be drawn as another target")


def _token(lm: LanguageModel, text: str) -> int:
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    if len(ids) != 1:
        spelling = Spelling(lm.tokenizer)
        shown = " + ".join(repr(spelling.word(token)) for token in ids)
        raise InputError(f"{text!r} is {len(ids)} tokens ({shown}): give one token, with the space before a word")
    return int(ids[0])


def direct_logit(lm: LanguageModel, place: Place, ids: Int64[Tensor, " T"], aim: Contrast) -> Logit:
    """u of the last position: (W_U[target] − W_U[against]) · gain / σ, σ that of the final norm in this pass.

    A centring norm takes the mean off u. The logit is that before a final soft cap. Raises `InputError` for a family
    whose final norm is not known.
    """
    if not lm.sites():
        raise InputError(f"{lm.name} is a {lm.family.title} model, whose final norm is not known: use the gradient")
    norm_in, logits = lm.site(f"{lm.family.norm}:in"), lm.site(f"{lm.family.unembed}:out")
    seen = lm.capture(ids[None], [*_read(lm, place), norm_in, logits])
    acts = {site: act[0] for site, act in seen.items()}
    final = acts.pop(norm_in)[-1].cpu().double()
    logit = float(aim.of(acts.pop(logits)[-1]))
    row, constant = _folded(lm, aim, final)
    rest = float(row @ (final - acts[place.target][-1].cpu().double()))
    return Logit(row[None], len(ids) - 1, acts, logit, logit, {"rest": rest, "constant": constant})


def _folded(lm: LanguageModel, aim: Contrast, final: Float64[Tensor, " D"]) -> tuple[Float64[Tensor, " D"], float]:
    """The direction of the residual stream that is the logit at this scale, and what biases add."""
    norm: Any = lm.model.get_submodule(lm.family.norm)
    unembed: Any = lm.model.get_submodule(lm.family.unembed)
    rule = lm.family.norms
    row = aim.of(unembed.weight.detach()).cpu()
    constant = 0.0
    if getattr(norm, "bias", None) is not None:
        constant += float(row @ norm.bias.detach().cpu().double())
    if getattr(unembed, "bias", None) is not None:
        constant += float(aim.of(unembed.bias.detach()))
    row = row * (norm.weight.detach().cpu().double() + rule.offset)
    centred = final - final.mean() if rule.centred else final
    row = row / (centred.square().mean() + getattr(norm, rule.eps)).sqrt()
    return (row - row.mean() if rule.centred else row), constant


def gradient_logit(lm: LanguageModel, place: Place, ids: Int64[Tensor, " T"], aim: Contrast) -> Logit:
    """u is the gradient of the logit at the last position with respect to the written site, at every position."""
    acts: dict[Site, Tensor] = {}

    def keep(site: Site) -> Any:
        def hook(act: Float[Tensor, "B T D"]) -> Tensor | None:
            leaf = act.detach().clone()
            acts[site] = leaf.requires_grad_() if site == place.target else leaf
            return leaf if site == place.target else None

        return hook

    with torch.enable_grad(), lm.hooks({site: keep(site) for site in _read(lm, place)}):
        logit = aim.of(lm.logits(ids[None])[0, -1])
        (gradient,) = torch.autograd.grad(logit, acts[place.target])
    direction, written = gradient[0].cpu().double(), acts[place.target][0].detach()
    total = float((direction * written.cpu().double()).sum())
    found = {site: act[0].detach() for site, act in acts.items()}
    return Logit(direction, 0, found, total, float(logit.detach()), {})


def _read(lm: LanguageModel, place: Place) -> list[Site]:
    return list(dict.fromkeys([place.site, place.target, *map(lm.site, place.exclusion.max_norm)]))
