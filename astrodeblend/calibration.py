"""Calibration of error bars: factors for a network's standard deviations.

The error of a component is its difference from the image of the galaxy alone, with its noise: 68.3
% of the truths lie within one standard deviation. Errors of deblending have longer tails than a
Gaussian, so the half width of the 95.4 % interval is fitted, too.
"""

from dataclasses import asdict, dataclass, field, replace

import numpy as np
from scipy import ndimage

from .sky import sky_of

__all__ = ["Calibration", "Fluxes", "ask_in_turn", "log_peaks", "measure_segment", "pixel_features"]

_HALF = 0.5  # fraction of a galaxy's peak: light at which half of the deviation is coherent
DARK = 1e-4  # network values: light of the blend below which its fraction is undefined
# Segments are detected as in `astrodeblend.detect.find_sources`.
_SMOOTHING = 2 / np.sqrt(8 * np.log(2))  # pixels: standard deviation of a kernel of FWHM 2
_THRESHOLD = 5.0  # standard deviations of the smoothed sky
_SMALLEST = 10  # pixels of a segment
_LEAST_NOISE = 1e-5  # units of the image; keeps images without noise finite


@dataclass(frozen=True)
class Calibration:
    """Factors for a model's standard deviations, from its card.

    The defaults leave deviations unchanged, as for independent Gaussian errors.

    Parameters
    ----------
    log_ratio, fraction : tuple of float
        Nodes, ascending: the logarithm of a pixel's deviation over its light in the blend, and
        the component's fraction of that light. Neither depends on the scale of the blend.
    log_factor : tuple of tuple of float
        Logarithm of the factor at each node of ``log_ratio`` and ``fraction``; bilinear between
        them, constant beyond.
    log_peak, log_peak_factor : tuple of float
        Nodes, ascending: the logarithm of a component's peak in a band, in units of the noise;
        and the logarithm of a second factor there, linear between them, for the errors of bright
        galaxies. Empty if there is none.
    coherent, independent, level : float
        Factors of the three parts of a flux's error, which add in quadrature: the sum of the
        correlated deviations of its pixels (`coherent_std`); the quadratic sum of deviations over
        the stamp's pixels; and the sky noise times the area, for the error of the sky level.
    noise : float
        Factor of the image's noise in a flux; below 1, as a network suppresses noise.
    kron : float
        Factor for fluxes in the Kron aperture, which is larger than a segment.
    interval_95 : dict of float
        Half width, in standard deviations, of the interval with 95.4 % of the truths, for a
        ``pixel`` and for a ``flux``.
    fit : dict
        The data of the fit.
    in_noise : bool
        Whether values are in units of the sky noise: then ``log_ratio`` is the logarithm of the
        deviation itself.
    in_scenes : dict
        The fields of the calibration of scenes, whose components are deblended one by one and
        agree with the image in their sum. In linear flux their errors are smaller than those of one
        stamp, among many galaxies of a picture larger. Empty if they are equal.
    apportioned : dict
        The fields that differ for fluxes of apportioned light, of ``coherent``, ``independent``,
        ``level``, ``noise``, ``kron`` and ``interval_95``.
    """

    log_ratio: tuple[float, ...] = (0.0,)
    fraction: tuple[float, ...] = (0.0,)
    log_factor: tuple[tuple[float, ...], ...] = ((0.0,),)
    log_peak: tuple[float, ...] = ()
    log_peak_factor: tuple[float, ...] = ()
    coherent: float = 0.0
    independent: float = 1.0
    level: float = 0.0
    noise: float = 1.0
    kron: float = 1.0
    interval_95: dict[str, float] = field(default_factory=lambda: {"pixel": 2.0, "flux": 2.0})
    fit: dict = field(default_factory=dict)
    in_noise: bool = False
    in_scenes: dict = field(default_factory=dict)
    apportioned: dict = field(default_factory=dict)

    def __post_init__(self):
        table = np.asarray(self.log_factor, float)
        if table.shape != (len(self.log_ratio), len(self.fraction)):
            raise ValueError(
                f"log_factor has shape {table.shape}; give ({len(self.log_ratio)}, "
                f"{len(self.fraction)}), a number for each node of log_ratio and fraction"
            )
        if len(self.log_peak) != len(self.log_peak_factor):
            raise ValueError(
                f"log_peak_factor has {len(self.log_peak_factor)} numbers; give "
                f"{len(self.log_peak)}, one for each node of log_peak"
            )

    def to_dict(self):
        """Return the fields as a dict of plain values, for a card."""
        return asdict(self)

    def of_scenes(self):
        """Return the calibration of components of scenes."""
        return Calibration(**self.in_scenes) if self.in_scenes else self

    def of_fluxes(self):
        """Return the fields for fluxes and intervals as plain values."""
        names = ("coherent", "independent", "level", "noise", "kron", "interval_95", "apportioned")
        return {name: getattr(self, name) for name in names}

    def of_light(self, light):
        """Return the calibration of fluxes of one kind of light.

        Parameters
        ----------
        light : {'apportioned', 'network'}
            As in `astrodeblend.Scene.with_light`.
        """
        return replace(self, **self.apportioned) if light == "apportioned" else self

    def std(self, std, components, blend):
        """Return calibrated standard deviations of pixels.

        Parameters
        ----------
        std, components, blend : numpy.ndarray
            The network's standard deviations and components, and the blend, in the network's
            units; shapes (..., y, x) that broadcast to that of ``std``.

        Returns
        -------
        numpy.ndarray
            The shape of ``std``.
        """
        if len(self.log_ratio) == len(self.fraction) == 1:
            return std * std.dtype.type(np.exp(self.log_factor[0][0]))
        values = pixel_features(std, components, blend, in_noise=self.in_noise)
        places = [
            np.interp(value, nodes, np.arange(len(nodes)))
            for value, nodes in zip(values, (self.log_ratio, self.fraction), strict=True)
        ]
        table = np.asarray(self.log_factor, float)
        log_factor = ndimage.map_coordinates(table, places, order=1, mode="nearest")
        if self.log_peak:
            log_factor += np.interp(log_peaks(components), self.log_peak, self.log_peak_factor)
        return (std * np.exp(log_factor)).astype(std.dtype)

    def coherent_std(self, light, std, footprint):
        """Return the correlated part of the deviations, which adds linearly in a flux.

        In the bright parts of a galaxy the errors of pixels have one sign, since light was assigned
        to or taken from another galaxy; in its faint parts they are noise.

        Parameters
        ----------
        light, std : numpy.ndarray, shape (..., y, x)
            A component's sky-subtracted light, and its standard deviation.
        footprint : numpy.ndarray of bool
            Pixels of the galaxy, in which its peak is taken; the shape broadcasts to ``light``.

        Returns
        -------
        numpy.ndarray
            The shape of ``light``, to be summed over the pixels of a flux.
        """
        light = np.maximum(light, 0)
        peak = np.max(np.where(footprint, light, 0), axis=(-2, -1), keepdims=True)
        half = _HALF * np.where(peak > 0, peak, 1)
        return self.coherent * std * light / (light + half)

    def flux_std(self, light, std, footprint, noise):
        """Return the standard deviation by deblending of the flux in a footprint, shape (...).

        Parameters
        ----------
        light, std, footprint : numpy.ndarray
            As in `coherent_std`.
        noise : numpy.ndarray, shape (...)
            Sky noise of a pixel.
        """
        inside = np.broadcast_to(footprint, np.shape(light))
        sums = [
            np.where(inside, values, 0).sum(axis=(-2, -1))
            for values in (self.coherent_std(light, std, footprint), np.square(std))
        ]
        area = np.count_nonzero(inside, axis=(-2, -1))
        return self.combined(*sums, area, noise)

    def combined(self, coherent, variance, area, noise, *, scale=1.0):
        """Return the quadratic sum of the parts of a flux's error.

        Parameters
        ----------
        coherent, variance, area : numpy.ndarray
            Sums over the pixels of a flux of `coherent_std`, of squared deviations, and of 1.
        noise : numpy.ndarray
            Sky noise of a pixel.
        scale : float, optional
            Width of a pixel of the network's stamp in these pixels, within which errors are equal.

        Returns
        -------
        numpy.ndarray
            The standard deviation by deblending of the flux.
        """
        independent = (self.independent * scale) ** 2 * variance
        return np.sqrt(coherent**2 + independent + (self.level * noise * area) ** 2)


