"""One colour for each autoencoder, the same in the table, the plots and the headings."""

from __future__ import annotations

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours that can be told apart with any colour vision, darkest against white first."""


def colour(place: int) -> str:
    """The colour of the autoencoder at `place` in the report; they repeat after six."""
    return PALETTE[place % len(PALETTE)]
