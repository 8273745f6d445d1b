"""A tiny model and text on disk, and the command line in this process or in one of its own, for tests of runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tiny
from monosem.cli import main

SETTINGS = {
    "window": 16,
    "site": "resid_post.1",
    "n_latents": 48,
    "k": 4,
    "tokens": 3200,
    "distinct_tokens": 2400,
    "batch": 32,
    "block": 8,
    "dtype": "float32",
    "log_every": 7,
    "checkpoint_every": 10,
    "dead_after": 320,
}


def inputs(folder: Path) -> dict[str, str]:
    """Write a model and a text; returns the settings that name them."""
    lm = tiny.llama()
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    (folder / "text.txt").write_text("\n\n".join(tiny.corpus(documents=120).documents))
    return {"model": str(folder / "model"), "text": str(folder / "text.txt")}


def flags(settings: dict[str, object]) -> list[str]:
    return [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", str(value))]


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "MONOSEM_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "MONOSEM_PROGRESS": "off",
    }


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "monosem", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder),
        cwd=folder,
    )


def monosem(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def train_inside(folder: Path, settings: dict[str, object], run: str) -> None:
    """Train a run in a folder by the command line, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        _enter(folder, patch)
        assert main(["train", *flags(settings), "--run", run, "--json"]) == 0


def caller(folder: Path, patch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., Answer]:
    """A function that runs a command in a folder, in this process."""
    _enter(folder, patch)

    def call(*arguments: str) -> Answer:
        try:
            status = main(list(arguments))
        except SystemExit as stop:
            status = stop.code
        return Answer(status, *capsys.readouterr())

    return call


class Answer(NamedTuple):
    """What a command answers: its status, output and errors."""

    status: int
    out: str
    err: str


def assert_refused(answer: Answer, message: str) -> None:
    """The command said in one line of errors, and nothing else, why it did nothing."""
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("monosem: ")
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1


def _enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(folder)
    for key, value in environment(folder).items():
        patch.setenv(key, value)
