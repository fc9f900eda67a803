"""Well-resolved galaxies cut out of colour pictures, with their noise removed.

`cut_galaxies` shrinks galaxies, which averages the noise. Here the pixels are kept, so noise is
removed, and the outskirts are continued: a galaxy cut at its picture's noise would have an edge
that a deeper survey shows.
"""

import numpy as np
from scipy import ndimage

from .morphology import (
    COVERED,
    OFF_CENTRE,
    SHRINK,
    _cut_all,
    _middle_and_others,
    _two_maps,
    linear_light,
    read_picture,
)

__all__ = ["cut_large_galaxies"]

#: Pixels of the pictures: width of the maps.
WIDTH = 288

_SCALES = 3  # number of wavelet scales: 1, 2 and 4 pixels
_SIGNIFICANT = 5.0  # standard deviations of the noise: fainter wavelet coefficients are dropped
_SHARP = 1.4  # least noise at 1 over that at 4 pixels; enlarged pictures have less
_SMALLEST = 11  # pixels: least half-light radius
_BORDER = 36  # pixels: width of the picture's border that shows the sky


def cut_large_galaxies(pictures, *, progress=False):
    """Cut the middle galaxy out of each picture of SDSS, at full resolution and without noise.

    Of the wavelet coefficients (starlet transform, Starck & Murtagh 1994, A&A 288, 342) the
    significant ones are kept. Where the galaxy falls below the noise, an exponential disk of its
    shape, fitted to its outer light, continues it. Pixels that neighbours cover are replaced by
    those on the opposite side. Galaxies are dropped if neighbours cover a tenth of their light,
    if they are small or off centre, or if the picture was enlarged: its noise is then nearly as
    strong over four pixels as over one.

    Parameters
    ----------
    pictures : iterable of array_like or path-like
        As for `cut_galaxies`.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Morphologies
        With maps 288 pixels wide.

    Raises
    ------
    ValueError
        If a picture has another shape or type, or no galaxy can be used.
    """
    return _cut_all(_cut, pictures, progress)


def _cut(picture):
    picture = read_picture(picture)
    side = picture.shape[1] // 2 // SHRINK * SHRINK * 2  # whole blocks on each side of the middle
    start = (picture.shape[1] - side) // 2
    picture = picture[:, start : start + side, start : start + side]
    border = np.ones(picture.shape[1:], bool)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    flux = linear_light(picture / np.float32(255))
    flux -= np.median(flux[:, border], axis=1)[:, None, None]
    smooth = ndimage.gaussian_filter(flux.mean(axis=0), SHRINK)
    noise = 1.4826 * np.median(np.abs(smooth[border]))
    threshold = max(1.5 * noise, 1e-3 * smooth.max())
    small = smooth[1::SHRINK, 1::SHRINK]
    mine, others = (
        np.kron(part, np.ones((SHRINK, SHRINK), bool))
        for part in _middle_and_others(small, threshold)
    )
    others = ndimage.binary_dilation(others, iterations=5)
    covered = others & mine[::-1, ::-1]
    if smooth[::-1, ::-1][covered].sum() >= COVERED * smooth[mine].sum():
        return None
    flux = np.where(covered, flux[:, ::-1, ::-1], flux)
    smooth = np.where(covered, smooth[::-1, ::-1], smooth)
    mine = (mine & ~others) | covered
    # Brightest off centre, or saturated at full scale: a star is in front of the galaxy.
    peak = np.unravel_index(np.where(mine, smooth, 0).argmax(), smooth.shape)
    off = np.hypot(*(np.array(peak) - (len(smooth) - 1) / 2))
    if off > OFF_CENTRE or ((picture >= 254).any(axis=0) & mine).sum() > SHRINK**2:
        return None
    seen = ndimage.gaussian_filter(np.where(mine, smooth, 0), 3) / threshold
    clean = _denoise(flux, np.clip(np.log2(np.maximum(seen, 1)) / 3, 0, 1))
    if clean is None:
        return None
    light = _with_envelope(clean, flux, mine, others, seen, threshold)
    if light is None:
        return None
    outside = (light.shape[-1] - WIDTH) // 2
    kept = slice(outside, outside + WIDTH)
    x = (np.arange(WIDTH) - (WIDTH - 1) / 2) / (WIDTH / 2)
    fade = np.clip(3 - 3 * np.hypot(x, x[:, None]), 0, 1)
    galaxy = _two_maps(light[:, kept, kept] * fade**2 * (3 - 2 * fade))
    return None if galaxy is None or galaxy[-1] < _SMALLEST else galaxy


def _denoise(flux, bright):
    """Return the significant part of a galaxy: its smooth light, and detail where it is bright."""
    kept, kernel = np.zeros_like(flux), np.array([1, 4, 6, 4, 1], flux.dtype) / 16
    noises, outskirts = [], (bright > 0) & (bright < 0.7)
    if not outskirts.any():
        return None
    for scale in range(_SCALES):
        taps = np.zeros(4 * 2**scale + 1, flux.dtype)
        taps[:: 2**scale] = kernel
        smooth = flux
        for axis in (1, 2):
            smooth = ndimage.convolve1d(smooth, taps, axis=axis, mode="nearest")
        detail = flux - smooth
        together = detail.mean(axis=0)
        # noise in the outskirts of the galaxy: in the sky, pictures clip it at 0
        noises.append(1.4826 * np.median(np.abs(together[outskirts])))
        # quantisation and compression add noise in proportion to the light
        noise = np.hypot(noises[-1], 0.03 / 2**scale * np.clip(smooth.mean(axis=0), 0, None))
        part = np.clip(np.abs(together) / noise - _SIGNIFICANT + 1, 0, 1)
        kept += detail * part * bright
        flux = smooth
    if noises[0] < _SHARP * noises[2]:
        return None
    return kept + flux


def _with_envelope(light, flux, mine, others, seen, threshold):
    """Continue faint light by an elliptical exponential disk."""
    total = np.where(mine, np.clip(flux.mean(axis=0), 0, None), 0)
    y, x = np.indices(total.shape) - np.array(ndimage.center_of_mass(total))[:, None, None]
    weight = total / total.sum()
    xx, yy, xy = ((weight * a).sum() for a in (x * x, y * y, x * y))
    root = np.sqrt(xx * yy - xy**2)
    radius = np.sqrt(np.clip(yy * x * x + xx * y * y - 2 * xy * x * y, 0, None) / root)
    ring = radius.astype(int)
    ring[others] = ring.max()
    number = np.maximum(np.bincount(ring.ravel()), 1)
    profile = np.array([np.bincount(ring.ravel(), band.ravel()) for band in flux]) / number
    faint = np.flatnonzero(profile.mean(axis=0) < threshold)
    if len(faint) == 0 or faint[0] < 12:
        return None
    end = faint[0] - 1
    outer = np.arange(end // 2, end + 1)
    r = np.arange(profile.shape[1])[outer] + 0.5
    slope, _ = np.polyfit(r, np.log(profile.mean(axis=0)[outer]), 1)
    slope = min(slope, -4 / end)
    outer = outer[-(end // 5) :]
    colour = np.clip(profile[:, outer].mean(axis=1), 0, None)
    height = -slope * (np.mean(outer) + 0.5)
    envelope = np.exp(height + slope * radius)
    # weight of the galaxy against the disk, from 0 to 1 just above the noise
    share = np.clip(np.log2(np.maximum(seen, 1e-9)), 0, 1)
    return np.clip(share * light + (1 - share) * envelope * colour[:, None, None], 0, None)
