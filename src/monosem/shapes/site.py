"""A site is a place in the model where activations are read or written."""

from __future__ import annotations

import re
from typing import NamedTuple

from monosem.shapes.error import InputError

KINDS = {
    "embed": "token embedding",
    "resid_pre": "residual stream before a block",
    "attn_z": "attention heads before the output map, concatenated",
    "attn_out": "what attention adds to the residual stream",
    "resid_mid": "residual stream between attention and MLP",
    "mlp_norm": "MLP input, normalised, before the norm's gain",
    "mlp_in": "MLP input, with the gain of its norm if there is one",
    "mlp_out": "what the MLP adds to the residual stream",
    "resid_post": "residual stream after a block",
}
"""Every kind of site that has a name, in the order in which a block computes them."""

ENDS = {"in": "input", "out": "output"}
"""Kinds of site that are given by the path of a module."""

STREAM = ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""Kinds whose vectors live in the residual stream's space, where directions have logits."""

TRANSFORMER_LENS = {
    "embed": "hook_embed",
    "resid_pre": "blocks.{}.hook_resid_pre",
    "attn_z": "blocks.{}.attn.hook_z",
    "attn_out": "blocks.{}.hook_attn_out",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "mlp_norm": "blocks.{}.ln2.hook_normalized",
    "mlp_in": "blocks.{}.mlp.hook_in",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "resid_post": "blocks.{}.hook_resid_post",
}
"""The name TransformerLens gives each kind; `{}` is the layer."""

_MODULE = re.compile(r"(\w+(?:\.\w+)*):(in|out)")


class Site(NamedTuple):
    """`resid_post.12` is `Site("resid_post", 12)`; `embed` has no layer.

    A site without a name is a module's end: `model.layers.6.mlp:in` is `Site("in", path="model.layers.6.mlp")`.
    """

    kind: str
    layer: int | None = None
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"{self.path}:{self.kind}"
        return self.kind if self.layer is None else f"{self.kind}.{self.layer}"

    @property
    def file_name(self) -> str:
        """The spelling in names of files and folders, some of which may hold no colon: `model.layers.6.mlp-in`.

        No site has a hyphen, so `Site.parse(name.replace("-", ":"))` gives it back.
        """
        return str(self).replace(":", "-")

    @property
    def meaning(self) -> str:
        """What is there, as a phrase."""
        return KINDS[self.kind] if self.path is None else f"{ENDS[self.kind]} of the module {self.path}"

    @property
    def transformer_lens(self) -> str | None:
        """The same place in TransformerLens' words; None for a module's end."""
        return TRANSFORMER_LENS[self.kind].format(self.layer) if self.path is None else None

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read `resid_post.12`, `embed`, `PATH:in`, `PATH:out`, or a TransformerLens name. Raises `InputError`."""
        if text == "embed":
            return cls("embed")
        kind, _, layer = text.partition(".")
        if kind in KINDS and kind != "embed" and layer.isdecimal():
            return cls(kind, int(layer))
        if match := _MODULE.fullmatch(text):
            return cls(match[2], path=match[1])
        for kind, name in TRANSFORMER_LENS.items():
            match = re.fullmatch(re.escape(name).replace(r"\{\}", r"(\d+)"), text)
            if match:
                return cls(kind, int(match[1])) if match.groups() else cls(kind)
        kinds = ", ".join(KINDS)
        raise InputError(f"unknown site {text!r}: write KIND.LAYER such as resid_post.12, KIND one of {kinds}")
