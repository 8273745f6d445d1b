"""Several autoencoders on the same tokens: what each does, paired differences, shared features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from monosem.evaluation.card import difference_frame, difference_table, match_table
from monosem.evaluation.evaluation import Evaluation, evaluate
from monosem.evaluation.match import Match, match
from monosem.evaluation.paired import CONFIDENCE, Difference, difference
from monosem.evaluation.result import results_table
from monosem.lm import LanguageModel
from monosem.progress import progress
from monosem.sae import SAE
from monosem.shapes import InputError
from monosem.text.window import Windows

METRICS = ("explained_variance", "l0", "ce_loss_score", "ce_loss_score_mean", "ce_loss_sae", "kl_div")
"""What is compared in pairs; losses where they were measured."""


@dataclass(frozen=True)
class Comparison:
    """Evaluations by name, and differences and matches of every pair of one site, the earlier name as `a`."""

    evaluations: dict[str, Evaluation]
    differences: list[Difference]
    matches: list[Match]

    @classmethod
    def joined(cls, found: Iterable[Comparison]) -> Comparison:
        """Comparisons at several sites as one, which has no pairs across them."""
        found = list(found)
        return cls(
            {name: evaluation for one in found for name, evaluation in one.evaluations.items()},
            [difference for one in found for difference in one.differences],
            [match for one in found for match in one.matches],
        )

    def difference(self, metric: str, a: str, b: str) -> Difference:
        """Of one pair, in either order. Raises `InputError` for a name or metric that was not compared."""
        for one in self.differences:
            if one.metric == metric and {one.a, one.b} == {a, b}:
                return one if one.a == a else one.reversed()
        known = ", ".join(dict.fromkeys(one.metric for one in self.differences))
        raise InputError(
            f"no difference of {metric!r} between {a!r} and {b!r}: the metrics are {known}, "
            f"the autoencoders {', '.join(self.evaluations)}"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-able: evaluations, differences with their bounds, shares of matched latents."""
        return {
            "evaluations": {name: one.to_json() for name, one in self.evaluations.items()},
            "differences": [one.to_json() for one in self.differences],
            "confidence": CONFIDENCE,
            "matches": [one.to_json() for one in self.matches],
        }

    def frame(self) -> Any:
        """A data frame: a row a difference, with its bounds. Needs pandas."""
        return difference_frame(self.differences)

    def _repr_html_(self) -> str:
        return results_table(self.evaluations) + difference_table(self.differences) + match_table(self.matches)


def compare(
    saes: dict[str, SAE],
    lm: LanguageModel,
    windows: Windows,
    *,
    batch: int = 8,
    loss_windows: int | None = 64,
    loss_per_k: bool | None = None,
    one_to_one: bool | None = None,
    seed: int = 0,
    command: str | None = None,
) -> Comparison:
    """Evaluate autoencoders as `evaluate` does, then compare every two: metrics in pairs of windows, and latents.

    Differences are b − a with 95 % intervals over windows (`difference` has the formula). Latents alive on these tokens
    are matched by the cosine of their decoder rows, with the cosines of random directions beside them; `one_to_one`
    (None: for up to 16,384 alive latents) makes the best assignment as well, and `seed` draws the random directions.
    Raises `InputError` for fewer than two autoencoders, and as `evaluate` does.
    """
    if len(saes) < 2:
        raise InputError(f"{len(saes)} autoencoder(s) to compare ({', '.join(saes) or 'none'}): give at least two")
    found = evaluate(saes, lm, windows, batch=batch, loss_windows=loss_windows, loss_per_k=loss_per_k, command=command)
    return Comparison(found, _differences(found), _matches(saes, found, one_to_one, seed))


def _differences(found: dict[str, Evaluation]) -> list[Difference]:
    return [
        Difference(a, b, metric, difference(found[a].terms[metric], found[b].terms[metric]))
        for a, b in combinations(found, 2)
        for metric in METRICS
        if metric in found[a].terms
    ]


def _matches(saes: dict[str, SAE], found: dict[str, Evaluation], one_to_one: bool | None, seed: int) -> list[Match]:
    alive = {name: (name, saes[name], one.alive) for name, one in found.items() if one.alive is not None}
    pairs, matches = list(combinations(alive.values(), 2)), []
    with progress("matching latents", len(pairs), "pairs") as bar:
        for a, b in pairs:
            matches.append(match(a, b, one_to_one=one_to_one, seed=seed))
            bar.advance()
    return matches
