"""KronSAE (arXiv 2505.22255): an encoder of h heads, each with m × n latents from m + n rows, joined by mAND.

Arms are named by their factors: `kron_m2_n4` has h = F/8 heads of 2 base and 4 extension rows.
"""

from __future__ import annotations

from monosem.reproduce import measure
from monosem.reproduce.arm import Family
from monosem.reproduce.claim import Claim, Evidence, Finding
from monosem.reproduce.figure import own_ev
from monosem.reproduce.kronsae import absorption, cost, gate, head, hierarchy, parity, recovery, shape, token, tree
from monosem.reproduce.kronsae.arm import FINE, HIERARCHICAL, TOPK, hierarchical, kron, on_tree, uncentred
from monosem.reproduce.recording import MODEL
from monosem.reproduce.scale import Scale
from monosem.reproduce.study import Study
from monosem.reproduce.synthetic import SPARSE

RATES = {"small": (3e-3, 1e-2, 3e-2), "medium": (1e-3, 3e-3, 1e-2)}
"""The few steps of these scales ask for more than the usual rates."""
FACTORS = [[1, 16], [2, 4], [2, 8], [4, 8], [8, 8], [16, 16]]

SCALES = {
    "small": Scale(
        "small",
        {"n_latents": 1024, "k": 16, "tokens": 200_000, "batch": 256},
        data="sparse",
        seeds=(0, 1, 2, 3, 4),
        minutes=20,
        held_out=16_384,
        rates=RATES["small"],
        extra={
            "toy": {"setups": 3, "steps": 1_000, "seeded": False},
            "encoder": {"sizes": [[256, 4096], [512, 8192]], "factors": FACTORS, "batch": 256, "k": 32, "repeats": 5},
        },
        note="Synthetic sparse codes: shows in minutes that effects are seen, and that chance is not taken for one.",
    ),
    "medium": Scale(
        "medium",
        {
            "model": "smollm2-135m",
            "site": "resid_post.12",
            "text": "news",
            "n_latents": 4096,
            "k": 32,
            "tokens": 250_000,
            "distinct_tokens": 250_000,
            "batch": 1024,
        },
        data="model",
        seeds=(0, 1, 2),
        minutes=40,
        held_out=16_384,
        rates=RATES["medium"],
        tuning_share=1.0,
        extra={
            "toy": {"setups": 8, "steps": 500, "seeded": True},
            "encoder": {
                "sizes": [[256, 4096], [576, 4096], [1024, 16_384]],
                "factors": FACTORS,
                "batch": 512,
                "k": 32,
                "repeats": 5,
            },
        },
        note="SmolLM2-135M from a file of 4-bit weights instead of the paper's Qwen-2.5-1.5B, and far fewer tokens.",
    ),
    "large": Scale(
        "large",
        {
            "model": "Qwen/Qwen2.5-1.5B",
            "site": "resid_post.14",
            "text": "news",
            "n_latents": 65_536,
            "k": 50,
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
        extra={
            "toy": {"setups": 8, "steps": 4_000, "seeded": True},
            "encoder": {
                "sizes": [[1536, 32_768], [1536, 65_536]],
                "factors": FACTORS,
                "batch": 8192,
                "k": 50,
                "repeats": 7,
            },
        },
        note="The published model, site, dictionary and number of tokens; give a large text by --text.",
    ),
}


def _never(evidence: Evidence) -> Finding:
    raise AssertionError("this claim is never tested")


RESIDUAL = Claim(
    "C10",
    "A Kron residual autoencoder adds a domain to a frozen core (unpublished)",
    "Gain on the domain and loss in general, against dense residuals.",
    _never,
    untestable=lambda scale: "needs residual autoencoders: see U2 of monosem reproduce boost",
)

STUDY = Study(
    name="kronsae",
    paper="2505.22255",
    title="KronSAE",
    claims=(
        gate.CLAIM,
        parity.CLAIM,
        shape.CLAIM,
        absorption.CLAIM,
        *recovery.CLAIMS,
        head.CLAIM,
        *token.CLAIMS,
        cost.CLAIM,
        hierarchy.CLAIM,
        RESIDUAL,
    ),
    scales=SCALES,
    families={
        "topk": Family(lambda scale: TOPK, own_ev),
        "hierarchical": Family(lambda scale: HIERARCHICAL, own_ev),
        "kron": Family(lambda scale: kron(*FINE), own_ev),
        "kron_uncentred": Family(lambda scale: uncentred(*FINE), own_ev),
        "kron_product": Family(lambda scale: kron(*FINE, "product"), own_ev),
        "kron_raw": Family(lambda scale: kron(*FINE, "raw"), own_ev),
        "kron_min": Family(lambda scale: kron(*FINE, "min"), own_ev),
        "kron_hierarchical": Family(lambda scale: hierarchical(*FINE), own_ev),
        "tree_topk": Family(lambda scale: on_tree(TOPK, 6), own_ev),
        "tree_hierarchical": Family(lambda scale: on_tree(HIERARCHICAL, 6), own_ev),
        "tree_kron": Family(lambda scale: on_tree(kron(*FINE), 6), own_ev),
        "tree_kron_hierarchical": Family(lambda scale: on_tree(hierarchical(*FINE), 6), own_ev),
    },
    data={"sparse": SPARSE, "model": MODEL, "tree": tree.TREE},
    measures=(measure.curve, measure.dead, tree.absorption, head.correlation, token.entropy),
)
