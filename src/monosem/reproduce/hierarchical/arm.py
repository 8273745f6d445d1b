"""The arms of the study; an arm is named by what it was trained for."""

from __future__ import annotations

from monosem.reproduce.arm import Arm
from monosem.reproduce.scale import Scale

HIERARCHICAL = Arm("hierarchical", "hierarchical", "hierarchical")
"""All budgets up to K, with equal weights."""


def budgets(scale: Scale) -> list[int]:
    """The budgets at which specialists are trained."""
    return sorted({k for k in (8, 16, 32) if k < scale.k} | {scale.k})


def topk(k: int) -> Arm:
    """A specialist for k."""
    return Arm(f"topk_{k}", "topk", "topk", {"k": k})


def batch_topk(k: int) -> Arm:
    """A specialist for a mean of k."""
    return Arm(f"batch_topk_{k}", "batch_topk", "batch_topk", {"k": k})


def twin(scale: Scale) -> Arm:
    """The control of chance: the ordinary TopK-K with other initial weights and another order of tokens."""
    return Arm("topk_twin", "topk", "topk", offset=1000)


def multi(scale: Scale) -> Arm:
    """MultiTopK {k, 4k}: two budgets, weights 8 to 1 (arXiv 2406.04093)."""
    return Arm("multi_topk", "hierarchical", "hierarchical", {"budgets": ends(scale), "budget_weights": "8,1"})


def ends(scale: Scale) -> str:
    """Two budgets: a quarter of K, and K."""
    return f"{scale.k // 4},{scale.k}"


def subsets(scale: Scale) -> dict[str, Arm]:
    """Fewer budgets, or unequal ones, by how they are written."""
    settings = {
        "stride:8": {"budgets": "stride:8"},
        "pow2": {"budgets": "pow2"},
        "1/j": {"budget_weights": "1/j"},
        ends(scale): {"budgets": ends(scale)},
    }
    names = ("stride_8", "pow2", "one_over_j", "ends")
    return {
        label: Arm(f"hierarchical_{name}", "hierarchical", "hierarchical", changes)
        for (label, changes), name in zip(settings.items(), names, strict=True)
    }


def without_aux(arm: Arm) -> Arm:
    """The same arm without the auxiliary loss."""
    return Arm(f"{arm.name}_no_aux", arm.sae, arm.family, {**arm.settings, "aux": 0.0})


def pair(scale: Scale) -> list[Arm]:
    """The method and its control."""
    return [HIERARCHICAL, topk(scale.k)]
