"""The common form of images: their kind, uncertainty and mask, and the dtype of their values."""

from typing import NamedTuple

import numpy as np
from astropy import units as u
from astropy.nddata import InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty

from .errors import leave_aside

KINDS = ("picture", "flux")
_WHITES = (1, 255, 65535)
_FEW = 1e-3  # share of the values that may lie above white or below black in a picture
_UNCERTAINTIES = (StdDevUncertainty, VarianceUncertainty, InverseVariance)


class Origin(NamedTuple):
    """What the type of an input says of its kind, before its values are looked at."""

    told: tuple | None  # kind, white, and why ("" if it was said before), if known
    dtype: str
    colour_last: bool


def kind_by_type(dtype, colour_last, unit, has_more):
    """Return the kind, the value of white and the reason; None if only the values can decide."""
    if unit not in (None, u.dimensionless_unscaled):
        return "flux", None, f"it has the unit {unit}"
    if dtype == "uint8":
        return "picture", 255, "8-bit values without unit"
    if dtype == "uint16" and colour_last:
        return "picture", 65535, "16-bit values, colour last"
    if "int" in dtype and not colour_last:
        return "flux", None, "integers of more than 8 bits"
    if has_more or unit is not None:
        return "flux", None, "it has a unit, a celestial WCS or an uncertainty"
    return None


def kind_in_common(origins, asked):
    """Return the origin of a stack of bands; raise if their kinds differ and none is asked for."""
    told = {origin.told and origin.told[:2]: origin.told for origin in origins}
    if ("flux", None) in told:
        told.pop(None, None)  # floats that are no picture's by themselves
    if asked is None and len(told) > 1:
        text = "some bands of the sequence are pictures and some flux, or white differs"
        raise ValueError(f"{text}; say which by kind='picture' or kind='flux' (--kind)")
    return origins[0]._replace(told=None if len(told) > 1 else next(iter(told.values())))


def with_kind(image, origin, asked=None):
    """Decide the kind of an image: as asked for, else by its type, else by its values.

    Values of a picture below black or above white are clipped.
    """
    known, said = image.meta["astrodeblend"], image.meta["astrodeblend"]["read"]
    told = origin.told
    if asked is not None and (told is None or told[0] != asked):
        white = _white_asked_for(image, origin) if asked == "picture" else None
        told = asked, white, f"kind={asked!r} was asked for"
    known["kind"], white, why = told or _kind_by_values(image, origin)
    known["full_scale"] = white
    if why:
        what = "flux" if white is None else f"a picture in which {white:g} is white"
        said.append(f"read as {what}: {why}")
    if white is None:
        return image
    if origin.colour_last and len(image.data) == 4:
        known["bands"], known["psf"] = tuple("RGB"), known["psf"][:3]
        mask = None if image.mask is None else image.mask[:3]
        if (empty := transparent(image.data[3], said)) is not None:
            mask = np.broadcast_to(empty, image.data[:3].shape) | (False if mask is None else mask)
        uncertainty = None if image.uncertainty is None else image.uncertainty[:3]
        image = changed(image, image.data[:3].copy(), mask=mask, uncertainty=uncertainty)
    values = _valid(image)
    beyond = np.count_nonzero((values < 0) | (values > white))
    if beyond:
        np.clip(image.data, 0, white, out=image.data)
        text = f"{beyond} values beyond black and white (0 and {white:g}) are clipped"
        if beyond > 10 * _FEW * values.size:
            leave_aside(said, f"{text}: is it a picture?")
        else:
            said.append(text)
    return image


def transparent(alpha, said):
    """Return the mask of transparent pixels, which have no data; None if there are none."""
    said.append("of the alpha channel only full transparency is read: no data there")
    empty = alpha == 0
    return empty if empty.any() and not empty.all() else None


def _valid(image):
    return image.data[:3] if image.mask is None else image.data[:3][~image.mask[:3]]


def _white(values, may_be=(True, True, True)):
    whites = (white for white, yes in zip(_WHITES, may_be, strict=True) if yes)
    return next((white for white in whites if np.mean(values > white) <= _FEW), None)


def _kind_by_values(image, origin):
    values, last, white = _valid(image), origin.colour_last, None
    if (last or len(image.data) == 3) and np.mean(values < 0) < _FEW and values.max() > 1 / 255:
        whole = np.mean(values != np.rint(values)) <= _FEW
        white = _white(values, (True, last or whole, last and whole))
    if white is None:
        why = "floats without unit, but not three bands with values that fill a picture's range"
        return "flux", None, why
    return "picture", white, f"three bands without unit, nearly all values from 0 to {white}"


def _white_asked_for(image, origin):
    if origin.dtype in ("uint8", "uint16"):
        return int(np.iinfo(origin.dtype).max)
    white = _white(_valid(image))
    if white is None:
        text = "scale them to at most 1, 255 or 65535, or give kind='flux' (--kind flux)"
        raise ValueError(
            f"kind is 'picture', the values go up to {_valid(image).max():.6g}; {text}"
        )
    return white


class RelativeWeight(InverseVariance):
    """Weights: inverse variances, or only proportional to them."""


def changed(image, data, *, deviation=None, **parts):
    """Return an image with other data; all other parts stay, but the uncertainty only if given."""
    kept = {name: getattr(image, name) for name in ("unit", "mask", "wcs", "meta")}
    uncertainty = None if deviation is None else StdDevUncertainty(deviation, copy=False)
    return NDData(data, **{"uncertainty": uncertainty} | kept | parts)


def plain_mask(values, what="the mask", *, bits=None):
    """Return a mask of 0 and 1, or 0 and 255, as booleans; refuse bit planes (``bits`` by name)."""
    values = np.asarray(values)
    true = 255 if values.dtype == np.uint8 and values.max(initial=0) == 255 else 1
    if bits is None and ((values == 0) | (values == true)).all():
        return values.astype(bool)
    if values.dtype.kind not in "biu":
        text = "it has to be 1 where there is no data, 0 elsewhere"
        raise ValueError(f"{what} has values up to {values.max()}; {text}")
    names = {bit: f"{name} ({bit})" for name, bit in (bits or {}).items()}
    every = int(np.bitwise_or.reduce(values, axis=None))
    found = [names.get(k, str(k)) for k in range(8 * values.dtype.itemsize) if every >> k & 1]
    text = "is known to mean no data; give those that do as mask, as in (planes & 1) > 0"
    raise ValueError(f"{what} has bit planes, of which none ({', '.join(found)} are set) {text}")


def standard_deviation(uncertainty, unit):
    """Return an uncertainty as float64 standard deviations in a unit.

    A weight of zero gives infinity, a negative variance NaN.
    """
    if not isinstance(uncertainty, _UNCERTAINTIES) or uncertainty.array is None:
        kinds = ", ".join(kind.__name__ for kind in _UNCERTAINTIES)
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
