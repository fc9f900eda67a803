r"""What a mean squared error hides: whether components are as rough as galaxies are.

The network that errs least is blurred where it cannot know: it paints the mean of all that might
be there, which is smoother than any galaxy. Three numbers show it, two of them on the occluded
pixels alone, where the other galaxy outshines this one and its light has to be made up:

- `power_ratio`, power of output over truth per spatial frequency in the galaxy's footprint;
- the PSNR on the occluded pixels (`psnr_within`);
- the `roughness` of output over truth there.

For a set of blends, keep the sums of each component and divide once, at the end. `Texture` does
so, and takes the blends in batches::

    parts = [Texture.of(deblender.deblend_arrays(blend), isolated) for blend, isolated in batches]
    texture = Texture.join(parts)
    texture.power_ratio, texture.occluded_psnr, texture.occluded_roughness
    texture[:, 0].power_ratio  # of the central galaxies alone

Any choice of components, such as a bootstrap's, is a `Texture` too. Arrays are as in
`astrodeblend.metrics`: (..., bands, y, x), any number of leading axes.
"""

from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from .metrics import _images, _pair, isophote

__all__ = [
    "Texture",
    "frequencies",
    "occluded",
    "power_ratio",
    "power_spectrum",
    "psnr_within",
    "roughness",
]

_BINS = 10  # of spatial frequency
# Weight in a footprint: pixels from its edge to full weight, and of smoothing. Galaxies have a
# thousand times less power in fine structure than in coarse; through a weight with a corner or a
# step the coarse would leak into the fine.
_TAPER, _SMOOTH = 8.0, 1.5


def frequencies(bins=_BINS):
    """Middle of each bin of spatial frequency, in cycles per pixel, shape (bins,).

    Parameters
    ----------
    bins : int, optional
        How many bins of equal width from 0 to 0.5, the highest frequency that pixels hold.

    Raises
    ------
    ValueError
        If ``bins`` is not at least 1.
    """
    if bins < 1:
        raise ValueError(f"bins={bins}: give at least 1")
    return (np.arange(bins) + 0.5) / (2 * bins)


def power_spectrum(image, footprint, *, bins=_BINS):
    r"""Azimuthally averaged power spectrum of the light in a footprint.

    With w a weight that rises smoothly from the edge of the footprint,
    :math:`\sin^2(\pi d / 16)` at :math:`d < 8` pixels from the nearest pixel outside of footprint
    or image and 1 further in, smoothed by a Gaussian of 1.5 pixels (so that it reaches a little
    outside), and :math:`\bar I` the mean of the light with that weight:

    .. math::

        P(k) = \frac{|\mathrm{DFT}[w (I - \bar I)](k)|^2}{\sum w^2}

    averaged over bands and over all frequencies :math:`k = (k_x, k_y)` whose length is in the
    bin, bins half open, :math:`k = 0` and lengths above 0.5 cycles per pixel left out. This is
    the modified periodogram (Welch 1967, IEEE Trans. Audio Electroacoust. 15, 70), so white
    noise of variance :math:`s^2` gives :math:`s^2` in every bin. Frequencies closer together
    than one over the footprint's width are not told apart, and those below it are lowered with
    the mean that is taken off.

    Parameters
    ----------
    image : array_like
        Shape (..., bands, y, x).
    footprint : array_like of bool
        Shape (..., y, x), or one that broadcasts to it; such as `astrodeblend.metrics.isophote`
        of the truth.
    bins : int, optional
        As in `frequencies`.

    Returns
    -------
    numpy.ndarray
        Shape (..., bins); NaN where the footprint is empty, and in a bin that has no frequency
        (images of fewer than 2 ``bins`` pixels).

    Raises
    ------
    ValueError
        If there are fewer than three axes or bins than one, or the footprint does not fit.
    """
    image = _images(image, "image")
    footprint = _fitting(footprint, image, "footprint")
    number = len(frequencies(bins))
    shape = image.shape[-2:]
    length = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij"))
    place = np.floor((length * 2 * bins).round(9)).astype(int)
    place[length.round(9) == 0.5] = bins - 1
    counted = (length > 0) & (place < bins)
    place = place[counted]
    frequencies_in = np.bincount(place, minlength=number)
    spectra = np.full((*footprint.shape[:-2], number), np.nan)
    for index in np.ndindex(footprint.shape[:-2]):
        weight = _taper(footprint[index])
        total = weight.sum()
        if total == 0:
            continue
        light = image[index].astype(np.float64)
        mean = (weight * light).sum(axis=(-2, -1), keepdims=True) / total
        power = np.square(np.abs(np.fft.fft2(weight * (light - mean)))).mean(axis=0)
        power = np.bincount(place, power[counted], minlength=number)
        with np.errstate(invalid="ignore"):
            spectra[index] = power / frequencies_in / np.square(weight).sum()
    return spectra


