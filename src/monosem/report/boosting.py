"""Boosting as one HTML file that loads nothing: every domain beside general text, for everything that was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monosem.disk import whole_file
from monosem.evaluation.provenance import whereabouts
from monosem.report import boosting_plot, plot
from monosem.report.domain import domains
from monosem.report.kind import KINDS
from monosem.report.measure import DOMAIN, GENERAL, lost, verdict
from monosem.report.page import environment
from monosem.shapes import InputError

FORMAT = "monosem.boost"
HARM = 0.5
"""Below this alignment the energy a residual adds exceeds what it removes: 2 Σ⟨e, a⟩ < Σ‖a‖²."""


class Aligned(NamedTuple):
    """A residual on a text: Σ‖a‖²/Σ‖e‖², Σ⟨e, a⟩/Σ‖a‖², and the share of what the core leaves that it removes."""

    energy: float | None
    alignment: float | None

    @property
    def removed(self) -> float | None:
        """2 Σ⟨e, a⟩/Σ‖e‖² − Σ‖a‖²/Σ‖e‖²."""
        return None if self.energy is None or self.alignment is None else (2 * self.alignment - 1) * self.energy

    @property
    def harms(self) -> bool | None:
        """Whether the text is explained worse with the residual than without."""
        return None if self.alignment is None else self.alignment < HARM


def write_boosting(path: str | Path, result: Mapping[str, Any]) -> Path:
    """Write the page of a boosting's result, `boost.json` as it is read. Raises `InputError` for something else."""
    if result.get("format") != FORMAT:
        raise InputError(f"format is {result.get('format')!r}, expected {FORMAT!r}: give a boost.json")
    origin, found = result["provenance"], domains(result)
    text = (
        environment()
        .get_template("boosting.html.j2")
        .render(
            title=f"Boosting at {whereabouts(origin)} of {origin['model']['name']}",
            origin=origin,
            core=next(row for row in result["rows"] if row["kind"] == "core"),
            general=result["general"],
            texts=[*result["domains"], result["general"]],
            kinds={name: kind for name, kind in KINDS.items() if any(name in domain.lines for domain in found)},
            limits=_limits(result),
            measures={"domain": DOMAIN, "general text": GENERAL},
            domains=found,
            lost=lost,
            verdict=verdict,
            pictures=[boosting_plot.pictures(*pair[::-1]) for pair in enumerate(found)] if plot.available() else None,
            together=_together(result),
            alignment=_alignment(result),
            conflicts=_conflicts(result),
        )
    )
    with whole_file(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def _limits(result: Mapping[str, Any]) -> Mapping[str, float] | None:
    """What of general text may be lost."""
    kept = (row["texts"][result["general"]].get("preserved") for row in result["rows"])
    return next((one["limits"] for one in kept if one), None)


def _together(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those that were read on every text."""
    texts = {*result["domains"], result["general"]}
    return [row for row in result["rows"] if texts <= set(row["texts"])]


def _alignment(result: Mapping[str, Any]) -> dict[str, dict[str, Aligned]]:
    """By residual, then by text."""
    found = (name for one in result["alignment"].values() for name in one["residuals"])
    return {
        name: {
            text: Aligned(one["energy_ratio"], one["alignment"])
            for text in (*result["domains"], result["general"])
            if (one := result["alignment"].get(text, {}).get("residuals", {}).get(name)) is not None
        }
        for name in dict.fromkeys((*result["domains"], *found))
    }


def _conflicts(result: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, float]]:
    """By pair of residuals, then by text."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for text, one in result["alignment"].items():
        for pair in one["conflicts"]:
            found.setdefault((pair["a"], pair["b"]), {})[text] = pair["conflict"]
    return found
