"""Numbers short enough to be read in a row."""

from __future__ import annotations


def short(value: float) -> str:
    """Three significant digits, whole from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
