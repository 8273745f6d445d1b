"""Encoders make pre-activations and own selection. One row of `ENCODERS` each; keywords are the configuration."""

from __future__ import annotations

from monosem.sae.dense import DenseEncoder
from monosem.sae.kron import KronEncoder

Encoder = DenseEncoder | KronEncoder

ENCODERS: dict[str, type[Encoder]] = {"dense": DenseEncoder, "kron": KronEncoder}
