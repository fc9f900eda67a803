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
    """

    # Nodes, ascending: the logarithm of a pixel's deviation over its light in the blend, and the
    # component's fraction of that light. Neither depends on the scale of the blend.
    log_ratio: tuple[float, ...] = (0.0,)
    fraction: tuple[float, ...] = (0.0,)
    # Logarithm of the factor at each node of both; bilinear between them, constant beyond.
    log_factor: tuple[tuple[float, ...], ...] = ((0.0,),)
    # Nodes, ascending, or none: the logarithm of a component's peak in a band, in units of the
    # noise; and the logarithm of a second factor there, linear between them, for the errors of
    # bright galaxies.
    log_peak: tuple[float, ...] = ()
    log_peak_factor: tuple[float, ...] = ()
    # Factors of the three parts of a flux's error, which add in quadrature: the sum of the
    # correlated deviations of its pixels (`coherent_std`); the quadratic sum of deviations over the
    # stamp's pixels; and the sky noise times the area, for the error of the sky level.
    coherent: float = 0.0
    independent: float = 1.0
    level: float = 0.0
    noise: float = 1.0  # factor of the image's noise in a flux; below 1, as networks suppress it
    kron: float = 1.0  # factor of fluxes in the Kron aperture, which is larger than a segment
    # Half width, in standard deviations, of the interval with 95.4 % of the truths.
    interval_95: dict[str, float] = field(default_factory=lambda: {"pixel": 2.0, "flux": 2.0})
    fit: dict = field(default_factory=dict)  # the data of the fit
    # Whether values are in units of the sky noise: then ``log_ratio`` is the logarithm of the
    # deviation itself.
    in_noise: bool = False
    # The fields of the calibration of scenes, whose components are deblended one by one and agree
    # with the image in their sum. In linear flux their errors are smaller than those of one stamp,
    # among many galaxies of a picture larger. Empty if they are equal.
    in_scenes: dict = field(default_factory=dict)
    # The fields that differ for fluxes of apportioned light, of those of `of_fluxes`.
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
        """Return the calibration of fluxes of one kind of light, apportioned or network."""
        return replace(self, **self.apportioned) if light == "apportioned" else self

    def std(self, std, components, blend):
        """Return calibrated standard deviations of pixels, in the shape of ``std``.

        ``std``, ``components`` and ``blend`` are in the network's units; their shapes (..., y, x)
        broadcast to that of ``std``.
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
        to or taken from another galaxy; in its faint parts they are noise. ``light`` and ``std``
        are those of a component, (..., y, x); its peak is taken in the ``footprint``.
        """
        light = np.maximum(light, 0)
        peak = np.max(np.where(footprint, light, 0), axis=(-2, -1), keepdims=True)
        half = _HALF * np.where(peak > 0, peak, 1)
        return self.coherent * std * light / (light + half)

    def flux_std(self, light, std, footprint, noise):
        """Return the standard deviation by deblending of the flux in a footprint, shape (...).

        ``light``, ``std`` and ``footprint`` are as in `coherent_std`, ``noise`` (...) is the sky's.
        """
        inside = np.broadcast_to(footprint, np.shape(light))
        sums = [
            np.where(inside, values, 0).sum(axis=(-2, -1))
            for values in (self.coherent_std(light, std, footprint), np.square(std))
        ]
        area = np.count_nonzero(inside, axis=(-2, -1))
        return self.combined(*sums, area, noise)

    def combined(self, coherent, variance, area, noise, *, scale=1.0):
        """Return the standard deviation by deblending of a flux, the quadratic sum of its parts.

        ``coherent``, ``variance`` and ``area`` are sums over its pixels of `coherent_std`, of
        squared deviations, and of 1; ``noise`` is the sky's; ``scale`` is the width of a pixel of
        the network's stamp in these pixels, within which errors are equal.
        """
        independent = (self.independent * scale) ** 2 * variance
        return np.sqrt(coherent**2 + independent + (self.level * noise * area) ** 2)


def pixel_features(std, components, blend, *, in_noise=False):
    """Return the two quantities on which the factor of a pixel depends.

    They are the logarithm of the deviation over the light of the blend (of the deviation itself if
    ``in_noise``), and the component's fraction of that light.
    """
    light = np.maximum(blend, DARK)
    ratio = np.maximum(std, np.finfo(np.float32).tiny) / (1 if in_noise else light)
    return np.log(ratio), components / light


def log_peaks(components):
    """Return ln(peak) of each component (..., y, x) in each band, shape (..., 1, 1)."""
    return np.log(np.maximum(np.max(components, axis=(-2, -1), keepdims=True), DARK))


def ask_in_turn(answer, blend, positions):
    """Deblend every source of blends in turn, each in the middle of a stamp, as in scenes.

    ``answer`` takes stamps (n, bands, y, x) and positions (n, sources, 2), the one that is asked
    for first; it returns components and their standard deviations, (n, 2, bands, y, x) each.

    Of a ``blend`` (n, bands, y, x), 0 beyond it, and ``positions`` (n, sources, 2), NaN for none,
    return the component in the middle of each source's stamp, shifted back to its position, and its
    standard deviation, both (n, sources, bands, y, x).
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
    """A component and its truth in a segment; made by `measure_segment`."""

    light: np.ndarray  # (bands, y, x): the component's, above its sky
    true_light: np.ndarray  # that of the galaxy alone, likewise
    noise: np.ndarray  # (bands,): sky noise of the component
    segment: np.ndarray  # (y, x): pixels in which fluxes are measured

    @property
    def error(self):
        """Error of the flux, shape (bands,)."""
        return (self.light - self.true_light)[:, self.segment].sum(axis=1)

    def grown(self, part):
        """Return the fluxes in a segment that is larger by a fraction of its radius."""
        steps = 1 + int(part * np.sqrt(np.count_nonzero(self.segment) / np.pi))
        return replace(self, segment=ndimage.binary_dilation(self.segment, iterations=steps))


def measure_segment(component, isolated, *, noise=None):
    """Return the `Fluxes` of a component and its truth, (bands, y, x) each, or None.

    They are measured in the brightest segment that is detected in the component. ``noise`` is that
    of the sky if both are sky-subtracted and noiseless; else sky level and noise are estimated.
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
