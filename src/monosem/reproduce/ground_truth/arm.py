"""The arms of the study; an arm is named by its recipe, those on the easy world with a word before it."""

from __future__ import annotations

from monosem.reproduce.arm import Arm
from monosem.reproduce.scale import Scale

RULES = ("topk", "batch_topk", "jumprelu", "relu")
NESTED = {
    "hierarchical": "topk",
    "matryoshka": "topk",
    "batch_topk+matryoshka": "batch_topk",
    "kron+hierarchical": "kron",
}
"""Each nested objective, and the same autoencoder with the plain one."""
KINDS = (*RULES, "hierarchical", "matryoshka", "batch_topk+matryoshka", "kron", "kron+hierarchical")
CONTROLS = ("untrained", "frozen_decoder", "soft_frozen_decoder", "frozen_encoder")
CONTROLLED = ("topk", "batch_topk")
"""The kinds that are trained as controls too."""
PCA = "pca"


def control(kind: str, word: str) -> str:
    """The recipe of a kind's control."""
    return f"{kind}+{word}"


def controls(kind: str) -> list[str]:
    """The recipes of a kind's controls."""
    return [control(kind, word) for word in CONTROLS]


def hard(recipe: str, scale: Scale) -> Arm:
    """An autoencoder on the hard world."""
    settings = {"l1": scale.extra["l1"]["hard"]} if recipe == "relu" else {}
    return Arm(recipe, recipe, _family(recipe), settings, "hard")


def easy(recipe: str, scale: Scale) -> Arm:
    """The same autoencoder on the easy world, with a latent for every feature."""
    settings = dict(scale.extra["easy"])
    if recipe == "relu":
        settings["l1"] = scale.extra["l1"]["easy"]
    return Arm(easy_name(recipe), recipe, f"easy_{_family(recipe)}", settings, "easy")


def easy_name(recipe: str) -> str:
    """What an autoencoder on the easy world is called."""
    return f"easy_{recipe}"


def _family(recipe: str) -> str:
    """A control chooses a learning rate of its own; what does not learn has that of topk."""
    word = recipe.rpartition("+")[2]
    if recipe == PCA or word == "untrained":
        return "topk"
    return control("topk", word) if word in CONTROLS else recipe
