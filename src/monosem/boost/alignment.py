"""How what residuals add lies to what the core leaves: where it helps, harms, and where two of them meet."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.evaluation.place import shared_place
from monosem.evaluation.reading import evaluating, read
from monosem.lm import LanguageModel
from monosem.sae import SAE, added, groups
from monosem.text import Windows


class Alignment:
    """Sums over tokens, of e = x − core(x) and of each residual's output a.

    EV(core + a) − EV(core) = (2 Σ⟨e, a⟩ − Σ‖a‖²) / Σ‖x − mean‖²: a residual harms a text exactly where its energy is
    more than twice its alignment with what is left (arXiv 2507.12990; the identities are elementary).
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.left = 0.0
        self.energy = dict.fromkeys(names, 0.0)
        self.along = dict.fromkeys(names, 0.0)
        self.shared = dict.fromkeys(combinations(names, 2), 0.0)

    def update(self, left: Float[Tensor, "B E"], outputs: dict[str, Float[Tensor, "B E"]]) -> None:
        """One batch: what the core leaves, and what each residual adds."""
        e, parts = left.double(), {name: one.double() for name, one in outputs.items()}
        self.left += float(e.square().sum())
        for name, part in parts.items():
            self.energy[name] += float(part.square().sum())
            self.along[name] += float((e * part).sum())
        for a, b in self.shared:
            self.shared[a, b] += float((parts[a] * parts[b]).sum())

    def figures(self, name: str) -> dict[str, float | None]:
        """`energy_ratio` Σ‖a‖²/Σ‖e‖², and `alignment` Σ⟨e, a⟩/Σ‖a‖²: below 1/2 the residual does harm."""
        energy = self.energy[name]
        return {
            "energy_ratio": energy / self.left if self.left else None,
            "alignment": self.along[name] / energy if energy else None,
        }

    def conflicts(self) -> list[dict[str, Any]]:
        """Of every two residuals 2 Σ⟨a, b⟩ / Σ‖e‖²: what their sum's error has beside the sum of what each removes."""
        return [{"a": a, "b": b, "conflict": 2 * dot / self.left} for (a, b), dot in self.shared.items()]


@torch.no_grad()
def aligned(core: SAE, sae: SAE, lm: LanguageModel, windows: Windows, batch: int = 8) -> Alignment:
    """The alignment of what a composition has beside its core, on a text, at the tokens its rule keeps."""
    place = shared_place({"": sae}, lm)
    own = {group.name for group in groups(core)}
    names = [group.name for group in groups(sae) if group.name not in own]
    found = Alignment(names)
    with evaluating({"": sae, "core": core}):
        for reading in read(lm, windows, place, batch=batch, label="alignment"):
            x, y = (acts.to(sae.W_dec.device).float() for acts in (reading.acts, reading.target))
            outputs = added(sae, x)
            found.update(y - core(x), {name: outputs[name] for name in names})
    return found
