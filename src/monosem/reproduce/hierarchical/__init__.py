"""HierarchicalTopK (arXiv 2505.24473): one autoencoder that is good at every budget k from 1 to K.

Arms are named by what they were trained for: `topk_16` is a TopK autoencoder trained at k = 16, `hierarchical` one
trained on all budgets up to K. EV_a(k) is the explained variance of arm a with the k strongest latents of each token.
"""

from __future__ import annotations

import statistics

from monosem.reproduce import measure
from monosem.reproduce.arm import Family
from monosem.reproduce.figure import own_ev
from monosem.reproduce.hierarchical import cost, dead, monotone, one_for_all, rank, subset, truncation
from monosem.reproduce.hierarchical.arm import HIERARCHICAL, batch_topk, topk
from monosem.reproduce.recording import MODEL
from monosem.reproduce.scale import Scale
from monosem.reproduce.study import Study
from monosem.reproduce.synthetic import SPARSE

KS = [16, 32, 64, 128, 256]

SCALES = {
    "small": Scale(
        "small",
        {"n_latents": 1024, "k": 32, "tokens": 200_000, "batch": 256},
        data="sparse",
        seeds=(0, 1, 2, 3, 4),
        minutes=15.0,
        held_out=16_384,
        rates=(1e-3, 3e-3, 1e-2, 3e-2),
        extra={"step": {"d_model": 512, "n_latents": 8192, "batch": 512, "ks": [16, 64, 128], "repeats": 5}},
        note="Synthetic sparse codes: shows in minutes that effects are seen, and that chance is not taken for one.",
    ),
    "medium": Scale(
        "medium",
        {
            "model": "smollm2-135m",
            "site": "resid_post.12",
            "text": "news",
            "n_latents": 4096,
            "k": 64,
            "tokens": 400_000,
            "distinct_tokens": 400_000,
            "batch": 512,
        },
        data="model",
        seeds=(0, 1, 2),
        minutes=40.0,
        held_out=16_384,
        rates=(1e-3, 3e-3, 1e-2),
        extra={"step": {"d_model": 576, "n_latents": 16_384, "batch": 512, "ks": KS, "repeats": 5}},
        note="SmolLM2-135M from a file of 4-bit weights instead of the paper's Gemma-2-2B, and far fewer tokens.",
    ),
    "large": Scale(
        "large",
        {
            "model": "google/gemma-2-2b",
            "site": "resid_post.12",
            "text": "news",
            "n_latents": 65_536,
            "k": 128,
            "tokens": 100_000_000,
            "batch": 8192,
            "activations": "live",
            "dtype": "bfloat16",
            "device": "auto",
        },
        data="model",
        seeds=(0, 1, 2),
        minutes=14 * 24 * 60.0,
        pass_minutes=24 * 60.0,
        held_out=262_144,
        extra={"step": {"d_model": 2304, "n_latents": 65_536, "batch": 8192, "ks": KS, "repeats": 7}},
        note="The published model, site and dictionary, a tenth of the published tokens; give a large text by --text.",
    ),
}

STUDY = Study(
    name="hierarchical",
    paper="2505.24473",
    title="HierarchicalTopK",
    claims=(
        one_for_all.CLAIM,
        truncation.CLAIM,
        rank.RECOVERY,
        rank.ENTROPY,
        rank.CROWDING,
        cost.CLAIM,
        dead.CLAIM,
        subset.CLAIM,
        monotone.CLAIM,
    ),
    scales=SCALES,
    families={
        "topk": Family(lambda scale: topk(scale.k), own_ev),
        "batch_topk": Family(lambda scale: batch_topk(scale.k), own_ev),
        "hierarchical": Family(
            lambda scale: HIERARCHICAL, lambda found: statistics.fmean(found["ev"][: found["trained"]])
        ),
    },
    data={"sparse": SPARSE, "model": MODEL},
    measures=(measure.curve, measure.dead, measure.crowding, measure.rank_recovery, measure.rank_entropy),
)
