"""What a notebook shows of a prompt that was read, and of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monosem.evaluation.match import Match
from monosem.evaluation.paired import Difference
from monosem.shapes import Site, card
from monosem.shapes.frame import frame

LABELS = {
    "explained_variance": "explained variance",
    "l0": "L0",
    "ce_loss_score": "CE recovered (zero)",
    "ce_loss_score_mean": "CE recovered (mean)",
    "kl_div": "KL, nats",
}
"""Differences that a notebook shows."""


def prompt_table(site: Site, tokens: Sequence[Any]) -> str:
    """Every token with its strongest latents; `tokens` are those of a `PromptReading`."""
    rows = [[str(one.position), one.text, str(one.l0), _firings(one.firings, one.excluded)] for one in tokens]
    return card.card(f"features at {site}", {}, card.table(["", "token", "L0", "strongest (latent: value)"], rows))


def difference_table(differences: Sequence[Difference]) -> str:
    """Differences with their 95 % intervals; those whose interval leaves out 0 have a star."""
    shown = [one for one in differences if one.metric in LABELS]
    rows = [[f"{one.b} − {one.a}", LABELS[one.metric], _interval(one)] for one in shown]
    note = "95 % intervals over pairs of windows, each by itself; * 0 lies outside. Other seeds are another matter."
    return card.table(["difference", "of", ""], rows, note) if rows else ""


def difference_frame(differences: Sequence[Difference]) -> Any:
    """A data frame of all differences. Needs pandas."""
    rows = [one.to_json() for one in differences]
    return frame({key: [row[key] for row in rows] for key in (rows[0] if rows else {})})


def match_table(matches: Sequence[Match]) -> str:
    """For every pair the mean cosine of nearest decoder rows, beside chance."""
    rows = []
    for one in matches:
        record = one.to_json()
        for way, key in ((f"{one.a} in {one.b}", "a_to_b"), (f"{one.b} in {one.a}", "b_to_a")):
            found, chance = record["nearest"][key], record["chance"][key]
            rows.append([way, f"{found['mean']:.3f}", f"{chance['mean']:.3f}", f"{found['above_0.7']:.1%}"])
    note = "cosine of each alive latent's decoder row with the nearest of the other; chance: with random directions"
    return card.table(["latents of", "nearest", "chance", "above 0.7"], rows, note) if rows else ""


def _firings(firings: Sequence[Any], excluded: str) -> str:
    if excluded:
        return f"left out: {excluded}"
    return ", ".join(f"{one.latent}: {one.value:.3g}" for one in firings)


def _interval(one: Difference) -> str:
    value, low, high, _ = one.interval
    bounds = f"[{low:+.4g}, {high:+.4g}]" if math.isfinite(low) else "[–]"
    return f"{value:+.4g} {bounds}{' *' if one.interval.clear else ''}"
