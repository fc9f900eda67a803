"""Reading images of any form into one, and writing them as FITS.

`read_image` returns an `~astropy.nddata.NDData` with data of shape (bands, y, x) and a known kind,
and with the unit, mask, standard deviation and celestial WCS that the input has. The rest of the
package takes images in this form only.
"""

from .bands import channels_of, is_surface_brightness, wavelength_of
from .reading import read_image
from .wcs import pixel_position
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