def power_ratio(image, truth, footprint=None, *, bins=_BINS):
    """Power of images over that of the truth, per bin of spatial frequency.

    Below 1 the images are blurred at this scale, above 1 they are too rough, at 1 right. The
    powers of all images are summed before they are divided, so that an image counts by its
    light and none with little of it upsets the rest.

    Parameters
    ----------
    image, truth : array_like
        Shape (..., bands, y, x).
    footprint : array_like of bool, optional
        Shape (..., y, x), by default `astrodeblend.metrics.isophote` of the truth. Images whose
        footprint is empty do not count.
    bins : int, optional
        As in `frequencies`.

    Returns
    -------
    numpy.ndarray
        Shape (bins,); NaN where the truth has no power.

    Raises
    ------
    ValueError
        As `power_spectrum`, or if the shapes differ.
    """
    image, truth = _pair(image, truth)
    footprint = isophote(truth) if footprint is None else footprint
    return _ratio_of_sums(*(power_spectrum(part, footprint, bins=bins) for part in (image, truth)))


def occluded(isolated, *, fraction=0.1):
    """Pixels of each galaxy's footprint where the other galaxy is the brighter one.

    Under a maximum these are what has to be infilled: of this galaxy's own light nothing is
    left in the blend. Where light adds (``sum``) they are where the other galaxy gives more
    than half of it, and the light of this one is there but drowned. Brighter is meant of the
    sum over bands.

    Parameters
    ----------
    isolated : array_like
        Both galaxies alone, shape (..., 2, bands, y, x).
    fraction : float, optional
        Where footprints end, as in `astrodeblend.metrics.isophote`.

    Returns
    -------
    numpy.ndarray of bool
        Shape (..., 2, y, x).

    Raises
    ------
    ValueError
        If the shape is another, or ``fraction`` is not between 0 and 1.
    """
    isolated = _images(isolated, "isolated")
    if isolated.ndim < 4 or isolated.shape[-4] != 2:
        raise ValueError(f"isolated has shape {isolated.shape}; give (..., 2, bands, y, x)")
    light = isolated.sum(axis=-3)
    return isophote(isolated, fraction=fraction) & (light[..., ::-1, :, :] > light)


def psnr_within(image, truth, where, *, data_range=1.0):
    r"""Peak signal-to-noise ratio in decibels on some of the pixels.

    As `astrodeblend.metrics.psnr`, with the mean of the squared error taken over bands and the
    chosen pixels alone.

    Parameters
    ----------
    image, truth : array_like
        Shape (..., bands, y, x).
    where : array_like of bool
        The pixels, shape (..., y, x), or one that broadcasts to it.
    data_range : float, optional
        Largest minus smallest value an image can have.

    Returns
    -------
    numpy.ndarray
        Shape (...); NaN where no pixel is chosen.

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than three axes, or ``where`` does not fit.
    """
    image, truth = _pair(image, truth)
    return _decibels(_mean_square(image - truth, where), data_range)


def roughness(image, where):
    r"""Variance of the light's finest structure on some of the pixels.

    The mean over bands and pixels of :math:`\frac{9}{8} (I - \langle I \rangle)^2`, with
    :math:`\langle I \rangle` the mean of the 3x3 pixels around each. A pixel counts if these are
    all chosen, so that nothing is measured of what borders on the chosen ones, nor the seam
    between. White noise of variance :math:`s^2` gives :math:`s^2`; light that changes linearly
    gives nothing. It needs no neat region as a power spectrum does, and so works where few
    pixels, here and there, are occluded. Divide that of the output by that of the truth: below
    1 is blurred.

    Parameters
    ----------
    image : array_like
        Shape (..., bands, y, x).
    where : array_like of bool
        The pixels, shape (..., y, x), or one that broadcasts to it; such as `occluded`.

    Returns
    -------
    numpy.ndarray
        Shape (...); NaN where no 3x3 pixels are chosen.

    Raises
    ------
    ValueError
        If there are fewer than three axes or ``where`` does not fit.
    """
    image = _images(image, "image").astype(np.float64)
    fine = image - ndimage.uniform_filter(image, 3, axes=(-2, -1))
    return 9 / 8 * _mean_square(fine, _inner(_fitting(where, image, "where")))


