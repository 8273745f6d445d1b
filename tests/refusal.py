"""Refusals of bad input, for every test of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from monosem.shapes import InputError


def refused(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The one line of the `InputError` that a call raises."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)
