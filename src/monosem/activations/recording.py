"""Finding activations that have been recorded, and recording what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monosem.activations.store import Store, record, store_folder, store_identity
from monosem.disk import cache_folder, read_json
from monosem.lm import LanguageModel
from monosem.shapes import Site
from monosem.text import Windows


def recorded(
    lm: LanguageModel, windows: Windows, sites: Sequence[Site], *, n_windows: int, folder: Path | None = None
) -> Store:
    """The first `n_windows` windows at the sites, as if they had been recorded at these alone.

    From `folder`, which may hold more sites and another precision and is extended where it is too short; else from
    the cache: the store of these sites, one of more sites that is long enough, or a new one. Raises `InputError` as
    `record` does.
    """
    if folder is None:
        folder = _in_cache(lm, windows, sites, n_windows)
    identity = _identity(folder)
    held = [Site.parse(site) for site in identity["sites"]] if identity else list(sites)
    dtype = identity["dtype"] if identity else None
    missing = [site for site in sites if site not in held]
    if missing:
        return Store(folder, sites=missing)  # which says what the folder holds
    store = record(lm, windows, held, n_windows=n_windows, dtype=dtype, folder=folder)
    return Store(store.folder, store.n_windows, sites=sites)


def _in_cache(lm: LanguageModel, windows: Windows, sites: Sequence[Site], n_windows: int) -> Path:
    """The folder of these sites, unless one of more sites holds enough and this one does not."""
    wanted = store_identity(lm, windows, list(sites), str(lm.dtype).removeprefix("torch."))
    own = store_folder(wanted)
    if _held(own) >= n_windows:
        return own
    names = {str(site) for site in sites}
    for folder in sorted((cache_folder() / "activations").glob("*/")):
        identity = _identity(folder)
        same = all(identity.get(key) == value for key, value in wanted.items() if key not in ("sites", "widths"))
        if same and names < set(identity["sites"]) and _held(folder) >= min(n_windows, len(windows.tokens)):
            return folder
    return own


def _identity(folder: Path) -> dict[str, Any]:
    """What is in a folder; nothing if it is no store."""
    path = folder / "identity.json"
    return read_json(path) if path.exists() else {}


def _held(folder: Path) -> int:
    """Whole windows in a folder that can be read."""
    if not (folder / "exclusion.json").exists():
        return 0
    return sum(read_json(note)["windows"] for note in folder.glob("[0-9]*.json"))
