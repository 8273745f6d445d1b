"""Which letters can be measured: a linear probe of the activations has to find them, on words enough."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import one_hot

from monosem.interpret.first_letter import LETTERS
from monosem.interpret.probing_example import Read
from monosem.interpret.probing_logistic import Probe, fit_all
from monosem.interpret.probing_score import graded

LEAST_F1, LEAST_LETTERS = 0.6, 20
LEAST_WORDS = 10
"""Words a letter needs to be tested on, so that F1 of its probe means something; not in the published definition."""


class Truth(NamedTuple):
    """A linear probe of all letters on the activations, and what it is worth.

    `y` and `said` are which letter each word has and which the probe finds, `letters` those with F1 above the gate.
    """

    probe: Probe
    y: Bool[Tensor, "N C"]
    said: Bool[Tensor, "N C"]
    f1: dict[str, float]
    letters: list[int]
    gate: str


def probe_letters(read: Read) -> Truth:
    """Learn the probe and test it; `gate` says why nothing can be measured, or is empty."""
    y, train = one_hot(read.examples.labels, len(LETTERS)).bool(), read.examples.train
    probe = fit_all(read.x[train], y[train])
    said = probe.scores(read.x) > 0
    known = [i for i in range(len(LETTERS)) if y[train, i].any() and y[~train, i].any()]
    f1 = {LETTERS[i]: graded(said[~train, i], y[~train, i]).f1 for i in known}
    enough = enough_words(y, train)
    letters = [i for i in enough if f1[LETTERS[i]] > LEAST_F1]
    return Truth(probe, y, said, f1, letters, gate(f1, enough))


def enough_words(y: Bool[Tensor, "N C"], train: Bool[Tensor, " N"]) -> list[int]:
    """Letters, as columns of y, with words to learn from and enough to test on."""
    return (y[train].any(0) & (y[~train].sum(0) >= LEAST_WORDS)).nonzero().flatten().tolist()


def gate(f1: dict[str, float], enough: list[int]) -> str:
    """Why too few letters are left to measure anything, by F1 of the letters' probes; empty where enough are."""
    tested = [LETTERS[i] for i in enough]
    good = [one for one in tested if f1.get(one, 0.0) > LEAST_F1]
    if len(good) >= LEAST_LETTERS:
        return ""
    low = ", ".join(f"{one} {f1[one]:.2f}" for one in tested if one in f1 and one not in good)
    few = ", ".join(one for one in LETTERS if one not in tested)
    parts = [
        f"not measurable here: a linear probe of the activations finds {len(good)} letters with F1 > {LEAST_F1} on "
        f"{LEAST_WORDS} test words or more, {LEAST_LETTERS} are needed",
        *([f"too low: {low}"] if low else []),
        *([f"with fewer than {LEAST_WORDS} words to test on: {few} (more words may help: --examples)"] if few else []),
    ]
    return "; ".join(parts)
