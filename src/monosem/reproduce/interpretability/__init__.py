"""What papers say of interpretability, on one set of autoencoders (arXiv 2505.24473, 2505.22255).

HierarchicalTopK is said to keep it as the budget grows, KronSAE to improve it and to absorb less. What they measured
needs a language model as a judge; without one, proxies stand under names of their own. Arms are named by what they
were trained for: `topk_16` is a TopK trained at k = 16, `kron_m2_n4_32` a KronSAE with heads of 2 base and 4 extension
rows trained at k = 32.
"""

from __future__ import annotations

import statistics

from monosem.reproduce import measure
from monosem.reproduce.arm import Family, Measured
from monosem.reproduce.figure import own_ev
from monosem.reproduce.interpretability import able, absorption, factor, judge, nested
from monosem.reproduce.interpretability.arm import HIERARCHICAL, SHAPES, kron, kron_budgets, topk
from monosem.reproduce.interpretability.letter import absorption as first_letters
from monosem.reproduce.interpretability.reading import interpretability, seconds
from monosem.reproduce.recording import MODEL
from monosem.reproduce.scale import Scale
from monosem.reproduce.study import Study

_SMOL = {"model": "smollm2-135m", "site": "resid_post.12", "text": "news"}

SCALES = {
    "small": Scale(
        "small",
        {**_SMOL, "n_latents": 1024, "k": 32, "tokens": 50_000, "distinct_tokens": 50_000, "batch": 512},
        data="model",
        seeds=(0, 1, 2),
        minutes=20,
        held_out=32_768,
        rates=(3e-3,),
        extra={"ks": [8, 16], "kron_ks": [16, 32], "features": 40, "contexts": 12, "words": 0},
        note="SmolLM2-135M and few tokens: shows in minutes what the machinery says; absorption is left to medium.",
    ),
    "medium": Scale(
        "medium",
        {**_SMOL, "n_latents": 4096, "k": 64, "tokens": 250_000, "distinct_tokens": 250_000, "batch": 1024},
        data="model",
        seeds=(0, 1, 2),
        minutes=60,
        held_out=98_304,
        rates=(3e-3,),
        extra={"ks": [8, 16, 32], "kron_ks": [16, 32], "features": 80, "contexts": 12, "words": 250},
        note="SmolLM2-135M from a file of 4-bit weights, and far fewer tokens than the papers. The learning rate is "
        "the one that TopK, KronSAE and HierarchicalTopK chose at these settings in the study of KronSAE.",
    ),
    "large": Scale(
        "large",
        {
            "model": "Qwen/Qwen2.5-1.5B",
            "site": "resid_post.14",
            "text": "news",
            "n_latents": 65_536,
            "k": 128,
            "tokens": 125_000_000,
            "batch": 8192,
            "activations": "live",
            "dtype": "bfloat16",
            "device": "auto",
        },
        data="model",
        seeds=(0, 1, 2),
        minutes=14 * 24 * 60,
        held_out=262_144,
        extra={"ks": [16, 32, 64], "kron_ks": [32, 64], "features": 200, "contexts": 64, "words": 250},
        note="The published model and site of KronSAE; give a large text by --text and a judge by --judge.",
    ),
}


def _nested_ev(found: Measured) -> float:
    return statistics.fmean(found["ev"][: found["trained"]])


def about(scale: Scale) -> str:
    """Which judge reads, if one does."""
    name = scale.extra.get("judge")
    return f"Judge: {name}." if name else ""


STUDY = Study(
    name="interpretability",
    paper="2505.24473, 2505.22255",
    title="Interpretability of HierarchicalTopK and KronSAE",
    claims=(*able.CLAIMS, *nested.CLAIMS, *factor.CLAIMS, *absorption.CLAIMS),
    scales=SCALES,
    families={
        "topk": Family(lambda scale: topk(scale.k), own_ev),
        "hierarchical": Family(lambda scale: HIERARCHICAL, _nested_ev),
        "kron": Family(lambda scale: kron(*SHAPES[0], kron_budgets(scale)[-1]), own_ev),
    },
    data={"model": MODEL},
    measures=(measure.curve, measure.dead, interpretability, first_letters),
    about=about,
    reads=True,
    cost=judge.cost,
    beside=seconds,
)
