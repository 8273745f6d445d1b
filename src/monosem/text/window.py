"""Documents packed into windows of a fixed number of tokens, without padding."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int32
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from monosem.disk import cache_folder, digest, whole_file
from monosem.lm.tokenizer import tokenizer_hash
from monosem.progress import progress
from monosem.shapes import InputError
from monosem.text.corpus import Corpus
from monosem.text.split import split

_log = logging.getLogger("monosem")
_BATCH = 256
_PACKING = 1  # raise it when the same arguments give other windows


class Windows(NamedTuple):
    """N windows of T tokens.

    `documents` is the index of each token's document in its part of the split, `special` marks BOS, separator
    and every other special token, `identity` is what decided them, as JSON.
    """

    tokens: Int32[Tensor, "N T"]
    documents: Int32[Tensor, "N T"]
    special: Bool[Tensor, "N T"]
    identity: dict[str, Any]


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
) -> Windows:
    """Tokenise one part of the split and cut it into windows, kept in the cache.

    Documents follow each other in the order of the split, each closed by `separator_id` if asked for.
    With `bos` every window is BOS and then `length - 1` tokens of text. A window may hold several documents;
    the tail that does not fill one is dropped. Raises `InputError` when the text does not fill one window.
    """
    _check(tokenizer, length, bos, separator)
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
    }
    path = cache_folder() / "windows" / f"{digest([_PACKING, identity])}.safetensors"
    tensors = _load(path)
    if tensors is None:
        documents = getattr(split(corpus, held_out, seed), part)
        tensors = _pack(documents, tokenizer, f"{corpus.name} ({part})", length, bos, separator)
        _save(path, tensors, identity)
    return Windows(tensors["tokens"], tensors["documents"], tensors["special"], identity)


def separator_id(tokenizer: Any) -> int | None:
    """The token between documents: `<|endoftext|>` if it is a special token of the vocabulary, else EOS.

    Instruction-tuned models declare the end of a turn as EOS but saw `<|endoftext|>` between documents.
    """
    added = {entry.content: token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    return added.get("<|endoftext|>", tokenizer.eos_token_id)


def _check(tokenizer: Any, length: int, bos: bool, separator: bool) -> None:
    if length < 2:
        raise InputError(f"windows of {length} tokens: give a length of at least 2")
    if bos and tokenizer.bos_token_id is None:
        raise InputError("bos was asked for, but the tokenizer has no BOS token: leave bos off")
    if separator and separator_id(tokenizer) is None:
        raise InputError("the tokenizer has no EOS token to separate documents with: switch separator off")


def _pack(
    documents: list[str], tokenizer: Any, label: str, length: int, bos: bool, separator: bool
) -> dict[str, Tensor]:
    body = length - bos
    tail = [separator_id(tokenizer)] if separator else []
    ids = [np.array([*row, *tail], dtype=np.int32) for row in _tokenised(documents, tokenizer, label)]
    owners = [np.full(len(row), index, dtype=np.int32) for index, row in enumerate(ids)]
    total = sum(map(len, ids)) // body
    if total == 0:
        raise InputError(
            f"{label} has {sum(map(len, ids))} tokens, less than one window of {length}: give more text or a "
            "smaller length"
        )
    tokens = torch.from_numpy(np.concatenate(ids)[: total * body].reshape(total, body))
    owner = torch.from_numpy(np.concatenate(owners)[: total * body].reshape(total, body))
    if bos:
        tokens = torch.cat([torch.full((total, 1), tokenizer.bos_token_id, dtype=torch.int32), tokens], dim=1)
        owner = torch.cat([owner[:, :1], owner], dim=1)
    special = torch.isin(tokens, torch.tensor(_special_ids(tokenizer), dtype=torch.int32))
    return {"tokens": tokens, "documents": owner, "special": special}


def _tokenised(documents: list[str], tokenizer: Any, label: str) -> Iterator[list[int]]:
    with progress(f"tokenising {label}", total=len(documents), unit="documents") as bar:
        for start in range(0, len(documents), _BATCH):
            batch = documents[start : start + _BATCH]
            yield from tokenizer(batch, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            bar.advance(len(batch))


def _special_ids(tokenizer: Any) -> list[int]:
    added = [token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special]
    return sorted({*tokenizer.all_special_ids, *added})


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
