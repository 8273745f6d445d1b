"""Steered text beside plain text as one HTML file that loads nothing: scores, heat maps, judges and their gates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosem.disk import whole_file
from monosem.report import plot, steering_plot
from monosem.report.page import environment

SHOWN = 8
"""Texts of each setting that are shown."""


def write_steering(path: str | Path, result: Mapping[str, Any], *, command: str) -> Path:
    """Write the page of a result of `monosem steer`; `command` is shown as what made it."""
    plain = next((row for row in result["rows"] if not row["axes"]), None)
    metrics = list(dict.fromkeys(name for row in result["rows"] for name in row["scores"]))
    text = (
        environment()
        .get_template("steering.html.j2")
        .render(
            result=result,
            command=command,
            metrics=metrics,
            plain={} if plain is None else {(one["prompt"], one["sample"]): one for one in plain["texts"]},
            steered=[row for row in result["rows"] if row is not plain],
            shown=SHOWN,
            pictures=steering_plot.pictures(result) if plot.available() else None,
        )
    )
    with whole_file(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
