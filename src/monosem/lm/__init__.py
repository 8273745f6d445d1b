"""Language models: load one, find its sites, record and change activations."""

from monosem.lm.family import FAMILIES, Family, Norm, Point
from monosem.lm.model import Cache, LanguageModel
from monosem.lm.precision import Precision, fastest_dtype
from monosem.lm.tokenizer import tokenizer_hash

__all__ = [
    "FAMILIES",
    "Cache",
    "Family",
    "LanguageModel",
    "Norm",
    "Point",
    "Precision",
    "fastest_dtype",
    "tokenizer_hash",
]
