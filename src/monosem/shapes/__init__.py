"""The shared vocabulary: sites, sparse codes, and the error a person is shown.

Letters for shapes: B tokens, D model width, F latents, K active latents, L layers, T positions,
H heads, N stored entries of a ragged `Codes`.
"""

from monosem.shapes.error import InputError
from monosem.shapes.kron import KronShape
from monosem.shapes.site import ENDS, KINDS, STREAM, Site

__all__ = ["ENDS", "KINDS", "STREAM", "InputError", "KronShape", "Site"]
