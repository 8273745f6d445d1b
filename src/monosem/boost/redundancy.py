"""Whether new latents repeat the core's: the nearest decoder row of the core, beside what chance gives."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from monosem.sae.dense import unit_rows

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_ROWS = 1024


@torch.no_grad()
def nearest(rows: Float[Tensor, "m E"], others: Float[Tensor, "F E"]) -> tuple[Tensor, Tensor]:
    """For each row the greatest cosine with another dictionary's rows, and which that is."""
    unit = functional.normalize(others.float(), dim=1).T
    parts = [(part @ unit).max(1) for part in functional.normalize(rows.float(), dim=1).split(_ROWS)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def chance(core: Float[Tensor, "F E"], count: int, seed: int = 104_729) -> Float[Tensor, " m"]:
    """The same of as many random directions: about sqrt(2 ln F / d)."""
    rows = unit_rows(count, core.shape[1], torch.Generator().manual_seed(seed)).to(core)
    return nearest(rows, core)[0]


@torch.no_grad()
def redundancy(core: Float[Tensor, "F E"], rows: Float[Tensor, "m E"]) -> dict[str, Any]:
    """Quantiles of the cosine of each decoder row with the nearest of the core, and of chance."""
    found = {"nearest": nearest(rows, core)[0], "chance": chance(core, len(rows))}
    return {"quantiles": list(QUANTILES)} | {key: _spread(values) for key, values in found.items()}


def _spread(values: Float[Tensor, " m"]) -> list[float]:
    return torch.quantile(values.cpu(), torch.tensor(QUANTILES)).tolist()
