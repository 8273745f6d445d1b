"""Tables as pandas data frames, for those who have pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from monosem.shapes.error import InputError


def frame(columns: Mapping[str, Sequence[Any]], index: Sequence[Any] | None = None) -> Any:
    """A `pandas.DataFrame` of equally long columns. Raises `InputError` where pandas is not installed."""
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise InputError("a table as a data frame needs pandas: pip install pandas, or use to_json()") from None
    return pandas.DataFrame(dict(columns), index=index)
