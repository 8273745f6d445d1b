"""What evaluating commands work on: autoencoders of a folder with the model and held-out text they belong to."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from monosem.cli.output import say
from monosem.shapes import InputError
from monosem.training.config import PLAIN, TrainConfig

if TYPE_CHECKING:
    from monosem.lm import LanguageModel
    from monosem.sae import SAE
    from monosem.text import Windows


READING = ("model", "reinit", "dtype", "device", "text", "column", "window", "bos", "separator", "held_out", *PLAIN)
"""Settings that decide which activations an autoencoder is measured on."""


class Part(NamedTuple):
    """Autoencoders of one folder by name, where each lives, and how they were trained."""

    saes: dict[str, SAE]
    folders: dict[str, Path]
    config: TrainConfig


class Subject(NamedTuple):
    """Autoencoders by name, where each lives, and what they are read with."""

    saes: dict[str, SAE]
    folders: dict[str, Path]
    lm: LanguageModel
    windows: Windows
    config: TrainConfig
    own: bool
    """Whether model, text and precision are those of training: only then are results stored."""
    differing: tuple[str, ...] = ()
    """The flags that gave others."""


class Choice(NamedTuple):
    """Which autoencoders of the folders are meant: those at these sites, with these names. None: any."""

    site: str | None = None
    sae: str | None = None

    def of(self, part: Part, lm: LanguageModel) -> Part:
        """Raises `InputError` where none is left."""
        from monosem.lm.pattern import matching, parts, spelled_out

        saes = dict(part.saes)
        if self.site is not None:
            sites = {str(site) for site in matching(self.site, lm)}
            saes = {name: sae for name, sae in saes.items() if sae.info.get("site") in sites}
            if not saes:
                raise InputError(f"--site {self.site}: the autoencoders are at {', '.join(places(part.saes))}")
        if self.sae is not None:
            words = [word for one in parts(self.sae) for word in spelled_out(one)]
            known, saes = saes, {name: sae for name, sae in saes.items() if any(map(PurePath(name).match, words))}
            if not saes:
                raise InputError(f"--sae {self.sae}: the autoencoders are {', '.join(known)}")
        return part._replace(saes=saes, folders={name: part.folders[name] for name in saes})


def choosing(parser: argparse.ArgumentParser) -> None:
    """The flags of a `Choice`."""
    parser.add_argument("--site", help="only autoencoders at these sites: names and patterns, as for train")
    parser.add_argument(
        "--sae", metavar="NAME", help="only autoencoders of these names, or ends of names: topk, *-seed0, run/topk"
    )


def arguments(parser: argparse.ArgumentParser, windows: int) -> None:
    parser.add_argument("folder", type=Path, help="a run, or one autoencoder")
    parser.add_argument(
        "--windows",
        type=int,
        default=windows,
        metavar="N",
        help=f"held-out windows to read (default: {windows})",
    )
    parser.add_argument("--model", help="another copy of the model: hub name or local folder (default: as in training)")
    parser.add_argument("--text", help="other text, read as plain text (its held-out part)")
    parser.add_argument("--dtype", help="precision of the model (default: as in training)")
    parser.epilog = "Results with another model, text, precision or device are printed, not stored."
    parser.add_argument("--device", help="device of the model (default: as in training)")


def open_subject(parsed: argparse.Namespace, others: Sequence[Path] = (), choice: Choice | None = None) -> Subject:
    """Load everything a command asks for; raises `InputError`.

    With `others`, folders to be compared with that of `parsed`, autoencoders are named RUN/NAME.
    """
    from monosem.training.run import first_windows, run_windows

    (saes, folders, config), lm = open_saes(parsed, others, choice)
    text = run_windows(config, lm, "held_out")
    if parsed.windows < 1:
        raise InputError(f"--windows {parsed.windows}: give at least 1")
    differing = differing_flags(parsed, saes, lm)
    return Subject(saes, folders, lm, first_windows(text, parsed.windows), config, not differing, differing)


def open_saes(
    parsed: argparse.Namespace, others: Sequence[Path] = (), choice: Choice | None = None
) -> tuple[Part, LanguageModel]:
    """Autoencoders on the device of their model, without any text. Raises `InputError`."""
    from monosem.training.model import load_model

    found = [_part(folder, parsed) for folder in (parsed.folder, *others)]
    part = found[0] if len(found) == 1 else _compared(found)
    lm = load_model(part.config)
    part = part if choice is None else choice.of(part, lm)
    _check_model(part.saes, lm)
    for sae in part.saes.values():
        sae.to(lm.device)
    if others:
        from monosem.evaluation import shared_place

        for group in places(part.saes).values():
            shared_place(group, lm)
    return part, lm


def _asked(parsed: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(parsed, name) for name in ("model", "text", "dtype", "device") if getattr(parsed, name)}


def differing_flags(parsed: argparse.Namespace, saes: dict[str, SAE], lm: LanguageModel) -> tuple[str, ...]:
    """The flags by which an autoencoder is read with something else than it was trained with."""
    asked, found = _asked(parsed), []
    for sae in saes.values():
        trained, model, config = sae.info.get("model", {}), lm.identity(), _config({"": sae})
        same = {
            "model": all(trained.get(key) == model[key] for key in ("fingerprint", "tokenizer")),
            "dtype": trained.get("dtype") == model["dtype"],
            "text": asked.get("text") == config.text and all(getattr(config, key) == PLAIN[key] for key in PLAIN),
            "device": _kind(config.device) == lm.device.type,
        }
        found += [f"--{name}" for name in asked if not same[name]]
    return tuple(dict.fromkeys(found))


def _kind(device: str) -> str:
    """cpu or cuda, also of `auto` on this machine."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device.split(":")[0]


