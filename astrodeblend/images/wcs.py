"""Celestial WCS of two axes, read from headers and written for images and cubes; positions."""

import re
import warnings

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.wcsapi import SlicedLowLevelWCS

from .errors import leave_aside

# Spellings of frames in headers: the name in the FITS standard, the equinox if none is stated.
_FRAMES = {
    **dict.fromkeys(("FK5", "J2000", "FK5J2000", "GSC1"), ("FK5", 2000.0)),
    **dict.fromkeys(("FK4", "B1950", "FK4B1950"), ("FK4", 1950.0)),
    **dict.fromkeys(("ICRF", "ICRF2", "ICRF3"), ("ICRS", np.nan)),
    "FK4-NO-E": ("FK4-NO-E", 1950.0),
}
# Keywords of a WCS whose values are numbers.
_NUMBER = re.compile(r"(CRVAL|CRPIX|CDELT|CROTA)\d|(CD|PC|PV)\d_\d+|(LON|LAT)POLE")


def read_wcs(header, hdulist=None, said=None):
    """Return the celestial WCS of x and y, with distortions; None if it is not celestial."""
    if header.get("NAXIS", 2) < 2:
        return None  # no image: the reader raises on it later
    header = header.copy()
    for key, value in header.items():
        if isinstance(value, str) and _NUMBER.fullmatch(key):  # astropy would take it for 0
            try:
                header[key] = float(value)
            except ValueError:
                return leave_aside(said, f"{key} = {value!r} is no number: the WCS is ignored")
        elif isinstance(value, str) and re.fullmatch(r"CTYPE\d", key):
            header[key] = value.upper()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            # Distortions take two axes only, so a cube's further axes are dropped while reading.
            wcs = WCS(header, fobj=hdulist, naxis=2)
    except Exception as error:  # noqa: BLE001 - whatever a broken header makes wcslib raise
        text = " ".join(str(error).split())
        return leave_aside(said, f"the WCS in the header is broken and ignored: {text}")
    return wcs if _is_celestial(wcs) else None


def _is_celestial(wcs):
    try:
        wcs.wcs.set()
    except ValueError:  # wcslib's errors are ValueErrors
        return False
    return {wcs.wcs.lng, wcs.wcs.lat} == {0, 1}


def celestial_wcs(wcs, said):
    """Return the celestial part of an image's WCS, or None if x and y are not on the sky.

    RADESYS is spelled as astropy reads it.
    """
    if wcs is None:
        return None
    wcs, corner = wcs.low_level_wcs, (slice(None), slice(None))
    if isinstance(wcs, SlicedLowLevelWCS):  # from slicing an NDData; there is no public way back
        wcs, corner = wcs._wcs, tuple(wcs._slices_array[-2:])
    has_both = all(isinstance(cut, slice) for cut in corner)
    if not (has_both and isinstance(wcs, WCS) and _is_celestial(wcs)):
        text = "is ignored: it is no FITS WCS with the celestial axes along x and y"
        return leave_aside(said, f"the WCS ({type(wcs).__name__}) {text}")
    # The property `celestial` fails in wcslib for a cube with TPV distortion.
    wcs = (wcs.deepcopy() if wcs.naxis == 2 else read_wcs(wcs.to_header(relax=True)))[corner]
    stated = wcs.wcs.radesys
    if wcs.wcs.lngtyp == "GLON":
        wcs.wcs.radesys = stated = ""
    elif stated:
        name = re.sub("[^A-Z0-9-]", "", stated.upper())
        wcs.wcs.radesys, equinox = _FRAMES.get(name, (name, np.nan))
        if np.isnan(wcs.wcs.equinox):
            wcs.wcs.equinox = equinox
    wcs.wcs.set()
    try:
        wcs.pixel_to_world(*(wcs.wcs.crpix - 1)).icrs  # noqa: B018 - raises as positions would
        # other axes: astropy takes them for RA and Dec, or needs the time of observation
        works = wcs.wcs.lngtyp in ("RA", "GLON")
    except Exception:  # noqa: BLE001 - astropy, of a frame it does not know
        works = False
    if not works:
        text = "the WCS is ignored: astropy finds no place on the sky from"
        axes = ", ".join(ctype[:4] for ctype in wcs.wcs.ctype)
        return leave_aside(said, f"{text} the axes {axes} and RADESYS {stated!r}")
    if stated and wcs.wcs.radesys != stated:
        said.append(f"RADESYS {stated!r} is read as {wcs.wcs.radesys}")
    return wcs


