"""Steering as data: at each site directions with a strength each; saved as JSON beside safetensors.

Rescaling (arXiv 2502.03032, section 4.2): h ← h + Σ (r_i − 1) a_i v_i, a_i the latent's activation on this token.
Activation (appendix B.2): h ← h + Σ s_i v_i, on every token. r = 1 and s = 0 change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float32, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from monosem.disk import digest, read_sealed, save_tensors, sealed, sha256, whole_folder, write_json
from monosem.flow.scope import Scope
from monosem.shapes import InputError, Site

FORMAT, VERSION = "monosem.steering", 1

Mode = Literal["add", "rescale"]


@dataclass(frozen=True)
class Push:
    """What is done at one site: δ = Σ c_i vectors_i in raw units, c_i = s_i or (r_i − 1) a_i.

    `latents` are the rows of the dictionary at this site whose activations a_i rescaling reads; −1 for a direction that
    is no latent's. Where `instead` is given, δ' = Σ c_i instead_i is added with the norm of δ: a control that is as
    strong, token by token, in another direction.
    """

    vectors: Float32[Tensor, "S D"]
    strengths: Float32[Tensor, " S"]
    latents: Int64[Tensor, " S"]
    instead: Float32[Tensor, "S D"] | None = None

    def at(self, rows: Tensor) -> Push:
        """Some of the directions."""
        instead = None if self.instead is None else self.instead[rows]
        return Push(self.vectors[rows], self.strengths[rows], self.latents[rows], instead)

    def delta(self, coefficients: Float32[Tensor, "*B S"]) -> Float32[Tensor, "*B D"]:
        """δ for these c_i, or δ' of the same norm."""
        delta = coefficients @ self.vectors
        if self.instead is None:
            return delta
        other = coefficients @ self.instead
        norm = other.norm(dim=-1, keepdim=True)
        return torch.where(norm > 0, other * (delta.norm(dim=-1, keepdim=True) / norm.clamp_min(1e-30)), 0.0)

    def to(self, device: torch.device) -> Push:
        instead = None if self.instead is None else self.instead.to(device)
        return Push(self.vectors.to(device), self.strengths.to(device), self.latents.to(device), instead)


@dataclass(frozen=True)
class Steering:
    """Pushes by site, on which tokens, and in `info` where they come from (JSON-able).

    Rescaling reads activations, so it needs the dictionaries: `info["dictionaries"]` has their hashes by site.
    """

    mode: Mode
    pushes: Mapping[Site, Push]
    tokens: Scope = "all"
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `InputError` for an unknown mode or tokens."""
        for name, value, known in (("mode", self.mode, Mode), ("tokens", self.tokens, Scope)):
            if value not in get_args(known):
                raise InputError(f"{name} = {value!r}: give {', '.join(get_args(known))}")

    @property
    def effective(self) -> dict[Site, Push]:
        """What changes anything: no direction with s = 0 or r = 1, and no site without a direction."""
        idle = 0.0 if self.mode == "add" else 1.0
        kept = {site: push.at(push.strengths != idle) for site, push in self.pushes.items()}
        return {site: push for site, push in kept.items() if len(push.strengths)}

    def norms(self) -> dict[Site, float]:
        """‖δ‖ by site, raw units. Only of what is added: rescaling has a norm for each token."""
        assert self.mode == "add"
        return {site: float(push.delta(push.strengths).norm()) for site, push in self.pushes.items()}

    def scaled(self, factor: float) -> Steering:
        """The same with strengths (of rescaling: r − 1) multiplied by `factor`."""
        idle = 0.0 if self.mode == "add" else 1.0
        return replace(
            self,
            pushes={
                site: replace(push, strengths=idle + factor * (push.strengths - idle))
                for site, push in self.pushes.items()
            },
        )

    def digest(self) -> str:
        """A short name: equal steering, equal name."""
        tensors = {name: tensor.tolist() for name, tensor in self._tensors().items()}
        return digest([self.mode, self.tokens, tensors])

    def _tensors(self) -> dict[str, Tensor]:
        found = {}
        for site, push in self.pushes.items():
            parts = {"vectors": push.vectors, "strengths": push.strengths, "latents": push.latents}
            parts |= {} if push.instead is None else {"instead": push.instead}
            found |= {f"{site.file_name}/{name}": tensor for name, tensor in parts.items()}
        return found

    def save(self, folder: str | Path) -> Path:
        """Write `steering.json` and `vectors.safetensors` into a folder, whole or not at all.

        `SITE/vectors` [S, D] and `SITE/strengths` [S] are all that another tool needs to add them.
        """
        folder = Path(folder)
        if folder.exists() and not (folder.is_dir() and {file.name for file in folder.iterdir()} <= _FILES):
            raise InputError(f"{folder} holds other files than a steering's: choose a new or empty folder")
        with whole_folder(folder) as temporary:
            save_tensors(self._tensors(), temporary / "vectors.safetensors")
            described = {
                "format": FORMAT,
                "version": VERSION,
                "mode": self.mode,
                "tokens": self.tokens,
                "sites": [str(site) for site in self.pushes],
                "info": dict(self.info),
                "sha256": sha256(temporary / "vectors.safetensors"),
            }
            write_json(temporary / "steering.json", sealed(described))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Steering:
        """Raises `InputError` for a folder that is none, or was altered."""
        folder = Path(folder)
        found, weights = read_sealed(folder / "steering.json"), folder / "vectors.safetensors"
        if (found.get("format"), found.get("version")) != (FORMAT, VERSION):
            raise InputError(
                f"{folder} has format {found.get('format')!r} version {found.get('version')!r}: "
                f"expected {FORMAT!r} {VERSION}"
            )
        if not weights.is_file() or sha256(weights) != found["sha256"]:
            raise InputError(f"{weights} is missing or does not match its checksum: restore it")
        try:
            tensors = load_file(weights)
        except SafetensorError as error:
            raise InputError(f"{weights} cannot be read ({error}): restore it") from None
        pushes = {}
        for site in map(Site.parse, found["sites"]):
            own = {name: tensors.get(f"{site.file_name}/{name}") for name in ("vectors", "strengths", "latents")}
            if missing := [name for name, tensor in own.items() if tensor is None]:
                raise InputError(f"{weights} has no {missing[0]} of {site}: restore it")
            pushes[site] = Push(*(own[name] for name in own), tensors.get(f"{site.file_name}/instead"))  # type: ignore[arg-type]
        return cls(found["mode"], pushes, found["tokens"], found["info"])


_FILES = {"steering.json", "vectors.safetensors"}
