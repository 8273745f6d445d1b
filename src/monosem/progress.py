"""Progress with a rate and an estimate of the time left, on standard error.

A terminal shows a live bar; a log file gets a line every ten seconds. `MONOSEM_PROGRESS=off` silences both.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LINE_EVERY = 10.0


class Bar:
    """One long task. `advance` counts units done; keyword values are shown beside the rate."""

    def __init__(self, label: str, total: float | None, unit: str, done: float) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._first = done
        self.notes: dict[str, str] = {}
        self._start = time.monotonic()

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)

    def advance(self, units: float = 1, **notes: object) -> None:
        self.done += units
        self.notes.update(
            {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in notes.items()}
        )
        self.draw()

    def draw(self) -> None:
        """The silent bar draws nothing."""

    def close(self) -> None:
        """The silent bar has nothing to close."""

    def describe(self) -> str:
        share = "" if not self.total else f" {100 * self.done / self.total:3.0f}%"
        left = "" if not self.total or self.rate <= 0 else f" · {_clock((self.total - self.done) / self.rate)} left"
        notes = "".join(f" · {key} {value}" for key, value in self.notes.items())
        count = f"{self.done:,.0f}" + (f"/{self.total:,.0f}" if self.total else "")
        return f"{self.label}{share} · {count} {self.unit} · {self.rate:,.0f} {self.unit}/s{left}{notes}"


class _Lines(Bar):
    """For logs: a whole line now and then, and one at the end."""

    _last = float("-inf")

    def draw(self) -> None:
        if time.monotonic() - self._last >= _LINE_EVERY:
            self._last = time.monotonic()
            _write(self.describe() + "\n")

    def close(self) -> None:
        _write(f"{self.describe()} · took {_clock(time.monotonic() - self._start)}\n")


class _Live(_Lines):
    """For terminals: one line redrawn in place."""

    def draw(self) -> None:
        now = time.monotonic()
        if now - self._last >= 0.1:
            self._last = now
            width = os.get_terminal_size(sys.stderr.fileno()).columns
            _write(f"\r\x1b[2K{self.describe()[: width - 1]}")

    def close(self) -> None:
        _write("\r\x1b[2K")
        super().close()


@contextmanager
def progress(label: str, total: float | None = None, unit: str = "it", done: float = 0) -> Iterator[Bar]:
    """`with progress("recording", 1e6, "tok") as bar: bar.advance(4096)`."""
    kind = Bar if os.environ.get("MONOSEM_PROGRESS") == "off" else _Live if sys.stderr.isatty() else _Lines
    bar = kind(label, total, unit, done)
    try:
        yield bar
    finally:
        bar.close()


def remark(text: str) -> None:
    """A line beside the bars, unless they are silenced."""
    if os.environ.get("MONOSEM_PROGRESS") != "off":
        _write(f"{text}\n")


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
