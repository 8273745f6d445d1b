"""Sparse probing: how much of a labelled property one, two or five latents hold.

For every class against the others, balanced by leaving out negatives: the k latents with the greatest |difference of
means| between classes on training examples, logistic regression on them, accuracy and F1 on test examples (arXiv
2503.09532, sparse probing; its data sets are not used here). Beside it stand the same for random latents, for single
dimensions of the activations, for all of them, for an autoencoder of random directions, for training labels that were
shuffled, and an answer that is always yes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.interpret.interval import Mean
from monosem.interpret.probing_control import read_beside
from monosem.interpret.probing_example import Labelled, Latents, Read
from monosem.interpret.probing_logistic import fit
from monosem.interpret.probing_problem import Problem, drawn_problems, skipped, too_few
from monosem.interpret.probing_score import Graded, graded, mean, share
from monosem.lm import LanguageModel
from monosem.sae import SAE
from monosem.shapes import InputError

KS = (1, 2, 5)

Kind = Literal["latents", "random latents", "shuffled labels", "dimensions", "all dimensions", "always yes"]


class ClassResult(NamedTuple):
    """One class against the rest: its score on test examples, and the columns that were chosen (none: all)."""

    name: str
    score: Graded
    chosen: list[int]


@dataclass(frozen=True)
class ProbeRow:
    """What k columns of `subject` say about the classes; `k` is 0 where none were chosen or none fires."""

    subject: str
    kind: Kind
    k: int
    accuracy: Mean
    f1: Mean
    classes: list[ClassResult]

    def to_json(self) -> dict[str, Any]:
        """JSON-able, but for bounds that are not defined, which are NaN."""
        return asdict(self) | {
            "accuracy": self.accuracy._asdict(),
            "f1": self.f1._asdict(),
            "classes": [{"name": one.name, **one.score._asdict(), "chosen": one.chosen} for one in self.classes],
        }


@dataclass(frozen=True)
class Probing:
    """Rows of a table, and what they were measured on; or, in `gate`, why there are none."""

    rows: list[ProbeRow]
    source: str
    settings: dict[str, Any]
    gate: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON-able, but for NaN."""
        return {
            "measurable": not self.gate,
            "gate": self.gate,
            "source": self.source,
            "settings": self.settings,
            "rows": [row.to_json() for row in self.rows],
        }


def sparse_probing(
    saes: Mapping[str, SAE],
    lm: LanguageModel,
    examples: Labelled,
    *,
    ks: Sequence[int] = KS,
    seed: int = 0,
    batch: int = 16,
    keep: Path | None = None,
) -> Probing:
    """Probe every autoencoder of one site with k latents a class, beside the controls.

    Classes of fewer than 10 examples to learn from or to test on are skipped; where all are, nothing is read and
    `gate` says why. `keep` as in `read_examples`. Raises `InputError` for fewer than two classes, and for what
    `read_examples` refuses.
    """
    _check(ks)
    if found := unread(examples):
        return found
    return probed(read_beside(saes, lm, examples, seed=seed, batch=batch, keep=keep).read, ks=ks, seed=seed)


def unread(examples: Labelled) -> Probing | None:
    """What can be said before anything is read: that no class has enough examples; None where one has."""
    gate = too_few(examples)
    return Probing([], examples.source, dict(examples.settings), gate) if gate else None


def probed(read: Read, *, ks: Sequence[int] = KS, seed: int = 0) -> Probing:
    """The table of examples that were read. Raises `InputError` as `sparse_probing`.

    A k above the number of latents that fire is that number.
    """
    _check(ks)
    problems = drawn_problems(read.examples, seed)
    rows = [_row(read, name, problems, k, kind, seed) for kind, name, k in _asked(read, ks) if problems]
    settings = read.examples.settings | {
        "asked k": list(ks),
        "classes": {one.name: [len(one.train), len(one.test)] for one in problems},
        "probe seed": seed,
        "skipped classes": skipped(read.examples, problems),
        "left out": read.left_out,
        "l0": read.l0,
        "firing latents": {name: len(own.latents) for name, own in read.latents.items()},
    }
    return Probing(rows, read.examples.source, settings, "" if problems else too_few(read.examples))


def _check(ks: Sequence[int]) -> None:
    if not ks or min(ks) < 1:
        raise InputError(f"k = {','.join(map(str, ks))}: give at least one latent")


def _asked(read: Read, ks: Sequence[int]) -> Iterator[tuple[Kind, str, int]]:
    """The rows of the table: of every autoencoder its own and its controls, then those that need none."""
    for name, own in read.latents.items():
        possible = _possible(ks, own.values.shape[1])
        for k in possible:
            yield "latents", name, k
        yield "random latents", name, max(possible)
        yield "shuffled labels", name, max(possible)
    for k in _possible(ks, read.x.shape[1]):
        yield "dimensions", "activations", k
    yield "all dimensions", "activations", 0
    yield "always yes", "", 0


def _possible(ks: Sequence[int], most: int) -> list[int]:
    return list(dict.fromkeys(min(k, most) for k in ks))


def _row(read: Read, subject: str, problems: list[Problem], k: int, kind: Kind, seed: int) -> ProbeRow:
    generator = torch.Generator().manual_seed(seed)
    answer = _answers(read, subject, k, kind, generator)
    results = [ClassResult(problem.name, *answer(problem)) for problem in problems]
    scores = [one.score for one in results]
    accuracy = mean([one.accuracy for one in scores])
    if len(scores) == 1:
        accuracy = share(scores[0].accuracy, scores[0].n)
    return ProbeRow(subject, kind, k, accuracy, mean([one.f1 for one in scores]), results)


def _answers(
    read: Read, subject: str, k: int, kind: Kind, generator: torch.Generator
) -> Callable[[Problem], tuple[Graded, list[int]]]:
    """What is answered to a problem, and by which columns."""
    table = read.latents.get(subject, Latents(torch.arange(read.x.shape[1]), read.x))

    def always(problem: Problem) -> tuple[Graded, list[int]]:
        true = problem.y[problem.test]
        return graded(torch.ones_like(true), true), []

    def whole(problem: Problem) -> tuple[Graded, list[int]]:
        return _fitted(table.values, problem, problem.y[problem.train]), []

    def sparse(problem: Problem) -> tuple[Graded, list[int]]:
        said = problem.y[problem.train]
        if kind == "shuffled labels":
            said = said[torch.randperm(len(said), generator=generator)]
        if kind == "random latents":
            columns = torch.randperm(table.values.shape[1], generator=generator)[:k]
        else:
            columns = strongest(table.values[problem.train], said, k)
        return _fitted(table.values[:, columns], problem, said), table.latents[columns].tolist()

    return {"always yes": always, "all dimensions": whole}.get(kind, sparse)


def strongest(x: Float[Tensor, "N A"], y: Bool[Tensor, " N"], k: int) -> Int64[Tensor, " k"]:
    """The k columns with the greatest |mean over positives − mean over negatives|, greatest first."""
    difference = (x[y].mean(0) - x[~y].mean(0)).abs()
    return difference.argsort(descending=True, stable=True)[:k]


def _fitted(x: Float[Tensor, "N A"], problem: Problem, said: Bool[Tensor, " M"]) -> Graded:
    probe = fit(x[problem.train], said)
    return graded(probe.scores(x[problem.test]) > 0, problem.y[problem.test])
