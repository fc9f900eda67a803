"""Fluxes of components with known truth, measured as in catalogues."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, label

from ..sky import sky_of

__all__ = ["Fluxes", "measure_segment"]

# Segments are detected as in `astrodeblend.detect.find_sources`.
_SMOOTHING = 2 / np.sqrt(8 * np.log(2))  # pixels: standard deviation of a kernel of FWHM 2
_THRESHOLD = 5.0
_SMALLEST = 10
_LEAST_NOISE = 1e-5


@dataclass(frozen=True, eq=False)
class Fluxes:
    """A component and its truth in a segment; made by `measure_segment`.

    Attributes
    ----------
    light, true_light : numpy.ndarray, shape (bands, y, x)
        The component and the image of the galaxy alone, each sky-subtracted.
    noise : numpy.ndarray, shape (bands,)
        Sky noise of the component.
    segment : numpy.ndarray of bool, shape (y, x)
        Pixels in which fluxes are measured.
    """

    light: np.ndarray
    true_light: np.ndarray
    noise: np.ndarray
    segment: np.ndarray

    @property
    def error(self):
        """Absolute error of the flux, shape (bands,)."""
        return (self.light - self.true_light)[:, self.segment].sum(axis=1)

    @property
    def flux(self):
        """Flux of the component, shape (bands,)."""
        return self.light[:, self.segment].sum(axis=1)

    def grown(self, part):
        """Return the same in a segment dilated by a fraction of its radius, at least a pixel.

        Parameters
        ----------
        part : float
            Fraction of the radius of a circle with the segment's area.
        """
        steps = 1 + int(part * np.sqrt(np.count_nonzero(self.segment) / np.pi))
        return replace(self, segment=binary_dilation(self.segment, iterations=steps))


def measure_segment(component, isolated, *, noise=None):
    """Measure a component and its truth in the segment detected in the component.

    Parameters
    ----------
    component, isolated : numpy.ndarray, shape (bands, y, x)
        The component, and the image of the galaxy alone.
    noise : float, optional
        Noise of the sky, if both are sky-subtracted and noiseless. By default sky level and noise
        are estimated.

    Returns
    -------
    Fluxes or None
        Those in the brightest segment; None if nothing is detected.
    """
    sky = noise is None
    if sky:
        level, noise, _ = map(np.array, zip(*map(sky_of, component), strict=True))
    else:
        level, noise = np.zeros(len(component)), np.full(len(component), float(noise))
    noise = np.maximum(noise, _LEAST_NOISE)
    light = component - level[:, None, None]
    segment = _brightest_segment(light / noise[:, None, None])
    if segment is None:
        return None
    true_level = np.array([sky_of(band)[0] if sky else 0.0 for band in isolated])
    return Fluxes(light, isolated - true_level[:, None, None], noise, segment)


def _brightest_segment(significance):
    """Return the brightest segment above the threshold, or None."""
    smooth = gaussian_filter(significance.sum(axis=0) / np.sqrt(len(significance)), _SMOOTHING)
    base, scatter, _ = sky_of(smooth)
    scatter = max(scatter, 1 / (2 * np.sqrt(np.pi) * _SMOOTHING))  # what is left of white noise
    labels, number = label(smooth > base + _THRESHOLD * scatter, np.ones((3, 3)))
    area = np.bincount(labels.ravel(), minlength=number + 1)
    light = np.bincount(labels.ravel(), smooth.ravel(), minlength=number + 1)
    light[0], light[area < _SMALLEST] = -np.inf, -np.inf
    best = light.argmax()
    return labels == best if light[best] > 0 else None
