"""Encoders make pre-activations and own selection. One row of `ENCODERS` each; keywords are the configuration."""

from __future__ import annotations

from monosem.sae.dense import DenseEncoder
from monosem.sae.grouped import GroupedEncoder
from monosem.sae.kron import KronEncoder

Encoder = DenseEncoder | KronEncoder | GroupedEncoder

ENCODERS: dict[str, type[DenseEncoder | KronEncoder]] = {"dense": DenseEncoder, "kron": KronEncoder}
"""Those that can be trained; a `GroupedEncoder` holds several."""
