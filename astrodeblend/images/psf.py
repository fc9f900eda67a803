"""The full width at half maximum of the PSF by band: as given, or from the header."""

import re
import warnings
from numbers import Real

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.modeling.fitting import TRFLSQFitter
from astropy.nddata import NDData
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs.utils import proj_plane_pixel_area

from .errors import leave_aside

_LEAST, _MOST = 0.5, 50.0  # pixels, FWHM; a width outside is a mistake, or in another unit
PSF_INPUTS = (
    "give the full width at half maximum, in pixels or as an angle, an image of the PSF, the path "
    "of one, or a model; one for all bands, or one for each"
)
# Cards with the FWHM of the PSF (the first one present is used) and the unit where their comment
# names none; None: such a card is ignored. PRODCATG marks ESO data products; elsewhere PSF_FWHM
# is often in pixels.
_CARDS = {"PSF_FWHM": None, "CHIP.SEEING": u.pix, "L1FWHM": None, "FWHM": None, "SEEING": None}
_ESO = {"PSF_FWHM": u.arcsec}
_UNITS = {u.arcsec: r"arc ?-?sec|\basec", u.pix: "pix"}
_NOT_THE_IMAGE = re.compile("dimm|zenith|request|predict|guid", re.IGNORECASE)


def pixel_width(wcs):
    """Return the width of a pixel: the square root of its area on the sky."""
    return np.sqrt(proj_plane_pixel_area(wcs)) * u.deg


def psf_widths(psf, bands):
    """Return the given PSF as widths: a Quantity or None for each band."""
    widths = _widths(psf)
    if len(widths) == 1:
        widths = widths * bands
    if len(widths) != bands:
        raise ValueError(f"psf is for {len(widths)} bands, and there are {bands}; {PSF_INPUTS}")
    return widths


def psf_in_pixels(psf, bands, header, wcs, said):
    """Return the full width at half maximum of the PSF by band, in pixels; NaN if unknown."""
    widths = psf_widths(psf, bands)
    if bands == 1 and widths[0] is None:
        return np.array([_from_header(header, wcs, said)])
    return np.array([np.nan if width is None else _checked(width, wcs) for width in widths])


def _checked(width, wcs):
    """Return a given width in pixels; refuse one out of range."""
    if width.unit.physical_type == "angle":
        if wcs is None:
            text = "and the image has no celestial WCS; give the width in pixels"
            raise ValueError(f"psf is {width:.4g}, {text}")
        pixels = (width / pixel_width(wcs)).to_value(u.one)
    else:
        pixels = width.value
    if not (np.isnan(pixels) or _LEAST <= pixels <= _MOST):
        means = "" if width.unit == u.pix else f", that is {pixels:.4g} pixels"
        text = f"a width has to be {_LEAST:g} to {_MOST:g} pixels, or NaN where it is not known"
        raise ValueError(f"psf is {width:.4g}{means}; {text}")
    return pixels


def _from_header(header, wcs, said):
    """Return the FWHM in pixels that a header states, or NaN."""
    for key, unit in (_CARDS | (_ESO if "PRODCATG" in header else {})).items():
        value, comment = header.get(key), header.comments[key] if key in header else ""
        if not isinstance(value, Real) or isinstance(value, bool) or np.isnan(value):
            continue
        if _NOT_THE_IMAGE.search(comment):
            continue
        named = [name for name, text in _UNITS.items() if re.search(text, comment, re.IGNORECASE)]
        unit = named[0] if len(named) == 1 else None if named else unit
        card = f"{key} = {value:g}{'' if unit is None else f' {unit}'}"
        if unit is None or (unit == u.arcsec and wcs is None):
            lacks = "unit" if unit is None else "pixel scale"
            said.append(f"{card} has no {lacks}: the PSF is not known from it")
            continue
        pixels = float(value if unit == u.pix else (value * unit / pixel_width(wcs)).to(u.one))
        if _LEAST <= pixels <= _MOST:
            said.append(f"the PSF is {pixels:.3g} pixels wide at half maximum: {card}")
            return pixels
        text = f"is no width of a PSF ({pixels:.3g} pixels): it is ignored, give psf (--psf)"
        leave_aside(said, f"{card} {text}")
    return np.nan


