"""Feature statistics as one safetensors file: activations sorted by latent, read without the model."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from monosem.disk import whole_file
from monosem.evaluation import context
from monosem.evaluation.context import Context
from monosem.shapes import InputError
from monosem.shapes.frame import frame

FORMAT, VERSION = "monosem.features", 1
_HEADER = "monosem"
_SMALL = ("starts", "density", "mean", "max")
_LARGE = ("tokens", "values", "window_tokens", "excluded")
_ENTRIES = 1 << 24


class Activations(NamedTuple):
    """One latent: flat positions w·T + t in ascending order, and its values there."""

    tokens: np.ndarray
    values: np.ndarray


class FeatureStatistics:
    """Every activation of every latent on a text: N windows of T tokens, F latents.

    `starts` int64 [F + 1] bounds each latent's part of `tokens` (flat position, int32 or int64) and `values`
    (float32: half precision would tie the strongest values and overflow in raw units). `window_tokens` int32
    [N, T] and `excluded` bool [N, T] are the text. A loaded file stays open; large arrays are read in slices.
    """

    def __init__(self, arrays: Mapping[str, Any], metadata: dict[str, Any]) -> None:
        """`arrays` maps each name to an array, or to anything that slices to one."""
        self._arrays, self.metadata = dict(arrays), metadata
        self.starts: np.ndarray = self._arrays["starts"]
        self.densities: np.ndarray = self._arrays["density"]
        self.means: np.ndarray = self._arrays["mean"]
        self.maxima: np.ndarray = self._arrays["max"]
        self.n_latents, self.n_tokens = int(metadata["n_latents"]), int(metadata["n_tokens"])

    @property
    def length(self) -> int:
        """Tokens in a window."""
        return _shape(self._arrays["window_tokens"])[1]

    @property
    def n_windows(self) -> int:
        return _shape(self._arrays["window_tokens"])[0]

    def density(self, latent: int) -> float:
        """Share of the kept tokens on which a latent is active."""
        return float(self.densities[self._checked(latent)])

    def mean(self, latent: int) -> float:
        """Mean over the tokens on which a latent is active; 0 for a dead one."""
        return float(self.means[self._checked(latent)])

    def max(self, latent: int) -> float:
        """Greatest activation; 0 for a dead latent."""
        return float(self.maxima[self._checked(latent)])

    def activations(self, latent: int) -> Activations:
        """All activations of one latent."""
        low, high = self.starts[self._checked(latent) : latent + 2].tolist()
        return Activations(self._arrays["tokens"][low:high], self._arrays["values"][low:high])

    def window(self, index: int) -> np.ndarray:
        """The token ids [T] of one window."""
        return self._arrays["window_tokens"][index : index + 1][0]

    def excluded(self, index: int) -> np.ndarray:
        """Which tokens [T] of one window were left out."""
        return self._arrays["excluded"][index : index + 1][0]

    def text(self) -> np.ndarray:
        """The token ids [N, T] of every window."""
        return self._arrays["window_tokens"][:]

    def left_out(self) -> np.ndarray:
        """Which tokens [N, T] of all windows were left out."""
        return self._arrays["excluded"][:]

    def on(self, marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How often each latent is active on the marked tokens (bool [N·T]), and the sum of its values there [F]."""
        counts, sums = np.zeros(self.n_latents, dtype=np.int64), np.zeros(self.n_latents)
        total = int(self.starts[-1])
        for low in range(0, total, _ENTRIES):
            part = slice(low, min(low + _ENTRIES, total))
            chosen = np.flatnonzero(marked[self._arrays["tokens"][part]])
            latents = np.searchsorted(self.starts, chosen + low, side="right") - 1
            counts += np.bincount(latents, minlength=self.n_latents)
            sums += np.bincount(latents, self._arrays["values"][part][chosen], self.n_latents)
        return counts, sums

    def frame(self) -> Any:
        """A data frame: a row a latent, its density, mean and maximum. Needs pandas."""
        return frame({"density": self.densities.tolist(), "mean": self.means.tolist(), "max": self.maxima.tolist()})

    def top(self, latent: int, n: int = 20, width: int = 12) -> list[Context]:
        """The `n` strongest contexts, at most one a window; `width` tokens on either side."""
        tokens, values = self.activations(latent)
        return self._contexts(Activations(tokens, values), context.strongest(tokens, values, self.length, n), width)

    def quantiles(self, latent: int, n: int = 5, groups: int = 5, seed: int = 0, width: int = 12) -> list[Context]:
        """Up to `n` random contexts from each of `groups` equal shares of a latent's activations.

        The strongest share comes first, `Context.group` counts them from 0, and no two contexts overlap.
        """
        tokens, values = self.activations(latent)
        chosen = context.sampled(tokens, values, self.length, n, groups, np.random.default_rng([seed, latent]), width)
        found: list[Context] = []
        for group, entries in enumerate(chosen):
            contexts = self._contexts(Activations(tokens, values), entries, width)
            found += [one._replace(group=group) for one in contexts]
        return found

    def save(self, path: str | Path) -> Path:
        """Write one file, whole or not at all."""
        arrays = {name: np.ascontiguousarray(self._arrays[name][:]) for name in (*_SMALL, *_LARGE)}
        with whole_file(Path(path)) as temporary:
            try:
                save_file(arrays, temporary, {_HEADER: json.dumps(self.metadata)})
            except SafetensorError as error:
                code = errno.ENOSPC if "No space" in str(error) else errno.EIO
                raise OSError(code, str(error), str(path)) from error
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> FeatureStatistics:
        """Open a file; raises `InputError` if it is missing, truncated, or of another format."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path} does not exist: write it with `save`")
        try:
            file = safe_open(path, "np")
            metadata = _metadata(path, file.metadata())
            arrays = {name: file.get_tensor(name) for name in _SMALL}
            arrays |= {name: file.get_slice(name) for name in _LARGE}
        except SafetensorError as error:
            raise InputError(f"{path} is truncated or damaged ({error}): write it again") from None
        _check_shapes(path, arrays, metadata)
        return cls(arrays, metadata)

    def _contexts(self, own: Activations, entries: np.ndarray, width: int) -> list[Context]:
        found = []
        for entry in entries.tolist():
            window, position = divmod(int(own.tokens[entry]), self.length)
            text = self.window(window)
            found.append(context.around(text, window, position, own.tokens, own.values, width))
        return found

    def _checked(self, latent: int) -> int:
        if not 0 <= latent < self.n_latents:
            raise InputError(f"latent {latent} does not exist: give one from 0 to {self.n_latents - 1}")
        return latent


def _metadata(path: Path, header: dict[str, str] | None) -> dict[str, Any]:
    try:
        metadata = json.loads((header or {}).get(_HEADER, "null"))
    except ValueError:
        metadata = None
    found = (metadata.get("format"), metadata.get("version")) if isinstance(metadata, dict) else None
    if found != (FORMAT, VERSION) or not isinstance(metadata, dict):
        raise InputError(f"{path} is not a {FORMAT} file of version {VERSION}: write it with FeatureStatistics.save")
    return metadata


def _check_shapes(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    starts, n_latents = arrays["starts"], metadata["n_latents"]
    shapes = {name: _shape(array) for name, array in arrays.items()}
    entries = (int(starts[-1]),)
    if (
        shapes["starts"] != (n_latents + 1,)
        or any(shapes[name] != (n_latents,) for name in ("density", "mean", "max"))
        or shapes["tokens"] != entries
        or shapes["values"] != entries
        or shapes["window_tokens"] != shapes["excluded"]
    ):
        raise InputError(f"{path} holds arrays that do not fit each other ({shapes}): write it again")


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(array.get_shape() if hasattr(array, "get_shape") else array.shape)
