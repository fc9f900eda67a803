"""Metrics of a component and its truth: image quality, flux, position and shape.

Every function takes arrays of shape (..., bands, y, x), any number of leading axes, and returns one
number per image, shape (...). It is NaN if a pixel that enters it is NaN. Shapes that do not fit
raise ValueError.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity

__all__ = [
    "Moments",
    "bootstrap_error",
    "centroid_error",
    "ellipticity_error",
    "flux_error",
    "isophote",
    "moments",
    "psnr",
    "ssim",
    "ssim_reiman2019",
    "table_statistics",
]

_WINDOW = 7  # pixels: width of the window of SSIM


def psnr(image, truth, *, data_range=1.0):
    r"""Return the peak signal-to-noise ratio in decibels.

    :math:`10 \log_{10}(R^2 / \mathrm{MSE})` with R the data range and the mean of the
    squared error taken over bands and pixels; infinite where the images are equal. Reiman &
    Goehre (2019, MNRAS 485, 2617) use R = 1, images in [0, 1].

    Parameters
    ----------
    image, truth : array_like
        Shape (..., bands, y, x).
    data_range : float, optional
        Largest minus smallest value an image can have.

    Returns
    -------
    numpy.ndarray
        Shape (...).
    """
    image, truth = _pair(image, truth)
    error = np.square(image - truth).mean(axis=(-3, -2, -1), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(data_range**2 / error)


def ssim(image, truth, *, data_range=1.0):
    r"""Return the structural similarity on the strict scale: images in [0, 1], data range 1.

    The mean over pixels and bands of Wang et al. (2004, IEEE Trans. Image Process. 13, 600),
    equation 13, with means, sample variances and covariance in a uniform window of 7x7 pixels,
    :math:`K_1 = 0.01`, :math:`K_2 = 0.03`, without the outer 3 pixels, whose window extends
    beyond the image: `skimage.metrics.structural_similarity` with its default settings.

    Parameters
    ----------
    image, truth : array_like
        Shape (..., bands, y, x), y and x at least 7.
    data_range : float, optional
        Largest minus smallest value an image can have.

    Returns
    -------
    numpy.ndarray
        Shape (...).

    See Also
    --------
    ssim_reiman2019 : the number to compare with the paper.
    """
    image, truth = _pair(image, truth)
    height, width = image.shape[-2:]
    if min(height, width) < _WINDOW:
        raise ValueError(
            f"image is {height}x{width} pixels and the window of SSIM {_WINDOW}x{_WINDOW}; "
            f"give images of at least {_WINDOW}x{_WINDOW}"
        )
    scores = np.empty(image.shape[:-3])
    for index in np.ndindex(scores.shape):
        pair = (each[index].astype(np.float64) for each in (image, truth))
        scores[index] = structural_similarity(
            *pair, win_size=_WINDOW, data_range=data_range, channel_axis=0
        )
    return scores


def ssim_reiman2019(image, truth):
    """Return the structural similarity on the lenient scale of the paper: data range 2.

    Reiman & Goehre (2019, MNRAS 485, 2617) scored images in [0, 1] with the scikit-image of
    2018, which took 2 for the data range of any image of floats. Values are higher than on the
    strict scale of `ssim`; only these compare with theirs.

    Parameters
    ----------
    image, truth : array_like
        Shape (..., bands, y, x), y and x at least 7.

    Returns
    -------
    numpy.ndarray
        Shape (...).
    """
    return ssim(image, truth, data_range=2.0)


def isophote(truth, *, fraction=0.1):
    """Return the footprint of the galaxy in a true image: its light above a fraction of its peak.

    The pixels where the sum over bands exceeds ``fraction`` times its maximum and which are
    connected (sides or corners) with the brightest pixel. This is the isophotal footprint of
    SExtractor (Bertin & Arnouts 1996, A&AS 117, 393) with a threshold relative to the peak,
    so that it applies to pictures and to flux alike. The sky has to be near zero.

    Parameters
    ----------
    truth : array_like
        Shape (..., bands, y, x).
    fraction : float, optional
        Threshold as a fraction of the peak, between 0 and 1. At 0.1 the footprint excludes the
        sky of Galaxy Zoo pictures.

    Returns
    -------
    numpy.ndarray of bool
        Shape (..., y, x); empty where the image has no positive light.

    Raises
    ------
    ValueError
        If ``fraction`` is not between 0 and 1 or there are fewer than three axes.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction} is not between 0 and 1; 0.1 is usual")
    light = _images(truth, "truth").sum(axis=-3)
    planes = light.reshape(-1, *light.shape[-2:])
    footprints = np.zeros(planes.shape, dtype=bool)
    for plane, footprint in zip(planes, footprints, strict=True):
        peak = np.unravel_index(plane.argmax(), plane.shape)
        if plane[peak] > 0:
            label, _ = ndimage.label(plane > fraction * plane[peak], structure=np.ones((3, 3)))
            footprint[:] = label == label[peak]
    return footprints.reshape(light.shape)


