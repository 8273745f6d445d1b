"""The identity of a tokenizer, and its special tokens."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 over all that decides which ids a text becomes: vocabulary, merges, rules, special tokens.

    Truncation and padding, which a caller may have switched on, do not count.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: dict[str, Any] = {"vocab": tokenizer.get_vocab()}
    else:
        rules = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    text = json.dumps([rules, special], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def special_ids(tokenizer: Any) -> list[int]:
    """The ids of all special tokens, ascending: those with a role, and those only marked as special."""
    added = [token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special]
    return sorted({*tokenizer.all_special_ids, *added})
