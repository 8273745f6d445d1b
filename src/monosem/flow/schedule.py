"""How strong steering is at each layer (arXiv 2502.03032, appendix B.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from monosem.flow.graph import Span
from monosem.shapes import InputError

Shape = Literal["constant", "exponential", "linear"]


@dataclass(frozen=True)
class Schedule:
    """The strength at layer l from the strength s: a shape with its one number.

    `constant`: s. `exponential`: s · exp(alpha · l). `linear`: from s at the span's first layer to `end` at its last.
    With `relative`, l of the exponential counts from the span's first layer.
    """

    shape: Shape = "constant"
    alpha: float = -0.05
    end: float = 1.0
    relative: bool = False

    def __post_init__(self) -> None:
        """Raises `InputError` for an unknown shape, or numbers that are not finite."""
        if self.shape not in SHAPES:
            raise InputError(f"schedule {self.shape!r} is unknown: give {', '.join(SHAPES)}")
        if not (math.isfinite(self.alpha) and math.isfinite(self.end)):
            raise InputError(f"schedule with alpha {self.alpha} and end {self.end}: give finite numbers")

    def at(self, layer: int, s: float, span: Span) -> float:
        """The strength at a layer."""
        return SHAPES[self.shape](self, layer, s, span)

    def note(self, s: float) -> str | None:
        """What a person may not expect of it."""
        if self.shape == "linear" and s < self.end:
            return f"the linear schedule rises, from {s:g} at the first layer to {self.end:g} at the last"
        return None

    def to_json(self) -> dict[str, object]:
        """The shape and the numbers that it uses."""
        used = {"constant": [], "exponential": ["alpha", "relative"], "linear": ["end"]}[self.shape]
        return {"shape": self.shape, **{name: getattr(self, name) for name in used}}


def _constant(schedule: Schedule, layer: int, s: float, span: Span) -> float:
    return s


def _exponential(schedule: Schedule, layer: int, s: float, span: Span) -> float:
    return s * math.exp(schedule.alpha * (layer - span.start if schedule.relative else layer))


def _linear(schedule: Schedule, layer: int, s: float, span: Span) -> float:
    if span.start == span.end:
        return s
    k = (schedule.end - s) / (span.end - span.start)
    return k * layer + s - k * span.start


SHAPES: dict[str, Callable[[Schedule, int, float, Span], float]] = {
    "constant": _constant,
    "exponential": _exponential,
    "linear": _linear,
}
assert set(SHAPES) == set(get_args(Shape))
