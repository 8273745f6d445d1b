"""Steering in a running model: hooks that change activations while the model reads or generates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from monosem.flow.scope import Prompt, Scope
from monosem.flow.steering import Push, Steering
from monosem.flow.suite import Suite
from monosem.lm import LanguageModel
from monosem.lm.running import Tokens, running
from monosem.sae import SAE
from monosem.shapes import InputError, Site
from monosem.shapes.codes import Codes
from monosem.shapes.exclusion import Exclusion

Reading = Literal["current", "clean"]
"""Rescaling reads activations from the pass that is being steered, or from the same tokens without steering."""


class Norm(NamedTuple):
    """Means over steered tokens: ‖δ‖ and ‖h‖ before it, raw units."""

    added: float
    activation: float


class Applied:
    """What the passes inside the block have done so far."""

    def __init__(self) -> None:
        self._sums: dict[Site, Float[Tensor, " 3"]] = {}

    @property
    def norms(self) -> dict[Site, Norm]:
        """By site; a site where no token was steered is missing."""
        sums = {site: total.tolist() for site, total in self._sums.items()}
        return {site: Norm(added / n, before / n) for site, (added, before, n) in sums.items() if n}

    def note(self, site: Site, delta: Float32[Tensor, "N D"], before: Float[Tensor, "N D"]) -> None:
        """Count some steered tokens."""
        found = torch.stack([delta.norm(dim=1).sum(), before.float().norm(dim=1).sum()]).double().cpu()
        found = torch.cat([found, found.new_tensor([len(delta)])])
        self._sums[site] = self._sums.get(site, torch.zeros(3, dtype=torch.float64)) + found


@contextmanager
def steer(
    lm: LanguageModel,
    steering: Steering,
    suite: Suite | None = None,
    *,
    prompt: Int64[Tensor, " B"] | None = None,
    reading: Reading = "current",
) -> Iterator[Applied]:
    """Inside the block every forward pass is steered; with a cache, in batches, and with padding on the left too.

    All directions of a site are added together from one reading of it. Adding steers every token that
    `steering.tokens` means; rescaling leaves out, as training did, the tokens that the dictionary's exclusion rule
    leaves out. Nothing is computed where nothing changes, so that logits keep every bit.

    `prompt`: how many tokens of each row are prompt; by default what a pass without a cache reads is. `reading` =
    `clean`: a batch has two halves of the same tokens, the first stays as it is and the second is steered by the
    activations of the first.

    Raises `InputError` for sites that the model does not have or of another width, and for rescaling without the
    dictionaries it was made with.
    """
    if reading not in get_args(Reading):
        raise InputError(f"reading = {reading!r}: give {', '.join(get_args(Reading))}")
    applied, prompts = Applied(), Prompt(prompt)
    pushes = {site: push.to(lm.device) for site, push in steering.effective.items()}
    for site, push in pushes.items():
        if lm.width(site) != push.vectors.shape[1]:
            raise InputError(
                f"steering vectors of {site} have width {push.vectors.shape[1]}, {lm.name} has {lm.width(site)} there: "
                "use the model they were made for"
            )
    readers = {site: _reader(lm, steering, suite, site, push) for site, push in pushes.items()}
    if not pushes:
        yield applied
        return
    with running(lm) as current:
        changes = {
            site: _Change(site, push, readers[site], prompts, steering.tokens, reading == "clean", current, applied)
            for site, push in pushes.items()
        }
        with lm.hooks(changes):
            yield applied


Reader = Callable[[Tensor, Tokens], tuple[Tensor, Tensor]]
"""From [B, T, D] the coefficients c [B, T, S], or [S] if all tokens have the same, and where they count [B, T]."""


@dataclass(frozen=True)
class _Change:
    """The hook of one site."""

    site: Site
    push: Push
    read: Reader
    prompts: Prompt
    scope: Scope
    clean: bool
    current: Callable[[], Tokens]
    applied: Applied

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"] | None:
        tokens = self.current()
        wanted = self.prompts.within(tokens, self.scope)
        wanted = (_second_half(wanted, tokens) if self.clean else wanted).to(x.device)
        if not wanted.any():
            return None
        coefficients, counts = self.read(x, tokens)
        if self.clean and coefficients.ndim > 1:
            coefficients, counts = (_from_first_half(part) for part in (coefficients, counts))
        wanted = wanted & counts
        delta = self.push.delta(coefficients).expand(x.shape).to(x.device)
        self.applied.note(self.site, delta[wanted], x[wanted])
        return torch.where(wanted[..., None], (x.float() + delta).to(x.dtype), x)


def _second_half(wanted: Bool[Tensor, "B T"], tokens: Tokens) -> Bool[Tensor, "B T"]:
    half, odd = divmod(len(wanted), 2)
    if odd or (tokens.ids is not None and not torch.equal(tokens.ids[:half], tokens.ids[half:])):
        raise InputError("reading = clean needs a batch of two halves with the same tokens: give every text twice")
    wanted = wanted.clone()
    wanted[:half] = False
    return wanted


def _from_first_half(part: Tensor) -> Tensor:
    clean = part[: len(part) // 2]
    return torch.cat([clean, clean])


def _reader(lm: LanguageModel, steering: Steering, suite: Suite | None, site: Site, push: Push) -> Reader:
    if steering.mode == "add":
        return lambda x, tokens: (push.strengths, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
    sae = _dictionary(steering, suite, site, push).to(lm.device)
    rule = Exclusion.of(sae.info, f"the autoencoder at {site}")
    column = torch.full((sae.n_latents,), -1, dtype=torch.int64, device=lm.device)
    column[push.latents] = torch.arange(len(push.latents), device=lm.device)

    def read(x: Float[Tensor, "B T D"], tokens: Tokens) -> tuple[Tensor, Tensor]:
        codes = sae.codes(x.to(sae.W_dec))
        found = activations(codes, column, len(push.latents)).reshape(*x.shape[:2], -1)
        out = rule.mask(tokens.special.to(x.device), {site: x}, tokens.positions.to(x.device))
        return (push.strengths - 1) * found, ~out

    return read


def _dictionary(steering: Steering, suite: Suite | None, site: Site, push: Push) -> SAE:
    """The autoencoder whose activations are rescaled. Raises `InputError` unless it is the one."""
    if suite is None or site not in suite:
        raise InputError(f"rescaling at {site} reads activations: give the suite with the autoencoder at {site}")
    stored: Mapping[str, str] = steering.info.get("dictionaries", {})
    if stored.get(str(site), suite.hash(site)) != suite.hash(site):
        raise InputError(f"the autoencoder at {site} is another one than the steering was made with: give that suite")
    sae = suite[site]
    if wrong := [latent for latent in push.latents.tolist() if not 0 <= latent < sae.n_latents]:
        raise InputError(f"{site}/{wrong[0]} is no latent: rescaling needs directions of a dictionary")
    return sae.eval()


def activations(codes: Codes, column: Int64[Tensor, " F"], count: int) -> Float32[Tensor, "N S"]:
    """Values of some latents on every token, 0 where not active; `column` has their place, −1 for all others."""
    rows, latents, values = codes.entries()
    places = column[latents]
    chosen = places >= 0
    found = torch.zeros(codes.rows, count, device=values.device)
    return found.index_put_((rows[chosen], places[chosen]), values[chosen].float(), accumulate=True)
