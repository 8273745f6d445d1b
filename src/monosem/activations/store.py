"""Activations on disk: a content-addressed folder of memory-mapped shards with their tokens, and a checksum for each.

A shard is a raw array [windows, T, D] in C order, one file a site. It is written whole or not at all, so recording
continues where it stopped. The folder's name is a digest of everything that decides its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from monosem.activations.live import CALIBRATION_WINDOWS, kept, rounding_loss
from monosem.activations.stream import Rows
from monosem.disk import cache_folder, digest, lock, read_json, save_tensors, sha256, sweep, whole_file, write_json
from monosem.lm import LanguageModel
from monosem.progress import progress
from monosem.shapes import InputError, Site
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows

FORMAT, VERSION = "monosem.activations", 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHARD_WINDOWS = 256


def store_identity(lm: LanguageModel, windows: Windows, sites: list[Site], dtype: str) -> dict[str, Any]:
    """Everything that decides the values of a store, except how many windows it holds."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": lm.identity(),
        "text": windows.identity,
        "sites": [str(site) for site in sites],
        "widths": [lm.width(site) for site in sites],
        "dtype": dtype,
    }


def store_folder(identity: dict[str, Any]) -> Path:
    """Where a store of this identity lives in the cache."""
    return cache_folder() / "activations" / digest(identity)


def store_bytes(identity: dict[str, Any], n_windows: int) -> int:
    """What recording takes on disk."""
    size = DTYPES[identity["dtype"]].itemsize
    return n_windows * identity["text"]["length"] * sum(identity["widths"]) * size


