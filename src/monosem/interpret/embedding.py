"""A judge that reads no label and asks nothing: a feature is coherent when its contexts are like each other.

Its value is the AUC of cosines within a feature (two contexts in which it fires) against cosines between (one in which
it fires, one in which it is silent): 0.5 is chance. Contexts of the same or of neighbouring windows, which may be one
document, are never compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from monosem.evaluation import Context
from monosem.interpret.example import Drawn, Examples
from monosem.interpret.interval import auc
from monosem.interpret.passage import plain
from monosem.interpret.planning import Control
from monosem.interpret.scoring import FeatureScore, Score
from monosem.interpret.shuffle import MIXED, shuffled
from monosem.lm.spelling import Spelling

METHOD = "coherence"
Encode = Callable[[Sequence[str]], Float32[Tensor, "N E"]]


def coherence(
    encode: Encode,
    drawn: Drawn,
    spelling: Spelling,
    *,
    judge: str,
    controls: Sequence[Control] = ("shuffled", "constant"),
    sae: str = "sae",
) -> list[Score]:
    """The features as they are, then each control; `encode` gives unit vectors and reads every context once.

    `shuffled` has contexts of other features, `constant` the same vector for every text.
    """
    contexts = {_key(one): one for own in drawn.features for one in (*own.positives, *_silent(own))}
    vectors = encode([plain(one, spelling) for one in contexts.values()])
    row = {key: place for place, key in enumerate(contexts)}

    def scored(control: Control | None) -> Score:
        features = shuffled(drawn.features) if control == "shuffled" else drawn.features
        known = torch.ones_like(vectors) if control == "constant" else vectors
        found = [_feature(own, known, row) for own in features]
        return Score(sae, METHOD, judge, control, 0.5, found, drawn=drawn)

    asked: list[Control | None] = [None, *controls]
    return [scored(control) for control in asked if control != "shuffled" or len(drawn.features) >= MIXED]


def _feature(own: Examples, vectors: Float32[Tensor, "N E"], row: dict[tuple[int, int, int], int]) -> FeatureScore:
    silent = _silent(own)
    yes, no = (vectors[[row[_key(one)] for one in side]] for side in (own.positives, silent))
    windows = [np.array([one.window for one in side]) for side in (own.positives, silent)]
    within = (yes @ yes.T).numpy()[_far(windows[0], windows[0]) & (np.tri(len(yes), k=-1) > 0)]
    between = (yes @ no.T).numpy()[_far(windows[0], windows[1])]
    # Products of equal vectors differ in their last bits, which must not rank them.
    value = auc(within.round(5), between.round(5))
    lost = int(math.isnan(value))
    return FeatureScore(own.latent, value, (len(yes) + len(no)) * (1 - lost), (len(yes) + len(no)) * lost)


def _far(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return abs(a[:, None] - b[None]) > 1


def _silent(own: Examples) -> list[Context]:
    return [one.context for one in own.negatives]


def _key(context: Context) -> tuple[int, int, int]:
    return context.window, context.start, len(context.tokens)