class Moments(NamedTuple):
    """Moments of the light in a footprint, one of each per image; see `moments`."""

    flux: np.ndarray  #: (...): sum of the light over bands and footprint
    #: (..., 2): centre of the light, x and y in pixels; the first pixel's centre is 0
    centroid: np.ndarray
    distortion: np.ndarray  #: (...), complex ellipticity


def moments(image, footprint):
    r"""Return flux, centroid and distortion of the light in a footprint.

    With I the sum over bands, F the flux and sums over the footprint:

    .. math::

        F = \sum I, \quad \bar x = \sum x I / F, \quad
        Q_{xy} = \sum (x - \bar x)(y - \bar y) I / F, \quad
        \chi = \frac{Q_{xx} - Q_{yy} + 2 i Q_{xy}}{Q_{xx} + Q_{yy}} .

    The moments are unweighted within the footprint. For elliptical
    isophotes of axis ratio q, :math:`|\chi| = (1 - q^2) / (1 + q^2)` and half the argument
    of :math:`\chi` is the angle from the x towards the y axis. This is the "distortion" of
    Bernstein & Jarvis (2002, AJ 123, 583) and the :math:`\chi` of Seitz & Schneider (1995,
    A&A 297, 287); the centroid is that of `photutils.centroids.centroid_com`.

    Parameters
    ----------
    image : array_like
        Shape (..., bands, y, x).
    footprint : array_like of bool
        Shape (..., y, x), or one that broadcasts to it.

    Returns
    -------
    Moments
        NaN for centroid and distortion where the flux is not positive, and for the
        distortion where the size :math:`Q_{xx} + Q_{yy}` is not.
    """
    light = _images(image, "image").sum(axis=-3, dtype=np.float64)
    light = np.where(_fitting(footprint, light.shape, "footprint"), light, 0)
    flux = light.sum(axis=(-2, -1))
    y, x = (np.arange(n, dtype=float) for n in light.shape[-2:])
    total = np.where(flux > 0, flux, np.nan)
    along_x, along_y = light.sum(axis=-2), light.sum(axis=-1)
    # Matrix products, which need no array as large as the image.
    x_mean, y_mean = along_x @ x / total, along_y @ y / total
    q_xx = along_x @ x**2 / total - x_mean**2
    q_yy = along_y @ y**2 / total - y_mean**2
    q_xy = (light @ x) @ y / total - x_mean * y_mean
    size = q_xx + q_yy
    # The size of a single pixel is 0 up to rounding.
    size = np.where(size > 1e-9, size, np.nan)
    distortion = (q_xx - q_yy) / size + 2j * (q_xy / size)
    return Moments(flux, np.stack([x_mean, y_mean], axis=-1), distortion)


def flux_error(image, truth, *, footprint=None):
    """Return the signed relative error of the flux in the galaxy's footprint.

    (flux of the image - flux of the truth) / flux of the truth, both summed over bands and
    footprint. For one band, pass that band alone.

    Parameters
    ----------
    image, truth : array_like
        Shape (..., bands, y, x).
    footprint : array_like of bool, optional
        Shape (..., y, x), by default `isophote` of the truth.

    Returns
    -------
    numpy.ndarray
        Shape (...); NaN where the true flux is not positive.
    """
    found, true = _both_moments(image, truth, footprint)
    return (found.flux - true.flux) / np.where(true.flux > 0, true.flux, np.nan)


