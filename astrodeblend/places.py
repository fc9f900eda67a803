"""Where the stamps of galaxies are and how wide, from what is measured of the galaxies."""

from dataclasses import dataclass

import numpy as np
from astropy.nddata import NDData, block_reduce
from scipy.ndimage import gaussian_filter

from astrodeblend.background import data_and_mask, estimate_background, stated_noise
from astrodeblend.detect import find_sources, petrosian_radius
from astrodeblend.results import Flag
from astrodeblend.stamps import pixel_position, stamp_width
from astrodeblend.templates import alike

__all__ = [
    "Place",
    "find_place",
    "find_places",
    "full_scale_of",
    "sky_of_flux",
    "summed_light",
    "unstretched",
]

_SURROUNDINGS = 256  # pixels a side in which a source is looked for and measured
# A picture's light goes as sinh(6.5 value): on Galaxy Zoo's pictures, made by asinh, the middle
# 240 pixels are then 5.8 Petrosian radii in the median, as they are in the images themselves.
_PICTURE_STRETCH = 6.5
# In training the companion is up to so much of the stamp's width from its middle, along x and y,
# and galaxies are shown up to so much smaller: a stamp widens to have its companion inside.
_FARTHEST = 50 / 240
_WIDEN = 1 / 0.7
_WHOLE = 0.75  # a stamp that covers so much of a square image takes all of it


@dataclass(frozen=True, eq=False)
class Place:
    """Where the stamp of a galaxy is, and the sky there.

    Attributes
    ----------
    position : tuple of float
        Its middle, (x, y) in pixels of the image.
    width : float
        In pixels of the image.
    level, noise : numpy.ndarray, shape (bands, 1, 1)
        Of the sky, per pixel of the image.
    flags : Flag
    full_scale : float or None
        The value that is white in the image, if that is a picture.
    """

    position: tuple[float, float]
    width: float
    level: np.ndarray
    noise: np.ndarray
    flags: Flag
    full_scale: float | None


def find_place(image, position, size_rule):
    """Measure the galaxy at a position, for the place of its stamp.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    position : tuple of float, `~astropy.coordinates.SkyCoord` or None
        As in `astrodeblend.stamps.pixel_position`.
    size_rule : dict
        Of the model's card.

    Returns
    -------
    Place

    Raises
    ------
    ValueError
        If the position is outside the image or on masked pixels only.
    TypeError
        If it is no position.
    """
    full_scale = full_scale_of(image)
    x, y = pixel_position(image, position)
    native = size_rule.get("native", False)
    pixels, (height, length) = size_rule["pixels"], image.data.shape[-2:]
    middle = ((length - 1) / 2, (height - 1) / 2)
    # Half a pixel off is the centre, too: few people count it as 39.5.
    centred = height == length and max(abs(x - middle[0]), abs(y - middle[1])) < 0.51
    flags = Flag(0) if native or len(image.data) > 1 else Flag.SINGLE_BAND
    size = 1
    local, place = _surroundings(image, x, y, size)
    checked(local, x, y)
    if centred and length == pixels and not native:
        width = float(pixels)
    else:
        width, doubt = _width(unstretched(local, full_scale), *place, size_rule)
        while 2 * width > _SURROUNDINGS and _SURROUNDINGS * size < 2 * max(height, length):
            size *= 2
            local, place = _surroundings(image, x, y, size)
            width, doubt = _width(unstretched(local, full_scale), *place, size_rule)
        width = stamp_width(width * size, petrosian_radii=1, shape=(height, length))
        if centred and width >= _WHOLE * length:
            width = float(length)
        flags |= doubt
    if centred and width == length:
        x, y = middle
    at = (slice(None), *_pixel(local, *place))
    level, noise = estimate_background(local)
    noise = noise * size
    if native:
        level, noise = sky_of_flux(image, (level, noise))
        x, y, width = _on_pixels(x, y, width, pixels)
    level, noise = (
        np.broadcast_to(values, local.data.shape)[at][:, None, None] for values in (level, noise)
    )
    return Place((x, y), width, level, noise, flags, full_scale)