@dataclass(frozen=True, eq=False)
class Texture:
    """Texture of components beside that of the truth, and what it comes to for all of them.

    Made by `Texture.of`; an index chooses components, as it would in an array of shape (...).

    Attributes
    ----------
    power, true_power : numpy.ndarray
        `power_spectrum` in the footprint of the truth, shape (..., bins).
    pixels : numpy.ndarray of int
        How many pixels are `occluded`, shape (...).
    squared_error : numpy.ndarray
        Mean over bands and occluded pixels, shape (...).
    inner_pixels : numpy.ndarray of int
        How many of them count for `roughness`, shape (...).
    rough, true_rough : numpy.ndarray
        `roughness` on the occluded pixels, shape (...).
    """

    power: np.ndarray
    true_power: np.ndarray
    pixels: np.ndarray
    squared_error: np.ndarray
    inner_pixels: np.ndarray
    rough: np.ndarray
    true_rough: np.ndarray

    @classmethod
    def of(cls, components, isolated):
        """Measure components.

        Parameters
        ----------
        components : array_like
            What a deblender made of blends, shape (..., 2, bands, y, x), from 0 to 1.
        isolated : array_like
            The truth, of the same shape.

        Returns
        -------
        Texture
            Of shape (..., 2).

        Raises
        ------
        ValueError
            If the shapes differ or are others.
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
        """Put batches together along their first axis.

        Parameters
        ----------
        parts : list of Texture
            At least one.

        Returns
        -------
        Texture
        """
        return cls(
            *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls))
        )

    def __getitem__(self, index):
        return Texture(*(getattr(self, f.name)[index] for f in fields(self)))

    def __len__(self):
        return len(self.pixels)

    @property
    def power_ratio(self):
        """As `power_ratio` of all components, shape (bins,): the brightest decide."""
        return _ratio_of_sums(self.power, self.true_power)

    @property
    def median_power_ratio(self):
        """Median of the components' own ratios, shape (bins,): every galaxy counts alike."""
        power, true = (part.reshape(-1, part.shape[-1]) for part in (self.power, self.true_power))
        some = np.all(true > 0, axis=-1)
        if not some.any():
            return np.full(true.shape[-1], np.nan)
        return np.median(power[some] / true[some], axis=0)

    @property
    def occluded_psnr(self):
        """PSNR in decibels over the occluded pixels of all components; NaN if there are none."""
        return float(_decibels(_pooled(self.squared_error, self.pixels), 1.0))

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
    """Choose the pixels whose neighbours are chosen too, sides and corners."""
    return ndimage.binary_erosion(where, np.ones((3, 3)), axes=(-2, -1))


def _pooled(means, pixels):
    """Mean over the pixels of all components from the mean of each."""
    some = pixels > 0
    return (pixels[some] * means[some]).sum() / pixels[some].sum() if some.any() else np.nan


def _mean_square(values, where):
    """Mean of the squares over bands and chosen pixels, (..., bands, y, x) -> (...)."""
    where = _fitting(where, values, "where")
    squares = np.where(where, np.square(values, dtype=np.float64).mean(axis=-3), 0)
    number = where.sum(axis=(-2, -1))
    return squares.sum(axis=(-2, -1)) / np.where(number, number, np.nan)


def _decibels(squared_error, data_range):
    with np.errstate(divide="ignore"):
        return 10 * np.log10(data_range**2 / np.asarray(squared_error))


def _ratio_of_sums(power, truth):
    power, truth = (np.nansum(part.reshape(-1, part.shape[-1]), axis=0) for part in (power, truth))
    return np.divide(power, truth, out=np.full(truth.shape, np.nan), where=truth > 0)


def _fitting(pixels, image, name):
    """Broadcast a choice of pixels to an image without its bands."""
    pixels = np.asarray(pixels, dtype=bool)
    shape = image.shape[:-3] + image.shape[-2:]
    try:
        return np.broadcast_to(pixels, shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {pixels.shape}; give one that broadcasts to {shape}, the image "
            "without its bands"
        ) from None
