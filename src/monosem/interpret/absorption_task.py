"""The first-letter task of one site: probes, the gates they have to pass, and the absorption of every autoencoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from monosem.interpret.absorption import MOST_SPLITS, absorbed, splits
from monosem.interpret.first_letter import LETTERS
from monosem.interpret.interval import Mean
from monosem.interpret.probing_control import read_beside
from monosem.interpret.probing_example import Labelled, Latents, Read
from monosem.interpret.probing_logistic import Probe, fit_all
from monosem.interpret.probing_score import graded, mean
from monosem.lm import LanguageModel
from monosem.sae import SAE
from monosem.shapes import InputError

LEAST_F1, LEAST_LETTERS = 0.6, 20


class Letter(NamedTuple):
    """A letter in the eyes of one autoencoder, over its test words that the probe finds.

    `latents` are the main ones, `f1` that of their k-sparse probes.
    """

    letter: str
    words: int
    fraction: float
    full: float
    latents: list[int]
    f1: list[float]


class Row(NamedTuple):
    """One autoencoder: means over letters with 95 % intervals, `splits` is the mean number of main latents."""

    fraction: Mean
    full: Mean
    splits: Mean
    letters: list[Letter]


@dataclass(frozen=True)
class Absorption:
    """What the task says, or why it says nothing: `gate` is empty where enough letters have a probe.

    `probe_f1` has F1 on test words of every letter there are words of; `counts` words to learn from and to test on.
    """

    rows: dict[str, Row]
    gate: str
    probe_f1: dict[str, float]
    counts: dict[str, tuple[int, int]]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON-able, but for NaN."""
        rows = {}
        for name, row in self.rows.items():
            rows[name] = {key: getattr(row, key)._asdict() for key in ("fraction", "full", "splits")}
            rows[name]["letters"] = [letter._asdict() for letter in row.letters]
        return {
            "measurable": not self.gate,
            "gate": self.gate,
            "probe_f1": self.probe_f1,
            "counts": self.counts,
            "settings": self.settings,
            "rows": rows,
        }


def absorption(
    saes: Mapping[str, SAE], lm: LanguageModel, examples: Labelled, *, seed: int = 0, batch: int = 16
) -> Absorption:
    """Absorption of autoencoders of one site on `first_letters(…)`, and of one of random directions.

    Where a letter's probe has an F1 of at most 0.6 on test words, the letter is left out; where fewer than 20 are
    left, nothing is measured and `gate` says why. Raises `InputError` as `read_examples` does.
    """
    _check(saes)
    return absorption_of(*read_beside(saes, lm, examples, seed=seed, batch=batch))


def absorption_of(saes: Mapping[str, SAE], read: Read) -> Absorption:
    """The same of words that were read. Raises `InputError` for transcoders, whose rows live in another space."""
    _check(saes)
    truth = probe_letters(read)
    rows = {} if truth.gate else {name: _row(read, read.latents[name], sae, truth) for name, sae in saes.items()}
    return _summary(read, truth, rows)


def _check(saes: Mapping[str, SAE]) -> None:
    for name, sae in saes.items():
        if "target" in sae.info or sae.d_in != sae.d_out:
            raise InputError(f"{name} is a transcoder: absorption needs decoder rows in the space that is probed")


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
    letters = [i for i in known if f1[LETTERS[i]] > LEAST_F1]
    return Truth(probe, y, said, f1, letters, _gate(f1))


def _gate(f1: dict[str, float]) -> str:
    good = sum(own > LEAST_F1 for own in f1.values())
    if good >= LEAST_LETTERS:
        return ""
    low = ", ".join(f"{one} {own:.2f}" for one, own in f1.items() if own <= LEAST_F1)
    none = ", ".join(one for one in LETTERS if one not in f1)
    parts = [
        f"not measurable here: a linear probe of the activations finds {good} letters with F1 > {LEAST_F1}, "
        f"{LEAST_LETTERS} are needed",
        *([f"too low: {low}"] if low else []),
        *([f"without words on both sides: {none}"] if none else []),
    ]
    return "; ".join(parts)


def _summary(read: Read, truth: Truth, rows: dict[str, Row]) -> Absorption:
    train = read.examples.train
    counts = {one: (int(truth.y[train, i].sum()), int(truth.y[~train, i].sum())) for i, one in enumerate(LETTERS)}
    settings = read.examples.settings | {
        "words": len(read.x),
        "left out": read.left_out,
        "letters": [LETTERS[one] for one in truth.letters],
        "l0": read.l0,
    }
    return Absorption(rows, truth.gate, truth.f1, counts, settings)


def _row(read: Read, own: Latents, sae: SAE, truth: Truth) -> Row:
    test, results = ~read.examples.train, []
    values, y = own.values[test], truth.y[test]
    rows = sae.W_dec.detach().cpu()[own.latents].float()
    found = splits(own.values[~test], truth.y[~test], values, y, truth.letters)
    for one in truth.letters:
        words = truth.said[test][:, one] & y[:, one]
        main, f1 = found[one]
        result = _of_words(values[words], read.x[test][words], rows, truth.probe.weight[one], main)
        results.append(Letter(LETTERS[one], int(words.sum()), *result, own.latents[main].tolist(), f1))
    return Row(
        mean([one.fraction for one in results]),
        mean([one.full for one in results]),
        mean([float(len(one.latents)) for one in results], MOST_SPLITS),
        results,
    )


def _of_words(
    activations: Float[Tensor, "N A"],
    x: Float[Tensor, "N D"],
    rows: Float[Tensor, "A D"],
    weight: Float[Tensor, " D"],
    main: Int64[Tensor, " m"],
) -> tuple[float, float]:
    """The mean absorption fraction and the share of words with full absorption; NaN where no latent ever fires."""
    if not len(rows):
        return math.nan, math.nan
    # Activations are already multiplied by the norms of decoder rows.
    found = absorbed(activations, x @ (weight / weight.norm()), cosine_similarity(rows, weight[None]), main)
    return float(found.fraction.mean()), float(found.full.float().mean())
