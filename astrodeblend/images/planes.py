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
    return exact.array * (1 if exact.unit is None or unit is None else exact.unit.to(unit))


def noise_per_weight(data, deviation, hidden):
    """Return the noise of a band over 1 / sqrt(weight).

    The noise comes from the median difference of pixels four apart, which galaxies hardly change.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        pairs = (data[:, 4:] - data[:, :-4]) / np.hypot(deviation[:, 4:], deviation[:, :-4])
    pairs = pairs[~(hidden[:, 4:] | hidden[:, :-4])]
    return np.median(np.abs(pairs)) / 0.6745 if pairs.size else 1.0


def compact(values, hidden=False, least=1e-15):
    """Copy an array as float32; as float64 if most values are below ``least`` or above 1 / least.

    With the default, the squares of float32 values are in the range of float32, too.
    """
    with np.errstate(over="ignore"):
        copy = np.array(values, dtype=np.float32, order="C")
    size = np.abs(copy)
    some = np.logical_not(hidden) & np.isfinite(values) & (np.asarray(values) != 0)
    if 2 * np.count_nonzero(some & ((size < least) | (size > 1 / least))) > np.count_nonzero(some):
        copy = np.array(values, dtype=np.float64, order="C")
    return copy
