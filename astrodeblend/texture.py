"""Texture of components compared with that of the truth: what a mean squared error hides.

The network of least squared error returns the mean of all galaxies that agree with the blend, which
is smoother than any of them. Three numbers show this, two of them on occluded pixels, where the
other galaxy is brighter and the light is inferred:

- the power of output over truth per spatial frequency in the galaxy's footprint;
- the PSNR on the occluded pixels;
- the `roughness` of output over truth there.

For a set of blends, ratios are those of sums over all components. `Texture` accumulates them in
batches::

    parts = [Texture.of(deblender.deblend_arrays(blend), isolated) for blend, isolated in batches]
    texture = Texture.join(parts)
    texture.power_ratio, texture.occluded_psnr, texture.occluded_roughness
    texture[:, 0].power_ratio  # of the central galaxies alone

Any selection of components, such as a bootstrap sample, is a `Texture`, too. Arrays are as in
`astrodeblend.metrics`: (..., bands, y, x), any number of leading axes; shapes that do not fit raise
ValueError.
"""

from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from .metrics import _fitting, _images, _pair, isophote

__all__ = ["Texture", "frequencies", "occluded", "power_spectrum", "roughness"]

_BINS = 10  # number of bins of spatial frequency, from 0 to 0.5 cycles per pixel
# Pixels: width of the taper of a footprint, and standard deviation of its smoothing. The fine
# structure of galaxies has a thousandth of the power of the coarse, which would leak into it
# through a weight with a corner or a step.
_TAPER, _SMOOTH = 8.0, 1.5


def frequencies():
    """Return the middle of each of ten bins of spatial frequency, in cycles per pixel, (10,).

    The bins have equal width, from 0 to 0.5, the Nyquist frequency.
    """
    return (np.arange(_BINS) + 0.5) / (2 * _BINS)


def power_spectrum(image, footprint):
    r"""Return the azimuthally averaged power spectrum of the light in a footprint.

    With w a weight that rises smoothly from the edge of the footprint, :math:`\sin^2(\pi d / 16)`
    at :math:`d < 8` pixels from the nearest pixel outside of footprint or image and 1 further in,
    smoothed by a Gaussian of 1.5 pixels (so that it reaches a little outside), and :math:`\bar I`
    the mean of the light with that weight:

    .. math::

        P(k) = \frac{|\mathrm{DFT}[w (I - \bar I)](k)|^2}{\sum w^2}

    averaged over bands and over all frequencies :math:`k = (k_x, k_y)` whose length is in the bin,
    bins half open, :math:`k = 0` and lengths above 0.5 cycles per pixel left out. This is the
    modified periodogram (Welch 1967, IEEE Trans. Audio Electroacoust. 15, 70), so white noise of
    variance :math:`s^2` gives :math:`s^2` in every bin. The resolution is one over the footprint's
    width; the subtraction of the mean lowers the power at frequencies below that.

    The shape is (..., 10), in the bins of `frequencies`; NaN for an empty footprint, and in a bin
    without frequencies (in images of fewer than 20 pixels).
    """
    image = _images(image, "image")
    footprint = _fitting(footprint, image.shape[:-3] + image.shape[-2:], "footprint")
    shape = image.shape[-2:]
    length = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij"))
    place = np.floor((length * 2 * _BINS).round(9)).astype(int)
    place[length.round(9) == 0.5] = _BINS - 1
    counted = (length > 0) & (place < _BINS)
    place = place[counted]
    frequencies_in = np.bincount(place, minlength=_BINS)
    spectra = np.full((*footprint.shape[:-2], _BINS), np.nan)
    for index in np.ndindex(footprint.shape[:-2]):
        weight = _taper(footprint[index])
        total = weight.sum()
        if total == 0:
            continue
        light = image[index].astype(np.float64)
        mean = (weight * light).sum(axis=(-2, -1), keepdims=True) / total
        power = np.square(np.abs(np.fft.fft2(weight * (light - mean)))).mean(axis=0)
        power = np.bincount(place, power[counted], minlength=_BINS)
        with np.errstate(invalid="ignore"):
            spectra[index] = power / frequencies_in / np.square(weight).sum()
    return spectra


def occluded(isolated, *, fraction=0.1):
    """Return the pixels of each galaxy's footprint where the other galaxy is brighter.

    Brightness is summed over bands. In mode ``max`` the blend has no light of this galaxy there; in
    mode ``sum`` less than half of the blend's light is its own.

    ``isolated`` are both galaxies alone, (..., 2, bands, y, x), ``fraction`` is the threshold of
    `astrodeblend.metrics.isophote`; the shape is (..., 2, y, x).
    """
    isolated = _images(isolated, "isolated")
    if isolated.ndim < 4 or isolated.shape[-4] != 2:
        raise ValueError(f"isolated has shape {isolated.shape}; give (..., 2, bands, y, x)")
    light = isolated.sum(axis=-3)
    return isophote(isolated, fraction=fraction) & (light[..., ::-1, :, :] > light)


