"""What commands print: one JSON object, or a table for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import Any


def show(parsed: Any, value: dict[str, Any], text: str) -> None:
    """`value` as JSON if asked for, else `text`. NaN becomes null: JSON has no word for it."""
    print(json.dumps(plain(value), allow_nan=False) if parsed.json else text)


def say(text: str) -> None:
    """A remark beside the result, on standard error."""
    print(text, file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first is left-aligned, the others right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        [
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in [header, *rows]
    ]
    rule = ["─" * width for width in widths]
    return "\n".join("  ".join(line).rstrip() for line in [lines[0], rule, *lines[1:]])


def plain(value: Any) -> Any:
    """The same without NaN and infinities, for which JSON has no word."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