def record(
    lm: LanguageModel,
    windows: Windows,
    sites: list[Site],
    *,
    n_windows: int | None = None,
    dtype: str | None = None,
    folder: Path | None = None,
    batch: int = 8,
) -> Store:
    """Record the first `n_windows` windows at the sites; what is already there is kept and checked.

    Raises `InputError` if the folder holds activations of another model, text, site or precision.
    """
    dtype = dtype or str(lm.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise InputError(f"activations cannot be stored as {dtype!r}: choose one of {', '.join(DTYPES)}")
    identity = store_identity(lm, windows, sites, dtype)
    folder = folder or store_folder(identity)
    wanted = len(windows.tokens) if n_windows is None else min(n_windows, len(windows.tokens))
    calibrating = min(CALIBRATION_WINDOWS, len(windows.tokens))
    with lock(folder):
        _claim(folder, identity)
        sweep(folder)
        _write_text(folder / "windows.safetensors", windows)
        _record_shards(lm, windows, sites, folder, DTYPES[dtype], max(wanted, calibrating), batch)
        if not (folder / "exclusion.json").exists():
            uncalibrated = Store(folder, calibrating, Exclusion())
            write_json(folder / "exclusion.json", _calibrated(uncalibrated).describe())
    return Store(folder, wanted)


def _write_text(path: Path, windows: Windows) -> None:
    """The windows, unless as many of the text are there: it may have been cut shorter the time before."""
    if path.exists():
        with safe_open(path, "pt") as file:
            if file.get_slice("tokens").get_shape()[0] >= len(windows.tokens):
                return
    text = {"tokens": windows.tokens, "documents": windows.documents, "special": windows.special}
    text |= {} if windows.parts is None else {"parts": windows.parts}
    with whole_file(path) as temporary:
        save_tensors(text, temporary)


def _calibrated(store: Store) -> Exclusion:
    which = np.arange(store.n_windows)
    acts = {site: store.acts(which, site) for site in store.sites}
    return store.exclusion.calibrated(store.windows.special[which], acts)


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / "identity.json"
    if not path.exists():
        write_json(path, identity)
        return
    for key, found in read_json(path).items():
        if found != identity[key]:
            raise InputError(
                f"{folder} holds activations with {key} {found}, asked for {identity[key]}: choose another folder"
            )


def _record_shards(
    lm: LanguageModel,
    windows: Windows,
    sites: list[Site],
    folder: Path,
    dtype: torch.dtype,
    wanted: int,
    batch: int,
) -> None:
    starts = range(0, wanted, SHARD_WINDOWS)
    length = windows.tokens.shape[1]
    missing = [start for start in starts if _recorded(folder, start) < min(SHARD_WINDOWS, wanted - start)]
    if not missing:
        return
    total = sum(min(SHARD_WINDOWS, wanted - start) for start in missing) * length
    with progress(f"recording {', '.join(map(str, sites))} ({lm.dtype})".replace("torch.", ""), total, "tok") as bar:
        for start in missing:
            stop = min(start + SHARD_WINDOWS, wanted)
            shard = {site: torch.empty(stop - start, length, lm.width(site), dtype=dtype) for site in sites}
            for at in range(start, stop, batch):
                which = torch.arange(at, at + batch).clamp_max(stop - 1)
                acts = lm.capture(windows.tokens[which], sites)
                count = min(batch, stop - at)
                for site in sites:
                    shard[site][at - start : at - start + count] = acts[site][:count]
                bar.advance(count * length)
            _write_shard(folder, start, shard)


def _write_shard(folder: Path, start: int, shard: dict[Site, Tensor]) -> None:
    """The arrays first, then the note that makes them count, then what a longer shard has replaced."""
    windows, checksums = len(next(iter(shard.values()))), {}
    for site, array in shard.items():
        with whole_file(_shard_path(folder, start, windows, site)) as temporary:
            with temporary.open("wb") as file:
                file.write(_bytes(array).tobytes())
            checksums[str(site)] = sha256(temporary)
    before = _recorded(folder, start)
    write_json(folder / f"{start:08}.json", {"windows": windows, "sha256": checksums})
    if before not in (0, windows):
        for site in shard:
            _shard_path(folder, start, before, site).unlink(missing_ok=True)


def _bytes(array: Tensor) -> np.ndarray:
    return array.view(torch.int16 if array.dtype.itemsize == 2 else torch.int32).numpy()


def _shard_path(folder: Path, start: int, windows: int, site: Site) -> Path:
    return folder / f"{start:08}-{windows}.{site.file_name}.bin"


def _recorded(folder: Path, start: int) -> int:
    note = folder / f"{start:08}.json"
    return read_json(note)["windows"] if note.exists() else 0


class Store:
    """A source of activations on disk. Each shard's checksum is verified when it is first read.

    With `sites` it is as one that was recorded at these alone: the rule leaves out tokens by their norm there.
    """

    def __init__(
        self,
        folder: str | Path,
        n_windows: int | None = None,
        exclusion: Exclusion | None = None,
        sites: Sequence[Site] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.identity = read_json(self.folder / "identity.json")
        if self.identity.get("format") != FORMAT or self.identity.get("version") != VERSION:
            raise InputError(f"{self.folder} is not a store of activations of {FORMAT} version {VERSION}")
        recorded_at = tuple(Site.parse(site) for site in self.identity["sites"])
        self.sites = recorded_at if sites is None else tuple(sites)
        for site in self.sites:
            if site not in recorded_at:
                known = ", ".join(map(str, recorded_at))
                raise InputError(f"{self.folder} holds activations at {known}, not at {site}: choose another folder")
        rule = exclusion or Exclusion(**read_json(self.folder / "exclusion.json"))
        here = set(map(str, self.sites))
        limits = {name: limit for name, limit in rule.max_norm.items() if exclusion or name in here}
        self.exclusion = replace(rule, max_norm=limits)
        recorded = sum(read_json(note)["windows"] for note in self.folder.glob("[0-9]*.json"))
        self.n_windows = recorded if n_windows is None else n_windows
        if not 1 <= self.n_windows <= recorded:
            raise InputError(f"{self.folder} holds {recorded} windows, asked for {self.n_windows}: record more")
        text = load_file(self.folder / "windows.safetensors")
        self.windows = Windows(
            text["tokens"], text["documents"], text["special"], self.identity["text"], text.get("parts")
        )
        self._maps: dict[tuple[int, Site], Tensor] = {}

    def acts(self, windows: Int[np.ndarray, " W"], site: Site) -> Float[Tensor, "W T D"]:
        """Activations of whole windows, excluded tokens included."""
        shards, places = np.divmod(windows, SHARD_WINDOWS)
        return torch.stack([self._shard(int(shard), site)[place] for shard, place in zip(shards, places, strict=True)])

    def rows(self, windows: Int[np.ndarray, " W"]) -> Rows:
        acts = {site: self.acts(windows, site) for site in self.sites}
        which = torch.from_numpy(windows)
        return kept(acts, which, self.exclusion.mask(self.windows.special[which], acts))

    @property
    def rounding(self) -> dict[str, Any]:
        """What storing below float32 costs, by site; empty if it was not measured."""
        path = self.folder / "rounding.json"
        rows = read_json(path) if path.exists() else {}
        return {str(site): rows[str(site)] for site in self.sites if str(site) in rows}

    def measure_rounding(self, reference: LanguageModel, n_windows: int = 4) -> dict[str, Any]:
        """`rounding_loss` of the first windows against the same model in float32, kept in the store."""
        which = np.arange(min(n_windows, self.n_windows))
        stored = {site: self.acts(which, site) for site in self.sites}
        exact = reference.capture(self.windows.tokens[which], self.sites)
        result = rounding_loss(stored, exact, self.exclusion, self.windows.special[which])
        path = self.folder / "rounding.json"
        write_json(path, (read_json(path) if path.exists() else {}) | result)
        return result

    def _shard(self, number: int, site: Site) -> Tensor:
        if (number, site) not in self._maps:
            self._maps[number, site] = self._open(number * SHARD_WINDOWS, site)
        return self._maps[number, site]

    def _open(self, start: int, site: Site) -> Tensor:
        note = read_json(self.folder / f"{start:08}.json")
        path = _shard_path(self.folder, start, note["windows"], site)
        width = self.identity["widths"][self.identity["sites"].index(str(site))]
        dtype = DTYPES[self.identity["dtype"]]
        shape = (note["windows"], self.identity["text"]["length"], width)
        if (
            not path.exists()
            or path.stat().st_size != np.prod(shape) * dtype.itemsize
            or sha256(path) != note["sha256"][str(site)]
        ):
            raise InputError(
                f"{path} is missing, truncated or altered: delete {start:08}.json beside it and record again"
            )
        # Copy-on-write: torch wants writable memory, and no write may ever reach the file.
        raw = np.memmap(path, np.int16 if dtype.itemsize == 2 else np.int32, "c", shape=shape)
        return torch.from_numpy(raw).view(dtype)
