"""Files that are either whole or absent: temporary name, flush, rename; checksums; locks; the cache folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.shapes import InputError

if TYPE_CHECKING:
    from torch import Tensor


_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>tmp|old)")


def cache_folder() -> Path:
    """`$MONOSEM_CACHE`, else `$XDG_CACHE_HOME/monosem`, else `~/.cache/monosem`."""
    if named := os.environ.get("MONOSEM_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "monosem"


def sha256(path: Path) -> str:
    """The checksum of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object, length: int = 16) -> str:
    """A short name for a JSON-able value: equal values, equal names."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, "tmp")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` (replacing it, with all it holds) only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, "tmp")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        if path.exists():
            old = _beside(path, "old")
            path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(*folders: Path) -> None:
    """Clear up after a killed process, in these folders alone; call it while holding their lock.

    What was half-written is deleted; what was set aside but not yet replaced is put back.
    """
    for folder in folders:
        for leftover in list(folder.glob(".*")):
            named = _LEFTOVER.fullmatch(leftover.name)
            if named is None:
                continue
            if named["kind"] == "old" and not (folder / named["name"]).exists():
                leftover.replace(folder / named["name"])
            elif leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write safetensors; what goes wrong on the disk is an `OSError`, which `whole_file` explains."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        number = errno.ENOSPC if "No space" in str(error) else errno.EIO
        raise OSError(number, str(error), str(path)) from error


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """The same object with a digest of its content."""
    return {**value, "seal": digest(value, 64)}


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what was written with `sealed`, without the digest. Raises `InputError` if it was altered."""
    value = read_json(path)
    seal = value.pop("seal", None)
    if seal != digest(value, 64):
        raise InputError(f"{path} does not match its own checksum: it is truncated or altered, restore it")
    return value


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Raises `InputError` when the file is missing or is not a JSON object."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not readable JSON ({error}): restore it from a copy") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the system releases it however the process ends."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise InputError(f"{folder} is in use by process {owner}: wait for it, or choose another folder") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{kind}")


def _flush(path: Path) -> None:
    path.chmod(0o644)  # some writers leave files that only their owner can read
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free / 2**20
        return InputError(
            f"the disk is full ({free:,.0f} MiB free) while writing {path}: nothing was half-written, "
            "free some space and run again"
        )
    return error
