"""Which sources of a deblender that knows no pairs are the two galaxies of a blend."""

import numpy as np
from scipy import ndimage

from .shares import Found

__all__ = ["by_position", "checked", "kindest"]


def checked(found, shape):
    """Return what a peer has found, or raise if it is of no use."""
    sky, light = np.asarray(found.sky), np.asarray(found.light)
    if sky.shape != shape or light.shape != (len(light), *shape):
        raise ValueError(f"sky has shape {sky.shape} and light {light.shape} in a blend of {shape}")
    if not (np.isfinite(sky).all() and np.isfinite(light).all()):
        raise ValueError("there are values that are not finite")
    return Found(sky, light)


def kindest(found, blend, isolated):
    """Choose the images of the two galaxies for a deblender, in its favour.

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
        return max(images, key=lambda pair: -_log_error(_square(pair - isolated)))
    one, other = np.triu_indices(number, 1)
    alone = np.eye(number, dtype=bool)
    middles = np.array([ndimage.center_of_mass(np.abs(each).sum(axis=0)) for each in light])
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
    error = (
        np.square(left).sum(axis=1)
        + 2 * np.einsum("wgs,gs->wg", ways, left @ flat.T)
        + np.einsum("wgs,sr,wgr->wg", ways, flat @ flat.T, ways, optimize=True)
    )
    best = ways[np.argmin(_log_error(error))]
    return sky + np.tensordot(best, light, axes=1)


def by_position(found, blend, positions):
    """Choose the images of the two galaxies by where they are, as without the truth.

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
        window = np.exp(-np.array(squared) / (2 * 1.5**2))
        central, companion = np.einsum("gyx,sbyx->gs", window, light).argmax(axis=1)
        if central != companion:
            return sky + light[[central, companion]]
    return np.stack([blend, blend])


def _square(images):
    return np.square(images, dtype=float).sum(axis=(1, 2, 3))


def _log_error(error):
    """Sum of the logarithms, which orders as the sum of PSNR does (and falls where it rises)."""
    return np.log(np.maximum(error, 1e-12)).sum(axis=-1)