def find_places(image, background, sources, light, size_rule, full_scale):
    """Return the place of the stamp of every source, where it was detected.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    background : tuple of numpy.ndarray
        Level and noise of its sky, as `astrodeblend.background.estimate_background` gives them.
    sources : `~astropy.table.QTable`
        As `astrodeblend.detect.find_sources` gives them.
    light : tuple of numpy.ndarray
        What they were found in, as `summed_light` gives it.
    size_rule : dict
        Of the model's card.
    full_scale : float or None
        As `full_scale_of` gives it.

    Returns
    -------
    list of Place
    """
    summed, hidden = light
    level, noise = (np.broadcast_to(values, image.data.shape) for values in background)
    native = size_rule.get("native", False)
    single = Flag(0) if native or len(image.data) > 1 else Flag.SINGLE_BAND
    places = []
    radii = sources["petrosian_radius"].value
    for row, (x, y) in enumerate(zip(sources["x_centroid"], sources["y_centroid"], strict=True)):
        half = int(np.ceil(4 * radii[row])) + 1
        box = tuple(slice(max(at - half, 0), at + half + 1) for at in _pixel(image, x, y))
        middle = x - box[1].start, y - box[0].start
        radius = _symmetric_radius(summed[box], hidden[box], *middle, radii[row])
        width = _width_among(sources, row, np.fmin(radii[row], radius), size_rule)
        at = (slice(None), *_pixel(image, x, y))
        width = stamp_width(width, petrosian_radii=1, shape=image.data.shape[1:])
        if native:
            x, y, width = _on_pixels(x, y, width, size_rule["pixels"])
        places.append(
            Place(
                (float(x), float(y)),
                width,
                level[at][:, None, None],
                noise[at][:, None, None],
                single | (Flag(0) if sources["petrosian_found"][row] else Flag.UNCERTAIN_SIZE),
                full_scale,
            )
        )
    return places


def _on_pixels(x, y, width, pixels):
    """Return the middle and the width of a stamp whose pixels hold whole pixels of the image.

    As many along both sides as it takes, mostly one. So noise stays white and the PSF sharp, and
    a galaxy is at most half a pixel off the middle.
    """
    width = float(pixels * max(1, int(np.ceil(width / pixels - 1e-6))))
    half = width / 2 % 1  # edges of pixels are at integers and a half
    return (*(float(np.round(at + 0.5 - half) - 0.5 + half) for at in (x, y)), width)


def sky_of_flux(image, background):
    """Return level and noise of the sky of linear flux.

    The noise is what the uncertainty states, if there is one. A level below the noise of one
    pixel counts as none: the image has had its sky subtracted, and what is left in a small one
    full of galaxies is their light.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    background : tuple of numpy.ndarray
        Level and noise, as `astrodeblend.background.estimate_background` gives them.

    Returns
    -------
    level, noise : numpy.ndarray
        Of shapes that broadcast to the image's.
    """
    level, noise = background
    stated = stated_noise(image)
    noise = noise if stated is None else np.broadcast_to(stated, noise.shape)
    if level.shape[1:] == (1, 1):
        level = np.where(np.abs(level) < noise, 0.0, level)
    return level, noise


def full_scale_of(image):
    """Return the value that is white in a picture; None for flux."""
    if image.meta["astrodeblend"].get("linear"):
        return None
    full_scale = image.meta["astrodeblend"]["full_scale"]
    return 1.0 if full_scale is None and _is_float_picture(image) else full_scale


def unstretched(local, full_scale):
    """Undo the stretch of a picture, for sizes to be those of the light; flux stays as it is."""
    if full_scale is None:
        return local
    # As an 8-bit picture, whose smallest step detection knows: near black it stays what it is.
    light = np.sinh(_PICTURE_STRETCH / full_scale * local.data) * (255 / _PICTURE_STRETCH)
    return NDData(light, mask=local.mask, meta={"astrodeblend": {"full_scale": 255}})


def _width(local, x, y, size_rule):
    """Return the width of the stamp for the galaxy at a position, and flags."""
    background = estimate_background(local)
    sources, segmentation = find_sources(local, background=background)
    label = segmentation[_pixel(local, x, y)]
    if label:
        row = np.flatnonzero(sources["label"] == label)[0]
        doubt = Flag(0) if sources["petrosian_found"][row] else Flag.UNCERTAIN_SIZE
    else:
        doubt = Flag.NO_SOURCE
        distance = np.hypot(sources["x_centroid"] - x, sources["y_centroid"] - y)
        if not np.any(distance < size_rule["pixels"] / 2):
            return float(size_rule["pixels"]), doubt
        row = np.argmin(distance)
    radius = sources["petrosian_radius"][row].to_value("pix")
    if label:
        radius = np.fmin(radius, _symmetric_radius(*summed_light(local, background), x, y, radius))
    return _width_among(sources, row, radius, size_rule), doubt