def roughness(image, where):
    r"""Return the variance of the finest structure of light on selected pixels.

    The mean over bands and pixels of :math:`\frac{9}{8} (I - \langle I \rangle)^2`, with
    :math:`\langle I \rangle` the mean of the 3x3 pixels around each, over the pixels for which all
    nine are selected; NaN if there are none. White noise of variance :math:`s^2` gives :math:`s^2`,
    light with a constant gradient 0. Unlike a power spectrum it also applies to small scattered
    regions, such as those `occluded`. An output is blurred if its roughness is below that of the
    truth.
    """
    image = _images(image, "image").astype(np.float64)
    fine = image - ndimage.uniform_filter(image, 3, axes=(-2, -1))
    where = _fitting(where, image.shape[:-3] + image.shape[-2:], "where")
    return 9 / 8 * _mean_square(fine, _inner(where))


@dataclass(frozen=True, eq=False)
class Texture:
    """Texture of components and of their truth, made by `Texture.of`.

    An index selects components, as in an array of shape (...).
    """

    power: np.ndarray  # (..., 10): `power_spectrum` in the footprint of the truth
    true_power: np.ndarray  # the truth's
    pixels: np.ndarray  # (...): number of `occluded` pixels
    squared_error: np.ndarray  # (...): mean over bands and occluded pixels
    inner_pixels: np.ndarray  # (...): number of these that enter `roughness`
    rough: np.ndarray  # (...): `roughness` on the occluded pixels
    true_rough: np.ndarray  # the truth's

    @classmethod
    def of(cls, components, isolated):
        """Measure components of blends, (..., 2, bands, y, x) from 0 to 1.

        The truth ``isolated`` has the same shape, the texture the shape (..., 2).
        """
        components, isolated = _pair(components, isolated)
        hidden = occluded(isolated)
        footprint = isophote(isolated)
        return cls(
            power=power_spectrum(components, footprint),
            true_power=power_spectrum(isolated, footprint),
            pixels=hidden.sum(axis=(-2, -1)),
            squared_error=_mean_square(components - isolated, hidden),
            inner_pixels=_inner(hidden).sum(axis=(-2, -1)),
            rough=roughness(components, hidden),
            true_rough=roughness(isolated, hidden),
        )

    @classmethod
    def join(cls, parts):
        """Concatenate batches along their first axis."""
        return cls(
            *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls))
        )

    def __getitem__(self, index):
        return Texture(*(getattr(self, f.name)[index] for f in fields(self)))

    def __len__(self):
        return len(self.pixels)

    @property
    def power_ratio(self):
        """Sum of the power of all components over that of the truth, shape (10,).

        Below 1 components are blurred at this scale, above 1 too rough. Faint ones have little
        weight. NaN where the truth has no power.
        """
        power, true = (
            np.nansum(part.reshape(-1, _BINS), axis=0) for part in (self.power, self.true_power)
        )
        return np.divide(power, true, out=np.full(_BINS, np.nan), where=true > 0)

    @property
    def median_power_ratio(self):
        """Median over components of their power ratio, shape (10,)."""
        power, true = (part.reshape(-1, _BINS) for part in (self.power, self.true_power))
        some = np.all(true > 0, axis=-1)
        if not some.any():
            return np.full(_BINS, np.nan)
        return np.median(power[some] / true[some], axis=0)

    @property
    def occluded_psnr(self):
        """PSNR in decibels over the occluded pixels of all components; NaN if there are none."""
        with np.errstate(divide="ignore"):
            return float(-10 * np.log10(_pooled(self.squared_error, self.pixels)))

    @property
    def occluded_roughness(self):
        """Roughness over that of the truth, on the occluded pixels of all components."""
        true = _pooled(self.true_rough, self.inner_pixels)
        return float(_pooled(self.rough, self.inner_pixels) / true) if true > 0 else np.nan


def _taper(footprint):
    """Weight of each pixel, (y, x) -> (y, x): 0 outside, smoothly to 1 inside."""
    distance = ndimage.distance_transform_edt(np.pad(footprint, 1))[1:-1, 1:-1]
    weight = np.sin(np.pi / 2 * np.minimum(distance / _TAPER, 1)) ** 2
    return ndimage.gaussian_filter(weight, _SMOOTH, mode="constant")


def _inner(where):
    """Return the selected pixels whose eight neighbours are selected, too."""
    return ndimage.binary_erosion(where, np.ones((3, 3)), axes=(-2, -1))


def _pooled(means, pixels):
    """Mean over the pixels of all components, from the mean of each."""
    some = pixels > 0
    return (pixels[some] * means[some]).sum() / pixels[some].sum() if some.any() else np.nan


def _mean_square(values, where):
    """Mean of the squares over bands and selected pixels, (..., bands, y, x) -> (...)."""
    squares = np.where(where, np.square(values, dtype=np.float64).mean(axis=-3), 0)
    number = where.sum(axis=(-2, -1))
    return squares.sum(axis=(-2, -1)) / np.where(number, number, np.nan)
