"""Scaling: from image values to network values, and from a network's output to light.

`Picture` is for colour pictures, `Flux` for linear flux. Both have the same methods and
constants, so that the rest of the package need not distinguish them.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Flux", "Picture", "scaling_of"]

_DARK = 1e-4  # network values: light below which the fractions of components are undefined
# Light in Galaxy Zoo's pictures is proportional to sinh(6.5 value): then the middle 240 pixels are
# 5.8 Petrosian radii in the median, as in the survey's images.
_PICTURE_STRETCH = 6.5
_WHOLE = 0.75  # share of a square picture from which on a stamp takes all of it


def scaling_of(image):
    """Return the scaling, `Picture` or `Flux`, for the kind of an image."""
    known = image.meta.get("astrodeblend", {})
    return Picture(known["full_scale"]) if known.get("kind") == "picture" else Flux()


@dataclass(frozen=True)
class Picture:
    """Scaling of colour pictures to values from 0 (black) to 1 (white).

    The light of a component is its fraction of the network's output times the image.
    """

    full_scale: float  # value of white in the image

    kind = "picture"
    #: Name on a card.
    name = "picture"
    #: Whether the values of overlapping sources add.
    adds = False
    #: Threshold of footprints in standard deviations of the smoothed noise.
    seen = 5.0
    #: Fraction of a stamp's width over which components fade into the sky.
    fade = 0.1
    #: Options of `photutils.segmentation.deblend_sources` in detection.
    division = {"contrast": 0.005, "n_levels": 32}  # noqa: RUF012

    def linear(self, data, level, noise):
        """Return values of a picture, level and noise of its sky as linear light.

        It is for sizes and detection, in units of one step of an 8-bit picture near black.
        """
        brightest, steps = _PICTURE_STRETCH / self.full_scale, 255 / _PICTURE_STRETCH
        light, sky = (np.sinh(brightest * values) * steps for values in (data, level))
        return light, sky, np.cosh(brightest * level) * brightest * noise * steps

    def on_grid(self, x, y, width, pixels, shape):
        """Return middle and width of a stamp.

        A square picture is taken whole if the stamp covers most of it, or if it has the network's
        size and the position is within half a pixel of its middle.
        """
        height, length = shape
        middle = (length - 1) / 2, (height - 1) / 2
        centred = height == length and max(abs(x - middle[0]), abs(y - middle[1])) < 0.51
        if centred and (length == pixels or width >= _WHOLE * length):
            return *middle, float(length)
        return x, y, width

    def values(self, data, level, noise):
        """Return the network values of pixels of the image."""
        return np.clip(data / self.full_scale, 0, 1)

    def averaged(self, values, scale):
        """Return the network values of means over ``scale`` x ``scale`` pixels."""
        return values.clip(0, 1)

    def saturated(self, header):
        """Return the value from which on pixels are saturated."""
        return self.full_scale

    def component(self, stamp, answer, std):
        """Return the light of a network's component on the image's pixels at ``stamp.slices``.

        ``answer`` and ``std`` are the component and its standard deviation, (bands, pixels, pixels)
        in network values. Returned are the light above the sky (bands, y, x), the sky level of the
        component (bands, 1, 1), and the light's standard deviations by deblending and by noise.

        The sky level is below the blend's if isolated galaxies are blended by maximum, which takes
        the brighter noise. The noise is that of the image as far as it is not included in the
        deviation by deblending: the true image of a galaxy alone has noise on the stamp's pixels.
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
        """Return the weight of a component's light in the apportioning of the image's.

        Where the image is negative by noise, only components that are negative there have weight,
        so that noise makes no flux.
        """
        return np.maximum(light * np.sign(image), 0)


@dataclass(frozen=True)
class Flux:
    """Scaling of linear flux: sky-subtracted, in units of each band's noise.

    The light of a component is the network's output, without noise.
    """

    kind = "flux"
    name = "noise"
    adds = True
    seen = 0.1  # the light is noiseless
    fade = 0.0
    # The range of flux in a group is larger than that of a picture.
    division = {"contrast": 0.001, "n_levels": 64}  # noqa: RUF012

    def linear(self, data, level, noise):
        """Return the flux unchanged."""
        return data, level, noise

    def on_grid(self, x, y, width, pixels, shape):
        """Return middle and width of a stamp whose pixels are k x k whole pixels of the image.

        Usually k is 1. So white noise stays white, and the PSF sharp.
        """
        width = float(pixels * max(1, int(np.ceil(width / pixels - 1e-6))))
        half = width / 2 % 1  # edges of pixels are at half integers
        # the lower one of two as near, also after rounding in a position on the sky
        return (*(float(np.ceil(at - half - 1e-6) - 0.5 + half) for at in (x, y)), width)

    def values(self, data, level, noise):
        """Return the network values of pixels of the image."""
        return (data - level) / noise

    def averaged(self, values, scale):
        """Return the network values of means: the sum of pixels over its noise."""
        return values * scale

    def saturated(self, header):
        """Return the value from which on pixels are saturated; infinite if not stated."""
        value = header.get("SATURATE")
        return value if isinstance(value, int | float) and value > 0 else np.inf

    def component(self, stamp, answer, std):
        """Return the light of a network's component; see `Picture.component`."""
        unit = stamp.noise / stamp.scale
        light, deviation = stamp.to_image(answer) * unit, _deviation(stamp, std) * unit
        return light, stamp.level, deviation, np.zeros_like(light)

    def claims(self, light, image):
        """Return the weight of a component's light, which is noiseless: the light."""
        return np.abs(light)


def _deviation(stamp, std):
    """Return a standard deviation on the image's pixels; the spline must not make it 0."""
    return np.maximum(stamp.to_image(std), std.min(axis=(-2, -1), keepdims=True))
