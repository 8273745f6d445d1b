"""A suite whose flows are known exactly: every direction is an axis of its own unless the story says otherwise.

Over layers 0 to 4: `old` is there from the start, gets an MLP's direction at layer 2 and is gone at layer 4; `new` is
written by attention at layer 2 and stays; `odd` appears at layer 3 from nowhere. Numbers of latents are shuffled.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flow_dictionary import MODEL, autoencoder
from monosem.flow import Node, Suite
from monosem.shapes import Site

D, LATENTS, LAYERS = 256, 12, 5


class Story(NamedTuple):
    """The suite, and the number of each named latent by site."""

    suite: Suite
    numbers: dict[tuple[str, Site], int]

    def node(self, name: str, site: str) -> Node:
        place = Site.parse(site)
        return Node(place, self.numbers[name, place])


def story(**info: object) -> Story:
    """Every site has 12 latents."""
    axis = iter(torch.eye(D))
    old, fed, new, odd = (next(axis) for _ in range(4))
    mixed = (old + fed) / 2**0.5
    named: dict[str, dict[str, Tensor]] = {
        "resid_post.0": {"old": old},
        "resid_post.1": {"old": old},
        "resid_post.2": {"old": mixed, "new": new},
        "resid_post.3": {"old": mixed, "new": new, "odd": odd},
        "resid_post.4": {"new": new},
        "mlp_out.2": {"fed": fed},
        "attn_out.2": {"new": new},
        "attn_out.1": {"faint": 0.2 * old + 0.96**0.5 * next(axis)},
    }
    saes, numbers = {}, {}
    for place, kind in enumerate(("resid_post", "mlp_out", "attn_out")):
        for layer in range(LAYERS):
            site = Site(kind, layer)
            own = named.get(str(site), {})
            rows = torch.stack([*own.values(), *(next(axis) for _ in range(LATENTS - len(own)))])
            order = torch.randperm(LATENTS, generator=torch.Generator().manual_seed(10 * place + layer))
            numbers |= {(name, site): int(order[row]) for row, name in enumerate(own)}
            shuffled = torch.empty_like(rows)
            shuffled[order] = rows * (1 + layer)
            saes[site] = autoencoder(
                shuffled, info={"site": str(site), "model": {**MODEL, "d_model": D, "n_layers": LAYERS}, **info}
            )
    return Story(Suite(saes), numbers)


FIXED = {"resid": 0.5, "mlp": 0.25, "attn": 0.25}
