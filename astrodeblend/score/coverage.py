"""Coverage: the share of truths within the error bars of pixels and of fluxes."""

from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from astrodeblend.calibration import measure_segment
from astrodeblend.metrics import isophote

from .report import Measure, share_of, table_lines

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


@dataclass(frozen=True, eq=False)
class Coverage:
    """Counts of truths within error bars, by blend; made by ``of`` and ``join``."""

    pixels: np.ndarray  # (n, branches): pixels in the `isophote` of the truth, times bands
    # (n, branches, multiples + 1): how many of these have their truth within the multiples of the
    # standard deviation, and last within the nominal 95.4 % interval
    within: np.ndarray
    # (bins, multiples + 2): in bins of the standard deviation, number of these pixels, sum of their
    # deviations, and numbers of truths within the multiples
    bins: np.ndarray
    # (n, branches, bands): of the flux in the segment detected in the component; NaN without
    flux_error: np.ndarray
    flux_std: np.ndarray  # its standard deviation
    # half width of the nominal 95.4 % interval, in standard deviations
    interval_95: dict[str, float]

    @classmethod
    def of(cls, components, std, isolated, calibration, *, sky=0.0):
        """Count the truths within the error bars of components.

        ``components``, their calibrated ``std`` and the truth ``isolated`` have the shape (n,
        branches, bands, y, x); ``sky`` is the level of the truth's, (n, bands) or one for all.
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
        """Concatenate coverages of the same calibration."""
        names = ("pixels", "within", "flux_error", "flux_std")
        arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
        return cls(**arrays, bins=sum(p.bins for p in parts), interval_95=parts[0].interval_95)

    def __len__(self):
        return len(self.pixels)

    def rows(self):
        """Return rows of the shares of truths within error bars, as :ref:`score-tables` has them.

        For ``pixels`` and ``fluxes`` they are of both components together and of each branch.
        """
        parts = {"components": slice(None), "central": slice(0, 1), "companion": slice(1, 2)}
        rows = []
        for kind, name in KINDS.items():
            for of, part in parts.items():
                number, within = (each[:, part].sum(axis=1) for each in self._counts(kind))
                rows.append(
                    {"kind": kind, "of": of, "number": int(number.sum())}
                    | share_of("within_68", within[:, _ONE], number)
                    | share_of("within_95", within[:, -1], number)
                    | {"interval_95": self.interval_95[name]}
                )
        return rows

    def curve(self):
        """Return the share of truths as a function of the multiple of the standard deviation.

        By name: the ``multiple``, and the shares within it of a ``normal`` distribution, of
        ``pixels`` and of ``fluxes``.
        """
        curve = {"multiple": MULTIPLES, "normal": erf(MULTIPLES / np.sqrt(2))}
        for kind in KINDS:
            number, within = self._counts(kind)
            total = within[..., :-1].sum(axis=(0, 1))
            curve[kind] = total / number.sum() if number.any() else np.full(total.shape, np.nan)
        return curve

    def binned(self):
        """Return errors in bins of the standard deviation, those with few values left out.

        For ``pixels`` and ``fluxes`` the mean ``std`` in each bin, the 68.3 % quantile of the
        ``error``, and the ``number``.
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


def coverage_lines(table, *words):
    """Return lines on how many truths are within error bars; ``words`` are columns of names."""
    names = ["  " + ", ".join(row) for row in zip(*(table[name] for name in words), strict=True)]
    measures = {
        "number": Measure("", "number", 0),
        "within_68": Measure("", "within 68.3 %", 1, 100),
        "within_95": Measure("", "within 95.4 %", 1, 100),
        "interval_95": Measure("", "which is ± errors", 2),
    }
    return table_lines(table, {"": names}, measures)
