"""Sources of one image that were asked for one by one, made to agree with the image.

Where light adds, all components together should be the image but for its noise. Each comes out
of a stamp of its own, and knows nothing of what the others came to.
"""

import numpy as np
from scipy import ndimage

__all__ = ["ask_in_turn", "recentred", "regained"]

_STEPS = 2
_WIDTH = 2.0  # pixels, sigma: about that of a PSF, which noise has not
_FLOOR = 0.5  # standard deviations of the noise, below which nobody claims what is missing


def regained(light, total, noise, *, valid=True):
    """Return what to multiply components with so that together they are the light of an image.

    What their sum lacks, smoothed so that little of it is noise, goes to them in proportion to
    what each has already; and so once more, as Richardson (1972, JOSA 62, 55) and Lucy (1974, AJ
    79, 745) correct an estimate by what it does not explain. Who has which part of a pixel stays.

    Parameters
    ----------
    light : numpy.ndarray, shape (..., y, x)
        Of the image, above the sky.
    total : numpy.ndarray, shape (..., y, x)
        The sum of the components.
    noise : float or numpy.ndarray
        Standard deviation of the sky, of a shape that broadcasts to ``light``.
    valid : bool or numpy.ndarray of bool, optional
        Which pixels of the image are known, of a shape that broadcasts to ``light``.

    Returns
    -------
    numpy.ndarray, shape (..., y, x)
        None is negative.
    """
    known = np.broadcast_to(np.asarray(valid, np.float32), light.shape)
    weight = np.maximum(_smooth(known), 1e-6)
    factor = np.ones(light.shape, np.float32)
    for _ in range(_STEPS):
        now = factor * total
        missing = _smooth(known * (light - now)) / weight
        factor *= np.maximum(1 + missing / (np.maximum(now, 0) + _FLOOR * noise), 0)
    return factor


def ask_in_turn(answer, blend, positions):
    """Ask a network for every source of blends, each in the middle of a stamp.

    Parameters
    ----------
    answer : callable
        Takes stamps (n, bands, y, x) and returns components and their standard deviations, (n,
        branches, bands, y, x) each, the source in the middle first.
    blend : numpy.ndarray, shape (n, bands, y, x)
        As ``answer`` takes it; zeros come in where a stamp reaches beyond it.
    positions : numpy.ndarray, shape (n, sources, 2)
        Of the sources, x and y in pixels.

    Returns
    -------
    components, std : numpy.ndarray, shape (n, sources, bands, y, x)
        Of each source what is in the middle of its stamp, moved back to where it is.
    """
    n, sources = positions.shape[:2]
    shape = (n, sources, *blend.shape[1:])
    middle = (np.array(blend.shape[:-3:-1]) - 1) / 2
    shifts = np.rint(middle - positions).astype(int).reshape(-1, 2)
    answers = answer(recentred(np.repeat(blend, sources, axis=0), shifts))
    return tuple(recentred(each[:, 0], -shifts).reshape(shape) for each in answers)


def recentred(stamps, shifts):
    """Move images by whole pixels; zeros come in where there was nothing.

    Parameters
    ----------
    stamps : numpy.ndarray
        Shape (n, ..., y, x).
    shifts : numpy.ndarray of int
        Shape (n, 2): along x and y.

    Returns
    -------
    numpy.ndarray
        As ``stamps``.
    """
    still = (stamps.ndim - 3) * (0,)
    moved = [
        ndimage.shift(stamp, (*still, y, x), order=0)
        for stamp, (x, y) in zip(stamps, shifts, strict=True)
    ]
    return np.stack(moved)


def _smooth(images):
    """Return images as blurred as by a PSF; those of a stack are kept apart."""
    sigma = (images.ndim - 2) * (0.0,) + (_WIDTH, _WIDTH)
    return ndimage.gaussian_filter(images, sigma, mode="nearest")
