"""What makes the deviations that a network expects into intervals that hold the truth.

An error bar is about the difference between a component and the picture that the galaxy alone
would have given, noise and all: within one standard deviation lie 68.3 % of the truths. Errors
of deblending have longer tails than Gaussian ones, so a factor for 95.4 % goes with it.
"""

from dataclasses import asdict, dataclass, field, replace

import numpy as np
from scipy import ndimage

__all__ = ["Calibration", "log_peaks", "pixel_features"]

_HALF = 0.5  # of a galaxy's peak: where light is that bright, half of the deviation is coherent
_DARK = 1e-4  # network values up to this do not tell whose light it is


@dataclass(frozen=True)
class Calibration:
    """What a model's deviations have to be multiplied with, as a model's card holds it.

    The defaults take deviations as they come, for those of independent Gaussian errors.

    Parameters
    ----------
    log_ratio, fraction : tuple of float
        Nodes, ascending: the logarithm of a pixel's deviation over its light in the blend, and
        the part of that light that the component has. Neither changes if the blend is scaled.
    log_factor : tuple of tuple of float
        The logarithm of the factor at each node of ``log_ratio`` and ``fraction``; bilinear
        between them, constant beyond.
    log_peak, log_peak_factor : tuple of float
        Nodes, ascending: the logarithm of a component's peak in a band, in units of the noise; and
        of one more factor there, linear between them, for the errors of bright galaxies are other
        than their pixels tell. Empty if there is none.
    coherent, independent, level : float
        Factors of the three parts of a flux's error: of the deviations of its pixels that add
        up, because errors of deblending go together (`coherent_std`); of those that add in
        quadrature over the stamp's pixels; and of the noise of the sky times the area, because
        the sky's level is known to so much only. The parts add in quadrature.
    noise : float
        Factor of the noise of the image in a flux: a network that knows how galaxies look is less
        off than the sum of noisy pixels.
    kron : float
        Factor for fluxes in Kron's aperture, which reaches farther than a segment.
    interval_95 : dict of float
        How many standard deviations to either side hold 95.4 % of the truths, of a ``pixel`` and
        of a ``flux``.
    fit : dict
        What it was fitted to.
    in_noise : bool
        Whether values are in units of the sky's noise, so that they are what they are: then
        ``log_ratio`` is of the deviation itself.
    in_scenes : dict
        The same, in plain values, of components of whole scenes, asked for one by one and made to
        agree: in linear flux they are better than those of one stamp; among many galaxies of a
        picture more goes wrong. Empty if that makes no difference.
    apportioned : dict
        What is different of fluxes of the image's light, shared out: some of ``coherent``,
        ``independent``, ``level``, ``noise``, ``kron`` and ``interval_95``.
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
        """Return plain values for a card."""
        return asdict(self)

    def of_scenes(self):
        """Return the calibration of components that were asked for one by one."""
        return Calibration(**self.in_scenes) if self.in_scenes else self

    def of_fluxes(self):
        """Return what of it is about fluxes and intervals, as plain values."""
        names = ("coherent", "independent", "level", "noise", "kron", "interval_95", "apportioned")
        return {name: getattr(self, name) for name in names}

    def of_light(self, light):
        """Return the calibration of fluxes of a kind of light.

        Parameters
        ----------
        light : {'apportioned', 'network'}
            As `astrodeblend.Scene.with_light` takes it.

        Returns
        -------
        Calibration
        """
        return replace(self, **self.apportioned) if light == "apportioned" else self

    def std(self, std, components, blend):
        """Return calibrated standard deviations of pixels.

        Parameters
        ----------
        std, components, blend : numpy.ndarray
            What the network expects, its components, and the blend, in its own units; shapes
            (..., y, x) that broadcast to that of ``std``.

        Returns
        -------
        numpy.ndarray
            As ``std``.
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
        """Return the part of the deviations that adds up in a flux.

        Where a galaxy is bright the errors of its pixels have the same sign, as light went to
        the wrong galaxy or came from it; in its faint parts they are noise.

        Parameters
        ----------
        light, std : numpy.ndarray, shape (..., y, x)
            Of a component above its sky, and its deviation by deblending.
        footprint : numpy.ndarray of bool
            Where the galaxy is, of a shape that broadcasts to ``light``; its peak there counts.

        Returns
        -------
        numpy.ndarray
            As ``light``, to be summed over the pixels of a flux.
        """
        light = np.maximum(light, 0)
        peak = np.max(np.where(footprint, light, 0), axis=(-2, -1), keepdims=True)
        half = _HALF * np.where(peak > 0, peak, 1)
        return self.coherent * std * light / (light + half)

    def flux_std(self, light, std, footprint, noise, *, scale=1.0):
        """Return the standard deviation of the flux in a footprint that deblending makes.

        Parameters
        ----------
        light, std, footprint : numpy.ndarray
            As in `coherent_std`.
        noise : numpy.ndarray, shape (...)
            Of the sky, per pixel.
        scale : float, optional
            Width of a pixel of the network's stamp in the pixels of ``light``.

        Returns
        -------
        numpy.ndarray, shape (...)
        """
        inside = np.broadcast_to(footprint, np.shape(light))
        sums = [
            np.where(inside, values, 0).sum(axis=(-2, -1))
            for values in (self.coherent_std(light, std, footprint), np.square(std))
        ]
        area = np.count_nonzero(inside, axis=(-2, -1))
        return self.combined(sums[0], sums[1], area, noise, scale=scale)

    def combined(self, coherent, variance, area, noise, *, scale=1.0):
        """Put the parts of a flux's error together.

        Parameters
        ----------
        coherent, variance, area : numpy.ndarray
            Sums over the pixels of a flux: of `coherent_std`, of the squared deviations, of 1.
        noise : numpy.ndarray
            Of the sky, per pixel.
        scale : float, optional
            Width of a pixel of the network's stamp in these pixels: so far errors are the same.

        Returns
        -------
        numpy.ndarray
            The flux's standard deviation by deblending.
        """
        independent = (self.independent * scale) ** 2 * variance
        return np.sqrt(coherent**2 + independent + (self.level * noise * area) ** 2)


def pixel_features(std, components, blend, *, in_noise=False):
    """Return what the factor of a pixel depends on.

    Parameters
    ----------
    std, components, blend : numpy.ndarray
        As in `Calibration.std`.
    in_noise : bool, optional
        As for `Calibration`.

    Returns
    -------
    log_ratio, fraction : numpy.ndarray
        The logarithm of the deviation over the light of the blend (or itself), and the part of
        that light that the component has.
    """
    light = np.maximum(blend, _DARK)
    ratio = np.maximum(std, np.finfo(np.float32).tiny) / (1 if in_noise else light)
    return np.log(ratio), components / light


def log_peaks(components):
    """Return the logarithm of the peak of each component in each band.

    Parameters
    ----------
    components : numpy.ndarray, shape (..., y, x)

    Returns
    -------
    numpy.ndarray, shape (..., 1, 1)
    """
    return np.log(np.maximum(np.max(components, axis=(-2, -1), keepdims=True), _DARK))
