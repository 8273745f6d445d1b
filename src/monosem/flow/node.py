"""A node of a flow graph: one latent of the autoencoder at one site, written `resid_post.12/4711`."""

from __future__ import annotations

from typing import NamedTuple

from monosem.shapes import InputError, Site


class Node(NamedTuple):
    """A latent by number, counted from 0, and the site whose autoencoder it belongs to."""

    site: Site
    latent: int

    def __str__(self) -> str:
        return f"{self.site}/{self.latent}"

    @classmethod
    def parse(cls, text: str) -> Node:
        """Read `SITE/LATENT`. Raises `InputError`; whether the latent is there is for `Suite.node` to say."""
        site, slash, latent = text.rpartition("/")
        if not slash or not latent.isdecimal():
            raise InputError(f"{text!r} names no latent: write SITE/NUMBER such as resid_post.12/4711")
        return cls(Site.parse(site), int(latent))
