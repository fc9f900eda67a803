"""From an image to the blend that a network sees, and from its answer to light.

From the network's answer follows what part of the light in each pixel of the stamp belongs to
which galaxy. Those fractions are brought back to the image's own pixels and multiplied with the
light there, so that components keep the image's resolution, unit and flux.
"""

from dataclasses import dataclass

import numpy as np
from astropy.nddata import NDData, StdDevUncertainty, block_reduce
from scipy.ndimage import gaussian_filter

from astrodeblend.detect import (
    data_and_mask,
    estimate_background,
    find_sources,
    petrosian_radius,
)
from astrodeblend.images import to_original_shape
from astrodeblend.results import Flag
from astrodeblend.stamps import Stamp, cut_stamp, pixel_position, stamp_width
from astrodeblend.stretch import LinearStretch, stretch_for

__all__ = ["Place", "Prepared", "find_places", "find_sources_in_light", "prepare", "stamp_flags"]

_SURROUNDINGS = 256  # pixels a side in which a source is looked for and measured
# A picture's light goes as sinh(6.5 value): on Galaxy Zoo's pictures, made by asinh, the middle
# 240 pixels are then 5.8 Petrosian radii in the median, as they are in the images themselves.
_PICTURE_STRETCH = 6.5
# In training the companion is up to so much of the stamp's width from its middle, along x and y,
# and galaxies are shown up to so much smaller: a stamp widens to have its companion inside.
_FARTHEST = 50 / 240
_WIDEN = 1 / 0.7
_WHOLE = 0.75  # a stamp that covers so much of a square image takes all of it
_DARK = 1e-4  # network values up to this do not tell whose light it is
_FADE = 0.1  # part of the stamp's width over which components fade into the background


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


