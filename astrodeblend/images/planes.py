"""Uncertainties and masks of images, and their dtype."""

import numpy as np
from astropy.nddata import InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty

__all__ = [
    "RelativeWeight",
    "changed",
    "compact",
    "is_plain_mask",
    "noise_per_weight",
    "standard_deviation",
]

_KINDS = (StdDevUncertainty, VarianceUncertainty, InverseVariance)


class RelativeWeight(InverseVariance):
    """Weights: inverse variances, or only proportional to them."""


def changed(image, data, *, deviation=None, **parts):
    """Return an image with other data; all other parts stay, but the uncertainty only if given."""
    kept = {name: getattr(image, name) for name in ("unit", "mask", "wcs", "meta")}
    uncertainty = None if deviation is None else StdDevUncertainty(deviation, copy=False)
    return NDData(data, **{"uncertainty": uncertainty} | kept | parts)


def is_plain_mask(values):
    """Return whether an array is a mask (0 and 1, or 0 and 255), not bit planes."""
    true = 255 if values.dtype == np.uint8 and values.max(initial=0) == 255 else 1
    return bool(((values == 0) | (values == true)).all())


def standard_deviation(uncertainty, unit):
    """Return an uncertainty as float64 standard deviations in a unit.

    A weight of zero gives infinity, a negative variance NaN.
    """
    if not isinstance(uncertainty, _KINDS) or uncertainty.array is None:
        kinds = ", ".join(kind.__name__ for kind in _KINDS)
        text = f"uncertainty of type {type(uncertainty).__name__}; make it one of {kinds}"
        raise TypeError(f"image has an {text}, or leave it out")
    exact = type(uncertainty)(np.asarray(uncertainty.array, np.float64), unit=uncertainty.unit)
    if not isinstance(exact, StdDevUncertainty):
        with np.errstate(divide="ignore", invalid="ignore"):
            exact = exact.represent_as(StdDevUncertainty)
    if exact.unit is None or unit is None:
        return exact.array
    if not exact.unit.is_equivalent(unit):
        text = "give both in units that convert into each other"
        raise ValueError(f"the uncertainty is in {exact.unit} and the image in {unit}; {text}")
    return exact.array * exact.unit.to(unit)


def noise_per_weight(data, deviation, hidden):
    """Return the noise of a band over 1 / sqrt(weight).

    The noise comes from the median difference of pixels four apart, which galaxies hardly change.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        pairs = (data[:, 4:] - data[:, :-4]) / np.hypot(deviation[:, 4:], deviation[:, :-4])
    pairs = pairs[~(hidden[:, 4:] | hidden[:, :-4])]
    return np.median(np.abs(pairs)) / 0.6745 if pairs.size else 1.0


def compact(values, hidden=False, least=1e-15):
    """Copy an array as float32; as float64 where most values would be inexact.

    They are below ``least`` or above 1 / least, or so far from zero that rounding them is visible:
    more than 1 % of the difference of neighbours. With the default, the squares of float32 values
    are in the range of float32, too.
    """
    with np.errstate(over="ignore"):
        copy = np.array(values, dtype=np.float32, order="C")
    size = np.abs(copy)
    some = np.logical_not(hidden) & np.isfinite(values) & (np.asarray(values) != 0)
    beyond = 2 * np.count_nonzero(some & ((size < least) | (size > 1 / least)))
    if beyond > np.count_nonzero(some) or _rounded(np.asarray(values), copy):
        copy = np.array(values, dtype=np.float64, order="C")
    return copy


def _rounded(values, copy):
    """Return whether a copy as float32 has errors visible beside the differences of neighbours."""
    if values.ndim < 2 or (values.dtype.kind == "f" and values.dtype.itemsize <= 4):
        return False
    rows = np.s_[..., :: values.shape[-2] // 256 + 1, :]
    exact = values[rows].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        steps, errors = (np.abs(each) for each in (np.diff(exact), exact - copy[rows]))
    steps, errors = (each[np.isfinite(each)] for each in (steps, errors))
    return steps.size > 0 and errors.size > 0 and 0 < np.median(steps) < 100 * np.median(errors)
