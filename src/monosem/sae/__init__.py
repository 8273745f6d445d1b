"""Sparse autoencoders: encoders, rules, objectives and penalties, one table an axis; save and load."""

from monosem.sae.autoencoder import SAE
from monosem.sae.encoder import ENCODERS, DenseEncoder
from monosem.sae.folder import build, describe, find, load, save
from monosem.sae.rule import RULES, BatchTopK, JumpReLU, ReLU, Rule, TopK

__all__ = [
    "ENCODERS",
    "RULES",
    "SAE",
    "BatchTopK",
    "DenseEncoder",
    "JumpReLU",
    "ReLU",
    "Rule",
    "TopK",
    "build",
    "describe",
    "find",
    "load",
    "save",
]
