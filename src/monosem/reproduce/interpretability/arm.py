"""The arms of the study: autoencoders of one site and text, and what each is read as."""

from __future__ import annotations

from monosem.reproduce.arm import Arm
from monosem.reproduce.scale import Scale

HIERARCHICAL = Arm("hierarchical", "hierarchical", "hierarchical")
"""All budgets up to K, with equal weights."""
SHAPES = ((2, 4), (4, 8))
"""The factors (m, n) of KronSAE."""


def budgets(scale: Scale) -> list[int]:
    """Where HierarchicalTopK is compared with specialists; the last is K."""
    return [*scale.extra["ks"], scale.k]


def kron_budgets(scale: Scale) -> list[int]:
    """Where KronSAE is compared with TopK."""
    return scale.extra["kron_ks"]


def topk(k: int) -> Arm:
    """A dense TopK."""
    return Arm(f"topk_{k}", "topk", "topk", {"k": k})


def kron(m: int, n: int, k: int) -> Arm:
    """KronSAE on centred inputs, as TopK has them."""
    return Arm(f"kron_m{m}_n{n}_{k}", "kron", "kron", {"base": m, "extension": n, "k": k, "subtract_b_dec": True})


def krons(scale: Scale) -> list[Arm]:
    """Every shape at every budget."""
    return [kron(*shape, k) for shape in SHAPES for k in kron_budgets(scale)]


def topks(scale: Scale) -> list[Arm]:
    """TopK at every budget."""
    return [topk(k) for k in budgets(scale)]


def controls(scale: Scale) -> list[Arm]:
    """Autoencoders that learn nothing, or all but a part, at the first budget of KronSAE."""
    k = {"k": kron_budgets(scale)[-1]}
    return [Arm(name, f"topk+{name}", "topk", k) for name in ("untrained", "frozen_decoder")]
