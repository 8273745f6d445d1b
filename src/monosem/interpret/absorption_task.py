"""The first-letter task of one site: probes, the gates they have to pass, and the absorption of every autoencoder.

What is absorbed is what the main latents of a letter lack. The published definition takes the best latents there are
for main ones, however bad: where F1 of their probe is that of an answer that is always yes, absorption is of latents
that have nothing to do with the letter, and may be anything. So F1 stands beside it, and a control whose main latents
were chosen by shuffled letters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from monosem.interpret.absorption_gate import LEAST_LETTERS, Truth, enough_words, gate, probe_letters
from monosem.interpret.absorption_word import JUMP, MOST_SPLITS, absorbed, splits
from monosem.interpret.first_letter import LETTERS
from monosem.interpret.interval import Mean
from monosem.interpret.probing_control import read_beside
from monosem.interpret.probing_example import Labelled, Latents, Read
from monosem.interpret.probing_logistic import Probe
from monosem.interpret.probing_score import graded, mean
from monosem.lm import LanguageModel
from monosem.progress import progress
from monosem.sae import SAE
from monosem.shapes import InputError

SHUFFLED = "shuffled letters"
_NOTHING = Probe(torch.zeros(0), torch.zeros(0))


class Letter(NamedTuple):
    """A letter in the eyes of one autoencoder, over its test words that the probe finds.

    `latents` are the main ones, `f1` has F1 of the k-sparse probes with one, two, … latents; the first as many as there
    are main ones were accepted. `always` is F1 of an answer that is always yes.
    """

    letter: str
    words: int
    fraction: float
    full: float
    latents: list[int]
    f1: list[float]
    always: float

    @property
    def main_f1(self) -> float:
        """F1 of the probe with the main latents; 0 without any."""
        return self.f1[len(self.latents) - 1] if self.latents else 0.0

    @property
    def found(self) -> bool:
        """Whether the main latents raise F1 over an answer that is always yes, as much as a further latent has to."""
        return self.main_f1 > self.always + JUMP


class Row(NamedTuple):
    """One autoencoder: means over letters with 95 % intervals.

    `splits` is the mean number of main latents, `f1` that of their probes' F1.
    """

    fraction: Mean
    full: Mean
    splits: Mean
    f1: Mean
    letters: list[Letter]

    @property
    def not_found(self) -> list[str]:
        """Letters whose main latents say no more than an answer that is always yes."""
        return [one.letter for one in self.letters if not one.found]

    def to_json(self) -> dict[str, Any]:
        """JSON-able, but for NaN."""
        means = {key: getattr(self, key)._asdict() for key in ("fraction", "full", "splits", "f1")}
        letters = [{**one._asdict(), "main_f1": one.main_f1, "found": one.found} for one in self.letters]
        return means | {"not_found": self.not_found, "letters": letters}


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
        return {
            "measurable": not self.gate,
            "gate": self.gate,
            "probe_f1": self.probe_f1,
            "counts": self.counts,
            "settings": self.settings,
            "rows": {name: row.to_json() for name, row in self.rows.items()},
        }


def absorption(
    saes: Mapping[str, SAE],
    lm: LanguageModel,
    examples: Labelled,
    *,
    seed: int = 0,
    batch: int = 16,
    keep: Path | None = None,
) -> Absorption:
    """Absorption of autoencoders of one site on `first_letters(…)`, beside two controls.

    One is of random directions, the other the first autoencoder with main latents chosen by shuffled letters. Where a
    letter has fewer than 10 words to test on or its probe an F1 of at most 0.6, the letter is left out; where fewer
    than 20 are left, nothing is measured and `gate` says why. `keep` as in `read_examples`. Raises `InputError` as
    `read_examples` does, and for transcoders, whose rows live in another space.
    """
    check_spaces(saes)
    if found := unread(saes, examples):
        return found
    beside = read_beside(saes, lm, examples, seed=seed, batch=batch, keep=keep)
    return absorption_of(*beside, control=next(iter(saes)), seed=seed)


def absorption_of(
    saes: Mapping[str, SAE],
    read: Read,
    truth: Truth | None = None,
    *,
    control: str | None = None,
    seed: int = 0,
) -> Absorption:
    """The same of words that were read; `truth` is what `probe_letters` makes of them, if it was asked before.

    `control` names the autoencoder that gets a second row, with letters shuffled by `seed`. Raises `InputError` for
    transcoders.
    """
    check_spaces(saes)
    truth = truth or probe_letters(read)
    rows: dict[str, Row] = {}
    if truth.gate:
        return _summary(read.examples, truth, rows, {"left out": read.left_out, "l0": read.l0})
    asked = [(name, name) for name in saes] + ([] if control is None else [(f"{control}: {SHUFFLED}", control)])
    with progress("absorption", len(asked), "autoencoders") as bar:
        for shown, name in asked:
            rows[shown] = _row(read, read.latents[name], saes[name], truth, seed if shown != name else None)
            bar.advance()
    return _summary(read.examples, truth, rows, {"left out": read.left_out, "l0": read.l0})


def unread(saes: Mapping[str, SAE], examples: Labelled) -> Absorption | None:
    """What can be said before anything is read: that some are transcoders, or that too few letters have words enough.

    None where it has to be measured.
    """
    y = one_hot(examples.labels, len(LETTERS)).bool()
    enough = enough_words(y, examples.train)
    why = gate({}, enough) if len(enough) < LEAST_LETTERS else ""
    try:
        check_spaces(saes)
    except InputError as error:
        why = f"not measurable here: {error}"
    return _summary(examples, Truth(_NOTHING, y, y, {}, [], why), {}, {}) if why else None


def check_spaces(saes: Mapping[str, SAE]) -> None:
    """Raises `InputError` for transcoders."""
    for name, sae in saes.items():
        if "target" in sae.info or sae.d_in != sae.d_out:
            raise InputError(f"{name} is a transcoder: absorption needs decoder rows in the space that is probed")


def _summary(examples: Labelled, truth: Truth, rows: dict[str, Row], more: dict[str, Any]) -> Absorption:
    sizes = [truth.y[part].sum(0).tolist() for part in (examples.train, ~examples.train)]
    enough = enough_words(truth.y, examples.train)
    settings = {
        "words": len(examples.ids),
        "letters": [LETTERS[one] for one in truth.letters],
        "too few words": [one for i, one in enumerate(LETTERS) if i not in enough],
    }
    counts = {one: (learned, tested) for one, learned, tested in zip(LETTERS, *sizes)}
    return Absorption(rows, truth.gate, truth.f1, counts, examples.settings | settings | more)


def _row(read: Read, own: Latents, sae: SAE, truth: Truth, shuffle: int | None) -> Row:
    """`shuffle`: a seed by which the letters of words to learn from change places when main latents are chosen."""
    test, results = ~read.examples.train, []
    values, y, learned = own.values[test], truth.y[test], truth.y[~test]
    if shuffle is not None:
        learned = learned[torch.randperm(len(learned), generator=torch.Generator().manual_seed(shuffle))]
    rows = sae.W_dec.detach().cpu()[own.latents].float()
    found = splits(own.values[~test], learned, values, y, truth.letters)
    for one in truth.letters:
        words = truth.said[test][:, one] & y[:, one]
        main, f1 = found[one]
        result = _of_words(values[words], read.x[test][words], rows, truth.probe.weight[one], main)
        always = graded(torch.ones_like(y[:, one]), y[:, one]).f1
        results.append(Letter(LETTERS[one], int(words.sum()), *result, own.latents[main].tolist(), f1, always))
    return Row(
        mean([one.fraction for one in results]),
        mean([one.full for one in results]),
        mean([float(len(one.latents)) for one in results], MOST_SPLITS),
        mean([one.main_f1 for one in results]),
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