def _widths(psf):
    """Return the FWHM of each PSF given, a Quantity, or None where it is unknown."""
    if psf is None:
        return [None]
    if isinstance(psf, list | tuple):
        return [width for one in psf for width in _widths(one)]
    if isinstance(psf, NDData | fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU):
        scale = psf.header.get("PIXELSCL") if hasattr(psf, "header") else None
        widths = _widths(np.asarray(psf.data))
        return [width.value * scale * u.arcsec for width in widths] if scale else widths
    if callable(psf) and hasattr(psf, "param_names"):
        return [_of_model(psf)]
    unit = getattr(psf, "unit", None) or u.pix
    values = np.asarray(getattr(psf, "value", psf))
    if values.dtype.kind not in "iuf" or values.ndim > 3 or not values.size:
        raise TypeError(f"psf is of type {type(psf).__name__}, shape {values.shape}; {PSF_INPUTS}")
    if values.ndim > 1:
        return [_of_image(image) for image in values.reshape(-1, *values.shape[-2:])]
    if unit == u.one:
        unit = u.pix
    if unit != u.pix and unit.physical_type != "angle":
        raise ValueError(f"psf is in {unit}; {PSF_INPUTS}")
    return list(np.atleast_1d(values).astype(float) * unit)


def _of_model(model):
    """Return the FWHM of a PSF model of photutils or astropy: its parameter, or measured."""
    found = [getattr(model, name, None) for name in ("fwhm", "x_fwhm", "y_fwhm")]
    if found := [width for width in found if width is not None]:  # parameters, or numbers
        values = [np.squeeze(getattr(width, "value", width)) for width in found]
        units = [getattr(width, "unit", None) or u.pix for width in found]
        found = [value * unit for value, unit in zip(values, units, strict=True)]
        return np.sqrt(found[0] * found[-1])
    middle = [getattr(model, name, 0.0) for name in ("x_0", "y_0")]
    fine = 8  # points per pixel
    x, y = (float(np.squeeze(m)) + np.arange(-30 * fine, 30 * fine + 1) / fine for m in middle)
    return _star(model(*np.meshgrid(x, y)))[2] / fine * u.pix


def _star(image):
    """Return the position (y, x) and the approximate FWHM of the star in an image of the PSF."""
    y, x = np.unravel_index(image.argmax(), image.shape)
    width = 2 * np.sqrt(np.count_nonzero(image >= image[y, x] / 2) / np.pi)
    inside = all(
        0 < k < n - 1 and width <= n / 1.5 for k, n in zip((y, x), image.shape, strict=True)
    )
    if not (inside and image[y, x] > 0 and np.isfinite(image).all()):
        values = f"of shape {image.shape}, with values from {image.min():.4g} to {image.max():.4g}"
        text = "it has to show one star, all of it, on a sky of zero, all values finite"
        raise ValueError(f"psf is an image {values}; {text}")
    return y, x, width


def _of_image(image):
    """Return the FWHM of a circular Moffat profile fitted to an image of the PSF."""
    from photutils.psf import MoffatPSF  # slow to import, rarely needed

    image = np.asarray(image, dtype=float)
    if min(image.shape) < 5 or max(image.shape) > 1.25 * min(image.shape):
        text = "it has to be about square, with 5 pixels or more along each side"
        raise ValueError(f"psf is an image of shape {image.shape}; {text}")
    y, x, width = _star(image)
    near = int(np.ceil(3 * max(width, 2)))
    part = tuple(slice(max(middle - near, 0), middle + near + 1) for middle in (y, x))
    rows, columns = (axis[part] for axis in np.indices(image.shape))
    start = MoffatPSF(flux=1, x_0=x, y_0=y, alpha=max(width, 1.5), beta=3)
    for name in start.param_names:
        getattr(start, name).fixed = False
    start.beta.bounds = (1.01, 30)  # a Moffat of beta 30 is nearly a Gaussian
    values = image[part] / image[part].sum()
    try:
        with warnings.catch_warnings(action="error", category=AstropyUserWarning):
            fit = TRFLSQFitter()(start, columns, rows, values, maxiter=1000)
    except AstropyUserWarning as warning:
        text = f"no profile fits to it ({warning}); give the width"
        raise ValueError(f"psf is an image of shape {image.shape}; {text}") from warning
    return float(np.squeeze(fit.fwhm)) * u.pix
