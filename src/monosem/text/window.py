"""Documents packed into windows of a fixed number of tokens, without padding."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int32
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from monosem.disk import cache_folder, digest, whole_file
from monosem.lm.tokenizer import special_ids, tokenizer_hash
from monosem.progress import progress
from monosem.shapes import InputError
from monosem.text.corpus import Corpus
from monosem.text.document import Document, Form
from monosem.text.encoding import BATCH, Encoded, Encoding, separator_id
from monosem.text.split import split

_log = logging.getLogger("monosem")
_PACKING = 1  # raise it when the same arguments give other windows


class Windows(NamedTuple):
    """N windows of T tokens.

    `documents` is the index of each token's document in its part of the split. `special` marks what does not count
    as text: BOS, separator and every other special token and, where `identity["assistant_only"]`, all of a
    conversation that the assistant did not say. `identity` is what decided all this, as JSON. In a mixture `parts`
    says which of `identity["parts"]` each window is from.
    """

    tokens: Int32[Tensor, "N T"]
    documents: Int32[Tensor, "N T"]
    special: Bool[Tensor, "N T"]
    identity: dict[str, Any]
    parts: Int32[Tensor, " N"] | None = None

    def first(self, count: int) -> Windows:
        """The first `count` windows."""
        parts = None if self.parts is None else self.parts[:count]
        return Windows(self.tokens[:count], self.documents[:count], self.special[:count], self.identity, parts)


def windows(
    corpus: Corpus,
    tokenizer: Any,
    *,
    part: Literal["train", "held_out"],
    length: int = 256,
    held_out: float = 0.1,
    seed: int = 0,
    bos: bool = False,
    separator: bool = True,
    assistant_only: bool = False,
    vocab_size: int | None = None,
    token_hash: str | None = None,
) -> Windows:
    """Turn one part of the split into tokens and cut it into windows, kept in the cache.

    Documents follow each other in the order of the split, each closed by `separator_id` if asked for; token ids that
    came as ids are taken as they are. With `bos` every window is BOS and then `length - 1` tokens of text. A window
    may hold several documents; the tail that does not fill one is dropped. `assistant_only`: tokens of a conversation
    outside the assistant's turns are marked as special. `token_hash`: what `tokenizer_hash` gives of the tokenizer
    that made a corpus of ids, if known. Raises `InputError` when the text does not fill one window.
    """
    _check(tokenizer, length, bos, separator)
    encoding = Encoding(tokenizer, separator_id(tokenizer) if separator else None, assistant_only, vocab_size)
    identity = {
        "corpus": corpus.name,
        "revision": corpus.revision,
        "split": part,
        "held_out": held_out,
        "seed": seed,
        "length": length,
        "bos": bos,
        "separator": separator,
        "tokenizer": tokenizer_hash(tokenizer),
        **encoding.identity(corpus),
        **_origin(corpus, tokenizer, token_hash),
    }
    path = cache_folder() / "windows" / f"{digest([_PACKING, identity])}.safetensors"
    tensors = _load(path)
    if tensors is None:
        documents = getattr(split(corpus, held_out, seed), part)
        encoded = _encoded(documents, corpus.form, encoding, f"{corpus.name} ({part})")
        tensors = _pack(encoded, tokenizer, f"{corpus.name} ({part})", length, bos)
        _save(path, tensors, identity)
    return Windows(tensors["tokens"], tensors["documents"], tensors["special"], identity)


def _origin(corpus: Corpus, tokenizer: Any, token_hash: str | None) -> dict[str, Any]:
    """Which dataset the documents were taken from, and who made ids that came as ids."""
    origin = {} if corpus.origin is None else {"dataset": corpus.origin}
    if corpus.form != "tokens":
        return origin
    own = tokenizer_hash(tokenizer)
    if token_hash is not None and not (len(token_hash) >= 8 and own.startswith(token_hash)):
        raise InputError(
            f"the tokens were made by the tokenizer {token_hash}, the model's is {own}: use the model they belong to"
        )
    return {**origin, "tokens_by": "unknown" if token_hash is None else own}


def _check(tokenizer: Any, length: int, bos: bool, separator: bool) -> None:
    if length < 2:
        raise InputError(f"windows of {length} tokens: give a length of at least 2")
    if bos and tokenizer.bos_token_id is None:
        raise InputError("bos was asked for, but the tokenizer has no BOS token: leave bos off")
    if separator and separator_id(tokenizer) is None:
        raise InputError("the tokenizer has no EOS token to separate documents with: switch separator off")


def _encoded(documents: list[Document], form: Form, encoding: Encoding, label: str) -> list[Encoded]:
    rows = []
    with progress(f"tokenising {label}", total=len(documents), unit="documents") as bar:
        for row in encoding.encode(documents, form):
            rows.append(row)
            if len(rows) % BATCH == 0 or len(rows) == len(documents):
                bar.advance(len(rows) - bar.done)
    return rows


def _pack(rows: list[Encoded], tokenizer: Any, label: str, length: int, bos: bool) -> dict[str, Tensor]:
    body = length - bos
    found = sum(len(row.ids) for row in rows)
    total = found // body
    if total == 0:
        raise InputError(
            f"{label} has {found} tokens, less than one window of {length}: give more text or a smaller length"
        )

    def cut(values: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(values)[: total * body].reshape(total, body))

    tokens, context = cut([row.ids for row in rows]), cut([row.context for row in rows])
    owner = cut([np.full(len(row.ids), index, np.int32) for index, row in enumerate(rows)])
    if bos:
        tokens = torch.cat([torch.full((total, 1), tokenizer.bos_token_id, dtype=torch.int32), tokens], dim=1)
        context = torch.cat([torch.zeros(total, 1, dtype=torch.bool), context], dim=1)
        owner = torch.cat([owner[:, :1], owner], dim=1)
    special = torch.isin(tokens, torch.tensor(special_ids(tokenizer), dtype=torch.int32)) | context
    return {"tokens": tokens, "documents": owner, "special": special}


def _content(tensors: dict[str, Tensor]) -> str:
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        hashed.update(tensors[name].contiguous().numpy().tobytes())
    return hashed.hexdigest()


def _save(path: Path, tensors: dict[str, Tensor], identity: dict[str, Any]) -> None:
    # One entry: safetensors writes several in no fixed order, and equal windows should be equal files.
    metadata = {"windows": json.dumps({"identity": identity, "sha256": _content(tensors)})}
    with whole_file(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def _load(path: Path) -> dict[str, Tensor] | None:
    """The kept windows, or None when there are none or the file is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("tokens", "documents", "special")}
            want = json.loads((file.metadata() or {})["windows"])["sha256"]
    except (SafetensorError, KeyError, ValueError):
        want, tensors = None, {}
    if _content(tensors) != want:
        _log.info("%s is damaged: tokenising again", path)
        return None
    return tensors
