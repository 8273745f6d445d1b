"""The arms of the study; a Kron arm is named by its factors m and n, heads take what is left of the latents."""

from __future__ import annotations

from collections.abc import Sequence

from monosem.reproduce.arm import Arm
from monosem.reproduce.scale import Scale
from monosem.sae import SAE

TOPK = Arm("topk", "topk", "topk")
HIERARCHICAL = Arm("topk_hierarchical", "hierarchical", "hierarchical")

FINE, COARSE = (2, 4), (4, 8)
"""The factors (m, n) that most claims are tested at."""
DECIDING = ("sae", "n_latents", "k", "tokens", "base", "extension", "gate", "equal", "subtract_b_dec")


def kron(m: int, n: int, gate: str = "mand") -> Arm:
    """Kron × TopK on centred inputs, as TopK has them; each gate chooses a learning rate of its own."""
    words, family = ("", "kron") if gate == "mand" else (f"_{gate}", f"kron_{gate}")
    settings = {"base": m, "extension": n, "gate": gate, "subtract_b_dec": True}
    return Arm(f"kron_m{m}_n{n}{words}", "kron", family, settings)


def uncentred(m: int, n: int) -> Arm:
    """The same as the paper's listing has it: the encoder sees inputs with their mean."""
    arm = kron(m, n)
    return Arm(f"{arm.name}_uncentred", "kron", "kron_uncentred", {**arm.settings, "subtract_b_dec": False})


def hierarchical(m: int, n: int) -> Arm:
    """Kron × the loss over all budgets."""
    return Arm(f"{kron(m, n).name}_hierarchical", "kron+hierarchical", "kron_hierarchical", kron(m, n).settings)


def equal_flops(arm: Arm) -> Arm:
    """The same with as many tokens as a dense encoder's multiply-adds allow."""
    return Arm(f"{arm.name}_flops", arm.sae, arm.family, {**arm.settings, "equal": "flops"}, arm.data)


def rows(scale: Scale, m: int, n: int) -> Arm:
    """A dense TopK with as many latents as a Kron has encoder rows: F (1/m + 1/n)."""
    n_rows = scale.n_latents // (m * n) * (m + n)
    return Arm(f"topk_rows_of_m{m}_n{n}", "topk", "topk", {"n_latents": n_rows})


TREE = {"n_latents": 128, "tokens": 400_000, "batch": 256}
"""The synthetic features with children are few: their autoencoders are small at every scale."""


def is_one(sae: SAE, scale: Scale, arms: Sequence[Arm]) -> bool:
    """Whether an autoencoder was trained as one of these, with all its tokens: some figures are dear."""
    own = sae.info["training"]["config"]
    asked = [scale.config(arm, seed=0, lr=own["lr"]).describe() for arm in arms]
    return any(all(one[key] == own[key] for key in DECIDING) for one in asked)


def on_tree(arm: Arm, k: int) -> Arm:
    """The same autoencoder, small, on features with children."""
    return Arm(f"tree_{arm.name}_k{k}", arm.sae, f"tree_{arm.family}", {**arm.settings, **TREE, "k": k}, "tree")
