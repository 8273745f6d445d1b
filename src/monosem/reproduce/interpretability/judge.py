"""Detection and fuzzing by a judge that reads: what the papers themselves measured (arXiv 2505.22255, sec. 5)."""

from __future__ import annotations

from functools import cache

from monosem.interpret import Cached, Drawn, Score, label, named_judge, plan, score
from monosem.lm.spelling import Spelling
from monosem.reproduce.data import Text
from monosem.reproduce.interpretability.text import sampling
from monosem.reproduce.scale import Scale

METHODS = ("detection", "fuzzing")


def cost(scale: Scale, runs: int) -> str:
    """What asking about the units of so many autoencoders takes, or "" where nobody is asked."""
    name = scale.extra.get("judge")
    if not name:
        return ""
    own, sizes = opened(name), sampling(scale)
    units = runs * scale.extra["features"]
    passages = units * (sizes.shown + 2 * len(METHODS) * (sizes.positives + sizes.negatives))
    questions = units * (1 + 2 * len(METHODS) * -(-(sizes.positives + sizes.negatives) // min(own.per_question, 8)))
    tokens = passages * (2 * sizes.width + 1) * 5 // 4
    return (
        f"{own.name}: about {questions:,} questions and {tokens:,} tokens of passages for {runs} autoencoders, more "
        "for those that are read at several budgets; answers that are known already are not asked for again"
    )


@cache
def opened(name: str) -> Cached:
    """The judge, opened once; its answers are kept on disk."""
    return Cached(named_judge(name))


def scores(name: str, drawn: Drawn, text: Text, units: str) -> list[Score]:
    """Labels first, then both methods with their shuffled controls."""
    own, spelling = opened(name), Spelling(text.tokenizer)
    labels = {one.latent: one.text for one in label(own, drawn.features, spelling, units).labels}
    settings = {"labels": labels, "per_question": own.per_question, "sae": units}
    asked = [
        plan(one, drawn, spelling, control=control, **settings) for one in METHODS for control in (None, "shuffled")
    ]
    return [score(own, one) for one in asked]
