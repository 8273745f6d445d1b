"""Texts of many settings from the same prompts and the same noise, each kept on disk as soon as it is finished."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from monosem.disk import digest, read_json, read_sealed, sealed, write_json
from monosem.flow.applied import Norm, Reading
from monosem.flow.generation import BATCH, Written, generate, losses
from monosem.flow.sample import Sample
from monosem.flow.sampling import Sampling
from monosem.flow.steering import Steering
from monosem.flow.suite import Suite
from monosem.lm import LanguageModel
from monosem.progress import progress
from monosem.shapes import InputError, Site
from monosem.text import separator_id

FORMAT, VERSION = "monosem.steered", 1
PLAIN = "plain"


@dataclass(frozen=True)
class Setting:
    """One way to write: plain, steered, or with other prompts; `axes` say where in a grid it is (JSON-able).

    `words` are put before every prompt while writing, and are no part of it when texts are scored.
    """

    name: str
    steering: Steering | None = None
    words: str = ""
    axes: Mapping[str, Any] | None = None


class Texts(NamedTuple):
    """What one setting wrote: texts, the plain model's mean loss on each given the bare prompt, and norms by site."""

    setting: Setting
    written: list[Written]
    losses: list[float]
    norms: dict[Site, Norm]

    def samples(self, prompts: Sequence[Sequence[int]]) -> list[Sample]:
        """As scorers read them, after their prompts."""
        return [Sample(one.ids, one.text, list(prompts[one.prompt])) for one in self.written]

    @property
    def relative_norm(self) -> float:
        """The mean over steered sites of ‖δ‖ / ‖h‖, each a mean over tokens; 0 without steering."""
        found = [norm.added / norm.activation for norm in self.norms.values()]
        return sum(found) / len(found) if found else 0.0


@dataclass(frozen=True)
class Sweep:
    """Everything that is the same in all settings."""

    lm: LanguageModel
    prompts: tuple[str, ...]
    sampling: Sampling
    samples: int = 1
    suite: Suite | None = None
    reading: Reading = "current"
    batch: int = BATCH

    def ids(self, words: str = "") -> list[Int64[Tensor, " T"]]:
        """Prompts as tokens, after the token that begins a text in training. Raises `InputError` for an empty one."""
        return [self._begun(words + prompt) for prompt in self.prompts]

    def lead(self) -> list[int]:
        """The token that begins a text in training, as the autoencoders say or as in this package's windows."""
        text = self.suite.info(next(iter(self.suite))).get("text", {}) if self.suite else {}
        if text.get("bos", False):
            return [self.lm.tokenizer.bos_token_id]
        first = separator_id(self.lm.tokenizer) if text.get("separator", True) else None
        return [] if first is None else [first]

    def _begun(self, text: str) -> Int64[Tensor, " T"]:
        ids = self.lm.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        if not ids:
            raise InputError("a prompt is empty: give some text, such as 'I think'")
        return torch.tensor(ids if ids[:1] == self.lead() else [*self.lead(), *ids], dtype=torch.int64)

    def run(self, settings: Sequence[Setting], folder: Path | None = None) -> list[Texts]:
        """Every setting in turn; what `folder` has already is read, not written again.

        Raises `InputError` for two settings of one name, and as `generate`.
        """
        names = [one.name for one in settings]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"two settings are named {twice[0]}: name each once")
        each = len(self.prompts) * self.samples * self.sampling.new_tokens
        known = {one.name: self._kept(folder, one) for one in settings}
        left = sum(texts is None for texts in known.values())
        found = []
        with progress("writing", left * each, "tok") as bar:
            for place, one in enumerate(settings):
                texts = known[one.name]
                if texts is None:
                    bar.notes["setting"] = f"{place + 1}/{len(settings)} {one.name}"
                    texts = self._written(one, bar.advance)
                    self._keep(folder, texts)
                found.append(texts)
        return found

    def describe(self) -> dict[str, Any]:
        """What all settings share, JSON-able."""
        model = self.lm.identity()
        return {
            "model": {key: model[key] for key in ("name", "fingerprint", "tokenizer", "dtype")},
            "prompts": list(self.prompts),
            "sampling": asdict(self.sampling),
            "samples": self.samples,
            "reading": self.reading,
        }

    def _written(self, setting: Setting, advance: Any) -> Texts:
        written, norms = generate(
            self.lm,
            self.ids(setting.words),
            self.sampling,
            samples=self.samples,
            steering=setting.steering,
            suite=self.suite,
            reading=self.reading,
            batch=self.batch,
            advance=advance,
        )
        prompts = self.ids()
        own = losses(self.lm, [prompts[one.prompt] for one in written], [one.ids for one in written])
        return Texts(setting, written, [float(one.mean()) if len(one) else math.nan for one in own], norms)

    def _key(self, setting: Setting) -> str:
        """What decides the texts of a setting."""
        steering = setting.steering
        acting = None if steering is None or not steering.effective else steering.digest()
        read = None if acting is None or steering is None else dict(steering.info.get("dictionaries", {}))
        return digest([VERSION, self.describe(), [one.tolist() for one in self.ids(setting.words)], acting, read], 24)

    def _keep(self, folder: Path | None, texts: Texts) -> None:
        if folder is None:
            return
        content = {
            "format": FORMAT,
            "version": VERSION,
            "setting": texts.setting.name,
            "texts": [one.to_json() for one in texts.written],
            "losses": [None if math.isnan(loss) else loss for loss in texts.losses],
            "norms": {str(site): list(norm) for site, norm in texts.norms.items()},
        }
        write_json(folder / "texts" / f"{self._key(texts.setting)}.json", sealed(content))

    def _kept(self, folder: Path | None, setting: Setting) -> Texts | None:
        path = None if folder is None else folder / "texts" / f"{self._key(setting)}.json"
        if path is None or not path.is_file():
            return None
        found = read_sealed(path)
        return Texts(
            setting,
            [Written(**one) for one in found["texts"]],
            [math.nan if loss is None else loss for loss in found["losses"]],
            {Site.parse(site): Norm(*norm) for site, norm in found["norms"].items()},
        )


def check_folder(folder: Path) -> None:
    """Raises `InputError` unless `folder` is new, empty, or holds steered texts."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    path = folder / "steering.json"
    if not (folder / "texts").is_dir() and not path.is_file():
        raise InputError(f"{folder} holds something else than steered texts: choose a new or empty folder")
    if path.is_file() and read_json(path).get("format") != FORMAT:
        raise InputError(f"{path} is not a result of steering: choose another folder")