@dataclass(frozen=True, eq=False)
class Prepared:
    """A stamp as the network takes it, and the way back.

    Attributes
    ----------
    image : NDData
        Shape (bands, y, x).
    stamp : Stamp
    level, noise : numpy.ndarray, shape (bands, 1, 1)
        Of the sky at the stamp's position, per pixel of the image.
    factor : float
        Light of a pixel of the stamp for each unit in a pixel of the image.
    stretch : LinearStretch or AsinhStretch
        Made for the pixels of the stamp.
    blend : numpy.ndarray, shape (bands, pixels, pixels)
        Float32 within [0, 1].
    flags : Flag
    """

    image: NDData
    stamp: Stamp
    level: np.ndarray
    noise: np.ndarray
    factor: float
    stretch: object
    blend: np.ndarray
    flags: Flag

    def component(self, answer, std):
        """Return a component on the image's grid from the network's answer on the stamp's.

        Parameters
        ----------
        answer, std : numpy.ndarray, shape (bands, pixels, pixels)
            The component in network values, and the deviation expected of it.

        Returns
        -------
        `~astropy.nddata.NDData`
            Shape (bands, y, x), or (y, x) if the image was read from that.
        """
        image, shape, box = self.image, self.image.data.shape, (slice(None), *self.stamp.slices)
        light, sky, variance = self.light(answer, std)
        data = np.broadcast_to(sky, shape).astype(np.float32)
        data[box] += light
        deviation = np.broadcast_to(self.noise, shape).astype(np.float32)
        if image.uncertainty is not None:
            np.copyto(deviation, image.uncertainty.array, where=_valid(image))
        deviation[box] = np.sqrt(variance)
        component = NDData(
            data,
            unit=image.unit,
            mask=None if image.mask is None else image.mask.copy(),
            uncertainty=StdDevUncertainty(deviation, copy=False),
            wcs=None if image.wcs is None else image.wcs.deepcopy(),
            meta=dict(image.meta),
        )
        return to_original_shape(component)

    def light(self, answer, std):
        """Return a component's light above the sky under it, where the stamp is.

        Parameters
        ----------
        answer, std : numpy.ndarray, shape (bands, pixels, pixels)
            As in `component`.

        Returns
        -------
        light, sky, variance : numpy.ndarray
            The light and the variance of light and sky together on the image's own pixels in
            ``stamp.slices``, shape (bands, y, x), and the level of the component's sky, shape
            (bands, 1, 1).
        """
        image = self.image
        black, blend, part = map(self.stretch.inverse, (np.zeros_like(answer), self.blend, answer))
        dark = self.blend <= _DARK
        fraction = np.where(dark, 1, (part - black) / np.where(dark, 1, blend - black))
        fraction = np.clip(fraction, 0, 1)
        in_sky = self._in_sky(fraction, blend)
        fraction = self.stamp.fractions_to_image(fraction, cutout=True)
        expected = self.stamp.to_image(self.stretch.inverse_std(answer, std), cutout=True)

        data, hidden = data_and_mask(_part(image, self.stamp.slices))
        black = black[:, :1, :1] / self.factor
        inside = black + fraction * (np.where(hidden, self.level, data) - black)
        sky = self.level
        if isinstance(self.stretch, LinearStretch):
            sky = black + in_sky * (self.level - black)
        else:  # the sky that the network takes away is given back
            inside += np.minimum(1 - fraction, 1 - in_sky) * (self.level - black)
        deviation = np.broadcast_to(self.noise, data.shape)
        if image.uncertainty is not None:
            known = image.uncertainty.array[:, *self.stamp.slices]
            deviation = np.where(hidden, deviation, known)
        weight = np.outer(*self._ramps())
        variance = weight * expected**2 + (weight * fraction**2 + 1 - weight) * deviation**2
        return weight * (inside - sky), sky, variance

    def _in_sky(self, fraction, blend):
        """Return the median fraction of the light where there is nothing but sky, by band.

        Where isolated galaxies become a blend by their maximum, the sky of the blend is
        brighter than that of either, because the brighter noise wins. So a network takes some
        of the sky away, and most of all from images whose sky was never raised.
        """
        spread = _stamp_noise(self.noise, self.stamp, self.factor)
        sky = np.all(np.abs(blend - self.level * self.factor) < 2 * spread, axis=0)
        if np.mean(sky) < 0.01:
            return np.ones((len(blend), 1, 1))
        return np.median(fraction[:, sky], axis=1)[:, None, None]

    @property
    def core(self):
        """The part of the image in the stamp where components do not fade, as slices (y, x)."""
        box = []
        for part, ramp in zip(self.stamp.slices, self._ramps(), strict=True):
            inside = np.flatnonzero(ramp == 1)
            box.append(slice(part.start + int(inside[0]), part.start + int(inside[-1]) + 1))
        return tuple(box)

    def _ramps(self):
        """Weights along y and x: 1, falling to 0 at edges of the stamp inside the image."""
        ramps = []
        for centre, part, side in zip(
            self.stamp.position[::-1], self.stamp.slices, self.stamp.shape, strict=True
        ):
            low, high = centre - self.stamp.width / 2, centre + self.stamp.width / 2
            pixel = np.arange(part.start, part.stop)
            depth = np.full(pixel.shape, np.inf)
            if low > -0.5 + 1e-6:
                depth = pixel - low
            if high < side - 0.5 - 1e-6:
                depth = np.minimum(depth, high - pixel)
            depth = np.clip(depth / (_FADE * self.stamp.width), 0, 1)
            ramps.append(depth**2 * (3 - 2 * depth))
        return ramps


def prepare(image, position, size_rule):
    """Cut the stamp of the galaxy at a position and stretch it for the network.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    position : Place, tuple of float, `~astropy.coordinates.SkyCoord` or None
        As in `astrodeblend.stamps.pixel_position`; the width of the stamp follows from the
        galaxy that is found there, unless it is a place, of which all is known.
    size_rule : dict
        Of the model's card.

    Returns
    -------
    Prepared

    Raises
    ------
    ValueError
        If the position is outside the image or on masked pixels only.
    TypeError
        If it is no position.
    """
    full_scale = _full_scale(image)
    place = position
    if not isinstance(place, Place):
        place = _find_place(image, position, size_rule, full_scale)
    (x, y), width, level, noise = place.position, place.width, place.level, place.noise
    flags = place.flags
    # A picture's values are brightnesses, which cut_stamp tells by its full scale.
    meta = {"astrodeblend": {**image.meta["astrodeblend"], "full_scale": full_scale}}
    source = NDData(image.data, mask=image.mask, unit=image.unit, meta=meta)
    pixels = size_rule["pixels"]
    stamp = cut_stamp(source, (x, y), width=width, pixels=pixels, background=level.ravel())
    factor = 1.0 if stamp.brightness else stamp.scale**2

    _checked(_part(image, stamp.slices), x, y)
    flags |= stamp_flags(image, stamp.slices, width)
    if full_scale is None:
        spread = _stamp_noise(noise, stamp, factor)
        # The unit says that it is flux, even if this stamp happens to lie within [0, 1].
        stretch = stretch_for(stamp.image.data, level * factor, spread, unit="flux")
    else:
        stretch = LinearStretch(full_scale)
    blend = np.clip(stretch(stamp.image.data), 0, 1).astype(np.float32)
    return Prepared(image, stamp, level, noise, factor, stretch, blend, flags)


