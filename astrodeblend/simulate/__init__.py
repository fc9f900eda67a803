"""Simulated blends with known truth.

`blend_pair` is the plain path, for reading and for checking; `Simulator` (needs torch, and is
imported only when asked for) is the fast one, for training.
"""

from .plain import blend_images, blend_pair, reduce_image
from .recipes import BLENDING_MODES, RECIPES, Draw, Recipe, Rendering, get_recipe
from .sources import find_images, image_width, read_images

__all__ = [
    "BLENDING_MODES",
    "RECIPES",
    "Draw",
    "Recipe",
    "Rendering",
    "Simulator",
    "blend_images",
    "blend_pair",
    "find_images",
    "get_recipe",
    "image_width",
    "read_images",
    "reduce_image",
]


def __getattr__(name):
    if name == "Simulator":
        from .batched import Simulator

        return Simulator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
