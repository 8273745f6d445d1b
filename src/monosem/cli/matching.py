"""How latents of a suite are matched, as flags: the matcher, its cuts, and the model where one is needed."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from monosem.cli.output import say
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.flow import Cuts, Firing, Matcher, Suite
    from monosem.lm import LanguageModel
    from monosem.training import TrainConfig

MATCHERS = {
    "cosine": "the greatest cosine of decoder rows",
    "permutation": "one to one, all weights, folded by thresholds",
    "permutation-dec": "one to one, decoder rows alone",
    "random": "one of the five greatest cosines, a control",
    "pearson": "the greatest correlation of activations on text",
}
CUTS = {"both": "the greater of both", "published": "of the paper", "null": "of random directions"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--matcher", choices=list(MATCHERS), default="cosine", help=f"{_choices(MATCHERS)} (default: cosine)"
    )
    parser.add_argument("--windows", type=int, default=128, metavar="N", help="text for pearson (default: 128 windows)")
    parser.add_argument("--cuts", choices=list(CUTS), default="both", help=f"{_choices(CUTS)} (default: both)")
    parser.add_argument("--cut-resid", type=float, metavar="S", help="s(R) is high from here, whatever --cuts says")
    parser.add_argument("--cut-module", type=float, metavar="S", help="s(M) and s(A) are high from here")
    parser.add_argument("--model", help="another copy of the model: hub name or local folder (default: as in training)")


def _choices(table: dict[str, str]) -> str:
    return "; ".join(f"{name}: {meaning}" for name, meaning in table.items())


def matcher(parsed: argparse.Namespace, suite: Suite, lm: LanguageModel | None) -> Matcher:
    """The matcher of the flags; Pearson's reads text first. Raises `InputError`."""
    from monosem.flow import Cosine, Pearson, Permutation, RandomOfTop

    if parsed.matcher == "pearson":
        return Pearson(_firing(parsed, suite, lm))
    return {
        "cosine": Cosine(),
        "permutation": Permutation(),
        "permutation-dec": Permutation("dec", folded=False),
        "random": RandomOfTop(),
    }[parsed.matcher]


def cuts(parsed: argparse.Namespace) -> Cuts:
    """The cuts of the flags."""
    from monosem.flow import Cuts
    from monosem.flow.cut import PUBLISHED, QUANTILE

    given = {"resid": parsed.cut_resid, "mlp": parsed.cut_module, "attn": parsed.cut_module}
    return Cuts(
        {} if parsed.cuts == "null" else dict(PUBLISHED),
        None if parsed.cuts == "published" else QUANTILE,
        exact={lane: cut for lane, cut in given.items() if cut is not None},
    )


def model(parsed: argparse.Namespace, suite: Suite) -> LanguageModel | None:
    """The model of the suite. Where it cannot be had and only tokens need it, these are left out, which is said."""
    try:
        lm = _loaded(parsed.model, suite)
    except InputError as error:
        if parsed.model or parsed.matcher == "pearson":
            raise
        say(f"note: promoted tokens are left out, {error}")
        return None
    known = suite.model.get("fingerprint")
    if known and lm.identity()["fingerprint"] != known:
        say(f"note: the suite was trained on other weights than {lm.name}'s; promoted tokens are of the latter")
    return lm


def _loaded(name: str | None, suite: Suite) -> LanguageModel:
    from monosem.lm import LanguageModel
    from monosem.training.model import load_model

    config = _config(suite)
    if config is not None:
        return load_model(config if name is None else replace(config, model=name))
    known = name or suite.model.get("name")
    if known is None:
        raise InputError("the autoencoders do not say their model: name it with --model")
    return LanguageModel.load(known)


def _firing(parsed: argparse.Namespace, suite: Suite, lm: LanguageModel | None) -> Firing:
    """Activations of every site of the suite on held-out text."""
    from monosem.activations import Live
    from monosem.flow import Firing
    from monosem.shapes.exclusion import Exclusion
    from monosem.training.run import first_windows, run_windows

    config = _config(suite)
    if lm is None or config is None:
        raise InputError("--matcher pearson reads the model's text: give autoencoders that say how they were trained")
    if parsed.windows < 1:
        raise InputError(f"--windows {parsed.windows}: give at least 1")
    windows = first_windows(run_windows(config, lm, "held_out"), parsed.windows)
    exclusion = Exclusion(**suite.info(next(iter(suite)))["exclusion"])
    return Firing.record(suite, Live(lm, windows, list(suite), exclusion))


def _config(suite: Suite) -> TrainConfig | None:
    """How the suite was trained, where it says so."""
    from monosem.training import TrainConfig

    training = suite.info(next(iter(suite))).get("training")
    return None if training is None else TrainConfig.from_dict(training["config"])
