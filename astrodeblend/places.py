"""Where the stamps of galaxies are and how wide, from what is measured of the galaxies."""

from dataclasses import dataclass

import numpy as np
from astropy.nddata import NDData, block_reduce
from scipy.ndimage import gaussian_filter

from astrodeblend.detect import (
    data_and_mask,
    estimate_background,
    find_sources,
    petrosian_radius,
)
from astrodeblend.results import Flag
from astrodeblend.stamps import pixel_position, stamp_width

__all__ = ["Place", "find_place", "find_places", "find_sources_in_light"]

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
    """

    position: tuple[float, float]
    width: float
    level: np.ndarray
    noise: np.ndarray
    flags: Flag


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
    pixels, (height, length) = size_rule["pixels"], image.data.shape[-2:]
    middle = ((length - 1) / 2, (height - 1) / 2)
    # Half a pixel off is the centre, too: few people count it as 39.5.
    centred = height == length and max(abs(x - middle[0]), abs(y - middle[1])) < 0.51
    flags = Flag(0) if len(image.data) > 1 else Flag.SINGLE_BAND
    size = 1
    local, place = _surroundings(image, x, y, size)
    checked(local, x, y)
    if centred and length == pixels:
        width = float(pixels)
    else:
        width, doubt = _width(_light(local, full_scale), *place, size_rule)
        while 2 * width > _SURROUNDINGS and _SURROUNDINGS * size < 2 * max(height, length):
            size *= 2
            local, place = _surroundings(image, x, y, size)
            width, doubt = _width(_light(local, full_scale), *place, size_rule)
        width = stamp_width(width * size, petrosian_radii=1, shape=(height, length))
        if centred and width >= _WHOLE * length:
            width = float(length)
        flags |= doubt
    if centred and width == length:
        x, y = middle
    at = (slice(None), *_pixel(local, *place))
    level, noise = (
        np.broadcast_to(values, local.data.shape)[at][:, None, None]
        for values in estimate_background(local)
    )
    return Place((x, y), width, level, noise * size, flags)


def find_sources_in_light(image, positions=None):
    """Detect the sources of an image, a picture's in its light before it was stretched.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    positions : array_like, shape (n, 2), optional
        As `astrodeblend.detect.find_sources` takes them.

    Returns
    -------
    sources, segmentation : `~astropy.table.QTable`, `~numpy.ndarray`
        As `astrodeblend.detect.find_sources` gives them.
    light : `~astropy.nddata.NDData`
        What they were found in.
    """
    light = _light(image, full_scale_of(image))
    return *find_sources(light, positions=positions), light


def find_places(image, light, sources, size_rule):
    """Return the place of the stamp of every source, where it was detected.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    light, sources : `~astropy.nddata.NDData`, `~astropy.table.QTable`
        As `find_sources_in_light` gives them.
    size_rule : dict
        Of the model's card.

    Returns
    -------
    list of Place
    """
    summed, hidden = _summed_light(light)
    level, noise = (np.broadcast_to(v, image.data.shape) for v in estimate_background(image))
    places = []
    for row, (x, y) in enumerate(zip(sources["x_centroid"], sources["y_centroid"], strict=True)):
        half = int(np.ceil(4 * sources["petrosian_radius"][row].value)) + 1
        box = tuple(slice(max(at - half, 0), at + half + 1) for at in _pixel(image, x, y))
        start = box[1].start, box[0].start
        radius = sources["petrosian_radius"][row].value
        radius = np.fmin(
            radius,
            _symmetric_radius(summed[box], hidden[box], x - start[0], y - start[1], radius),
        )
        width = _width_among(sources, row, radius, size_rule)
        width = stamp_width(width, petrosian_radii=1, shape=image.data.shape[1:])
        at = (slice(None), *_pixel(image, x, y))
        flags = Flag(0) if len(image.data) > 1 else Flag.SINGLE_BAND
        if not sources["petrosian_found"][row]:
            flags |= Flag.UNCERTAIN_SIZE
        places.append(
            Place(
                (float(x), float(y)),
                width,
                level[at][:, None, None],
                noise[at][:, None, None],
                flags,
            )
        )
    return places


def full_scale_of(image):
    """Return the value that is white in a picture; None for flux."""
    full_scale = image.meta["astrodeblend"]["full_scale"]
    return 1.0 if full_scale is None and _is_float_picture(image) else full_scale


def _light(local, full_scale):
    """Undo the stretch of a picture, for sizes to be those of the light."""
    if full_scale is None:
        return local
    # As an 8-bit picture, whose smallest step detection knows: near black it stays what it is.
    light = np.sinh(_PICTURE_STRETCH / full_scale * local.data) * (255 / _PICTURE_STRETCH)
    return NDData(light, mask=local.mask, meta={"astrodeblend": {"full_scale": 255}})


def _width(local, x, y, size_rule):
    """Return the width of the stamp for the galaxy at a position, and flags."""
    sources, segmentation = find_sources(local)
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
        radius = np.fmin(radius, _symmetric_radius(*_summed_light(local), x, y, radius))
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


def _summed_light(local):
    """Return the smoothed sum of the bands in units of their noise (y, x), and where none is."""
    level, noise = estimate_background(local)
    data, hidden = data_and_mask(local)
    light = gaussian_filter(np.where(hidden, 0, (data - level) / noise).sum(axis=0), 1.0)
    return light, hidden.all(axis=0)


def _symmetric_radius(light, hidden, x, y, radius):
    """Return the Petrosian radius of the light that is alike on opposite sides of a galaxy.

    What overlaps the galaxy is on one of its sides: the smaller of two opposite pixels is
    the galaxy's own, or at least less of the other one's (as in the deblender of the SDSS).
    """
    light = light.copy()
    rows, columns = np.indices(light.shape)
    # The centre is where it is brightest close to the position.
    close = np.hypot(columns - x, rows - y) <= max(radius / 4, 1)
    row, column = np.unravel_index(np.argmax(np.where(close, light, -np.inf)), light.shape)
    opposite = (2 * row - rows, 2 * column - columns)
    inside = [(at >= 0) & (at < n) for at, n in zip(opposite, light.shape, strict=True)]
    both = inside[0] & inside[1]
    light[both] = np.minimum(light[both], light[opposite[0][both], opposite[1][both]])
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
