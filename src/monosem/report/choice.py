"""Which latents a report shows: the strongest by a stated rule, and as many drawn at random."""

from __future__ import annotations

import numpy as np

from monosem.evaluation import FeatureStatistics

DENSITY = (1e-4, 3e-3)
FEWEST = 10


class Choice:
    """Latents of one autoencoder; `qualified` have a density in `DENSITY` and `FEWEST` active tokens."""

    def __init__(self, features: FeatureStatistics, n: int, seed: int) -> None:
        live = np.flatnonzero(features.densities > 0)
        qualifies = _qualifies(features)
        self.live, self.dead = len(live), features.n_latents - len(live)
        self.qualified = int(qualifies.sum())
        order = np.lexsort((live, -features.means[live], ~qualifies[live]))
        self.strongest: list[int] = live[order[:n]].tolist()
        drawn = np.random.default_rng(seed).choice(live, min(n, len(live)), replace=False)
        self.random: list[int] = np.sort(drawn).tolist()


def _qualifies(features: FeatureStatistics) -> np.ndarray:
    density, active = features.densities, np.diff(features.starts)
    return (density >= DENSITY[0]) & (density <= DENSITY[1]) & (active >= FEWEST)
