"""Documents as token ids, whatever their form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from monosem.shapes import InputError
from monosem.text import chat
from monosem.text.corpus import Corpus
from monosem.text.document import Document, Form, ids_of

BATCH = 256


class Encoded(NamedTuple):
    """A document's tokens, and which of them are context only: read by the model, but not the text in question."""

    ids: Int32[np.ndarray, " T"]
    context: Bool[np.ndarray, " T"]


@dataclass(frozen=True)
class Encoding:
    """How documents become tokens: `separator` closes each; with `assistant_only` the rest of a chat is context."""

    tokenizer: Any
    separator: int | None
    assistant_only: bool = False
    vocab_size: int | None = None
    """Ids that came as ids must lie below it (default: the tokenizer's length)."""

    def encode(self, documents: Sequence[Document], form: Form) -> Iterator[Encoded]:
        """The tokens of each document, in order. Raises `InputError`."""
        if form == "text":
            options = {"add_special_tokens": False, "truncation": False, "verbose": False}
            for start in range(0, len(documents), BATCH):
                rows = self.tokenizer(list(documents[start : start + BATCH]), **options)["input_ids"]
                yield from (self._closed(np.array(row, np.int32)) for row in rows)
        elif form == "chat":
            yield from (self._conversation(str(document)) for document in documents)
        else:
            yield from (self._given(document) for document in documents)

    def count(self, documents: Sequence[Document], form: Form) -> list[int]:
        """How many tokens of each document count."""
        return [int((~row.context).sum()) for row in self.encode(documents, form)]

    def identity(self, corpus: Corpus) -> dict[str, Any]:
        """What decides the tokens of a corpus beside its documents, as JSON."""
        if corpus.form == "chat":
            written = chat.template(self.tokenizer)
            return {"form": "chat", "template": chat.template_hash(written), "assistant_only": self.assistant_only}
        return {} if corpus.form == "text" else {"form": "tokens"}

    def _conversation(self, document: str) -> Encoded:
        if self.assistant_only:
            ids, assistant = chat.said(document, self.tokenizer)
            return self._closed(ids, ~assistant)
        return self._closed(chat.ids(document, self.tokenizer))

    def _given(self, document: Document) -> Encoded:
        """Ids as they are: whoever made them has put separators where they belong."""
        ids = ids_of(document)
        size = self.vocab_size or len(self.tokenizer)
        if len(ids) and (greatest := int(ids.max())) >= size:
            raise InputError(
                f"the tokens hold id {greatest}, the model's vocabulary has {size:,}: they were made by another "
                "tokenizer, give tokens of this model's"
            )
        return Encoded(ids, np.zeros(len(ids), bool))

    def _closed(self, ids: np.ndarray, context: np.ndarray | None = None) -> Encoded:
        context = np.zeros(len(ids), bool) if context is None else context
        if self.separator is None:
            return Encoded(ids, context)
        return Encoded(np.append(ids, np.int32(self.separator)), np.append(context, False))


def separator_id(tokenizer: Any) -> int | None:
    """The token between documents: `<|endoftext|>` if it is a special token of the vocabulary, else EOS.

    Instruction-tuned models declare the end of a turn as EOS but saw `<|endoftext|>` between documents.
    """
    added = {entry.content: token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    return added.get("<|endoftext|>", tokenizer.eos_token_id)
