"""What depends on the kind of an image: how a network sees it, and how its answer becomes light.

`Picture` is for colour pictures, `Flux` for linear flux. Both have the same methods and
constants; nothing else in the package asks which one it has.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Flux", "Picture", "scaling_of"]

_DARK = 1e-4  # network values up to this do not tell whose light it is
# The light of Galaxy Zoo's pictures goes as sinh(6.5 value): the middle 240 pixels are then 5.8
# Petrosian radii in the median, as they are in the images from which the pictures were made.
_PICTURE_STRETCH = 6.5
_WHOLE = 0.75  # a stamp that covers so much of a square picture takes all of it


def scaling_of(image):
    """Return the scaling of an image, by its kind.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.

    Returns
    -------
    Picture or Flux
    """
    known = image.meta.get("astrodeblend", {})
    return Picture(known["full_scale"]) if known.get("kind") == "picture" else Flux()


@dataclass(frozen=True)
class Picture:
    """Values of a colour picture, from black (0) to white (1): light as a survey displays it.

    A network answers with what part of each pixel's light is the source's.

    Parameters
    ----------
    full_scale : float
        The value that is white in the image.
    """

    full_scale: float

    kind = "picture"
    #: What a card calls it.
    name = "picture"
    #: Whether the light of overlapping sources adds.
    adds = False
    #: Sources stand out by so many standard deviations of their smoothed noise.
    seen = 5.0
    #: Part of a stamp's width over which components fade into the sky.
    fade = 0.1
    #: How detection divides groups, by `photutils.segmentation.deblend_sources`.
    division = {"contrast": 0.005, "n_levels": 32}  # noqa: RUF012

    def linear(self, data, level, noise):
        """Undo the stretch of a picture, for sizes and detection; black stays black.

        Parameters
        ----------
        data, level, noise : numpy.ndarray
            Of the image and of its sky.

        Returns
        -------
        data, level, noise : numpy.ndarray
            In steps of an 8-bit picture near black.
        """
        brightest, steps = _PICTURE_STRETCH / self.full_scale, 255 / _PICTURE_STRETCH
        light, sky = (np.sinh(brightest * values) * steps for values in (data, level))
        return light, sky, np.cosh(brightest * level) * brightest * noise * steps

    def on_grid(self, x, y, width, pixels, shape):
        """Return middle and width of a stamp: all of a square picture of which it covers most.

        So does a position within half a pixel of its middle if it has the network's own size.
        """
        height, length = shape
        middle = (length - 1) / 2, (height - 1) / 2
        centred = height == length and max(abs(x - middle[0]), abs(y - middle[1])) < 0.51
        if centred and (length == pixels or width >= _WHOLE * length):
            return *middle, float(length)
        return x, y, width

    def values(self, data, level, noise):
        """Return what a network sees of pixels of the image."""
        return np.clip(data / self.full_scale, 0, 1)

    def averaged(self, values, scale):
        """Return what a network sees of the mean of pixels, ``scale`` of them along each side."""
        return values.clip(0, 1)

    def saturated(self, header):
        """Return the value from which on pixels are saturated."""
        return self.full_scale

    def component(self, stamp, answer, std):
        """Return the light of a network's component on the image's own pixels.

        Parameters
        ----------
        stamp : `astrodeblend.stamps.Stamp`
        answer, std : numpy.ndarray, shape (bands, pixels, pixels)
            The component and its standard deviation, in network values.

        Returns
        -------
        light : numpy.ndarray, shape (bands, y, x)
            Above the component's own sky, in the part of the image at ``stamp.slices``.
        sky : numpy.ndarray, shape (bands, 1, 1)
            Level of that sky. Where isolated galaxies become a blend by their maximum, the
            brighter noise wins and raises the blend's sky; a network takes that away.
        deblending, noise : numpy.ndarray, shape (bands, y, x)
            Standard deviation by deblending, and by the noise of the image, as far as that is not
            in the former: the picture of a galaxy alone, which deviations are about, has noise of
            its own on the pixels of the stamp.
        """
        dark = stamp.blend <= _DARK
        fraction = np.clip(np.where(dark, 1, answer / np.where(dark, 1, stamp.blend)), 0, 1)
        spread = stamp.noise / self.full_scale / max(stamp.scale, 1)
        empty = (np.abs(stamp.blend - stamp.level / self.full_scale) < 2 * spread).all(axis=0)
        in_sky = np.ones((len(answer), 1, 1))
        if empty.mean() >= 0.01:
            in_sky = np.median(fraction[:, empty], axis=1)[:, None, None]
        sky, fraction = in_sky * stamp.level, stamp.to_image(fraction).clip(0, 1)
        weight = stamp.weight
        light = weight * (fraction * np.where(stamp.hidden, stamp.level, stamp.data) - sky)
        own = weight * fraction**2
        if not stamp.stated:
            own = own * (1 - 1 / max(stamp.scale, 1) ** 2)
        expected = _deviation(stamp, std) * self.full_scale
        noise = np.sqrt(own + 1 - weight) * stamp.deviation
        return light, sky, np.sqrt(weight) * expected, noise

    def claims(self, light, image):
        """Return what a component's light claims of the image's.

        Where noise has made that negative, those claim it that are negative there too, so that no
        flux is made of noise.
        """
        return np.maximum(light * np.sign(image), 0)


@dataclass(frozen=True)
class Flux:
    """Linear flux above the sky, in units of the standard deviation of each band's noise.

    A network answers with light, without noise.
    """

    kind = "flux"
    name = "noise"
    adds = True
    seen = 0.1  # light comes without noise
    fade = 0.0
    # From a group's faintest to its brightest pixel flux goes over more decades than a picture.
    division = {"contrast": 0.001, "n_levels": 64}  # noqa: RUF012

    def linear(self, data, level, noise):
        """Return what is linear already."""
        return data, level, noise

    def on_grid(self, x, y, width, pixels, shape):
        """Return middle and width of a stamp whose pixels hold whole pixels of the image.

        As many along both sides as it takes, mostly one. So noise stays white and the PSF sharp.
        """
        width = float(pixels * max(1, int(np.ceil(width / pixels - 1e-6))))
        half = width / 2 % 1  # edges of pixels are at integers and a half
        # of two that are as near the lower one, be the position rounded on its way from the sky
        return (*(float(np.ceil(at - half - 1e-6) - 0.5 + half) for at in (x, y)), width)

    def values(self, data, level, noise):
        """Return what a network sees of pixels of the image."""
        return (data - level) / noise

    def averaged(self, values, scale):
        """Return what a network sees of the mean of pixels: their sum, over its noise."""
        return values * scale

    def saturated(self, header):
        """Return the value from which on pixels are saturated, infinite if it is not stated."""
        value = header.get("SATURATE")
        return value if isinstance(value, int | float) else np.inf

    def component(self, stamp, answer, std):
        """Return the light of a network's component; see `Picture.component`."""
        unit = stamp.noise / stamp.scale
        light, deviation = stamp.to_image(answer) * unit, _deviation(stamp, std) * unit
        return light, stamp.level, deviation, np.zeros_like(light)

    def claims(self, light, image):
        """Return what a component's light claims of the image's: as it is without noise, all."""
        return np.abs(light)


def _deviation(stamp, std):
    """Return a standard deviation on the image's pixels: a spline must not make it nothing."""
    return np.maximum(stamp.to_image(std), std.min(axis=(-2, -1), keepdims=True))
