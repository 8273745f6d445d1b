"""Do scores from decoders alone tell the groups by activations apart? (arXiv 2502.03032, section 5.1)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.flow.group import BITS, SHORT, Groups, codes_possible, group_name
from monosem.flow.predecessor import Predecessors
from monosem.interpret.interval import RESAMPLES, Mean
from monosem.shapes import InputError

Unit = Literal["feature", "occurrence"]
Activity = Literal["AO", "AB", "IB"]
"""The origin whose score is tested is active in one of the two groups only, in both, or in neither."""
SIGNIFICANT = 0.001


class Comparison(NamedTuple):
    """The scores at `origin` of two groups: Mann–Whitney U, two-sided, corrected for ties.

    `effect` is the rank-biserial correlation 2U/(nm) − 1: above 0 where scores of `a` are greater.
    """

    origin: str
    a: int
    b: int
    activity: Activity
    n_a: int
    n_b: int
    p: float
    effect: float


@dataclass(frozen=True)
class Identification:
    """All comparisons of one layer's groups, with the groups themselves and the scores of every latent by origin."""

    groups: Groups
    scores: dict[str, Float[Tensor, " F"]]
    unit: Unit
    comparisons: list[Comparison]

    def passed(self, origin: str | None = None, activity: Activity | None = None) -> tuple[int, int]:
        """How many tests had p < 0.001, and how many there were: of one origin's scores, of one kind of pair."""
        asked = [one for one in self.comparisons if origin in (None, one.origin) and activity in (None, one.activity)]
        return sum(one.p < SIGNIFICANT for one in asked), len(asked)

    def auc(self, origin: str, seed: int = 0) -> Mean:
        """Does a latent's score at an origin predict that its match there is active? 0.5 is chance.

        Every latent has weight 1, divided between active and inactive by the share of its occurrences: P(score of an
        active one > that of an inactive one), ties half. 95 % percentile bounds over latents.
        """
        seen = self.groups.occurrences > 0
        share = (self.groups.active(origin)[seen].double() / self.groups.occurrences[seen]).numpy()
        score = self.scores[origin][seen].double().numpy()
        order = np.argsort(score, kind="stable")
        score, share = score[order], share[order]
        rng = np.random.default_rng(seed)
        drawn = [
            _weighted_auc(score, share, np.bincount(rng.integers(len(score), size=len(score)), minlength=len(score)))
            for _ in range(RESAMPLES if len(score) > 1 else 0)
        ]
        low, high = np.nanquantile(drawn, [0.025, 0.975]).tolist() if np.isfinite(drawn).any() else (np.nan, np.nan)
        return Mean(_weighted_auc(score, share, np.ones(len(score))), low, high)

    def co_membership(self) -> Float[Tensor, "8 8"]:
        """The share of latents seen in group a (row) that were also seen in group b; NaN where none was seen in a."""
        seen = (self.groups.counts > 0).double()
        return seen.T @ seen / seen.sum(0)[:, None]

    def confusion(self, labels: Int64[Tensor, " F"], classes: int) -> Int64[Tensor, "C 8"]:
        """Latents by class, such as the one their scores give, and by the group they are most often in.

        Only latents that were active and have a class (−1: none) count. Raises `InputError` unless there is one label
        for each latent.
        """
        if len(labels) != len(self.groups.counts):
            raise InputError(f"{len(labels)} labels for {len(self.groups.counts)} latents of {self.groups.site}")
        seen = (self.groups.mode >= 0) & (labels >= 0)
        cells = labels[seen] * 8 + self.groups.mode[seen]
        return torch.bincount(cells, minlength=classes * 8).reshape(classes, 8)

    def to_json(self) -> dict[str, Any]:
        """JSON-able: the share of tests passed by origin and kind of pair, AUCs, co-membership, all comparisons."""
        origins = list(self.scores)
        return {
            **self.groups.to_json(),
            "unit": self.unit,
            "passed": {
                origin: {kind: self.passed(origin, kind) for kind in ("AO", "AB", "IB")} | {"all": self.passed(origin)}
                for origin in origins
            },
            "auc": {origin: self.auc(origin)._asdict() for origin in origins},
            "co_membership": self.co_membership().tolist(),
            "comparisons": [
                one._asdict() | {"a": group_name(one.a), "b": group_name(one.b)} for one in self.comparisons
            ],
        }


def identify(groups: Groups, matches: Predecessors, unit: Unit = "feature") -> Identification:
    """Compare every pair of groups on the best score at each available origin.

    A score is a constant of its latent, so occurrences of one latent are not independent: `feature` counts a latent
    once in each group it was seen in, `occurrence` as often as it was, as the paper does. In a simulation without any
    difference three quarters of tests by occurrence gave p < 0.001.
    """
    scores = {origin: match.score for origin, match in matches.matches.items()}
    weights = groups.counts if unit == "occurrence" else (groups.counts > 0).long()
    found = [
        compared
        for a, b in combinations(codes_possible(groups.available), 2)
        for origin, score in scores.items()
        if (compared := _compared(origin, a, b, score, weights)) is not None
    ]
    return Identification(groups, scores, unit, found)


def shown(found: Mapping[int, Identification]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: groups by layer, shares of occurrences, tests passed."""
    codes = sorted({code for one in found.values() for code in codes_possible(one.groups.available)})
    header = ["layer", "occurrences", *(group_name(code).removeprefix("From ") for code in codes)]
    header += [f"s({SHORT[origin]}) AUC" for origin in BITS]
    rows = []
    for layer, one in found.items():
        total = max(int(one.groups.counts.sum()), 1)
        possible = codes_possible(one.groups.available)
        shares = [f"{one.groups.counts[:, code].sum() / total:.1%}" if code in possible else "n/a" for code in codes]
        aucs = [f"{one.auc(origin).value:.3f}" if origin in one.scores else "n/a" for origin in BITS]
        rows.append([str(layer), f"{total:,}", *shares, *aucs])
    return header, rows


def _compared(
    origin: str, a: int, b: int, score: Float[Tensor, " F"], weights: Int64[Tensor, "F 8"]
) -> Comparison | None:
    from scipy.stats import mannwhitneyu

    x, y = (np.repeat(score.double().numpy(), weights[:, code].numpy()) for code in (a, b))
    if not len(x) or not len(y):
        return None
    # Of equal scores alone there is nothing to rank: no difference.
    if min(x.min(), y.min()) == max(x.max(), y.max()):
        p, effect = 1.0, 0.0
    else:
        u, p = mannwhitneyu(x, y, alternative="two-sided", method="asymptotic")
        effect = 2 * u / (len(x) * len(y)) - 1
    active = bool(a & BITS[origin]) + bool(b & BITS[origin])
    activity: Activity = "IB" if active == 0 else "AO" if active == 1 else "AB"
    return Comparison(origin, a, b, activity, len(x), len(y), float(p), float(effect))


def _weighted_auc(score: np.ndarray, share: np.ndarray, weight: np.ndarray) -> float:
    """P(positive > negative) for ascending scores, `share` of each being positive; NaN without one of each."""
    yes, no = share * weight, (1 - share) * weight
    first = np.r_[True, score[1:] != score[:-1]]
    starts = np.flatnonzero(first)
    yes, no = (np.add.reduceat(part, starts) if len(part) else part for part in (yes, no))
    below = np.cumsum(no) - no
    total = yes.sum() * no.sum()
    return float((yes * (below + no / 2)).sum() / total) if total > 0 else float("nan")
