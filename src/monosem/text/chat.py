"""Conversations as tokens, by the tokenizer's chat template, and which of them the assistant said."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from monosem.shapes import InputError

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

_SILENT = {"verbose": False}  # a conversation longer than the model's context is cut into windows
Messages = list[dict[str, Any]]


class Said(NamedTuple):
    """A conversation's tokens, and which of them belong to an assistant's turn: its content and what closes it."""

    ids: Int32[np.ndarray, " T"]
    assistant: Bool[np.ndarray, " T"]


def template(tokenizer: Any) -> str:
    """The tokenizer's chat template. Raises `InputError` when it has none."""
    try:
        return tokenizer.get_chat_template()
    except ValueError:
        raise InputError(
            "the tokenizer has no chat template, so conversations cannot become tokens: give an instruction-tuned "
            "model, a folder whose chat_template.jinja is there, or plain text"
        ) from None


def template_hash(written: str) -> str:
    """A short name for a template: it decides tokens as the tokenizer does."""
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def ids(conversation: str, tokenizer: Any) -> Int32[np.ndarray, " T"]:
    """A conversation (JSON of its messages) as tokens. Raises `InputError`."""
    template(tokenizer)
    found = _applied(json.loads(conversation), tokenizer, tokenize=True, return_dict=True, tokenizer_kwargs=_SILENT)
    return np.array(found["input_ids"], np.int32)


def said(conversation: str, tokenizer: Any) -> Said:
    """A conversation (JSON of its messages) as tokens, with the assistant's turns marked.

    Where the template marks them itself (`{% generation %}`) its marks are taken, otherwise those of `turns`.
    """
    messages = json.loads(conversation)
    if _GENERATION.search(template(tokenizer)):
        return marked(messages, tokenizer)
    return derived(messages, tokenizer)


def marked(messages: Messages, tokenizer: Any) -> Said:
    """By the template's own marks, `{% generation %}`."""
    options = {"return_assistant_tokens_mask": True, "return_dict": True, "tokenizer_kwargs": _SILENT}
    found = _applied(messages, tokenizer, tokenize=True, **options)
    return Said(np.array(found["input_ids"], np.int32), np.array(found["assistant_masks"], bool))


def derived(messages: Messages, tokenizer: Any) -> Said:
    """By comparing renderings: a token is the assistant's if any of its characters lies in one of `turns`."""
    text = _applied(messages, tokenizer, tokenize=False)
    found = tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)
    ids = np.array(found["input_ids"], np.int32)
    spans = np.array(found["offset_mapping"], np.int64).reshape(-1, 2)
    inside = np.zeros(len(ids), bool)
    for start, stop in turns(messages, text, tokenizer):
        inside |= (spans[:, 0] < stop) & (spans[:, 1] > start)
    return Said(ids, inside)


def turns(messages: Messages, text: str, tokenizer: Any) -> list[tuple[int, int]]:
    """Where in the rendering `text` the assistant speaks, from after the prompt for its turn to what closes it.

    The conversation up to a turn, with the prompt for the assistant, ends where the turn begins; with the turn, where
    it ends. White space that follows what closes a turn is the template's. Raises `InputError` for a template that
    renders a beginning otherwise than as the beginning of the whole, or an assistant that speaks first.
    """
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if not number:
            raise InputError(
                "a conversation begins with the assistant, whose turn this chat template does not mark: leave such "
                "conversations out, or use a template with {% generation %}"
            )
        before = _applied(messages[:number], tokenizer, tokenize=False, add_generation_prompt=True)
        after = _applied(messages[: number + 1], tokenizer, tokenize=False).rstrip()
        if not (text.startswith(before) and text.startswith(after) and len(after) > len(before)):
            raise InputError(
                f"the chat template renders the first {number + 1} of {len(messages)} messages otherwise than as the "
                "beginning of all of them, so the assistant's tokens cannot be told: use a template with "
                "{% generation %}, or leave --assistant-only off"
            )
        spans.append((len(before), len(after)))
    return spans


def _applied(messages: Messages, tokenizer: Any, **options: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, **options)
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages[:6])
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"the chat template refuses a conversation of {roles} ({why}): leave such conversations out"
        ) from None
