"""A first guess of which light around a source is its own, from its shape alone.

What a neighbour adds is on one side of the source, and there is mostly a gap between them. So the
source's own is at most what is alike on opposite sides of it, as in the deblender of the SDSS, and
what hangs together with its middle.
"""

import numpy as np
from scipy import ndimage
from skimage.morphology import reconstruction

__all__ = ["alike", "filled", "hanging_together"]

_SMOOTH = 1.0  # pixels, so that noise makes no gaps


def alike(light, position):
    """Return the light that is alike on opposite sides of a position.

    Parameters
    ----------
    light : numpy.ndarray, shape (..., y, x)
        Above the sky.
    position : tuple of float
        (x, y) in pixels.

    Returns
    -------
    numpy.ndarray
        The smaller of each two opposite points, those between pixels interpolated linearly; where
        the opposite one is outside, as it was.
    """
    mirrored, inside = light, []
    for axis, at in zip((-1, -2), position, strict=True):
        side = light.shape[axis]
        opposite = 2 * at - np.arange(side)
        inside.append((opposite >= 0) & (opposite <= side - 1))
        low = np.floor(opposite).astype(int)
        part = (opposite - low).reshape(-1, *(1,) * (-1 - axis))
        mirrored = (1 - part) * mirrored.take(low.clip(0, side - 1), axis) + part * mirrored.take(
            (low + 1).clip(0, side - 1), axis
        )
    return np.where(np.logical_and.outer(*inside[::-1]), np.minimum(light, mirrored), light)


def hanging_together(light, position, *, reach=1.5):
    """Return which part of the light is not beyond a gap in it, seen from a position.

    Behind a gap there is no more than at its bottom: greyscale reconstruction (Vincent 1993, IEEE
    Trans. Image Process. 2, 176).

    Parameters
    ----------
    light : numpy.ndarray, shape (..., y, x)
        Above the sky.
    position : tuple of float
        (x, y) in pixels.
    reach : float, optional
        Pixels around the position that are the middle, gaps or none.

    Returns
    -------
    numpy.ndarray, shape (y, x)
        From 0 to 1, the same for all bands.
    """
    height, width = light.shape[-2:]
    summed = np.maximum(light, 0).reshape(-1, height, width).sum(axis=0)
    smooth = ndimage.gaussian_filter(summed, _SMOOTH)
    x, y = np.clip(position, 0, (width - 1, height - 1))
    rows, columns = np.ogrid[:height, :width]
    middle = np.hypot(columns - x, rows - y) <= reach
    reached = reconstruction(np.where(middle, smooth, 0), smooth)
    return np.divide(reached, smooth, out=np.zeros_like(smooth), where=smooth > 0)


def filled(light, hidden):
    """Return light with the nearest valid pixel's instead of each that is masked.

    Parameters
    ----------
    light : numpy.ndarray, shape (bands, y, x)
    hidden : numpy.ndarray of bool, shape (bands, y, x)
        Which pixels are masked.

    Returns
    -------
    numpy.ndarray
        The same as ``light`` in a band without a valid pixel.
    """
    result = light.copy()
    for band, out in zip(result, hidden, strict=True):
        if out.any() and not out.all():
            nearest = ndimage.distance_transform_edt(
                out, return_distances=False, return_indices=True
            )
            band[out] = band[tuple(index[out] for index in nearest)]
    return result
