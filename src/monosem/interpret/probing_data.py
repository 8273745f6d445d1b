"""Labelled text: which embedded corpus or language a piece is from, or a file of one's own.

The embedded tasks are ours, not those of SAEBench, whose data sets are on the hub.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monosem.interpret.probing_example import Labelled
from monosem.shapes import InputError
from monosem.text import load_corpus, split

CORPORA = (
    "news",
    "health-tweets",
    "house-of-commons",
    "bundestag",
    "congreso",
    "python",
    "chemistry",
    "medical-abstracts",
)
LANGUAGES = {
    "English": "house-of-commons",
    "German": "bundestag",
    "Spanish": "congreso",
    "Dutch": "tweede-kamer",
}
"""Speeches in four parliaments: one kind of text, four languages."""
MOST_CLASSES = 26
_TRAIN = 0.8


def corpora(
    tokenizer: Any,
    names: Mapping[str, str],
    *,
    each: int = 250,
    length: int = 128,
    held_out: float = 0.1,
    seed: int = 0,
) -> Labelled:
    """The first `length` tokens of `each` documents of every corpus, by label, from the part that training leaves out.

    A corpus with fewer gives all it has. Raises `InputError` for corpora that cannot be fetched or read.
    """
    texts: dict[str, list[str]] = {}
    for label, name in names.items():
        documents = split(load_corpus(name), held_out).held_out
        texts[label] = [document for document in documents if isinstance(document, str)]
    source = f"which corpus a text is from: {', '.join(names)}"
    settings = {"corpora": dict(names), "held_out": held_out}
    return examples(tokenizer, texts, source, settings, each=each, length=length, seed=seed)


def read_labelled(
    tokenizer: Any,
    path: str | Path,
    *,
    text: str = "text",
    label: str = "label",
    each: int = 250,
    length: int = 128,
    seed: int = 0,
) -> Labelled:
    """A `.jsonl` file of one object a line, `{"text": …, "label": …}`. Raises `InputError` naming the line."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): give a file of JSON lines with text and label") from None
    texts: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            body, name = _row(line, text, label, f"{path.name}, line {number}")
            texts.setdefault(name, []).append(body)
    return examples(
        tokenizer, texts, f"labels of {path.name}", {"file": path.name}, each=each, length=length, seed=seed
    )


def _row(line: str, text: str, label: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    found = (row.get(text), row.get(label)) if isinstance(row, dict) else (None, None)
    body, name = found
    if not isinstance(body, str) or not isinstance(name, (str, int, bool)):
        raise InputError(
            f'{where}: expected an object with {text!r} and {label!r}, such as {{"{text}": "…", "{label}": "a"}}'
        )
    return body, str(name)


def examples(
    tokenizer: Any,
    texts: Mapping[str, list[str]],
    source: str,
    settings: dict[str, Any],
    *,
    each: int = 250,
    length: int = 128,
    seed: int = 0,
) -> Labelled:
    """`each` different texts of every label, four fifths of them to learn from.

    Raises `InputError` for fewer than 2 labels or more than 26.
    """
    if not 2 <= len(texts) <= MOST_CLASSES:
        raise InputError(f"{source}: {len(texts)} labels, give 2 to {MOST_CLASSES}")
    if each < 2 or length < 1:
        raise InputError(f"{each} texts a label of {length} tokens: give at least 2 and 1")
    rng = random.Random(seed)  # noqa: S311
    ids, labels, train = [], [], []
    for index, own in enumerate(texts.values()):
        different = list(dict.fromkeys(body for body in own if body.strip()))
        drawn = rng.sample(different, min(each, len(different)))
        rows = tokenizer(drawn, add_special_tokens=False, truncation=False, verbose=False)["input_ids"] if drawn else []
        ids += [row[:length] for row in rows]
        labels += [index] * len(rows)
        train += [place < _TRAIN * len(rows) for place in range(len(rows))]
    more = {"texts a label": each, "tokens a text": length, "seed": seed}
    return Labelled(ids, torch.tensor(labels), tuple(texts), torch.tensor(train), False, source, settings | more)