def pixel_features(std, components, blend, *, in_noise=False):
    """Return the two quantities on which the factor of a pixel depends.

    Parameters
    ----------
    std, components, blend : numpy.ndarray
        As in `Calibration.std`.
    in_noise : bool, optional
        As in `Calibration`.

    Returns
    -------
    log_ratio, fraction : numpy.ndarray
        Logarithm of the deviation over the light of the blend (or of the deviation itself), and
        the component's fraction of that light.
    """
    light = np.maximum(blend, DARK)
    ratio = np.maximum(std, np.finfo(np.float32).tiny) / (1 if in_noise else light)
    return np.log(ratio), components / light


def log_peaks(components):
    """Return ln(peak) of each component in each band, shape (..., 1, 1).

    Parameters
    ----------
    components : numpy.ndarray
        Shape (..., y, x).
    """
    return np.log(np.maximum(np.max(components, axis=(-2, -1), keepdims=True), DARK))


def ask_in_turn(answer, blend, positions):
    """Deblend every source of blends in turn, each in the middle of a stamp, as in scenes.

    Parameters
    ----------
    answer : callable
        Takes stamps (n, bands, y, x) and positions (n, sources, 2); returns components and their
        standard deviations, (n, 2, bands, y, x) each, those of the first position first.
    blend : numpy.ndarray, shape (n, bands, y, x)
        As ``answer`` takes it; stamps are 0 beyond it.
    positions : numpy.ndarray, shape (n, sources, 2)
        Positions of the sources, x and y in pixels; NaN for none.

    Returns
    -------
    components, std : numpy.ndarray, shape (n, sources, bands, y, x)
        The component in the middle of each source's stamp, shifted back to its position.
    """
    sources = positions.shape[1]
    middle = (np.array(blend.shape[:-3:-1]) - 1) / 2
    light, deviation = [], []
    for k in range(sources):
        shifts = np.rint(np.nan_to_num(middle - positions[:, k])).astype(int)
        order = np.roll(np.arange(sources), -k)
        moved = positions[:, order] + shifts[:, None]
        moved[:, 0] = np.where(np.isfinite(moved[:, 0]), moved[:, 0], middle)
        answers = answer(recentred(blend, shifts), moved)
        for each, found in zip((light, deviation), answers, strict=True):
            each.append(recentred(found[:, 0], -shifts))
    return np.stack(light, axis=1), np.stack(deviation, axis=1)