def _width_among(sources, row, radius, size_rule):
    """Return the width of the stamp of a source of a radius, with what touches it inside."""
    width = stamp_width(radius, petrosian_radii=size_rule["petrosian_radii"])
    touching = (sources["parent"] == sources["parent"][row]) & (np.arange(len(sources)) != row)
    if touching.any():
        offset = [sources[f"{axis}_centroid"] - sources[f"{axis}_centroid"][row] for axis in "xy"]
        light = np.where(touching, np.sum(sources["segment_flux"], axis=1), -np.inf)
        companion = np.max(np.abs(offset), axis=0)[np.argmax(light)]
        width = np.clip(companion / _FARTHEST, width, _WIDEN * width)
    return float(width)


def summed_light(local, background):
    """Return the smoothed sum of the bands in units of their noise (y, x), and where none is."""
    level, noise = background
    data, hidden = data_and_mask(local)
    light = gaussian_filter(np.where(hidden, 0, (data - level) / noise).sum(axis=0), 1.0)
    return light, hidden.all(axis=0)


def _symmetric_radius(light, hidden, x, y, radius):
    """Return the Petrosian radius of the light that is alike on opposite sides of a galaxy."""
    rows, columns = np.indices(light.shape)
    # The centre is where it is brightest close to the position.
    close = np.hypot(columns - x, rows - y) <= max(radius / 4, 1)
    row, column = np.unravel_index(np.argmax(np.where(close, light, -np.inf)), light.shape)
    light = alike(light, (column, row))
    return petrosian_radius(light, (float(column), float(row)), mask=hidden)


def _surroundings(image, x, y, size):
    """Return what is around a position, so many pixels averaged along x and y, and the place.

    However large a galaxy is, it is measured on an image of the same few pixels.
    """
    half = _SURROUNDINGS * size // 2
    box = []
    for at, n in zip(_pixel(image, x, y), image.data.shape[-2:], strict=True):
        low, high = max(at - half, 0), min(at + half, n)
        box.append(slice(low, high - (high - low) % size))
    local = part_of(image, box)
    place = [(p - part.start + 0.5) / size - 0.5 for p, part in zip((x, y), box[::-1], strict=True)]
    if size > 1:
        data, hidden = data_and_mask(local)  # zero where masked
        seen = block_reduce(~hidden, (1, size, size), np.sum)
        data = block_reduce(data, (1, size, size), np.sum) / np.maximum(seen, 1)
        local = NDData(data, mask=seen == 0, unit=image.unit, meta=image.meta)
    return local, place


def part_of(image, box):
    """Return a part (y, x) of an image, without WCS and uncertainty."""
    mask = None if image.mask is None else image.mask[:, *box]
    return NDData(image.data[:, *box], mask=mask, unit=image.unit, meta=image.meta)


def checked(part, x, y):
    """Return data and mask of a part of an image, or refuse it for having nothing to see."""
    data, hidden = data_and_mask(part)
    if hidden.all(axis=(1, 2)).any():
        raise ValueError(
            f"position is ({x:.6g}, {y:.6g}), around which a band of the image has no valid pixel; "
            "choose another one"
        )
    return data, hidden


def _pixel(image, x, y):
    """Return the index (y, x) of the pixel that holds a position."""
    shape = image.data.shape[-2:]
    return tuple(
        int(np.clip(np.floor(p + 0.5), 0, n - 1)) for p, n in zip((y, x), shape, strict=True)
    )


def _is_float_picture(image):
    """Whether an image looks like a colour picture in floats: three bands within [0, 1]."""
    if len(image.data) != 3 or image.unit is not None:
        return False
    lowest = np.min(image.data, where=_valid(image), initial=np.inf)
    highest = np.max(image.data, where=_valid(image), initial=-np.inf)
    return bool(lowest >= 0 and highest <= 1)


def _valid(image):
    """Return which pixels are valid, as an array or True."""
    return True if image.mask is None else ~image.mask
