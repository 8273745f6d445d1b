"""Texts of the theme beside texts of anything else, as a request names them."""

from __future__ import annotations

from typing import NamedTuple

from monosem.flow.request import Request
from monosem.flow.sample import Split, samples
from monosem.flow.sweep import Sweep
from monosem.shapes import InputError
from monosem.text import load_corpus
from monosem.training.config import TrainConfig


class Contrast(NamedTuple):
    """Texts of the theme and of anything else, each split in three."""

    theme: Split
    other: Split


def contrast(request: Request, sweep: Sweep) -> Contrast:
    """Pieces as long as what is written. Raises `InputError` where the other text is not named, or the same."""
    assert request.theme is not None
    suite = sweep.suite
    training = None if suite is None else suite.info(next(iter(suite))).get("training")
    other = request.other or (None if training is None else TrainConfig.from_dict(training["config"]).text)
    if other is None or "," in other:
        raise InputError("offline scores compare the theme with other text: name it with --other TEXT")
    if other == request.theme:
        raise InputError(f"the theme and the other text are both {other}: name another with --other TEXT")
    before = sweep.lead()
    found = [
        samples(
            load_corpus(name),
            sweep.lm.tokenizer,
            length=request.new_tokens,
            count=request.pieces,
            seed=request.seed,
            before=before,
        )
        for name in (request.theme, other)
    ]
    return Contrast(*found)
