"""The ground a scale names: a drawn world, or a language model's activations."""

from __future__ import annotations

from monosem.reproduce.boost import recorded, world
from monosem.reproduce.boost.text import Ground
from monosem.reproduce.recording import model, settings
from monosem.reproduce.scale import Scale

DRAWN = "drawn"


def ground(scale: Scale, seed: int) -> Ground:
    """General text and domains of a seed."""
    return world.ground(scale, seed) if scale.data == DRAWN else recorded.ground(scale, seed)


def width(scale: Scale) -> int:
    """Dimensions of an activation."""
    if scale.data == DRAWN:
        return world.WIDTH
    lm = model(scale)
    return lm.width(lm.site(settings(scale).site))
