"""The sky behind galaxies: its level and its noise."""

import numpy as np
from scipy import ndimage
from scipy.stats import norm

__all__ = ["cut_off", "sky_of"]

_PER_DEVIATION = 1 / norm.ppf(0.75)  # standard deviations of a normal distribution
_CUT_OFF = 0.2  # share of equal lowest values from which a sky is cut off at them


def sky_of(band, hidden=None, *, picture=False):
    """Estimate level and noise of the sky, sources masked step by step.

    Parameters
    ----------
    band : numpy.ndarray, shape (y, x)
        One band of an image.
    hidden : numpy.ndarray of bool, shape (y, x), optional
        Pixels that do not count; some have to.
    picture : bool, optional
        Whether black may cut the sky off, as in pictures.

    Returns
    -------
    level, noise : float
        Median, and standard deviation from the median absolute deviation; where black cuts a
        fifth of the sky off or more, from how far one and two deviations above the middle are
        apart.
    sources : numpy.ndarray of bool, shape (y, x)
        What was taken for sources.
    """
    hidden = np.zeros(band.shape, bool) if hidden is None else hidden
    # smoothed by far more than a point source, faint wings of galaxies stand out
    smooth = ndimage.gaussian_filter(np.where(hidden, np.median(band[~hidden]), band), 3)
    sources = np.zeros(band.shape, dtype=bool)
    for _ in range(12):
        sky = ~(sources | hidden)
        level, noise = np.median(band[sky]), _scatter(band[sky], picture)
        bright = smooth > np.median(smooth[sky]) + 3 * _scatter(smooth[sky])
        found = ndimage.binary_dilation(bright, iterations=6)
        if (found == sources).all() or (found | hidden).mean() > 0.98:
            break
        sources = found
    return level, noise, sources


def cut_off(values):
    """Say whether a sky is cut off at black: much of it has the lowest value."""
    return np.mean(values == values.min()) >= _CUT_OFF


def _scatter(values, picture=False):
    if picture and cut_off(values):
        return np.subtract(*np.quantile(values, norm.cdf((2, 1))))
    # As scipy.stats.median_abs_deviation, whose checks take three times as long as the medians.
    return _PER_DEVIATION * np.median(np.abs(values - np.median(values)))
