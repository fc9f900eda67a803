"""From an image to the blend that a network sees, and from its answer to light.

The network answers what part of the light in each pixel of a stamp belongs to which galaxy.
Those fractions are brought back to the image's own pixels and multiplied with them there, so
that components keep the image's resolution, unit and flux.
"""

from dataclasses import dataclass

import numpy as np
from astropy.nddata import NDData, StdDevUncertainty

from astrodeblend.detect import data_and_mask, estimate_background, find_sources
from astrodeblend.images import to_original_shape
from astrodeblend.results import Flag
from astrodeblend.stamps import Stamp, cut_stamp, pixel_position, stamp_width
from astrodeblend.stretch import stretch_for

__all__ = ["Prepared", "prepare"]

_SURROUNDINGS = 400  # pixels a side in which a source is looked for at first
_WHOLE = 0.75  # a stamp that covers so much of a square image takes all of it
_FADE = 0.05  # part of the stamp's width over which components fade into the background


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

    def component(self, fraction, std):
        """Return a component on the image's grid from the network's answer on the stamp's.

        Parameters
        ----------
        fraction, std : numpy.ndarray, shape (bands, pixels, pixels)
            Part of the stretched light, and the deviation of the stretched component.
        """
        box = (slice(None), *self.stamp.slices)
        image, shape = self.image, self.image.data.shape
        data, hidden = data_and_mask(_part(image, self.stamp.slices))
        values = self.stretch(np.where(hidden, self.level, data) * self.factor)
        fraction, std = self.stamp.fractions_to_image(np.stack([fraction, std]), cutout=True)
        part = values * fraction
        inside = self.stretch.inverse(part) / self.factor

        deviation = np.broadcast_to(self.noise, shape).astype(np.float32)
        if image.uncertainty is not None:
            np.copyto(deviation, image.uncertainty.array, where=_valid(image))
        ones = np.ones_like(values)
        slope = self.stretch.inverse_std(part, ones) / self.stretch.inverse_std(values, ones)
        expected = self.stretch.inverse_std(part, std) / self.factor
        variance = expected**2 + (fraction * slope * deviation[box]) ** 2

        weight = self._weight()
        light = np.broadcast_to(self.level, shape).astype(np.float32)
        light[box] += weight * (inside - self.level)
        deviation[box] = np.sqrt(weight * variance + (1 - weight) * deviation[box] ** 2)
        component = NDData(
            light,
            unit=image.unit,
            mask=None if image.mask is None else image.mask.copy(),
            uncertainty=StdDevUncertainty(deviation, copy=False),
            wcs=None if image.wcs is None else image.wcs.deepcopy(),
            meta=dict(image.meta),
        )
        return to_original_shape(component)

    def _weight(self):
        """1 inside the stamp, falling to 0 at those of its edges that lie inside the image."""
        ramps = []
        for centre, part, side in zip(
            self.stamp.position, self.stamp.slices[::-1], self.stamp.shape[::-1], strict=True
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
        return ramps[1][:, None] * ramps[0]


def prepare(image, position, size_rule):
    """Cut the stamp of the galaxy at a position and stretch it for the network."""
    x, y, width, local, flags = _place(image, position, size_rule)
    level, noise = _sky_at(x, y, *local)
    full_scale = image.meta["astrodeblend"]["full_scale"]
    if full_scale is None and _is_float_picture(image):
        full_scale = 1.0
    # A picture's values are brightnesses, which cut_stamp tells by its full scale.
    meta = {"astrodeblend": {**image.meta["astrodeblend"], "full_scale": full_scale}}
    source = NDData(image.data, mask=image.mask, unit=image.unit, meta=meta)
    pixels = size_rule["pixels"]
    stamp = cut_stamp(source, (x, y), width=width, pixels=pixels, background=level.ravel())
    factor = 1.0 if stamp.brightness else stamp.scale**2

    data, hidden = data_and_mask(_part(image, stamp.slices))
    if hidden.all(axis=(1, 2)).any():
        raise ValueError(
            f"position is ({x:.1f}, {y:.1f}), around which a band of the image has no valid pixel"
        )
    if hidden.any():
        flags |= Flag.MASKED
    if any(part.stop - part.start < stamp.width - 1 for part in stamp.slices):
        flags |= Flag.EDGE
    saturated = full_scale or image.meta["header"].get("SATURATE")
    if isinstance(saturated, int | float) and (data[~hidden].max() >= saturated):
        flags |= Flag.SATURATED
    # Pixels of a stamp average the noise of those of the image, if they are larger.
    spread = noise * factor / max(stamp.scale, 1.0)
    data = stamp.image.data
    stretch = stretch_for(data, level * factor, spread, full_scale, unit=image.unit)
    blend = np.clip(stretch(data), 0, 1).astype(np.float32)
    return Prepared(image, stamp, level, noise, factor, stretch, blend, flags)


def _place(image, position, size_rule):
    """Return where a stamp is to be cut: x, y, width, the surroundings, and flags."""
    x, y = pixel_position(image, position)
    pixels, shape = size_rule["pixels"], image.data.shape[-2:]
    middle = tuple((n - 1) / 2 for n in shape[::-1])
    centred = shape[0] == shape[1] and max(abs(x - middle[0]), abs(y - middle[1])) < 0.51
    flags = Flag(0) if len(image.data) > 1 else Flag.SINGLE_BAND
    local, corner = _surroundings(image, x, y, _SURROUNDINGS)
    if centred and shape[0] == pixels:
        return *middle, float(pixels), (local, corner), flags
    side = _SURROUNDINGS
    while True:  # until the surroundings are twice as wide as the stamp
        width, doubt = _width(local, x - corner[0], y - corner[1], size_rule)
        if width <= side / 2 or side >= 2 * max(shape):
            break
        side *= 2
        local, corner = _surroundings(image, x, y, side)
    width = stamp_width(width, petrosian_radii=1, shape=shape)
    if centred and width >= _WHOLE * shape[0]:
        (x, y), width = middle, float(shape[0])
    return x, y, width, (local, corner), flags | doubt


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
        near = distance < size_rule["pixels"] / 2
        if not near.any():
            return float(size_rule["pixels"]), doubt
        row = np.argmin(distance)
    radius = sources["petrosian_radius"][row]
    return stamp_width(radius, petrosian_radii=size_rule["petrosian_radii"]), doubt


def _sky_at(x, y, local, corner):
    """Return level and noise of the sky at a position, shape (bands, 1, 1) each."""
    at = (slice(None), *_pixel(local, x - corner[0], y - corner[1]))
    return tuple(
        np.broadcast_to(values, local.data.shape)[at][:, None, None]
        for values in estimate_background(local)
    )


def _surroundings(image, x, y, side):
    """Return the part of an image within half a side of a position, and its corner (x, y)."""
    row, column = _pixel(image, x, y)
    box = tuple(slice(max(at - side // 2, 0), at + side // 2) for at in (row, column))
    return _part(image, box), (box[1].start, box[0].start)


def _part(image, box):
    """Return a part (y, x) of an image, without WCS and uncertainty."""
    mask = None if image.mask is None else image.mask[:, *box]
    return NDData(image.data[:, *box], mask=mask, unit=image.unit, meta=image.meta)


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
