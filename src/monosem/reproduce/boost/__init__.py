"""SAE Boost (arXiv 2507.12990): a small residual autoencoder teaches a frozen core a domain.

Every trial takes place beside a core of its seed, which is trained once and kept in the cache. Trials are named by what
they try and the domain, such as `gain_bundestag`; arms in them by what they are.
"""

from __future__ import annotations

from monosem.reproduce.boost import (
    budget,
    forgetting,
    gain,
    kron,
    nested,
    preservation,
    redundancy,
    second,
    several,
    stitching,
    sweep,
    tradeoff,
    world,
)
from monosem.reproduce.boost.ground import DRAWN
from monosem.reproduce.scale import Scale
from monosem.reproduce.study import Study

RATES = (1e-3, 3e-3, 1e-2, 3e-2)

SCALES = {
    "small": Scale(
        "small",
        {"n_latents": 48, "k": 3, "tokens": 600 * 512, "batch": 512},
        data=DRAWN,
        seeds=(0, 1, 2),
        minutes=20,
        held_out=16_384,
        rates=RATES,
        tuning_share=1.0,
        extra={
            "core": {"n_latents": 224, "k": 6, "tokens": 1500 * 512},
            "domains": list(world.DOMAINS),
            "wide": [],
            "ks": [1, 2, 3, 6, 12],
            "unique": [300, 1_000, 10_000, 100_000],
            "calibration": 16_384,
            "window": 256,
            "losses": 0,
        },
        note="A drawn world: directions of general text and of two domains, without a language model.",
    ),
    "medium": Scale(
        "medium",
        {
            "model": "smollm2-135m",
            "site": "resid_post.12",
            "text": "news",
            "n_latents": 144,
            "k": 5,
            "tokens": 200_000,
            "batch": 512,
        },
        data="model",
        seeds=(0, 1, 2),
        minutes=150,
        held_out=16_384,
        rates=RATES,
        tuning_share=1.0,
        extra={
            "core": {"n_latents": 4096, "k": 32, "tokens": 500_000, "distinct_tokens": 250_000, "batch": 1024},
            "domains": ["bundestag", "chemistry"],
            "wide": ["congreso", "house-of-commons", "health-tweets", "medical-abstracts", "python"],
            "ks": [1, 2, 5, 10, 20],
            "unique": [2_000, 20_000, 200_000],
            "calibration": 16_384,
            "window": 256,
            "losses": 16,
        },
        note="SmolLM2-135M, a core trained on English news, and domains from German speeches to Django's source. "
        "The paper has a core of 32,768 latents and 1B tokens a domain.",
    ),
    "large": Scale(
        "large",
        {
            "model": "meta-llama/Llama-3.1-8B",
            "site": "resid_post.24",
            "text": "HuggingFaceFW/fineweb-edu",
            "n_latents": 1024,
            "k": 5,
            "tokens": 200_000_000,
            "batch": 4096,
            "activations": "live",
            "dtype": "bfloat16",
            "device": "auto",
        },
        data="model",
        seeds=(0, 1, 2),
        minutes=14 * 24 * 60.0,
        pass_minutes=24 * 60.0,
        held_out=262_144,
        tuning_share=1.0,
        extra={
            "core": {"n_latents": 32_768, "k": 50, "tokens": 500_000_000, "distinct_tokens": 500_000_000},
            "domains": ["bundestag", "chemistry"],
            "wide": ["congreso", "house-of-commons", "health-tweets", "medical-abstracts", "python"],
            "ks": [5, 10, 20, 50],
            "unique": [2_000_000, 20_000_000, 200_000_000],
            "calibration": 204_800,
            "window": 1024,
            "losses": 64,
        },
        note="The published model, layer, widths and k; the texts of the domains are to be given larger ones.",
    ),
}


def about(scale: Scale) -> str:
    """Cores, residuals and domains in words."""
    core = scale.extra["core"]
    first = (
        f"Core: BatchTopK, {core['n_latents']:,} latents, k {core['k']}, {core['tokens']:,} tokens of general text, "
        "another for every seed. "
    )
    where = [*scale.extra["domains"], *scale.extra["wide"]]
    return (
        f"{first}Residuals: {scale.n_latents} latents, k {scale.k}, {scale.tokens:,} tokens of a domain "
        f"({', '.join(where)}). Thresholds are quantiles of training tokens, and everything is measured with them."
    )


STUDY = Study(
    name="boost",
    paper="2507.12990",
    title="SAE Boost",
    claims=(
        gain.GAIN,
        gain.WIDE,
        preservation.CLAIM,
        forgetting.CLAIM,
        tradeoff.CLAIM,
        budget.CLAIM,
        sweep.CLAIM,
        several.CLAIM,
        redundancy.CLAIM,
        stitching.CLAIM,
        nested.CLAIM,
        kron.CLAIM,
        second.CLAIM,
    ),
    scales=SCALES,
    families={},
    data={},
    measures=(),
    about=about,
)