def centroid_error(image, truth, *, footprint=None):
    """Return the distance in pixels between the centroids of image and truth in the footprint.

    The centroids are those of `moments`, both in the footprint of the truth: light of the image
    outside of it is ignored.

    Parameters
    ----------
    image, truth : array_like
        Shape (..., bands, y, x).
    footprint : array_like of bool, optional
        Shape (..., y, x), by default `isophote` of the truth.

    Returns
    -------
    numpy.ndarray
        Shape (...); NaN where either flux is not positive.
    """
    found, true = _both_moments(image, truth, footprint)
    return np.hypot(*np.moveaxis(found.centroid - true.centroid, -1, 0))


def ellipticity_error(image, truth, *, footprint=None):
    r"""Return the modulus of the difference of the distortions of image and truth.

    :math:`|\chi_\mathrm{image} - \chi_\mathrm{truth}|` with the complex distortion of
    `moments` (Bernstein & Jarvis 2002, AJ 123, 583) in the same footprint: it includes errors
    of axis ratio and of angle.

    Parameters
    ----------
    image, truth : array_like
        Shape (..., bands, y, x).
    footprint : array_like of bool, optional
        Shape (..., y, x), by default `isophote` of the truth.

    Returns
    -------
    numpy.ndarray
        Shape (...); NaN where either has no positive flux or no size.
    """
    found, true = _both_moments(image, truth, footprint)
    return np.abs(found.distortion - true.distortion)


def table_statistics(values):
    """Return mean, median, max, min and variance, the columns of the paper's table 1.

    Parameters
    ----------
    values : array_like
        A score per image, any shape.

    Returns
    -------
    dict of float
        With the keys ``mean``, ``median``, ``max``, ``min`` and ``variance`` (divided by n).

    Raises
    ------
    ValueError
        If there are no values.
    """
    values = _values(values)
    with np.errstate(invalid="ignore"):  # an infinite PSNR has no variance: NaN
        variance = values.var()
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "max": float(values.max()),
        "min": float(values.min()),
        "variance": float(variance),
    }


def bootstrap_error(values, statistic=np.mean, *, resamples=1000, rng=None):
    """Return the standard error of a statistic by the bootstrap (Efron 1979, Ann. Statist. 7, 1).

    Rows are drawn with replacement: give one row per blend, since the errors of its components
    are correlated.

    Parameters
    ----------
    values : array_like
        Scores, shape (blends, ...).
    statistic : callable, optional
        From an array to a number, by default the mean.
    resamples : int, optional
        Number of resamples.
    rng : int or numpy.random.Generator, optional
        Seed or generator of random numbers.

    Returns
    -------
    float
        The standard deviation of the statistic over the resamples.

    Raises
    ------
    ValueError
        If there are no values or fewer than two resamples.
    """
    values = _values(values)
    if resamples < 2:
        raise ValueError(f"resamples={resamples} gives no spread; 1000 is usual")
    rng = np.random.default_rng(rng)
    drawn = [
        statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(resamples)
    ]
    return float(np.std(drawn, ddof=1))


def _values(values):
    values = np.atleast_1d(np.asarray(values, dtype=float))
    if values.size == 0:
        raise ValueError("values is empty; give at least one score")
    return values


def _images(image, name):
    image = np.asarray(image)
    if image.ndim < 3:
        raise ValueError(f"{name} has shape {image.shape}; give (..., bands, y, x)")
    return image.astype(np.result_type(image.dtype, np.float32), copy=False)


def _pair(image, truth):
    image, truth = _images(image, "image"), _images(truth, "truth")
    if image.shape != truth.shape:
        raise ValueError(
            f"image has shape {image.shape} and truth {truth.shape}; give both the same shape"
        )
    return image, truth


def _fitting(pixels, shape, name):
    """Return selected pixels, broadcast to the shape (..., y, x) of images without bands."""
    pixels = np.asarray(pixels, dtype=bool)
    try:
        return np.broadcast_to(pixels, shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {pixels.shape}; give one that broadcasts to {shape}, the image "
            "without its bands"
        ) from None


def _both_moments(image, truth, footprint):
    image, truth = _pair(image, truth)
    footprint = isophote(truth) if footprint is None else footprint
    return moments(image, footprint), moments(truth, footprint)
