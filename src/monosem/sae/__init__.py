"""Sparse autoencoders: encoders, rules, objectives and penalties, one table an axis; save and load."""

from monosem.sae.autoencoder import SAE
from monosem.sae.compose import Group, added, boosted, groups, merged, origin, stitch, without
from monosem.sae.dense import DenseEncoder
from monosem.sae.encoder import ENCODERS
from monosem.sae.flops import Cost, cost, multiplier, parameters
from monosem.sae.folder import build, describe, find, load, save
from monosem.sae.grouped import GroupedEncoder
from monosem.sae.kron import KronEncoder
from monosem.sae.rule import RULES, BatchTopK, JumpReLU, ReLU, Rule, TopK

__all__ = [
    "ENCODERS",
    "RULES",
    "SAE",
    "BatchTopK",
    "Cost",
    "DenseEncoder",
    "Group",
    "GroupedEncoder",
    "JumpReLU",
    "KronEncoder",
    "ReLU",
    "Rule",
    "TopK",
    "added",
    "boosted",
    "build",
    "cost",
    "describe",
    "find",
    "groups",
    "load",
    "merged",
    "multiplier",
    "origin",
    "parameters",
    "save",
    "stitch",
    "without",
]