def stamp_flags(image, box, width):
    """Return what there is to know of the pixels of a stamp.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    box : tuple of slice
        The part (y, x) of the image that the stamp covers.
    width : float
        Of the stamp, in pixels of the image.

    Returns
    -------
    Flag
    """
    flags = Flag(0)
    data, hidden = data_and_mask(_part(image, box))
    if hidden.any():
        flags |= Flag.MASKED
    if any(part.stop - part.start < width - 1 for part in box):
        flags |= Flag.EDGE
    saturated = _full_scale(image) or image.meta["header"].get("SATURATE")
    if isinstance(saturated, int | float) and data[~hidden].max(initial=-np.inf) >= saturated:
        flags |= Flag.SATURATED
    return flags


def _stamp_noise(noise, stamp, factor):
    """Return the noise of a stamp's pixels, which average it if they are larger."""
    return noise * factor / max(stamp.scale, 1.0)


def _full_scale(image):
    """Return the value that is white in a picture; None for flux."""
    full_scale = image.meta["astrodeblend"]["full_scale"]
    return 1.0 if full_scale is None and _is_float_picture(image) else full_scale


def _find_place(image, position, size_rule, full_scale):
    """Measure the galaxy at a position, for the place of its stamp."""
    x, y = pixel_position(image, position)
    pixels, (height, length) = size_rule["pixels"], image.data.shape[-2:]
    middle = ((length - 1) / 2, (height - 1) / 2)
    # Half a pixel off is the centre, too: few people count it as 39.5.
    centred = height == length and max(abs(x - middle[0]), abs(y - middle[1])) < 0.51
    flags = Flag(0) if len(image.data) > 1 else Flag.SINGLE_BAND
    size = 1
    local, place = _surroundings(image, x, y, size)
    _checked(local, x, y)
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


def _light(local, full_scale):
    """Undo the stretch of a picture, for sizes to be those of the light."""
    if full_scale is None:
        return local
    # As an 8-bit picture, whose smallest step detection knows: near black it stays what it is.
    light = np.sinh(_PICTURE_STRETCH / full_scale * local.data) * (255 / _PICTURE_STRETCH)
    return NDData(light, mask=local.mask, meta={"astrodeblend": {"full_scale": 255}})


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
    light = _light(image, _full_scale(image))
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
    local = _part(image, box)
    place = [(p - part.start + 0.5) / size - 0.5 for p, part in zip((x, y), box[::-1], strict=True)]
    if size > 1:
        data, hidden = data_and_mask(local)  # zero where masked
        seen = block_reduce(~hidden, (1, size, size), np.sum)
        data = block_reduce(data, (1, size, size), np.sum) / np.maximum(seen, 1)
        local = NDData(data, mask=seen == 0, unit=image.unit, meta=image.meta)
    return local, place


def _part(image, box):
    """Return a part (y, x) of an image, without WCS and uncertainty."""
    mask = None if image.mask is None else image.mask[:, *box]
    return NDData(image.data[:, *box], mask=mask, unit=image.unit, meta=image.meta)


def _checked(part, x, y):
    """Return data and mask of a part of an image, or refuse it for having nothing to see."""
    data, hidden = data_and_mask(part)
    if hidden.all(axis=(1, 2)).any():
        raise ValueError(
            f"position is ({x:.6g}, {y:.6g}), around which a band of the image has no valid pixel; "
            "choose another one"
        )
    return data, hidden


def _valid(image):
    """Return which pixels are valid, as an array or True."""
    return True if image.mask is None else ~image.mask


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
