"""What boosting came to, as JSON and as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FORMAT, VERSION = "monosem.boost", 1


@dataclass(frozen=True)
class Result:
    """Figures of every autoencoder on every text.

    `rows` has one entry an autoencoder: `name`, `domain` (that it was trained for, or None), `kind` (core, residual,
    baseline, control or sum), `n_latents`, `groups` with their tokens and k, `redundancy` of new latents, and under
    `texts`, by name, its metrics there, `l0` of each group, gains over the core, and on general text `preserved`.
    `alignment` is that of the residuals on each text; `features` has the most specific new latents of each domain.
    """

    domains: dict[str, str]
    general: str
    rows: list[dict[str, Any]]
    alignment: dict[str, Any]
    features: dict[str, list[dict[str, Any]]]
    provenance: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "domains": self.domains,
            "general": self.general,
            "rows": self.rows,
            "alignment": self.alignment,
            "features": self.features,
            "provenance": self.provenance,
        }
