"""The sky in headers: reading a celestial WCS of two axes, and writing it for images and cubes."""

import re
import warnings

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.wcsapi import SlicedLowLevelWCS

__all__ = ["celestial_wcs", "read_wcs", "wcs_to_cards"]


def read_wcs(header, hdulist=None):
    """Read the WCS of an image's x and y, with its distortions; None if they are not celestial.

    A broken WCS gives a warning and None.
    """
    if header.get("NAXIS", 2) < 2:
        return None  # no image, as will be said: nothing to say of its WCS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            # Distortions allow two axes only, so those of a cube have to go while reading.
            wcs = WCS(header, fobj=hdulist, naxis=2)
        except Exception as error:  # noqa: BLE001 - whatever a broken header makes wcslib raise
            _warn(f"the WCS in the header is broken and left aside: {' '.join(str(error).split())}")
            return None
    return wcs if _is_celestial(wcs) else None


def celestial_wcs(wcs):
    """Take the WCS of x and y, as an astropy WCS of two axes, from that of an NDData, or None."""
    if wcs is None:
        return None
    wcs, corner = wcs.low_level_wcs, (slice(None), slice(None))
    if isinstance(wcs, SlicedLowLevelWCS):  # from slicing an NDData; there is no public way back
        wcs, corner = wcs._wcs, tuple(wcs._slices_array[-2:])
    has_both = all(isinstance(cut, slice) for cut in corner)
    if not (has_both and isinstance(wcs, WCS) and _is_celestial(wcs)):
        _warn(
            f"the WCS ({type(wcs).__name__}) is left aside: it is no FITS WCS with the celestial "
            "axes along x and y"
        )
        return None
    # The property `celestial` fails in wcslib for a cube with TPV distortion.
    wcs = wcs.deepcopy() if wcs.naxis == 2 else read_wcs(wcs.to_header(relax=True))
    return wcs[corner]


def wcs_to_cards(wcs, ndim):
    """Write a celestial WCS.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
        Of two axes.
    ndim : {2, 3}
        Dimensions of the image; in a cube the third axis counts the bands.

    Returns
    -------
    cards : `~astropy.io.fits.Header`
    tables : list of `~astropy.io.fits.ImageHDU`
        The look-up tables of its distortion.
    """
    if ndim == 3:
        wcs = _sip_to_tpv(wcs)
    primary, *tables = wcs.to_fits(relax=True)
    if ndim == 2:
        return primary.header, tables
    if tables or wcs.sip is not None:
        _warn(
            "the distortion in the WCS is one for two axes: read the cube's WCS with "
            "WCS(header, hdulist, naxis=2)"
        )
        return primary.header, tables
    cube = wcs.sub([1, 2, 0])
    cube.wcs.crpix = [*wcs.wcs.crpix, 1]
    cube.wcs.crval = [*wcs.wcs.crval, 1]
    return cube.to_header(relax=True), []


def _is_celestial(wcs):
    try:
        wcs.wcs.set()
    except ValueError:  # wcslib's errors are ValueErrors
        return False
    return {wcs.wcs.lng, wcs.wcs.lat} == {0, 1}


def _warn(message):
    warnings.warn(message, AstropyUserWarning, stacklevel=3)


def _sip_to_tpv(wcs):
    """Write the SIP distortion of a gnomonic WCS as TPV, which has no limit to two axes.

    SIP adds a polynomial before the matrix that turns pixels into degrees, TPV after it, so
    that each SIP up to the 7th order has an exact TPV (Shupe et al. 2012, doi
    10.1117/12.925460). Any other WCS is returned as it is.
    """
    sip = wcs.sip
    if sip is None or not all(ctype.endswith("-TAN-SIP") for ctype in wcs.wcs.ctype):
        return wcs
    degree = max(sip.a_order or 0, sip.b_order or 0)
    if degree > 7:
        return wcs
    # A polynomial is known from its values on enough points.
    reach = 1 + np.abs(wcs.wcs.crpix).max()
    pixels = reach * np.stack(np.meshgrid(*[np.linspace(-1, 1, 2 * degree + 2)] * 2)).reshape(2, -1)
    shifts = [
        0 * pixels[0] if terms is None else np.polynomial.polynomial.polyval2d(*pixels, terms)
        for terms in (sip.a, sip.b)
    ]
    matrix = wcs.pixel_scale_matrix
    before, after = matrix @ pixels, matrix @ (pixels + shifts)
    scale = np.abs(before).max()
    powers = [(order - j, j) for order in range(degree + 1) for j in range(order + 1)]
    # TPV has radial terms too, in between: number 3, 11, 23 and 39
    numbers = [(0, 1, 4, 7, 12, 17, 24, 31)[i + j] + j for i, j in powers]
    header = wcs.to_header(relax=True)
    for key in [key for key in header if re.fullmatch(r"[AB]P?_(\d_\d|ORDER|DMAX)", key)]:
        del header[key]
    for axis, other in ((0, 1), (1, 0)):
        terms = [(before[axis] / scale) ** i * (before[other] / scale) ** j for i, j in powers]
        solution = np.linalg.lstsq(np.stack(terms, axis=-1), after[axis], rcond=None)[0]
        for number, (i, j), value in zip(numbers, powers, solution, strict=True):
            header[f"PV{axis + 1}_{number}"] = value / scale ** (i + j)
        header[f"CTYPE{axis + 1}"] = header[f"CTYPE{axis + 1}"].replace("-TAN-SIP", "-TPV")
        header[f"CDELT{axis + 1}"] = 1.0  # wcslib applies TPV before CDELT
        for column in (0, 1):
            header[f"PC{axis + 1}_{column + 1}"] = matrix[axis, column]
    return read_wcs(header)
