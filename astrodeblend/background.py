"""Level and noise of an image's sky, band by band (photutils).

Everything here takes an image as `astrodeblend.images.read_image` gives it: an
`~astropy.nddata.NDData` with float data of shape (bands, y, x).
"""

import numpy as np
from photutils.background import Background2D, MADStdBackgroundRMS, MedianBackground

from astrodeblend.sky import cut_off, sky_of

__all__ = ["estimate_background"]

_SMALLEST_FOR_A_MAP = 512  # pixels a side from which the background is mapped, not one number


def estimate_background(image):
    """Estimate the sky's level and its noise in each band.

    Sources are masked step by step, so that a stamp full of one galaxy gets a sane level too.
    From 512 pixels a side on, both are maps (`photutils.background.Background2D`).

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        Data of shape (bands, y, x), any unit, 8-bit pictures included.

    Returns
    -------
    level, noise : `~numpy.ndarray`
        Both of shape (bands, 1, 1) for a small image, (bands, y, x) for a large one, in the
        image's unit. ``noise`` is the standard deviation of a pixel from the median absolute
        deviation; it is positive even where the sky has no scatter (clipped at zero, or
        noise-free).

    Raises
    ------
    ValueError
        If a band has no valid pixel.
    """
    data, hidden = data_and_mask(image)
    if hidden.all(axis=(1, 2)).any():
        raise ValueError("image has a band without a single valid pixel; leave that band out")
    mapped = min(data.shape[1:]) >= _SMALLEST_FOR_A_MAP
    estimate, picture = _background_map if mapped else sky_of, is_picture(image)
    estimates = [
        estimate(band, out, picture=picture)[:2] for band, out in zip(data, hidden, strict=True)
    ]
    # a band without sky enough for a map has numbers
    shape = data.shape[1:] if mapped else (1, 1)
    level, noise = (
        np.stack([np.broadcast_to(values, shape) for values in bands])
        for bands in zip(*estimates, strict=True)
    )
    return level, np.maximum(noise, _noise_floor(image, data, hidden))


def _background_map(band, hidden, *, picture):
    """Return maps of the level and the noise of one band (y, x), sources masked."""
    if hidden.mean() > 0.8:
        return sky_of(band, hidden, picture=picture)[:2]
    rough, _ = _meshed(band, hidden)
    level, noise, sources = sky_of(band - rough, hidden)
    covered = sources | hidden
    if covered.mean() > 0.8:
        return rough + level, noise
    if picture and cut_off(band[~covered]):
        return sky_of(band, hidden, picture=True)[:2]
    return _meshed(band, covered)


def _meshed(band, hidden):
    """Return maps of the level and the noise of what is not hidden of one band (y, x)."""
    size = np.clip(min(band.shape) // 16, 64, 256)
    boxes, margins = zip(*(_boxes(side, size) for side in band.shape), strict=True)
    around = [(margin, margin) for margin in margins]
    background = Background2D(
        np.pad(band, around),
        boxes,
        mask=np.pad(hidden, around, constant_values=True),
        filter_size=3,
        bkg_estimator=MedianBackground(),
        bkg_rms_estimator=MADStdBackgroundRMS(),
        # a box under a large galaxy has no sky left: it is filled from its neighbours
        exclude_percentile=90,
    )
    inside = tuple(slice(m, m + side) for m, side in zip(margins, band.shape, strict=True))
    return background.background[inside], background.background_rms[inside]


def _boxes(side, size):
    """Return about what size of boxes covers a side evenly, and how far they reach beyond it.

    They reach as far beyond one end as the other, so that an image turned round has the same.
    """
    number = max(round(side / size), 1)
    if side % 2 and not number % 2:  # an even number of boxes never covers an odd side evenly
        number += 1
    box = -(-side // number)
    if (number * box - side) % 2:
        box += 1
    return box, (number * box - side) // 2


def stated_noise(image):
    """Return the noise of the sky that an image's uncertainty states.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        Data of shape (bands, y, x).

    Returns
    -------
    numpy.ndarray or None
        Shape (bands, 1, 1): of the valid pixels, the quartile with the least, because bright
        sources have noise of their own; None if there is no uncertainty. An uncertainty of zero
        says nothing, and is left out.

    Raises
    ------
    ValueError
        If the uncertainty is zero in every valid pixel of a band.
    """
    if image.uncertainty is None:
        return None
    _, hidden = data_and_mask(image)
    told = ~hidden & (image.uncertainty.array > 0)
    if not told.any(axis=(1, 2)).all():
        raise ValueError(
            "image has an uncertainty of 0 in every valid pixel of a band; give the noise of its "
            "pixels, or leave the uncertainty out"
        )
    deviation = np.where(told, image.uncertainty.array, np.nan)
    return np.nanquantile(deviation, 0.25, axis=(1, 2), keepdims=True)


def data_and_mask(image):
    """Return the data as float64 with zeros where masked, and the mask (both bands, y, x)."""
    data = np.array(image.data, dtype=float)
    if data.ndim != 3:
        raise ValueError(f"image has shape {data.shape}; it has to be (bands, y, x)")
    hidden = ~np.isfinite(data)
    if image.mask is not None:
        hidden |= image.mask
    data[hidden] = 0
    return data, hidden


def _noise_floor(image, data, hidden):
    """Smallest noise to believe in, (bands, 1, 1): a step of a picture, or nearly nothing."""
    if is_picture(image):
        return np.full((len(data), 1, 1), 1 / np.sqrt(12))
    spread = [np.ptp(band[~out]) for band, out in zip(data, hidden, strict=True)]
    spread = np.array(spread)[:, None, None]
    return np.where(spread > 0, 1e-5 * spread, 1.0)


def is_picture(image):
    """Say whether an image is a picture, with a full scale, rather than flux."""
    return image.meta.get("astrodeblend", {}).get("full_scale") is not None
