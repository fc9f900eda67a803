"""Masks and uncertainties of any kind and shape, brought to those of the image."""

import numpy as np
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty

__all__ = ["broadcast", "standard_deviation"]

KINDS = (StdDevUncertainty, VarianceUncertainty, InverseVariance)


def standard_deviation(image):
    """Return the uncertainty of an NDData as an array of standard deviations, or None.

    It is float64, in the image's unit. A weight of zero gives infinity, a negative variance NaN.
    """
    uncertainty = image.uncertainty
    if uncertainty is None:
        return None
    if not isinstance(uncertainty, KINDS) or uncertainty.array is None:
        raise TypeError(
            f"image has an uncertainty of type {type(uncertainty).__name__}; "
            f"make it one of {', '.join(kind.__name__ for kind in KINDS)}, or leave it out"
        )
    deviation = type(uncertainty)(
        np.asarray(uncertainty.array, dtype=np.float64), unit=uncertainty.unit, copy=False
    )
    if not isinstance(uncertainty, StdDevUncertainty):
        with np.errstate(divide="ignore", invalid="ignore"):
            deviation = deviation.represent_as(StdDevUncertainty)
    if deviation.unit is None or image.unit is None:
        return deviation.array
    return deviation.array * deviation.unit.to(image.unit)


def broadcast(array, shape, name):
    """Bring a mask or an uncertainty to the image's shape, or say that it does not fit."""
    try:
        return np.broadcast_to(np.asarray(array), shape)
    except ValueError:
        raise ValueError(
            f"the {name} has shape {np.shape(array)} and the image {shape}; make them the same"
        ) from None