def _part(folder: Path, parsed: argparse.Namespace) -> Part:
    """The autoencoders of one folder, in the order in which they were asked for."""
    from monosem.sae import find, load

    folders = find(folder)
    saes = {name: load(path) for name, path in folders.items()}
    config = replace(_config(saes), **(PLAIN if parsed.text else {}) | _asked(parsed))
    if parsed.device:
        config = replace(config, device_map=None)
    names = sorted(saes, key=lambda name: config.sae.index(name) if name in config.sae else len(config.sae))
    return Part({name: saes[name] for name in names}, {name: folders[name] for name in names}, config)


def _compared(runs: Sequence[Part]) -> Part:
    """Autoencoders of several runs, which must read the same model and text."""
    saes: dict[str, SAE] = {}
    folders: dict[str, Path] = {}
    first = runs[0].config
    for part in runs:
        for name, sae in part.saes.items():
            full = f"{run_of(part.folders[name]).name}/{name}"
            if full in saes:
                raise InputError(f"two of the folders give an autoencoder {full}: name each run once, and differently")
            for key in READING:
                if getattr(part.config, key) != getattr(first, key):
                    raise InputError(
                        f"{full} was trained with {key} = {getattr(part.config, key)}, {next(iter(saes))} with "
                        f"{getattr(first, key)}: compare autoencoders of one model and text"
                    )
            saes[full], folders[full] = sae, part.folders[name]
    return Part(saes, folders, first)


def run_of(folder: Path) -> Path:
    """The run that an autoencoder's folder belongs to: what its `saes` is in."""
    above = folder.resolve().parents
    return next((parent.parent for parent in above[:2] if parent.name == "saes"), above[1])


def by_site(opened: Subject) -> dict[str, Subject]:
    """The same in parts that are measured together, by their place."""
    return {
        place: opened._replace(saes=saes, folders={name: opened.folders[name] for name in saes})
        for place, saes in places(opened.saes).items()
    }


def places(saes: dict[str, SAE]) -> dict[str, dict[str, SAE]]:
    """Those that read one site and predict one, by that site, or by SITE → TARGET."""
    found: dict[str, dict[str, SAE]] = {}
    for name, sae in saes.items():
        target = f" → {sae.info['target']}" if sae.info.get("target") else ""
        found.setdefault(f"{sae.info.get('site')}{target}", {})[name] = sae
    return found


def _config(saes: dict[str, SAE]) -> TrainConfig:
    for name, sae in saes.items():
        if "training" not in sae.info:
            raise InputError(
                f"{name} does not say how it was trained: use monosem.evaluate from Python with a model and windows"
            )
        return TrainConfig.from_dict(sae.info["training"]["config"])
    raise InputError("no autoencoder was given")


def _check_model(saes: dict[str, SAE], lm: LanguageModel) -> None:
    """Another width is refused when evaluating; other weights of the same width are said."""
    found = lm.identity()
    for name, sae in saes.items():
        trained = sae.info.get("model", {})
        same_shape = trained.get("d_model") == found["d_model"]
        if same_shape and trained["fingerprint"] != found["fingerprint"]:
            say(
                f"note: {name} was trained on other weights ({trained.get('name')}) than {lm.name}'s; "
                "figures describe the pair"
            )


def command() -> str:
    """The command line as typed, for provenance."""
    return " ".join(["monosem", *sys.argv[1:]])
