"""The light of sources, and what deblenders that share out pixels have in common."""

from typing import NamedTuple

import numpy as np
from astropy.stats import mad_std

from astrodeblend.metrics import moments

__all__ = ["Found", "cut", "distortion_of", "ellipticity_of", "grey", "sky_of"]

_STEP = 1 / 255  # of a picture: there is no less noise than its rounding
_OUTLINE = 1.5  # of the noise of all bands together: shapes of light alone are measured above it


class Found(NamedTuple):
    """Sources that were found in a blend.

    The image of a source is ``sky`` plus its ``light``; of several sources taken for one
    galaxy, ``sky`` plus the sum of theirs.

    Attributes
    ----------
    sky : numpy.ndarray
        Shape (bands, y, x).
    light : numpy.ndarray
        Of each source, shape (sources, bands, y, x).
    """

    sky: np.ndarray
    light: np.ndarray


def ellipticity_of(light, noise):
    """Measure the complex ellipticity of light (m, bands, y, x), each source alone, without noise.

    It is that by moments of the sum of the bands over the sky's ``noise``, (m, bands) or (bands,),
    where that is above 1.5 deviations of its own noise, or half its peak if that is less.
    """
    light = (light / noise[..., None, None]).sum(axis=1) / np.sqrt(light.shape[1])
    least = np.minimum(_OUTLINE, light.max(axis=(1, 2)) / 2)
    return moments(light[:, None], light > least[:, None, None]).distortion


def distortion_of(major, minor, angle):
    """Return the complex ellipticity of ellipses of these axes and angles in radians."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (major**2 - minor**2) / (major**2 + minor**2) * np.exp(2j * angle)


def _edge(image):
    """Return the outermost pixels (..., n) of an image (..., y, x)."""
    sides = image[..., 0, :], image[..., -1, :], image[..., 1:-1, 0], image[..., 1:-1, -1]
    return np.concatenate(sides, axis=-1).astype(float)


def sky_of(blend, conditions):
    """Level and noise of the sky by its border; of a survey's image these are known."""
    if conditions is None:
        edge = _edge(blend)
        return np.median(edge, axis=1), np.maximum(mad_std(edge, axis=1), _STEP / np.sqrt(12))
    return np.zeros(len(blend)), np.ones(len(blend))


def grey(blend, n_sigma, conditions):
    """Level of the sky, mean of the bands above it, and the threshold for that."""
    level, noise = sky_of(blend, conditions)
    light = blend.mean(axis=0, dtype=float) - level.mean()
    threshold = n_sigma * noise.min() / np.sqrt(len(blend))
    if conditions is None:
        threshold = max(threshold, n_sigma * mad_std(_edge(light)))
    return level, light, threshold


def cut(blend, segments, level, sky):
    """Give each segment the blend's light in it."""
    level = level[:, None, None]
    labels = np.unique(segments[segments > 0])
    y, x = np.nonzero(segments)
    light = np.zeros((len(labels), *blend.shape), dtype=np.float32)
    light[np.searchsorted(labels, segments[y, x]), :, y, x] = (blend - level)[:, y, x].T
    if sky == "border":
        return Found(np.broadcast_to(level, blend.shape), light)
    return Found(np.where(segments > 0, level, blend), light)
