"""The log of a run: JSON lines, flushed as they are written, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monosem.disk import whole_file


class Log:
    """`metrics.jsonl` of a run folder, one line for each autoencoder and interval."""

    def __init__(self, path: Path, step: int) -> None:
        """Keep the lines up to `step`, drop what a killed process wrote after it."""
        kept = [line for line in read(path) if line["step"] <= step]
        with whole_file(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a last line that was cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
