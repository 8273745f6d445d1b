"""What is trained beside a core; an arm is named by what it is, those of a sweep by their k as well."""

from __future__ import annotations

from monosem.reproduce.arm import Arm
from monosem.reproduce.scale import Scale

CORE = Arm("core", "batch_topk", "core")
BOOST = Arm("boost", "batch_topk", "residual")
"""The paper's residual."""
GENERAL = Arm("general", "batch_topk", "residual")
"""The same, trained on general text: what more latents bring without a domain."""
FROZEN = Arm("frozen", "batch_topk+frozen_decoder", "residual")
"""A residual whose decoder rows stay random."""
FINETUNED = Arm("finetuned", "finetuned", "finetuned")
EXTENDED = (
    Arm("random_all", "batch_topk+extended_random", "extended"),
    Arm("random_new", "batch_topk+extended_random+held_core", "extended"),
    Arm("active_all", "batch_topk+extended_active", "extended"),
    Arm("active_new", "batch_topk+extended_active+held_core", "extended"),
)
"""The core with random or copied latents, of which all learn or the new ones alone."""
GRAFTED = "grafted"
"""The paper's stitching baseline."""
RIVALS = (*(arm.name for arm in EXTENDED), FINETUNED.name, GRAFTED)
WORDS = {
    "core": "core alone",
    "boost": "SAE Boost",
    "more_k": "core with more latents active",
    "general": "residual of general text",
    "frozen": "residual, random decoder",
    "random_all": "extended, random, all learn",
    "random_new": "extended, random, new learn",
    "active_all": "extended, copies, all learn",
    "active_new": "extended, copies, new learn",
    "finetuned": "fine-tuned core",
    "grafted": "core with changed latents of the fine-tuned one",
}
"""What arms are called on the page."""
KRON = (Arm("kron", "kron+batch_topk", "kron"), Arm("kron_flops", "kron+batch_topk", "kron", {"equal": "flops"}))
"""A Kronecker encoder with as many latents: at equal tokens, and at equal multiply-adds."""


def sweep(scale: Scale, rule: str, family: str) -> list[Arm]:
    """One residual for each k."""
    return [Arm(f"{rule}_{k}", rule, family, {"k": k}) for k in scale.extra["ks"]]


def nested(scale: Scale) -> Arm:
    """One residual for all k up to the largest, trained as HierarchicalTopK."""
    return Arm("hierarchical", "hierarchical", "hierarchical", {"k": max(scale.extra["ks"])})


def double(scale: Scale) -> Arm:
    """One residual of twice the latents, twice as many active."""
    return Arm("double", "batch_topk", "residual", {"n_latents": 2 * scale.n_latents, "k": 2 * scale.k})


def representatives(scale: Scale) -> dict[str, Arm]:
    """The arm of each family on which its learning rate is chosen."""
    return {
        "residual": BOOST,
        "topk": Arm("topk", "topk", "topk"),
        "hierarchical": nested(scale),
        "kron": KRON[0],
        "extended": EXTENDED[0],
        "finetuned": FINETUNED,
    }
