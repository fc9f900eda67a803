"""Components against their truth: sources deblended in turn, fluxes, coverage of error bars.

Coverage is the share of truths within the error bars of pixels and of fluxes.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.special import erf

from ..metrics import bootstrap_error, isophote
from ..sky import sky_of

__all__ = ["Coverage", "Fluxes", "ask_in_turn", "measure_segment"]

#: Multiples of the standard deviation within which truths are counted.
MULTIPLES = np.round(np.arange(0.1, 5.01, 0.1), 1)
#: Share of a normal distribution within one and two standard deviations.
SHARES = {"68": float(erf(np.sqrt(0.5))), "95": float(erf(np.sqrt(2)))}
#: Quantities with error bars: plural (of columns) and singular.
KINDS = {"pixels": "pixel", "fluxes": "flux"}
# Edges of the bins of the standard deviation of pixels, in fractions of full scale.
_EDGES = np.geomspace(1e-3, 1, 13)
_FLUX_BINS = 8  # bins of the standard deviation of fluxes, of equal numbers
_ONE = int(np.searchsorted(MULTIPLES, 1.0))  # index of the multiple 1
_FEWEST = 300  # values: bins with fewer are not listed
_TINY = np.finfo(np.float32).tiny
_RESAMPLES = 200  # bootstrap samples: errors to 5 %

# Segments are detected as in `astrodeblend.detect.find_sources`.
_SMOOTHING = 2 / np.sqrt(8 * np.log(2))  # pixels: standard deviation of a kernel of FWHM 2
_THRESHOLD = 5.0  # standard deviations of the smoothed sky
_SMALLEST = 10  # pixels of a segment
_LEAST_NOISE = 1e-5  # units of the image; keeps images without noise finite


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


@dataclass(frozen=True, eq=False)
class Coverage:
    """Counts of truths within error bars, by blend; made by ``of`` and ``join``.

    Attributes
    ----------
    pixels : numpy.ndarray of int, shape (n, branches)
        Number of pixels in the footprint of the galaxy (`astrodeblend.metrics.isophote` of the
        truth), times bands.
    within : numpy.ndarray of int, shape (n, branches, multiples + 1)
        Number of these whose truth is within 0.1, 0.2 ... 5 standard deviations, and last within
        the nominal 95.4 % interval.
    bins : numpy.ndarray, shape (bins, multiples + 2)
        In bins of the standard deviation: number of these pixels, sum of their deviations, and
        numbers of truths within the multiples.
    flux_error, flux_std : numpy.ndarray, shape (n, branches, bands)
        Error and standard deviation of the flux in the segment detected in the component; NaN
        where nothing is detected.
    interval_95 : dict of float
        Half width of the nominal 95.4 % interval of the calibration, in standard deviations.
    """

    pixels: np.ndarray
    within: np.ndarray
    bins: np.ndarray
    flux_error: np.ndarray
    flux_std: np.ndarray
    interval_95: dict[str, float]

    @classmethod
    def of(cls, components, std, isolated, calibration, *, sky=0.0):
        """Count the truths within the error bars of components.

        Parameters
        ----------
        components, std, isolated : numpy.ndarray, shape (n, branches, bands, y, x)
            Components, their calibrated standard deviations, and the truth.
        calibration : Calibration
            The calibration, for the errors of fluxes.
        sky : float or numpy.ndarray, shape (n, bands), optional
            Sky level of the truth.

        Returns
        -------
        Coverage
        """
        sky = np.broadcast_to(np.asarray(sky, np.float32), isolated[:, 0, :, 0, 0].shape)
        footprint = isophote(isolated - sky[:, None, :, None, None])
        number, branches, bands = components.shape[:3]
        limits = np.append(MULTIPLES, calibration.interval_95["pixel"])
        pixels = bands * np.count_nonzero(footprint, axis=(-2, -1))
        within = np.zeros((number, branches, len(limits)), int)
        bins = np.zeros((len(_EDGES) - 1, len(MULTIPLES) + 2))
        flux_error, flux_std = np.full((2, number, branches, bands), np.nan)
        for k in np.ndindex(number, branches):
            expected = std[k][:, footprint[k]].ravel()
            error = np.abs(components[k] - isolated[k])[:, footprint[k]].ravel()
            off = error / np.maximum(expected, _TINY)
            within[k] = _count(off, limits)
            place = np.searchsorted(_EDGES, expected, side="right") - 1
            for row in np.unique(place[(place >= 0) & (place < len(bins))]):
                chosen = place == row
                counts = _count(off[chosen], MULTIPLES)
                bins[row] += [chosen.sum(), expected[chosen].sum(), *counts]
            fluxes = measure_segment(components[k], isolated[k])
            if fluxes is not None:
                flux_error[k] = fluxes.error
                flux_std[k] = calibration.flux_std(
                    fluxes.light, std[k], fluxes.segment, fluxes.noise
                )
        return cls(pixels, within, bins, flux_error, flux_std, dict(calibration.interval_95))

    @classmethod
    def join(cls, parts):
        """Concatenate coverages.

        Parameters
        ----------
        parts : sequence of Coverage
            Coverages of the same calibration.

        Returns
        -------
        Coverage
        """
        names = ("pixels", "within", "flux_error", "flux_std")
        arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
        return cls(**arrays, bins=sum(p.bins for p in parts), interval_95=parts[0].interval_95)

    def __len__(self):
        return len(self.pixels)

    def rows(self):
        """Return the shares of truths within one standard deviation and within the 95.4 % interval.

        Returns
        -------
        list of dict
            A row for ``pixels`` and for ``fluxes`` ``of`` both components together and of each
            branch: their ``number``; ``within_68``, the share of truths within one standard
            deviation, and ``within_95``, within the nominal 95.4 % interval, with their bootstrap
            errors over blends, ``within_68_error`` and ``within_95_error``; and ``interval_95``,
            the half width of that interval in standard deviations.
        """
        rows = []
        parts = {"components": slice(None), "central": slice(0, 1), "companion": slice(1, 2)}
        for kind, name in KINDS.items():
            number, within = self._counts(kind)
            for of, part in parts.items():
                row = {"kind": kind, "of": of, "number": int(number[:, part].sum())}
                for share, column in (("68", _ONE), ("95", -1)):
                    sums = np.stack([within[..., column], number], axis=-1)[:, part].sum(axis=1)
                    row[f"within_{share}"] = _ratio(sums)
                    row[f"within_{share}_error"] = np.nan
                    if len(sums) > 1:
                        row[f"within_{share}_error"] = bootstrap_error(
                            sums, _ratio, resamples=_RESAMPLES, rng=0
                        )
                row["interval_95"] = self.interval_95[name]
                rows.append(row)
        return rows

    def curve(self):
        """Return the share of truths as a function of the multiple of the standard deviation.

        Returns
        -------
        dict of numpy.ndarray
            The ``multiple`` of the standard deviation, and the shares within it of a ``normal``
            distribution, of ``pixels`` and of ``fluxes``.
        """
        curve = {"multiple": MULTIPLES, "normal": erf(MULTIPLES / np.sqrt(2))}
        for kind in KINDS:
            number, within = self._counts(kind)
            total = within[..., :-1].sum(axis=(0, 1))
            curve[kind] = total / number.sum() if number.any() else np.full(total.shape, np.nan)
        return curve

    def binned(self):
        """Return errors in bins of the standard deviation.

        Returns
        -------
        dict of dict of numpy.ndarray
            For ``pixels`` and ``fluxes`` the mean ``std`` in each bin, the 68.3 % quantile of the
            ``error``, and the ``number``. Bins with few values are left out.
        """
        number, total, *within = self.bins.T
        within = np.stack(within, axis=1)
        chosen = number >= _FEWEST
        number, std = number[chosen], total[chosen] / number[chosen]
        shares = within[chosen] / number[:, None]
        # interpolated between multiples; unknown beyond the last one
        off = [np.interp(SHARES["68"], s, MULTIPLES, right=np.nan) for s in shares]
        pixels = {"std": std, "error": std * off, "number": number}
        known = np.isfinite(self.flux_std)
        error, std = np.abs(self.flux_error[known]), self.flux_std[known]
        rows = []
        for part in np.array_split(np.argsort(std, kind="stable"), _FLUX_BINS):
            if len(part):
                rows.append([std[part].mean(), np.quantile(error[part], SHARES["68"]), len(part)])
        names = ("std", "error", "number")
        columns = np.reshape(rows, (-1, 3)).T
        return {"pixels": pixels, "fluxes": dict(zip(names, columns, strict=True))}

    def _counts(self, kind):
        """Return the number of values (n, branches) and of those within (..., multiples + 1)."""
        if kind == "pixels":
            return self.pixels, self.within
        off = np.abs(self.flux_error) / self.flux_std
        limits = np.append(MULTIPLES, self.interval_95["flux"])
        # NaN is within no interval
        within = (off[..., None] <= limits).sum(axis=-2)
        return np.isfinite(self.flux_std).sum(axis=-1), within


def _count(values, limits):
    """Return the number of values up to each limit."""
    order = np.argsort(limits, kind="stable")
    counts = np.empty(len(limits), int)
    counts[order] = np.searchsorted(np.sort(values), np.asarray(limits)[order], side="right")
    return counts


def _ratio(sums):
    """Return sum of parts over sum of totals, of rows of (part, total)."""
    part, total = sums.sum(axis=0)
    return float(part / total) if total else np.nan
