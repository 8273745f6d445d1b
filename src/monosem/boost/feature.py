"""Which new latents belong to a domain, with their contexts, and the core's latent that is nearest to each."""

from __future__ import annotations

from typing import Any

import torch

from monosem.boost.redundancy import nearest
from monosem.evaluation import Evaluation, feature_statistics, promoted, promotes
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.report import context
from monosem.sae import SAE, groups
from monosem.text import Windows

SHOWN, CONTEXTS, WIDTH, LEAST = 24, 4, 12, 10
"""Features shown, contexts of each, tokens on either side, and firings below which a rate means nothing."""


@torch.no_grad()
def new_features(
    core: SAE, sae: SAE, lm: LanguageModel, windows: Windows, domain: Evaluation, general: Evaluation, name: str
) -> list[dict[str, Any]]:
    """The group's latents that are most specific to the domain, of those with enough firings there.

    Each has `latent` (in the sum), `number` (in its group), firing rates, `specificity`, the `nearest` latent of the
    core with its `cosine`, promoted tokens, and contexts as [text, share of the maximum] pieces.
    """
    (group,) = (one for one in groups(sae) if one.name == name)
    assert domain.density is not None
    assert general.density is not None
    here, there = domain.density[group.latents], general.density[group.latents]
    enough = here * domain.n_tokens >= LEAST
    order = torch.where(enough, here / (here + there), -1.0).sort(descending=True, stable=True).indices
    chosen = [int(number) for number in order[:SHOWN] if enough[number]]
    if not chosen:
        return []
    cosines, places = nearest(sae.W_dec[group.latents][chosen], core.W_dec)
    statistics = feature_statistics({"": sae}, lm, windows)[""]
    spelling = Spelling(lm.tokenizer)
    latents = [group.first + number for number in chosen]
    words = promoted(sae, lm, latents, n=6).top_ids.tolist() if promotes(sae, lm) else [[]] * len(latents)
    found = []
    for place, (number, latent) in enumerate(zip(chosen, latents, strict=True)):
        lines = [
            context.line(one, latent, statistics, spelling) for one in statistics.top(latent, CONTEXTS, width=WIDTH)
        ]
        found.append(
            {
                "latent": latent,
                "number": number,
                "p_domain": float(here[number]),
                "p_general": float(there[number]),
                "specificity": float(here[number] / (here[number] + there[number])),
                "nearest": int(places[place]),
                "cosine": float(cosines[place]),
                "promoted": [spelling.word(token) for token in words[place]],
                "contexts": [[[span.text, span.share] for span in line.spans] for line in lines],
            }
        )
    return found
