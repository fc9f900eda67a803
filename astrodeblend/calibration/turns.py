"""Deblending every source of a blend in turn, as in scenes."""

import numpy as np
from scipy import ndimage

__all__ = ["ask_in_turn", "recentred"]


def ask_in_turn(answer, blend, positions):
    """Deblend every source of blends in turn, each in the middle of a stamp, as in scenes.

    Parameters
    ----------
    answer : callable
        Takes stamps (n, bands, y, x) and positions (n, sources, 2); returns components and their
        standard deviations, (n, 2, bands, y, x) each, those of the first position first.
    blend : numpy.ndarray, shape (n, bands, y, x)
        As ``answer`` takes it; stamps are 0 beyond it.
    positions : numpy.ndarray, shape (n, sources, 2)
        Positions of the sources, x and y in pixels; NaN for none.

    Returns
    -------
    components, std : numpy.ndarray, shape (n, sources, bands, y, x)
        The component in the middle of each source's stamp, shifted back to its position.
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
    """Shift images by whole pixels; new pixels are 0.

    Parameters
    ----------
    stamps : numpy.ndarray
        Shape (n, ..., y, x).
    shifts : numpy.ndarray of int
        Shape (n, 2): shifts along x and y.

    Returns
    -------
    numpy.ndarray
        The shape of ``stamps``.
    """
    still = (stamps.ndim - 3) * (0,)
    moved = [
        ndimage.shift(stamp, (*still, y, x), order=0)
        for stamp, (x, y) in zip(stamps, shifts, strict=True)
    ]
    return np.stack(moved)
