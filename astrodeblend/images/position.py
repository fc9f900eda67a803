"""Positions in images: in pixels, or on the sky."""

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord

__all__ = ["pixel_position"]


def pixel_position(image, position=None):
    """Return a position in pixels; refuse one outside the image.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        Data of shape (bands, y, x).
    position : tuple of float or `~astropy.coordinates.SkyCoord`, optional
        One position: (x, y) in pixels, the first pixel's centre being (0, 0), or a place on
        the sky. By default the middle of the image.

    Returns
    -------
    x, y : float

    Raises
    ------
    ValueError
        If ``position`` is not inside the image, or on the sky while the image has no WCS.
    TypeError
        If ``position`` is neither two numbers nor a `~astropy.coordinates.SkyCoord`.
    """
    ny, nx = image.data.shape[-2:]
    if position is None:
        return (nx - 1) / 2, (ny - 1) / 2
    shown = repr(position)
    if isinstance(position, SkyCoord):
        if position.size != 1:
            raise ValueError(f"position holds {position.size} places; give one at a time")
        position = position.reshape(())
        shown = f"{position.to_string()} on the sky"
        if image.wcs is None:
            raise ValueError(
                f"position is {shown}, but the image has no WCS; "
                "give it as pixels (x, y), or give an image with a WCS"
            )
        position = image.wcs.world_to_pixel(position)
        if not np.isfinite(position).all():
            raise ValueError(f"position is {shown}, outside the image: its WCS ends before")
        shown += " (pixel {:.6g}, {:.6g})".format(*position)
    if isinstance(position, u.Quantity) and position.unit == u.pix:
        position = position.value
    try:
        x, y = (float(value) for value in position)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"position is {shown}; it has to be two numbers (x, y) or a SkyCoord"
        ) from error
    if not (-0.5 <= x <= nx - 0.5 and -0.5 <= y <= ny - 0.5):
        raise ValueError(
            f"position is {shown}, outside the image; x has to be within 0 and {nx - 1}, "
            f"y within 0 and {ny - 1}"
        )
    return x, y
