"""The one door in and out: anything that holds an image becomes one kind of NDData, and back.

Whatever `read_image` is given, what comes out is an `~astropy.nddata.NDData` with data of shape
(bands, y, x) whose kind is known, and with a unit, a mask, a standard deviation and a celestial
WCS where the input has them. The rest of the package knows no other form.
"""

from .bands import channels_of, wavelength_of
from .position import pixel_position
from .reading import read_image
from .units import is_surface_brightness
from .writing import image_to_hdus, to_original_shape, write_fits

__all__ = [
    "channels_of",
    "image_to_hdus",
    "is_surface_brightness",
    "pixel_position",
    "read_image",
    "to_original_shape",
    "wavelength_of",
    "write_fits",
]
