"""What text is asked for, in one object: where it is, what it holds, how it is cut into windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from monosem.lm.tokenizer import tokenizer_hash
from monosem.shapes import InputError
from monosem.text.chat import template, template_hash
from monosem.text.corpus import Corpus, distinct, load_corpus
from monosem.text.dataset import Streaming, is_dataset
from monosem.text.document import NOUNS, Column, Document
from monosem.text.encoding import Encoding, separator_id
from monosem.text.mixture import Part, mixed, parts
from monosem.text.window import Windows, windows

_MARGIN = 1.05
"""More than the share of training: which documents are held out is known only when all are there."""


@dataclass(frozen=True)
class Request:
    """The settings of a run that decide its text, under the names they have there; `wanted` is in training tokens."""

    text: str = "news"
    text_config: str | None = None
    split: str = "train"
    revision: str | None = None
    take: int | None = None
    column: str = "text"
    chat: str | None = None
    assistant_only: bool = False
    tokenised: str | None = None
    token_hash: str | None = None
    repeat: bool = False
    window: int = 256
    bos: bool = False
    separator: bool = True
    held_out: float = 0.1
    wanted: int = 1_000_000

    @property
    def wanted_windows(self) -> int:
        """Windows of `wanted` tokens, when the first position of each is left out."""
        return -(-self.wanted // (self.window - 1))


def read(
    request: Request, tokenizer: Any, part: Literal["train", "held_out"], vocab_size: int | None = None
) -> Windows:
    """The windows of one part of the split of what is asked for. Raises `InputError`.

    A mixture has to hold the tokens wanted for training (unless `repeat`); what is held out ends with its first part.
    """
    _check(request)
    mixture = parts(request.text)
    corpora = _corpora(request, mixture, tokenizer)
    texts = [
        windows(
            corpus,
            tokenizer,
            part=part,
            length=request.window,
            held_out=request.held_out,
            bos=request.bos,
            separator=request.separator,
            assistant_only=request.assistant_only,
            vocab_size=vocab_size,
            token_hash=request.token_hash if corpus.form == "tokens" else None,
        )
        for corpus in corpora
    ]
    if len(texts) == 1:
        return texts[0]
    wanted = request.wanted_windows if part == "train" else None
    return mixed(texts, mixture, wanted=wanted, repeat=request.repeat)


def enough(text: Windows, tokens: int) -> int:
    """How many of the first windows hold `tokens` tokens to train on: all if there are fewer.

    Special tokens are few and not counted, unless all that an assistant did not say is among them.
    """
    length = text.tokens.shape[1]
    rows = text.identity.get("parts", [text.identity])
    if not text.identity.get("assistant_only") and not any(row.get("assistant_only") for row in rows):
        return min(-(-tokens // (length - 1)), len(text.tokens))
    counted = (~text.special[:, 1:]).sum(1).cumsum(0)
    return min(int((counted < tokens).sum()) + 1, len(text.tokens))


def _check(request: Request) -> None:
    if request.chat is not None and request.tokenised is not None:
        raise InputError("--chat and --tokenised were both given: a text holds conversations or token ids, give one")
    if request.assistant_only and request.chat is None:
        raise InputError("--assistant-only needs conversations: name the column that holds them by --chat")


def _corpora(request: Request, mixture: list[Part], tokenizer: Any) -> list[Corpus]:
    """One corpus a part, none with a document of an earlier one: it could be held out there and trained on here."""
    column = _column(request, tokenizer)
    found: list[Corpus] = []
    seen: set[Document] = set()
    for part in mixture:
        streaming = _streaming(request, part, column, tokenizer) if is_dataset(part.name) else None
        corpus = load_corpus(part.name, column, streaming)
        if seen:
            corpus = distinct(corpus, seen)
        seen.update(corpus.documents if len(mixture) > 1 else ())
        found.append(corpus)
    if column.form != "text" and all(corpus.form != column.form for corpus in found):
        names = ", ".join(corpus.name for corpus in found)
        flag = "--chat" if column.form == "chat" else "--tokenised"
        raise InputError(f"{names} holds {NOUNS[found[0].form]}, no {NOUNS[column.form]}: leave {flag} off")
    return found


def _column(request: Request, tokenizer: Any) -> Column:
    length = request.window - request.bos
    separator = separator_id(tokenizer)
    if request.chat is not None:
        return Column(request.chat, "chat", separator, length)
    if request.tokenised is not None:
        return Column(request.tokenised, "tokens", separator, length)
    return Column(request.column, "text", separator, length)


def _streaming(request: Request, part: Part, column: Column, tokenizer: Any) -> Streaming:
    encoding = Encoding(tokenizer, separator_id(tokenizer) if request.separator else None, request.assistant_only)
    needed = request.wanted_windows * request.window * part.share / (1 - request.held_out) * _MARGIN
    return Streaming(
        tokens=math.ceil(needed if request.take is None else request.take * part.share),
        count=lambda documents: encoding.count(documents, column.form),
        counter=_counter(request, tokenizer),
        config=request.text_config,
        split=request.split,
        revision=request.revision,
    )


def _counter(request: Request, tokenizer: Any) -> str:
    """What decides where reading stops: the tokenizer and, for conversations, how they are written and counted."""
    if request.chat is None:
        return tokenizer_hash(tokenizer)
    return f"{tokenizer_hash(tokenizer)} {template_hash(template(tokenizer))} {request.assistant_only}"
