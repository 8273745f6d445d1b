"""The kinds of score that the claims are judged by: a judge that reads, and two proxies under names of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding
from monosem.reproduce.figure import Read
from monosem.reproduce.scale import Scale

NEEDS_JUDGE = "needs a judge model (--judge); proxies stand under their own names"


class Kind(NamedTuple):
    """`keys` are figures of a unit, all of which a claim has to hold for; `slack` is a difference without weight."""

    suffix: str
    words: str
    keys: tuple[str, ...]
    slack: float
    definition: str


KINDS = (
    Kind(
        "",
        "detection and fuzzing, balanced accuracy",
        ("detection", "fuzzing"),
        0.01,
        "Balanced accuracies of detection and fuzzing by a judge that reads, both.",
    ),
    Kind(
        ".coherence",
        "coherence of contexts, AUC",
        ("coherence",),
        0.01,
        "A proxy, not interpretability: the AUC by which sentence embeddings (all-MiniLM-L6-v2) of two contexts in "
        "which a unit fires are more like each other than one of them is like one in which it is silent, half of these "
        "such that a unit firing on the same tokens does fire; mean over units drawn at random.",
    ),
    Kind(
        ".tokens",
        "token entropy below chance, bits",
        ("bits_below_chance",),
        0.05,
        "A proxy, not interpretability: how far the entropy of the token types on which a unit fires is below that of "
        "as many random tokens, in bits; mean over the same units.",
    ),
)

Judge = Callable[[Evidence, Kind], Finding]


def score(unit: str, key: str) -> Read:
    """A figure of one unit: a budget, or `pre`."""
    return lambda found: found["read"][unit][key]


def claims(
    number: str, claim: str, definition: str, judge: Judge, arms: Callable[[Scale], Sequence[Arm]]
) -> list[Claim]:
    """The claim by every kind of score; the first is the paper's own and needs a judge."""
    return [_claim(number, claim, definition, judge, arms, kind) for kind in KINDS]


def _claim(
    number: str, claim: str, definition: str, judge: Judge, arms: Callable[[Scale], Sequence[Arm]], kind: Kind
) -> Claim:
    return Claim(
        f"{number}{kind.suffix}",
        f"{'A proxy for ' + number + ': ' if kind.suffix else ''}{claim}",
        f"{kind.definition} {definition.format(slack=kind.slack)}",
        lambda evidence: _unread(evidence, kind) or judge(evidence, kind),
        arms=arms,
        untestable=_untestable(kind),
    )


def _unread(evidence: Evidence, kind: Kind) -> Finding | None:
    """Nothing is decided where units of an arm fire too seldom to be read, or nothing was answered of them."""
    read = [(name, one) for (name, _), found in evidence.found.items() for one in found["read"].values()]
    short = [name for name, one in read if one is None or any(one[key] is None for key in kind.keys)]
    if not short:
        return None
    names = ", ".join(dict.fromkeys(short))
    note = f"Too few units fire often enough, or were answered for, in {names}: give more held-out text."
    return Finding("undecided", None, {}, {}, note=note)


def _untestable(kind: Kind) -> Callable[[Scale], str | None]:
    return lambda scale: None if kind.suffix or scale.extra.get("judge") else NEEDS_JUDGE
