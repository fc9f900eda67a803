"""Every source of a blend asked for in turn, as scenes do."""

import numpy as np
from scipy import ndimage

__all__ = ["ask_in_turn", "recentred"]


def ask_in_turn(answer, blend, positions):
    """Ask a network for every source of blends, each in the middle of a stamp, as scenes do.

    Parameters
    ----------
    answer : callable
        Takes stamps (n, bands, y, x) and positions (n, sources, 2), and returns components and
        their standard deviations, (n, 2, bands, y, x) each, the first position's first.
    blend : numpy.ndarray, shape (n, bands, y, x)
        As ``answer`` takes it; zeros come in where a stamp reaches beyond it.
    positions : numpy.ndarray, shape (n, sources, 2)
        Of the sources, x and y in pixels; NaN for none.

    Returns
    -------
    components, std : numpy.ndarray, shape (n, sources, bands, y, x)
        Of each source what is in the middle of its stamp, moved back to where it is.
    """
    sources = positions.shape[1]
    middle = (np.array(blend.shape[:-3:-1]) - 1) / 2
    light, deviation = [], []
    for k in range(sources):
        shifts = np.rint(np.nan_to_num(middle - positions[:, k])).astype(int)
        order = np.roll(np.arange(sources), -k)
        moved = positions[:, order] + shifts[:, None]
        moved[:, 0] = np.where(np.isfinite(moved[:, 0]), moved[:, 0], middle)
        answers = answer(recentred(blend, shifts), moved)
        for each, found in zip((light, deviation), answers, strict=True):
            each.append(recentred(found[:, 0], -shifts))
    return np.stack(light, axis=1), np.stack(deviation, axis=1)


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
