"""The light of sources in a blend: found, cut out by segments, given to the two galaxies."""

from typing import NamedTuple

import numpy as np
from astropy.stats import mad_std

from astrodeblend.metrics import moments

_STEP = 1 / 255  # step of 8-bit pictures; rounding to it makes noise of 1 / sqrt(12) steps
_OUTLINE = 1.5  # threshold of `ellipticity_of`, in standard deviations of the summed bands
_WINDOW = 1.5  # pixels: standard deviation of the Gaussian window of `by_position`


class Found(NamedTuple):
    """Sources that were found in a blend.

    The image of a source is ``sky`` plus its ``light``; of several sources taken for one
    galaxy, ``sky`` plus the sum of their light.

    Attributes
    ----------
    sky : numpy.ndarray
        Light of no source, shape (bands, y, x).
    light : numpy.ndarray
        Light of each source, shape (sources, bands, y, x).
    """

    sky: np.ndarray
    light: np.ndarray


def checked(found, shape):
    """Return what a peer found in a blend of that shape; ValueError if it is of no use."""
    sky, light = np.asarray(found.sky), np.asarray(found.light)
    if sky.shape != shape or light.shape != (len(light), *shape):
        raise ValueError(f"sky has shape {sky.shape} and light {light.shape} in a blend of {shape}")
    if not (np.isfinite(sky).all() and np.isfinite(light).all()):
        raise ValueError("there are values that are not finite")
    return Found(sky, light)


def kindest(found, blend, isolated):
    """Return the images of the two galaxies that score highest, chosen with the truth in hand.

    Of all pairs of sources, in either order, and with the other sources either dropped or each
    added to the nearer of the pair (by their centroids), the one with the highest sum of the
    two PSNR is taken. If there are fewer than two sources: the blend for both galaxies, or
    the one source and the sky, whichever scores higher.

    Parameters
    ----------
    found : Found
        What the deblender found.
    blend : numpy.ndarray
        Shape (bands, y, x).
    isolated : numpy.ndarray
        The truth, shape (2, bands, y, x).

    Returns
    -------
    numpy.ndarray
        The two images in the order of the truth, shape (2, bands, y, x).
    """
    sky, light = found
    number = len(light)
    if number < 2:
        images = [np.stack([blend, blend])]
        if number == 1:
            pair = np.stack([sky + light[0], sky])
            images += [pair, pair[::-1]]
        squared = np.square(np.subtract(images, isolated, dtype=float)).sum(axis=(2, 3, 4))
        return images[np.argmin(_log_error(squared))]
    one, other = np.triu_indices(number, 1)
    alone = np.eye(number, dtype=bool)
    middles = moments(np.abs(light), np.ones(light.shape[2:], bool)).centroid
    distance = np.linalg.norm(middles[:, None] - middles, axis=-1)
    nearer = distance[one] <= distance[other]  # (pairs, sources): to the first of the pair
    nearer[np.arange(len(one)), other] = False  # even if both are in the same place
    firsts = np.concatenate([alone[one], nearer])
    seconds = np.concatenate([alone[other], ~nearer])
    ways = np.stack(  # (ways, 2, sources): which sources each galaxy gets
        [np.concatenate([firsts, seconds]), np.concatenate([seconds, firsts])], axis=1
    ).astype(float)
    # The squared error of a sum of sources, from scalar products: no image is made for it.
    flat = light.reshape(number, -1).astype(float)
    left = (sky - isolated).reshape(2, -1).astype(float)
    squared = (
        np.square(left).sum(axis=1)
        + 2 * np.einsum("wgs,gs->wg", ways, left @ flat.T)
        + np.einsum("wgs,sr,wgr->wg", ways, flat @ flat.T, ways, optimize=True)
    )
    best = ways[np.argmin(_log_error(squared))]
    return sky + np.tensordot(best, light, axes=1)


def _log_error(squared):
    """Return the sum of the logarithms of two errors: lowest where the sum of PSNR is highest."""
    return np.log(np.maximum(squared, 1e-12)).sum(axis=-1)


def by_position(found, blend, positions):
    """Return the images of the two galaxies, chosen by where they are, without the truth.

    Each galaxy gets the source with the most light around its position (a Gaussian window of
    1.5 pixels); if both get the same one, it has not been deblended: both get the blend.

    Parameters
    ----------
    found : Found
        What the deblender found.
    blend : numpy.ndarray
        Shape (bands, y, x).
    positions : numpy.ndarray
        Shape (2, 2): x and y in pixels, central first.

    Returns
    -------
    numpy.ndarray
        Shape (2, bands, y, x).
    """
    sky, light = found
    if len(light) > 1:
        y, x = np.indices(blend.shape[1:])
        squared = [(x - px) ** 2 + (y - py) ** 2 for px, py in positions]
        window = np.exp(-np.array(squared) / (2 * _WINDOW**2))
        central, companion = np.einsum("gyx,sbyx->gs", window, light).argmax(axis=1)
        if central != companion:
            return sky + light[[central, companion]]
    return np.stack([blend, blend])


def ellipticity_of(light, noise):
    """Return the complex ellipticities (m,) of light (m, bands, y, x) without noise.

    By moments of the sum of the bands over the sky's ``noise``, (m, bands) or (bands,), where it is
    above 1.5 standard deviations of its own noise, or half its peak if that is less.
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
    """Return the sky's level and noise (bands,): by the border, or 0 and 1 of a survey's image."""
    if conditions is None:
        edge = _edge(blend)
        return np.median(edge, axis=1), np.maximum(mad_std(edge, axis=1), _STEP / np.sqrt(12))
    return np.zeros(len(blend)), np.ones(len(blend))


def grey(blend, n_sigma, conditions):
    """Return the sky's level (bands,), the mean of the bands above it, and its threshold."""
    level, noise = sky_of(blend, conditions)
    light = blend.mean(axis=0, dtype=float) - level.mean()
    threshold = n_sigma * noise.min() / np.sqrt(len(blend))
    if conditions is None:
        threshold = max(threshold, n_sigma * mad_std(_edge(light)))
    return level, light, threshold


def cut(blend, segments, level, sky):
    """Return `Found`: to each segment the blend's light above the sky's ``level`` in it.

    Other pixels keep the light of the blend (``sky="blend"``) or the level (``"border"``).
    """
    level = level[:, None, None]
    labels = np.unique(segments[segments > 0])
    own = segments == labels[:, None, None, None]
    light = np.where(own, blend - level, 0).astype(np.float32)
    if sky == "border":
        return Found(np.broadcast_to(level, blend.shape), light)
    return Found(np.where(segments > 0, level, blend), light)
