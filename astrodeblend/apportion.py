"""From an image to the blend that a network sees, and from its answer to light.

From the network's answer follows what part of the light in each pixel of the stamp belongs to
which galaxy. Those fractions are brought back to the image's own pixels and multiplied with the
light there, so that components keep the image's resolution, unit and flux.
"""

from dataclasses import dataclass

import numpy as np
from astropy.nddata import NDData, StdDevUncertainty

from astrodeblend.background import data_and_mask
from astrodeblend.images import to_original_shape
from astrodeblend.joint import regained
from astrodeblend.places import Place, checked, find_place, part_of
from astrodeblend.results import Flag
from astrodeblend.stamps import Stamp, cut_stamp
from astrodeblend.stretch import LinearStretch, NoiseStretch, stretch_for

__all__ = ["Prepared", "prepare", "stamp_flags"]

_DARK = 1e-4  # network values up to this do not tell whose light it is
_FADE = 0.1  # part of the stamp's width over which components fade into the background


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
    stretch : LinearStretch, AsinhStretch or NoiseStretch
        Made for the pixels of the stamp.
    blend : numpy.ndarray, shape (bands, pixels, pixels)
        Float32; within [0, 1], or in units of the noise.
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

    def component(self, answer, std, factor=1):
        """Return a component on the image's grid from the network's answer on the stamp's.

        Parameters
        ----------
        answer, std : numpy.ndarray, shape (bands, pixels, pixels)
            The component in network values, and the deviation expected of it.
        factor : numpy.ndarray, optional
            What its light is multiplied with, as `regained` gives it.

        Returns
        -------
        `~astropy.nddata.NDData`
            Shape (bands, y, x), or (y, x) if the image was read from that.
        """
        image, shape, box = self.image, self.image.data.shape, (slice(None), *self.stamp.slices)
        light, sky, variance = self.light(answer, std)
        data = np.broadcast_to(sky, shape).astype(np.float32)
        data[box] += factor * light
        deviation = np.broadcast_to(self.noise, shape).astype(np.float32)
        if image.uncertainty is not None:
            np.copyto(
                deviation,
                image.uncertainty.array,
                where=True if image.mask is None else ~image.mask,
            )
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

    def regained(self, components):
        """Return what to multiply components with so that they are the light of the image.

        Parameters
        ----------
        components : numpy.ndarray, shape (n, bands, pixels, pixels)
            All there are, in network values.

        Returns
        -------
        numpy.ndarray, shape (bands, y, x), or 1
            Where the stamp is, if the network takes flux (`astrodeblend.joint.regained`); 1 if it
            takes pictures, whose light is shared out in any case.
        """
        if not isinstance(self.stretch, NoiseStretch):
            return 1
        data, hidden = data_and_mask(part_of(self.image, self.stamp.slices))
        total = sum(map(self._flux, components))
        return regained(data - self.level, total, self.noise, valid=~hidden)

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

        Notes
        -----
        The variance is of what deblending may have done wrong (`deblending_std`), and of the
        noise of the image, as far as that is not in it already: the picture of a galaxy alone,
        which the deviations are about, has noise of its own, on the pixels of the stamp. So in
        a picture without an uncertainty only the noise counts that larger pixels average away.

        A model of flux in units of the noise gives the light itself, without noise, and the
        variance is what deblending may have done wrong.
        """
        if isinstance(self.stretch, NoiseStretch):
            return self._flux(answer), self.level, self.deblending_std(answer, std) ** 2
        image = self.image
        black, blend, part = map(self.stretch.inverse, (np.zeros_like(answer), self.blend, answer))
        dark = self.blend <= _DARK
        fraction = np.where(dark, 1, (part - black) / np.where(dark, 1, blend - black))
        fraction = np.clip(fraction, 0, 1)
        in_sky = self._in_sky(fraction, blend)
        fraction = self.stamp.fractions_to_image(fraction, cutout=True)

        data, hidden = data_and_mask(part_of(image, self.stamp.slices))
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
        own = weight * fraction**2
        if isinstance(self.stretch, LinearStretch) and image.uncertainty is None:
            own *= 1 - 1 / max(self.stamp.scale, 1.0) ** 2
        variance = self.deblending_std(answer, std) ** 2 + (own + 1 - weight) * deviation**2
        return weight * (inside - sky), sky, variance

    def deblending_std(self, answer, std):
        """Return the standard deviation of a component by deblending alone, where the stamp is.

        Parameters
        ----------
        answer, std : numpy.ndarray, shape (bands, pixels, pixels)
            As in `component`.

        Returns
        -------
        numpy.ndarray, shape (bands, y, x)
            On the image's own pixels in ``stamp.slices``.
        """
        if isinstance(self.stretch, NoiseStretch):
            return np.maximum(self._flux(std), 0)
        expected = self.stamp.to_image(self.stretch.inverse_std(answer, std), cutout=True)
        return np.sqrt(np.outer(*self._ramps())) * np.maximum(expected, 0)

    def _flux(self, values):
        """Return values in units of the noise as flux on the image's own pixels."""
        return self.stamp.to_image(self.stretch.inverse_std(values, values), cutout=True)

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
        if isinstance(self.stretch, NoiseStretch):
            return self.stamp.slices
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
        Of the model's card; ``native`` in it for stamps of whole pixels of the image, in units of
        the noise.

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
    place = position
    if not isinstance(place, Place):
        place = find_place(image, position, size_rule)
    (x, y), width, level, noise = place.position, place.width, place.level, place.noise
    flags, full_scale = place.flags, place.full_scale
    # A picture's values are brightnesses, which cut_stamp tells by its full scale.
    meta = {"astrodeblend": {**image.meta["astrodeblend"], "full_scale": full_scale}}
    source = NDData(image.data, mask=image.mask, unit=image.unit, meta=meta)
    pixels = size_rule["pixels"]
    stamp = cut_stamp(source, (x, y), width=width, pixels=pixels, background=level.ravel())
    factor = 1.0 if stamp.brightness else stamp.scale**2

    checked(part_of(image, stamp.slices), x, y)
    flags |= stamp_flags(image, stamp.slices, width, full_scale)
    spread = _stamp_noise(noise, stamp, factor)
    if size_rule.get("native"):
        stretch = NoiseStretch((level * factor).ravel(), spread.ravel())
        blend = stretch(stamp.image.data).astype(np.float32)
        return Prepared(image, stamp, level, noise, factor, stretch, blend, flags)
    if full_scale is None:
        # The unit says that it is flux, even if this stamp happens to lie within [0, 1].
        stretch = stretch_for(stamp.image.data, level * factor, spread, unit="flux")
    else:
        stretch = LinearStretch(full_scale)
    blend = np.clip(stretch(stamp.image.data), 0, 1).astype(np.float32)
    return Prepared(image, stamp, level, noise, factor, stretch, blend, flags)


def stamp_flags(image, box, width, full_scale):
    """Return what there is to know of the pixels of a stamp.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    box : tuple of slice
        The part (y, x) of the image that the stamp covers.
    width : float
        Of the stamp, in pixels of the image.
    full_scale : float or None
        The value that is white in the image, if that is a picture.

    Returns
    -------
    Flag
    """
    flags = Flag(0)
    data, hidden = data_and_mask(part_of(image, box))
    if hidden.any():
        flags |= Flag.MASKED
    if any(part.stop - part.start < width - 1 for part in box):
        flags |= Flag.EDGE
    saturated = full_scale or image.meta["header"].get("SATURATE")
    if isinstance(saturated, int | float) and data[~hidden].max(initial=-np.inf) >= saturated:
        flags |= Flag.SATURATED
    return flags


def _stamp_noise(noise, stamp, factor):
    """Return the noise of a stamp's pixels, which average it if they are larger."""
    return noise * factor / max(stamp.scale, 1.0)
