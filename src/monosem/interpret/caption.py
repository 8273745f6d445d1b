"""A label in few words with its judge's name in short: what the cell of a table has room for."""

from __future__ import annotations

from pathlib import Path

from monosem.interpret.store import Label, labels

WIDTH = 48
"""Characters of a label that are shown."""


def captions(folder: str | Path) -> dict[int, str]:
    """The latest label of every labelled latent of an autoencoder's folder, as text.

    Raises `InputError` for a damaged file of labels.
    """
    return {latent: caption(found[0]) for latent, found in labels(folder).items()}


def caption(label: Label) -> str:
    """`rivers and lakes (qwen3-14b)`; what cannot be printed is left out."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in label.text).split())
    return f"{text if len(text) <= WIDTH else text[: WIDTH - 1].rstrip() + '…'} ({short(label.judge)})"


def short(judge: str) -> str:
    """The model of a judge: `qwen3-14b` of `endpoint:http://localhost:8000/v1#qwen3-14b`."""
    _, sign, model = judge.rpartition("#")
    name = model if sign else judge.partition(":")[2] or judge
    return name.rstrip("/").rpartition("/")[2]
