"""A first guess of which light around a source is its own, from its shape alone.

What a neighbour adds is on one side of the source, and there is mostly a gap between them. So the
source's own is at most what is alike on opposite sides of it, as in the deblender of the SDSS, and
what hangs together with its middle.
"""

import numpy as np
from scipy import ndimage
from skimage.morphology import reconstruction

__all__ = ["alike", "hanging_together"]

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
        The smaller of each two opposite pixels; where the opposite one is outside, as it was.
    """
    opposite, inside = [], []
    for at, side in zip(position[::-1], light.shape[-2:], strict=True):
        index = np.floor(2 * at - np.arange(side) + 0.5).astype(int)
        inside.append((index >= 0) & (index < side))
        opposite.append(index.clip(0, side - 1))
    mirrored = light[..., *np.ix_(*opposite)]
    return np.where(np.logical_and.outer(*inside), np.minimum(light, mirrored), light)


def hanging_together(light, position):
    """Return which part of the light is not beyond a gap in it, seen from a position.

    Behind a gap there is no more than at its bottom: greyscale reconstruction (Vincent 1993, IEEE
    Trans. Image Process. 2, 176).

    Parameters
    ----------
    light : numpy.ndarray, shape (..., y, x)
        Above the sky.
    position : tuple of float
        (x, y) in pixels.

    Returns
    -------
    numpy.ndarray, shape (y, x)
        From 0 to 1, the same for all bands.
    """
    height, width = light.shape[-2:]
    summed = np.maximum(light, 0).reshape(-1, height, width).sum(axis=0)
    smooth = ndimage.gaussian_filter(summed, _SMOOTH)
    x, y = (
        int(np.clip(np.floor(at + 0.5), 0, side - 1))
        for at, side in zip(position, (width, height), strict=True)
    )
    start = np.zeros_like(smooth)
    near = np.s_[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    start[near] = smooth[near]
    reached = reconstruction(start, smooth)
    return np.divide(reached, smooth, out=np.zeros_like(smooth), where=smooth > 0)