def wcs_to_cards(wcs, ndim):
    """Return the cards of a WCS (of a cube with an axis of bands) and the HDUs of its tables."""
    if ndim == 3:
        wcs = _sip_to_tpv(wcs)
    primary, *tables = wcs.to_fits(relax=True)
    if ndim == 2:
        return primary.header, tables
    if tables or wcs.sip is not None:
        text = "the distortion in the WCS is one for two axes: read the cube's WCS with"
        leave_aside([], f"{text} WCS(header, hdulist, naxis=2)")
        return primary.header, tables
    cube = wcs.sub([1, 2, 0])
    cube.wcs.crpix = [*wcs.wcs.crpix, 1]
    cube.wcs.crval = [*wcs.wcs.crval, 1]
    return cube.to_header(relax=True), []


def _sip_to_tpv(wcs):
    """Return a gnomonic WCS with its SIP distortion as TPV, which is not limited to two axes.

    SIP adds a polynomial before the matrix from pixels to degrees, TPV after it; each SIP up to
    order 7 equals a TPV (Shupe et al. 2012, doi 10.1117/12.925460). Other WCS are returned as is.
    """
    sip = wcs.sip
    if sip is None or not all(ctype.endswith("-TAN-SIP") for ctype in wcs.wcs.ctype):
        return wcs
    degree = max(sip.a_order or 0, sip.b_order or 0)
    if degree > 7:
        return wcs
    # Enough points determine the polynomial.
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


def pixel_position(image, position=None):
    """Return a position in an image in pixels, (x, y); refuse one outside.

    It is given in pixels, the first pixel's centre being (0, 0), or as a
    `~astropy.coordinates.SkyCoord`; by default it is the middle of the image.
    """
    ny, nx = image.data.shape[-2:]
    if position is None:
        return (nx - 1) / 2, (ny - 1) / 2
    shown = repr(position)
    columns = getattr(position, "colnames", getattr(getattr(position, "dtype", 0), "names", None))
    if columns:  # whose order and units may be any
        raise TypeError(
            f"position is a {type(position).__name__} of {', '.join(columns)}; give two columns, "
            "(x, y) in pixels, or a SkyCoord of them, such as SkyCoord(ra, dec, unit='deg')"
        )
    if isinstance(position, SkyCoord):
        if position.size != 1:
            raise ValueError(f"position holds {position.size} places; give one at a time")
        position = position.reshape(())
        shown = f"{position.to_string()} on the sky"
        if image.wcs is None:
            raise ValueError(
                f"position is {shown}, but the image has no WCS; "
                "give it as pixels (x, y), or give an image with a WCS"
            )
        position = image.wcs.world_to_pixel(position)
        if not np.isfinite(position).all():
            raise ValueError(f"position is {shown}, outside the image: its WCS ends before")
        shown += " (pixel {:.6g}, {:.6g})".format(*position)
    if isinstance(position, u.Quantity) and position.unit == u.pix:
        position = position.value
    try:
        x, y = (float(value) for value in position)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"position is {shown}; it has to be two numbers (x, y) or a SkyCoord"
        ) from error
    if not (-0.5 <= x <= nx - 0.5 and -0.5 <= y <= ny - 0.5):
        sky = (
            "; degrees are given as a SkyCoord"
            if image.wcs is not None and "sky" not in shown
            else ""
        )
        raise ValueError(
            f"position is {shown}, outside the image; x has to be within 0 and {nx - 1}, "
            f"y within 0 and {ny - 1}{sky}"
        )
    return x, y
