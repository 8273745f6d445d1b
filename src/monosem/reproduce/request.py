"""What is asked of a study."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """`settings` and `seeds` take the place of the scale's; `minutes` is the budget, the scale's if not said.

    `judge` reads for the claims that need one.
    """

    name: str
    scale: str = "small"
    claims: str | None = None
    minutes: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    out: Path = Path("docs/reproduction")
    judge: str | None = None

    @property
    def command(self) -> str:
        """The command that gives the same rows, whatever part of them was asked for."""
        words = ["monosem", "reproduce", self.name, "--scale", self.scale]
        for key, value in self.settings.items():
            words += ["--" + key.replace("_", "-"), str(value)]
        words += ["--judge", self.judge] if self.judge else []
        return " ".join(words + (["--seeds", ",".join(map(str, self.seeds))] if self.seeds else []))
