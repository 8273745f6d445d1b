"""Tokens as text, where one token need not be a whole character."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple


class Piece(NamedTuple):
    """Tokens `start:stop` of a sequence, the fewest that are whole characters together, and their text."""

    start: int
    stop: int
    text: str


class Spelling:
    """The bytes of every token of a byte-level or SentencePiece vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added: dict[int, Any] = tokenizer.added_tokens_decoder
        listed = {token for token, entry in self._added.items() if entry.special}
        self.special: frozenset[int] = frozenset(listed | set(tokenizer.all_special_ids))

    def spell(self, token: int) -> bytes:
        """The bytes a token stands for; `[id]` where the vocabulary has no such id."""
        if token in self._added:
            return self._added[token].content.encode()
        word = self._tokenizer.convert_ids_to_tokens(token)
        if word is None:
            return f"[{token}]".encode()
        return byte_level(word) if self._byte_level else sentence_piece(word)

    def pieces(self, tokens: Sequence[int]) -> list[Piece]:
        """Readable pieces of a sequence; bytes that are no characters are written `\\xNN`."""
        return pieces([self.spell(token) for token in tokens])

    def word(self, token: int) -> str:
        """One token by itself."""
        return self.spell(token).decode(errors="backslashreplace")

    @cached_property
    def _byte_level(self) -> bool:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return backend is not None and "ByteLevel" in json.dumps(json.loads(backend.to_str())["decoder"])


def byte_level(word: str) -> bytes:
    """Undo the alphabet in which byte-level vocabularies write each byte as one printable character."""
    return b"".join(bytes([_BYTES[letter]]) if letter in _BYTES else letter.encode(errors="replace") for letter in word)


def sentence_piece(word: str) -> bytes:
    """`▁` is a space and `<0xE2>` a byte."""
    if len(word) == 6 and word.startswith("<0x") and word.endswith(">"):
        return bytes.fromhex(word[3:5])
    return word.replace("▁", " ").encode(errors="replace")


def pieces(spelled: Sequence[bytes]) -> list[Piece]:
    """Group tokens until their bytes are whole UTF-8 characters."""
    found, start = [], 0
    while start < len(spelled):
        stop = _stop(spelled, start)
        text = b"".join(spelled[start:stop]).decode(errors="backslashreplace")
        found.append(Piece(start, stop, text))
        start = stop
    return found


def _stop(spelled: Sequence[bytes], start: int) -> int:
    """Where the fewest whole characters from `start` on end; after one token if there are none."""
    joined = b""
    for stop, part in enumerate(spelled[start:], start + 1):
        joined += part
        try:
            joined.decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                break
        else:
            return stop
    return start + 1


def _alphabet() -> dict[str, int]:
    """Printable Latin-1 bytes stand for themselves, the others for the characters from 256 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


_BYTES = _alphabet()
