"""Which features are most like a feature: their silent neighbourhoods make the hard questions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from monosem.evaluation import FeatureStatistics
from monosem.interpret.example import Similar

NEAREST = 8


def by_decoder(W_dec: Float[Tensor, "F D"], n: int = NEAREST) -> Similar:
    """Those with the greatest cosine between decoder rows."""
    rows = functional.normalize(W_dec.detach().float().cpu(), dim=1)

    def similar(latent: int) -> list[int]:
        cosines = rows @ rows[latent]
        cosines[latent] = -2
        return cosines.topk(min(n, len(rows) - 1)).indices.tolist()

    return similar


def by_firing(statistics: FeatureStatistics, n: int = NEAREST) -> Similar:
    """Those that fire on the most tokens together with it: both over either."""
    firing = np.diff(statistics.starts)

    def similar(latent: int) -> list[int]:
        marked = np.zeros(statistics.n_windows * statistics.length, dtype=bool)
        marked[statistics.activations(latent).tokens] = True
        both, _ = statistics.on(marked)
        share = both / np.maximum(firing + firing[latent] - both, 1)
        share[latent] = 0
        order = np.argsort(-share, kind="stable")[:n]
        return order[share[order] > 0].tolist()

    return similar
