"""A tiny model and text on disk, and the command line as a real process, for tests of whole runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import tiny

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
