"""Fluxes of components with known truth, measured as tables of results measure them."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, label

from ..sky import sky_of

__all__ = ["Fluxes", "measure_segment"]

# Segments as `astrodeblend.detect.find_sources` detects them.
_SMOOTHING = 2 / np.sqrt(8 * np.log(2))  # pixels
_THRESHOLD = 5.0
_SMALLEST = 10
_LEAST_NOISE = 1e-5


@dataclass(frozen=True, eq=False)
class Fluxes:
    """A component in a segment, and the truth there.

    Made by `measure_segment`.

    Attributes
    ----------
    light, true_light : numpy.ndarray, shape (bands, y, x)
        The component and the picture of the galaxy alone, each above its own sky.
    noise : numpy.ndarray, shape (bands,)
        Of the component's sky.
    segment : numpy.ndarray of bool, shape (y, x)
        Where fluxes are measured.
    """

    light: np.ndarray
    true_light: np.ndarray
    noise: np.ndarray
    segment: np.ndarray

    @property
    def error(self):
        """By how much the flux is off, shape (bands,)."""
        return (self.light - self.true_light)[:, self.segment].sum(axis=1)

    @property
    def flux(self):
        """Flux of the component, shape (bands,)."""
        return self.light[:, self.segment].sum(axis=1)

    def grown(self, part):
        """Return the same in a segment that is larger by a part of its radius, at least a pixel.

        Parameters
        ----------
        part : float
            Of the radius of a circle with the segment's area.
        """
        steps = 1 + int(part * np.sqrt(np.count_nonzero(self.segment) / np.pi))
        return replace(self, segment=binary_dilation(self.segment, iterations=steps))


def measure_segment(component, isolated, *, noise=None):
    """Measure a component and its truth in the segment that is detected in the component.

    Parameters
    ----------
    component, isolated : numpy.ndarray, shape (bands, y, x)
        The component, and the picture of the galaxy alone.
    noise : float, optional
        Of the sky that was taken away from both, which have no noise of their own. By default
        there is a sky, and its level and noise are estimated.

    Returns
    -------
    Fluxes or None
        In the brightest segment; None if nothing is detected.
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
    """Return the brightest segment that stands out; None if none does."""
    smooth = gaussian_filter(significance.sum(axis=0) / np.sqrt(len(significance)), _SMOOTHING)
    base, scatter, _ = sky_of(smooth)
    scatter = max(scatter, 1 / (2 * np.sqrt(np.pi) * _SMOOTHING))  # what is left of white noise
    labels, number = label(smooth > base + _THRESHOLD * scatter, np.ones((3, 3)))
    area = np.bincount(labels.ravel(), minlength=number + 1)
    light = np.bincount(labels.ravel(), smooth.ravel(), minlength=number + 1)
    light[0], light[area < _SMALLEST] = -np.inf, -np.inf
    best = light.argmax()
    return labels == best if light[best] > 0 else None
