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
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.interpret.interval import Mean
from monosem.interpret.probing_control import read_beside
from monosem.interpret.probing_example import Labelled, Latents, Read
from monosem.interpret.probing_logistic import fit
from monosem.interpret.probing_score import Graded, graded, mean, share
from monosem.lm import LanguageModel
from monosem.sae import SAE
from monosem.shapes import InputError

KS = (1, 2, 5)
LEAST = 10
"""Labelled a class needs on either side."""

Kind = Literal["latents", "random latents", "shuffled labels", "dimensions", "all dimensions", "always yes"]


class ClassResult(NamedTuple):
    """One class against the rest: its score on test examples, and the columns that were chosen (none: all)."""

    name: str
    score: Graded
    chosen: list[int]


@dataclass(frozen=True)
class ProbeRow:
    """What k columns of `subject` say about the classes; `k` is 0 where no columns were chosen."""

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


class Problem(NamedTuple):
    """One class against as many others: rows to learn from and rows to test on."""

    name: str
    train: Int64[Tensor, " N"]
    test: Int64[Tensor, " M"]
    y: Bool[Tensor, " all"]


@dataclass(frozen=True)
class Probing:
    """Rows of a table, and what they were measured on."""

    rows: list[ProbeRow]
    source: str
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON-able, but for NaN."""
        return {"source": self.source, "settings": self.settings, "rows": [row.to_json() for row in self.rows]}


def sparse_probing(
    saes: Mapping[str, SAE],
    lm: LanguageModel,
    examples: Labelled,
    *,
    ks: Sequence[int] = KS,
    seed: int = 0,
    batch: int = 16,
) -> Probing:
    """Probe every autoencoder of one site with k latents a class, beside the controls.

    Classes of fewer than 10 examples to learn from or to test on are skipped. Raises `InputError` for fewer than two
    classes, when all are skipped, and for what `read_examples` refuses.
    """
    return probed(read_beside(saes, lm, examples, seed=seed, batch=batch).read, ks=ks, seed=seed)


def probed(read: Read, *, ks: Sequence[int] = KS, seed: int = 0) -> Probing:
    """The table of examples that were read. Raises `InputError` as `sparse_probing`."""
    if not ks or min(ks) < 1:
        raise InputError(f"k = {','.join(map(str, ks))}: give at least one latent")
    problems = _problems(read.examples, seed)
    rows = [_row(read, name, problems, k, kind, seed) for kind, name, k in _asked(read, ks)]
    settings = read.examples.settings | {
        "classes": {one.name: [len(one.train), len(one.test)] for one in problems},
        "probe seed": seed,
        "skipped classes": _skipped(read.examples, problems),
        "left out": read.left_out,
        "l0": read.l0,
    }
    return Probing(rows, read.examples.source, settings)


def _asked(read: Read, ks: Sequence[int]) -> Iterator[tuple[Kind, str, int]]:
    """The rows of the table."""
    first = next(iter(read.latents))
    for name in read.latents:
        for k in ks:
            yield "latents", name, k
    for k in ks:
        yield "random latents", first, k
    yield "shuffled labels", first, max(ks)
    for k in ks:
        yield "dimensions", "activations", k
    yield "all dimensions", "activations", 0
    yield "always yes", "", 0


def _problems(examples: Labelled, seed: int) -> list[Problem]:
    """One class against the rest, as many of each; of two classes only the first, as the second is its mirror."""
    classes = examples.classes[:1] if len(examples.classes) == 2 else examples.classes
    if len(examples.classes) < 2:
        raise InputError(f"{examples.source} has {len(examples.classes)} class: give examples of at least two")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index, name in enumerate(classes):
        y = examples.labels == index
        train, test = (_balanced(y, part, generator) for part in (examples.train, ~examples.train))
        if min(len(train), len(test)) >= 2 * LEAST:
            found.append(Problem(name, train, test, y))
    if not found:
        raise InputError(
            f"{examples.source}: no class has {LEAST} examples to learn from and {LEAST} to test on, with as many "
            "others: give more"
        )
    return found


def _skipped(examples: Labelled, problems: list[Problem]) -> list[str]:
    """Classes with too few examples."""
    done = [one.name for one in problems]
    return [] if len(examples.classes) == 2 else [name for name in examples.classes if name not in done]


def _balanced(y: Bool[Tensor, " N"], among: Bool[Tensor, " N"], generator: torch.Generator) -> Int64[Tensor, " M"]:
    positive, negative = ((own & among).nonzero().flatten() for own in (y, ~y))
    count = min(len(positive), len(negative))
    drawn = [own[torch.randperm(len(own), generator=generator)[:count]] for own in (positive, negative)]
    return torch.cat(drawn)


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
