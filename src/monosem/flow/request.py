"""What a person asks of steering: one field a flag of `monosem steer`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monosem.flow.applied import Reading
from monosem.flow.schedule import Shape
from monosem.flow.scope import Scope
from monosem.flow.steering import Mode
from monosem.flow.strategy import Layers, Scale
from monosem.shapes import InputError


@dataclass(frozen=True)
class Request:
    """What `monosem steer` is asked for; fields are its flags."""

    prompts: tuple[str, ...]
    suite: Sequence[str | Path] = ()
    sae: str | None = None
    feature: Sequence[str] = ()
    graph: Path | None = None
    steering: Path | None = None
    from_theme: str | None = None
    seeds: int = 3
    along_flow: bool = False
    gaps: bool = False
    mode: Mode = "add"
    strengths: tuple[float, ...] = (1.0,)
    layer: str = "all"
    strategy: tuple[Layers, ...] = ("cumulative",)
    schedule: tuple[Shape, ...] = ("constant",)
    alpha: float = -0.05
    end: float = 1.0
    relative: bool = False
    scale: Scale = "folded"
    tokens: Scope = "all"
    reading: Reading = "current"
    new_tokens: int = 36
    samples: int | None = None
    temperature: float = 1.27
    top_p: float = 0.7
    seed: int = 0
    batch: int = 16
    theme: str | None = None
    other: str | None = None
    pieces: int = 400
    lexicon: tuple[str, ...] = ()
    subject: Sequence[str] = ()
    judge: str | None = None
    max_tokens: int | None = None
    concurrency: int = 8
    baselines: tuple[str, ...] | None = None
    model: str | None = None
    dtype: str | None = None
    device: str | None = None

    @property
    def is_scored(self) -> bool:
        """Whether behaviour is judged at all."""
        return self.theme is not None or self.judge is not None

    def check(self) -> None:
        """Raises `InputError` for what does not go together."""
        ways = [bool(self.feature), self.graph is not None, self.steering is not None, self.from_theme is not None]
        if sum(ways) != 1:
            raise InputError(
                "say what is steered, in one way: --feature SITE/LATENT, --graph FILE, --steering FOLDER, or "
                "--from-theme SITE with --theme"
            )
        if not self.suite and self.steering is None:
            raise InputError("steering by latents needs their autoencoders: give --suite RUN")
        if self.from_theme and self.theme is None:
            raise InputError("--from-theme needs text of the theme: give --theme TEXT")
        if self.judge is not None and not self.subject:
            raise InputError("a judge grades how much of a subject a text has: name it with --subject")
        if self.judge is None and self.max_tokens is not None:
            raise InputError("--max-tokens is for a judge: give --judge, or leave it out")
        if min(self.seeds, self.pieces, self.batch, 1 if self.samples is None else self.samples) < 1:
            raise InputError("--seeds, --pieces, --batch and --samples: give at least 1 each")