def recentred(stamps, shifts):
    """Shift images (n, ..., y, x) by whole pixels, x and y (n, 2); new pixels are 0."""
    still = (stamps.ndim - 3) * (0,)
    moved = [
        ndimage.shift(stamp, (*still, y, x), order=0)
        for stamp, (x, y) in zip(stamps, shifts, strict=True)
    ]
    return np.stack(moved)


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
        """Error of the flux, shape (bands,)."""
        return (self.light - self.true_light)[:, self.segment].sum(axis=1)

    def grown(self, part):
        """Return the fluxes in a segment that is larger by a fraction of its radius.

        Parameters
        ----------
        part : float
            Fraction of the radius of a circle with the segment's area.
        """
        steps = 1 + int(part * np.sqrt(np.count_nonzero(self.segment) / np.pi))
        return replace(self, segment=ndimage.binary_dilation(self.segment, iterations=steps))


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
    together = significance.sum(axis=0) / np.sqrt(len(significance))
    smooth = ndimage.gaussian_filter(together, _SMOOTHING)
    base, scatter, _ = sky_of(smooth)
    scatter = max(scatter, 1 / (2 * np.sqrt(np.pi) * _SMOOTHING))  # what is left of white noise
    labels, number = ndimage.label(smooth > base + _THRESHOLD * scatter, np.ones((3, 3)))
    area = np.bincount(labels.ravel(), minlength=number + 1)
    light = np.bincount(labels.ravel(), smooth.ravel(), minlength=number + 1)
    light[0], light[area < _SMALLEST] = -np.inf, -np.inf
    best = light.argmax()
    return labels == best if light[best] > 0 else None
