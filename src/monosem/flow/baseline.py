"""What steering is compared with: other directions of the same norm at the same sites and tokens, and prompting.

Each keeps the coefficients c of the steering, and adds δ' = Σ c_i w_i with the norm of δ = Σ c_i v_i, token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from monosem.flow.steering import Push, Steering
from monosem.flow.suite import Suite
from monosem.lm import LanguageModel
from monosem.shapes import InputError, Site

PROMPTS = {"add": "Write about {subject}. ", "rescale": "Do not write about {subject}. "}
"""What prompting puts before a prompt, by the mode of the steering it stands for."""


def random_direction(steering: Steering, seed: int = 0) -> Steering:
    """w_i are independent Gaussian directions, a new one for each site and latent."""

    def rows(site: Site, push: Push) -> Tensor:
        return torch.randn(push.vectors.shape, generator=_generator(seed, site))

    return _instead(steering, rows, {"baseline": "random", "seed": seed})


def random_features(
    steering: Steering, suite: Suite, seed: int = 0, alive: Mapping[Site, Bool[Tensor, " F"]] | None = None
) -> Steering:
    """w_i are other features of the same dictionary, each as long as the one it stands for.

    Drawn without replacement among those that are `alive` at a site (by default all whose row is not zero) and not
    steered. Raises `InputError` where there are too few.
    """
    others: dict[str, list[int]] = {}

    def rows(site: Site, push: Push) -> Tensor:
        direction = suite.direction(site)
        free = ~direction.dead.cpu() if alive is None or site not in alive else alive[site] & ~direction.dead.cpu()
        free[push.latents[push.latents >= 0]] = False
        known = free.nonzero()[:, 0]
        if len(known) < len(push.latents):
            raise InputError(f"{site} has {len(known)} other features, {len(push.latents)} are needed as a control")
        drawn = known[torch.randperm(len(known), generator=_generator(seed, site))[: len(push.latents)]]
        others[str(site)] = drawn.tolist()
        return direction.unit[drawn].cpu() * push.vectors.norm(dim=1, keepdim=True)

    steered = _instead(steering, rows, {"baseline": "features", "seed": seed})
    return replace(steered, info={**steered.info, "features": others})


def mean_difference(steering: Steering, differences: Mapping[Site, Float[Tensor, " D"]]) -> Steering:
    """w_i are all the difference in means at their site, so that every token moves towards the theme, or away from it.

    Raises `InputError` for a site without a difference.
    """

    def rows(site: Site, push: Push) -> Tensor:
        if site not in differences:
            raise InputError(f"there is no difference in means at {site}: compute it at every steered site")
        return differences[site].float().cpu().expand(push.vectors.shape)

    return _instead(steering, rows, {"baseline": "difference"})


@torch.no_grad()
def differences_in_means(
    lm: LanguageModel,
    sites: Sequence[Site],
    theme: Sequence[Int64[Tensor, " T"]],
    contrast: Sequence[Int64[Tensor, " T"]],
    *,
    skip: int = 1,
    advance: Callable[[int], None] = lambda texts: None,
) -> dict[Site, Float32[Tensor, " D"]]:
    """Mean activation on theme texts minus that on contrast texts; the first `skip` tokens of a text do not count."""
    means = []
    for texts in (theme, contrast):
        sums = {site: torch.zeros(lm.width(site), dtype=torch.float64) for site in sites}
        count = 0
        for text in texts:
            for site, act in lm.capture(text[None], sites).items():
                sums[site] += act[0, skip:].double().sum(0).cpu()
            count += max(0, len(text) - skip)
            advance(1)
        if not count:
            raise InputError(f"a difference in means needs texts of more than {skip} tokens on either side")
        means.append({site: total / count for site, total in sums.items()})
    return {site: (means[0][site] - means[1][site]).float() for site in sites}


def _instead(steering: Steering, rows: Callable[[Site, Push], Tensor], said: Mapping[str, object]) -> Steering:
    pushes = {site: replace(push, instead=rows(site, push).float()) for site, push in steering.pushes.items()}
    return replace(steering, pushes=pushes, info={**steering.info, **said})


def _generator(seed: int, site: Site) -> torch.Generator:
    """A site's own, so that what is drawn there does not depend on which other sites are steered."""
    state = np.random.SeedSequence([seed, *str(site).encode()]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))
