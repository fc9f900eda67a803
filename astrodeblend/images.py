"""The one door in and out: anything that holds an image becomes one kind of NDData, and back.

Whatever `read_image` is given, what comes out is an `~astropy.nddata.NDData` with float32
data of shape (bands, y, x), and with a unit, a mask, a standard deviation and a celestial WCS
where the input has them. The rest of the package knows no other form.
"""

import os
import re
import warnings
from functools import singledispatch
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import (
    CCDData,
    InverseVariance,
    NDData,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_area
from astropy.wcs.wcsapi import SlicedLowLevelWCS

from astrodeblend.files import atomic_path

__all__ = ["image_to_hdus", "read_image", "to_original_shape", "write_fits"]

SMALLEST = 16  # pixels along x and y that the networks need

KINDS = (
    "give a path to a FITS, JPEG or PNG file, an array, a Quantity, an NDData, a CCDData, "
    "a FITS HDU or HDUList, or a sequence of those, one per band"
)

# Cards that describe how the input was stored, or its pixel grid: the output has its own.
_LAYOUT_CARD = re.compile(
    r"""(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|EXTNAME|EXTVER|EXTLEVEL
    |INHERIT|BSCALE|BZERO|BLANK|DATAMIN|DATAMAX|CHECKSUM|DATASUM|UTYPE|END|
    |Z(IMAGE|CMPTYPE|BITPIX|NAXIS\d*|TILE\d+|NAME\d+|VAL\d+|MASKCMP|QUANTIZ|DITHER0|BLANK|SCALE
    |ZERO|TENSION|SIMPLE|EXTEND|PCOUNT|GCOUNT|HECKSUM|DATASUM)|FZ\w+|TFIELDS|T(TYPE|FORM)\d+
    |(WCSAXES|WCSNAME|LONPOLE|LATPOLE|(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CNAME|CRDER|CSYER)\d+
    |(CD|PC|PV|PS)\d+_\d+)[A-Z]?|(RADESYS|EQUINOX)[A-Z]|RADECSYS|EPOCH|PC\d{6}
    |[AB]P?_(\d+_\d+|ORDER|DMAX)|(CPDIS|CPERR|CQDIS|CQERR|DP|DQ|D2IMDIS|D2IMERR|D2IM)\d.*
    |AXISCORR|LTV\d|LTM\d_\d|(DATA|TRIM|BIAS|CCD|DET|AMP)SEC)$""",
    re.VERBOSE,
)


def read_image(image):
    """Read an image, whatever holds it.

    Parameters
    ----------
    image : path, array, Quantity, NDData, HDU, HDUList or sequence
        A path to a FITS file (``"f.fits[2]"`` and ``"f.fits[SCI]"`` choose an extension, by
        default the first one with an image is read) or to a picture (JPEG, PNG, TIFF); an
        array of shape (y, x), (bands, y, x) or, for colour pictures, (y, x, 3 or 4); anything
        of astropy that holds such an array; or a sequence of images of one band each. Bands of
        a sequence whose WCS differ are resampled to the grid of the first.

    Returns
    -------
    image : `~astropy.nddata.NDData`
        Float32 data of shape (bands, y, x), sharing no memory with the input, in the input's
        own unit. The mask, boolean and of the same shape, is true where the input's is, where
        a value is not finite or beyond the range of float32, and where an uncertainty is not
        finite or a weight is zero; values under it are left as they are. The uncertainty is a
        standard deviation, the WCS celestial with two axes. ``meta["header"]`` holds the FITS
        cards that describe the observation, ``meta["astrodeblend"]`` a dictionary: ``ndim``, 2
        or 3 dimensions in the input; ``full_scale``, 255 or 65535 for a picture and None for
        fluxes; ``bands``, a tuple of names or None.

    Raises
    ------
    FileNotFoundError, OSError
        If a path names no file, a folder, or a file that cannot be read.
    TypeError
        If the input is no image, or its values are no real numbers.
    ValueError
        If the shape is not that of an image, no pixel is valid, or the bands do not match.

    Notes
    -----
    Float32 keeps seven digits: subtract a large pedestal in float64 before.

    Bands on other grids are put on the first one's by bicubic interpolation, or by the
    anti-aliased `reproject.reproject_adaptive` (Hann kernel) where their pixels have less than
    half the area. Values per solid angle or beam keep their value, all others are light per
    pixel and scale with the pixel's area. Variances scale so that the information in an area
    of sky stays the same. Pixels outside the band's footprint are masked.
    """
    return _conform(_read(image))


# Reading: one function for each kind of input, each giving an NDData in the input's own layout.


@singledispatch
def _read(image):
    if not hasattr(image, "__array__"):
        raise TypeError(f"image is a {type(image).__name__}, which holds no image; {KINDS}")
    return NDData(image if isinstance(image, np.ndarray) else np.asarray(image))


@_read.register(NDData)
def _read_nddata(image):
    return image


@_read.register(str)
@_read.register(os.PathLike)
def _read_path(image):
    path, extension = Path(image).expanduser(), None
    chosen = re.fullmatch(r"(.+)\[([^\[\]]+)\]", str(path))
    if chosen and not path.exists():
        path, extension = Path(chosen[1]), chosen[2]
    if not path.exists():
        raise FileNotFoundError(f"image {str(path)!r} does not exist; check the path")
    if path.is_dir():
        raise IsADirectoryError(f"image {str(path)!r} is a folder; name a file in it")
    with path.open("rb") as file:
        start = file.read(9)
    # FITS, bare or compressed with gzip, bzip2, zip, xz or compress
    if start.startswith(
        (b"SIMPLE  =", b"\x1f\x8b", b"BZh", b"PK\x03\x04", b"\xfd7zXZ", b"\x1f\x9d")
    ):
        return _read_fits(path, extension)
    if extension is not None:
        raise ValueError(f"image {str(path)!r} is no FITS file: it has no extension {extension!r}")
    return _read_picture(path)


def _read_fits(path, extension):
    with warnings.catch_warnings():
        # a file that lacks data is refused below; one that only lacks its padding is whole
        warnings.filterwarnings("ignore", message=".*(truncated|corrupted)")
        try:
            with fits.open(path) as hdulist:
                hdu = _choose_hdu(hdulist, extension)
                return _read_hdu(hdu, hdulist)
        except OSError as error:
            raise OSError(
                f"image {str(path)!r} is not a whole FITS file ({error}); get a fresh copy"
            ) from error
        except (TypeError, ValueError) as error:
            raise type(error)(f"image {str(path)!r}: {error}") from error


def _read_picture(path):
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.mode in ("1", "LA", "La"):
                picture = picture.convert("L")
            elif not picture.mode.startswith(("L", "I", "F")):
                picture = picture.convert("RGB")  # drops alpha, resolves palettes
            values = np.asarray(picture)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(
            f"image {str(path)!r} cannot be read: it is no whole FITS, JPEG, PNG or TIFF file "
            f"({error})"
        ) from error
    full_scale = {"B": 255, "H": 65535, "i": 65535}.get(values.dtype.char)
    return NDData(values, meta={"astrodeblend": {"full_scale": full_scale}})


@_read.register(fits.HDUList)
def _read_hdulist(image):
    return _read_hdu(_choose_hdu(image, None), image)


@_read.register(fits.PrimaryHDU)
@_read.register(fits.ImageHDU)
@_read.register(fits.CompImageHDU)
def _read_hdu(hdu, hdulist=None):
    try:
        data = hdu.data
    except Exception as error:  # whatever a damaged file makes the decoders raise
        raise OSError(f"the data of HDU {hdu.name!r} cannot be read: {error}") from error
    if data is None:
        raise ValueError(f"HDU {hdu.name!r} holds no image; choose another one")
    header = _observation_cards(hdu.header)
    mask = uncertainty = None
    if hdulist is not None:
        if hdu is not hdulist[0] and hdulist[0].shape == ():
            header.extend(_observation_cards(hdulist[0].header), strip=True, unique=True)
        mask = _read_mask(_partner(hdulist, hdu, "MASK"))
        uncertainty = _read_uncertainty(_partner(hdulist, hdu, "UNCERT"))
    return NDData(
        data,
        unit=_pop_unit(header),
        mask=mask,
        uncertainty=uncertainty,
        wcs=_read_wcs(hdu.header, hdulist),
        meta={"header": header},
    )


@_read.register(list)
@_read.register(tuple)
def _read_sequence(images):
    if not images:
        raise ValueError(f"image is an empty {type(images).__name__}; {KINDS}")
    bands = []
    for i, image in enumerate(images):
        try:
            band = read_image(image)
        except (TypeError, ValueError, OSError) as error:
            raise type(error)(f"band {i} of the sequence: {error}") from error
        if len(band.data) != 1:
            raise ValueError(
                f"band {i} of the sequence has {len(band.data)} bands of its own; "
                "give images of one band each, or the one image alone"
            )
        bands.append(_on_grid_of(bands[0], band, i) if bands else band)
    return _stack(bands)


def _choose_hdu(hdulist, extension):
    """Return the HDU that ``extension`` names, by default the first one with an image."""
    if extension is None:
        for hdu in hdulist:
            if hdu.is_image and hdu.shape:
                return hdu
        raise ValueError("image has no HDU with an image in it")
    name, _, version = extension.partition(",")
    key = int(name) if name.strip().isdigit() else name.strip()
    try:
        hdu = hdulist[(key, int(version)) if version else key]
    except (KeyError, IndexError, ValueError):
        there = ", ".join(f"{i} {hdu.name}".strip() for i, hdu in enumerate(hdulist))
        raise ValueError(f"there is no extension {extension!r}; there are: {there}") from None
    if not (hdu.is_image and hdu.shape):
        raise ValueError(f"extension {extension!r} holds no image; choose another one")
    return hdu


def _partner(hdulist, hdu, kind):
    """Return the HDU that CCDData or `image_to_hdus` wrote to go with this one, if any."""
    for name in (f"{hdu.name}_{kind}", kind):
        if name in hdulist and hdulist[name] is not hdu and hdulist[name].shape == hdu.shape:
            return hdulist[name]
    return None


def _read_mask(hdu):
    if hdu is None:
        return None
    if hdu.data.dtype.itemsize > 1:  # as surveys write, where a bit may just say "detected"
        warnings.warn(
            f"HDU {hdu.name!r} holds bit planes, not a mask of 0 and 1: it is left aside",
            AstropyUserWarning,
            stacklevel=2,
        )
        return None
    return hdu.data.astype(bool)


def _read_uncertainty(hdu):
    if hdu is None:
        return None
    kinds = {kind.__name__: kind for kind in (VarianceUncertainty, InverseVariance)}
    return kinds.get(hdu.header.get("UTYPE"), StdDevUncertainty)(hdu.data)


def _observation_cards(header):
    """Copy the cards that describe the observation, leaving out those FITS cannot hold."""
    kept = fits.Header()
    for card in header.copy().cards:
        try:
            card.verify("silentfix+exception")
            if not _LAYOUT_CARD.match(card.keyword):
                kept.append(card, end=True)
        except (fits.VerifyError, ValueError):
            continue
    return kept


def _pop_unit(header):
    """Take the unit out of a header; a BUNIT that is none stays there, as text."""
    text = str(header.get("BUNIT", "")).strip()
    unit = CCDData.known_invalid_fits_unit_strings.get(text)
    if unit is None and text:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            try:
                unit = u.Unit("adu" if text.lower() == "adu" else text)
            except ValueError:
                warnings.warn(
                    f"BUNIT {text!r} is no unit that astropy knows: it is kept as text",
                    AstropyUserWarning,
                    stacklevel=2,
                )
                return None
    header.remove("BUNIT", ignore_missing=True)
    return unit


def _read_wcs(header, hdulist):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            # SIP allows two axes only, so a cube's other axes have to go while reading
            wcs = WCS(header, fobj=hdulist, naxis=2)
        except Exception as error:  # whatever wcslib and astropy raise for a broken header
            warnings.warn(
                f"the WCS in the header is left aside, it is broken: {' '.join(str(error).split())}",
                AstropyUserWarning,
                stacklevel=2,
            )
            return None
    return wcs if wcs.has_celestial else None


# Conforming: from the input's own layout to the one form inside.


def _conform(image):
    data = np.asarray(image.data)
    if data.dtype.kind not in "iuf":
        raise TypeError(
            f"image has values of type {data.dtype}, which are no real numbers; "
            "convert them to integers or floats first"
        )
    is_picture = data.ndim == 3 and data.shape[0] > 4 and data.shape[2] in (3, 4)
    values = _bands_first(data)
    if values.ndim != 3 or min(values.shape[1:]) < SMALLEST or not values.size:
        raise ValueError(
            f"image has shape {data.shape}; it has to be (y, x) or (bands, y, x), "
            f"with at least {SMALLEST} pixels along x and y"
        )
    with np.errstate(over="ignore"):
        flux = np.array(values, dtype=np.float32)  # always a copy
    mask = ~np.isfinite(flux)
    has_mask = image.mask is not None and image.mask is not np.ma.nomask
    if has_mask:
        mask |= _bands_first(_broadcast(image.mask, data.shape, "mask")).astype(bool)
    deviation = _standard_deviation(image)
    if deviation is not None:
        deviation = _bands_first(_broadcast(deviation, data.shape, "uncertainty"))
        with np.errstate(over="ignore"):
            deviation = np.array(deviation, dtype=np.float32)
        mask |= ~np.isfinite(deviation) | (deviation < 0)
    if mask.all():
        raise ValueError("image has no valid pixel: all are masked or not finite")
    valid = values[~mask]
    if valid.any() and np.abs(flux[~mask]).max() < np.finfo(np.float32).tiny:
        raise ValueError(
            f"image has values of at most {np.abs(valid).max():.3g}, too small for float32; "
            "choose another unit"
        )
    return NDData(
        flux,
        unit=image.unit,
        mask=mask if has_mask or mask.any() else None,
        uncertainty=None if deviation is None else StdDevUncertainty(deviation, copy=False),
        wcs=_celestial(image.wcs),
        meta=_meta(image, flux, is_picture),
    )


def _bands_first(array):
    """View an array as (bands, y, x), if it can be one."""
    if array.ndim == 2:
        return array[np.newaxis]
    if array.ndim == 4 and 1 in array.shape[:2]:  # radio images: Stokes, frequency, y, x
        return array.squeeze(axis=array.shape[:2].index(1))
    if array.ndim == 3 and array.shape[0] > 4 and array.shape[2] in (3, 4):
        is_rgba = array.shape[2] == 4 and array.dtype == np.uint8
        return np.moveaxis(array[..., :3] if is_rgba else array, -1, 0)
    return array


def _broadcast(array, shape, name):
    try:
        return np.broadcast_to(np.asarray(array), shape)
    except ValueError:
        raise ValueError(
            f"the {name} has shape {np.shape(array)} and the image {shape}; make them the same"
        ) from None


def _standard_deviation(image):
    """Return the uncertainty as a standard deviation in the image's unit, or None."""
    if image.uncertainty is None:
        return None
    if isinstance(image.uncertainty, UnknownUncertainty):
        raise TypeError(
            "image has an UnknownUncertainty; say what it is with a StdDevUncertainty, "
            "VarianceUncertainty or InverseVariance, or leave it out"
        )
    uncertainty = type(image.uncertainty)(
        np.asarray(image.uncertainty.array, dtype=np.float64), unit=image.uncertainty.unit
    )
    with np.errstate(all="ignore"):  # a weight of zero becomes infinity, a negative one NaN
        deviation = uncertainty.represent_as(StdDevUncertainty)
    if deviation.unit is None or image.unit is None:
        return deviation.array
    return deviation.array * deviation.unit.to(image.unit)


def _celestial(wcs):
    """Return the celestial part of a WCS, as an astropy WCS of two axes, or None."""
    if wcs is None:
        return None
    wcs, start = wcs.low_level_wcs, (0, 0)
    if isinstance(wcs, SlicedLowLevelWCS):  # there is no public way to turn it into a WCS
        start = [cut.start or 0 for cut in wcs._slices_array[-2:]]
        wcs = wcs._wcs
    if not isinstance(wcs, WCS) or not wcs.has_celestial or {wcs.wcs.lng, wcs.wcs.lat} != {0, 1}:
        warnings.warn(
            f"the image's WCS is left aside: it is no FITS WCS with celestial axes along x and y "
            f"({wcs.__class__.__name__})",
            AstropyUserWarning,
            stacklevel=2,
        )
        return None
    wcs = wcs.deepcopy() if wcs.naxis == 2 else wcs.celestial
    return wcs.slice([slice(start[0], None), slice(start[1], None)]) if any(start) else wcs


def _meta(image, flux, is_picture):
    meta = dict(image.meta) if not isinstance(image.meta, fits.Header) else {}
    known = meta.pop("astrodeblend", {})
    cards = image.meta if not meta and isinstance(image.meta, fits.Header) else meta.get("header")
    if not isinstance(cards, fits.Header):
        cards = fits.Header(
            {
                key: value
                for key, value in meta.items()
                if isinstance(value, str | bool | int | float) and re.fullmatch(r"[\w-]{1,8}", key)
            }
        )
    header = _observation_cards(cards)
    full_scale = known.get("full_scale")
    if image.data.dtype == np.uint8 and image.unit in (None, u.dimensionless_unscaled):
        full_scale = 255
    names = known.get("bands") or [header.get(f"BAND{i + 1}") for i in range(len(flux))]
    if is_picture and len(flux) == 3:
        names = ["R", "G", "B"]
    ndim = 2 if len(flux) == 1 and (known.get("ndim") == 2 or image.data.ndim == 2) else 3
    meta["header"] = header
    meta["astrodeblend"] = {
        "ndim": ndim,
        "full_scale": full_scale,
        "bands": tuple(names) if len(names) == len(flux) and all(names) else None,
    }
    return meta


# Bands of a sequence: one unit, one grid.


def _on_grid_of(first, band, i):
    """Convert a band to the unit of the first one and resample it to its grid."""
    factor = 1.0
    texts = [image.meta["header"].get("BUNIT") for image in (first, band)]
    if (first.unit is None) != (band.unit is None) or texts[0] != texts[1]:
        raise ValueError(
            f"band {i} has unit {band.unit or texts[1]} and band 0 {first.unit or texts[0]}; "
            "give all bands units that convert into each other, or none"
        )
    if first.unit is not None:
        try:
            factor = band.unit.to(first.unit)
        except u.UnitConversionError:
            raise ValueError(
                f"band {i} has unit {band.unit}, which does not convert to band 0's {first.unit}"
            ) from None
    flux = band.data * np.float32(factor)
    deviation = None if band.uncertainty is None else band.uncertainty.array * np.float32(factor)
    mask = np.zeros(flux.shape, bool) if band.mask is None else band.mask
    if not _same_grid(first, band):
        if first.wcs is None or band.wcs is None:
            raise ValueError(
                f"band {i} has shape {band.data.shape[1:]} and band 0 {first.data.shape[1:]}; "
                "without a WCS in both they have to be the same"
            )
        flux, mask, deviation = _resample(flux, mask, deviation, band, first)
        if mask.all():
            raise ValueError(f"band {i} does not overlap band 0 on the sky")
    return NDData(
        flux,
        unit=first.unit,
        mask=mask if mask.any() else band.mask,
        uncertainty=None if deviation is None else StdDevUncertainty(deviation),
        meta=band.meta,
    )


def _same_grid(first, band):
    if first.data.shape != band.data.shape:
        return False
    if first.wcs is None or band.wcs is None:
        return True
    y, x = np.indices((3, 3)) / 2 * (np.array(first.data.shape[1:]) - 1)[:, None, None]
    there = band.wcs.world_to_pixel(first.wcs.pixel_to_world(x, y))
    return np.allclose(there, (x, y), rtol=0, atol=1e-3)


def _resample(flux, mask, deviation, band, first):
    from reproject import reproject_adaptive, reproject_interp

    grid = {"output_projection": first.wcs, "shape_out": first.data.shape[1:]}
    area = proj_plane_pixel_area(first.wcs) / proj_plane_pixel_area(band.wcs)
    scale = 1.0 if _is_surface_brightness(first.unit) else area
    flux = np.where(mask, np.median(flux[~mask]), flux)[0].astype(np.float64)
    if area > 2:
        flux, seen = reproject_adaptive((flux, band.wcs), kernel="hann", **grid)
    else:
        flux, seen = reproject_interp((flux, band.wcs), order="bicubic", **grid)
    hidden, _ = reproject_interp((mask[0].astype(float), band.wcs), order="bilinear", **grid)
    # a pixel that any masked one touches is masked
    mask = (seen == 0) | ~np.isfinite(flux) | ~(hidden < 1e-6)
    if deviation is not None:
        deviation, _ = reproject_interp((deviation[0], band.wcs), order="bilinear", **grid)
        deviation = (deviation * scale / np.sqrt(max(area, 1)))[np.newaxis].astype(np.float32)
    return (flux * scale)[np.newaxis].astype(np.float32), mask[np.newaxis], deviation


def _is_surface_brightness(unit):
    if unit is None:
        return False
    powers = dict(zip(*(lambda base: (base.bases, base.powers))(unit.decompose()), strict=True))
    return powers.get(u.rad, 0) < 0 or powers.get(u.beam, 0) < 0


def _stack(bands):
    first = bands[0]
    mask = uncertainty = None
    if any(band.mask is not None for band in bands):
        mask = [np.zeros(first.data.shape, bool) if b.mask is None else b.mask for b in bands]
        mask = np.concatenate(mask)
    if all(band.uncertainty is not None for band in bands):
        uncertainty = StdDevUncertainty(np.concatenate([b.uncertainty.array for b in bands]))
    elif any(band.uncertainty is not None for band in bands):
        warnings.warn(
            "only some bands have an uncertainty: it is left aside",
            AstropyUserWarning,
            stacklevel=2,
        )
    headers = [band.meta["header"] for band in bands]
    common = [c for c in headers[0].cards if all(h.get(c.keyword) == c.value for h in headers)]
    scales = {band.meta["astrodeblend"]["full_scale"] for band in bands}
    names = [header.get("FILTER") for header in headers]
    known = {
        "full_scale": scales.pop() if len(scales) == 1 else None,
        "bands": names if len(set(names)) == len(names) else None,
    }
    return NDData(
        np.concatenate([band.data for band in bands]),
        unit=first.unit,
        mask=mask,
        uncertainty=uncertainty,
        wcs=first.wcs,
        meta={"header": fits.Header(common), "astrodeblend": known},
    )


# Writing.


def to_original_shape(image):
    """Give a 2-D image back as 2-D, and any other one as it is.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `read_image` gives it, or derived from that.

    Returns
    -------
    image : `~astropy.nddata.NDData`
        Of shape (y, x) if the image has one band and ``meta["astrodeblend"]["ndim"]`` is 2.
        The arrays are views.
    """
    if image.data.ndim != 3 or len(image.data) != 1:
        return image
    if image.meta.get("astrodeblend", {}).get("ndim") != 2:
        return image
    uncertainty = image.uncertainty
    if uncertainty is not None:
        uncertainty = type(uncertainty)(uncertainty.array[0], unit=uncertainty.unit, copy=False)
    return NDData(
        image.data[0],
        unit=image.unit,
        mask=None if image.mask is None else image.mask[0],
        uncertainty=uncertainty,
        wcs=image.wcs,
        meta=image.meta,
    )


def image_to_hdus(image, name):
    """Turn an image into the HDUs from which `~astropy.nddata.CCDData` reads it back.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        An image of shape (bands, y, x) or (y, x). One that was 2-D when `read_image` read it
        becomes 2-D again.
    name : str
        The name of the first HDU.

    Returns
    -------
    hdus : list of `~astropy.io.fits.ImageHDU`
        The data in float32 under ``name``; the mask under ``name_MASK`` and the standard
        deviation under ``name_UNCERT``, where the image has them; and the tables of a WCS with
        a distortion look-up table. ``CCDData.read(path, hdu=name, hdu_mask=f"{name}_MASK",
        hdu_uncertainty=f"{name}_UNCERT")`` opens them.

    Notes
    -----
    A dimensionless image, or one without unit, gets the BUNIT ``1``, since CCDData demands a
    unit. SIP is defined for two axes only, so a cube's SIP distortion is written as the TPV
    polynomial that equals it.
    """
    image = to_original_shape(image)
    shape = image.data.shape
    header = image.meta.get("header", fits.Header()).copy()
    for i, band in enumerate(image.meta.get("astrodeblend", {}).get("bands") or ()):
        header[f"BAND{i + 1}"] = (band, f"name of band {i + 1}")
    header["BUNIT"] = _unit_text(image.unit, header)
    tables = []
    if image.wcs is not None:
        cards, tables = _wcs_cards(image.wcs, image.data.ndim)
        header.update(cards)
    # big-endian copies: fits swaps the bytes of others in place while it writes
    hdus = [fits.ImageHDU(np.array(image.data, dtype=">f4"), header, name=name)]
    if image.mask is not None:
        mask = _broadcast(image.mask, shape, "mask").astype(np.uint8)
        hdus.append(fits.ImageHDU(mask, name=f"{name}_MASK"))
    deviation = _standard_deviation(image)
    if deviation is not None:
        deviation = np.array(_broadcast(deviation, shape, "uncertainty"), dtype=">f4")
        hdus.append(fits.ImageHDU(deviation, header, name=f"{name}_UNCERT"))
        hdus[-1].header["UTYPE"] = "StdDevUncertainty"
    return hdus + tables


def write_fits(hdus, path, *, overwrite=False):
    """Write HDUs to a FITS file that appears whole or not at all.

    Parameters
    ----------
    hdus : HDUList or sequence of HDUs
        What to write; an empty primary HDU comes first if there is none.
    path : str or path-like
        Where to.
    overwrite : bool, optional
        Replace a file that is there already. By default that is refused.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError
        If ``path`` exists, its folder does not, or that is read-only.
    """
    hdus = list(hdus)
    if not hdus or not isinstance(hdus[0], fits.PrimaryHDU):
        hdus.insert(0, fits.PrimaryHDU())
    with atomic_path(path, overwrite=overwrite) as temporary:
        fits.HDUList(hdus).writeto(temporary, output_verify="exception", checksum=True)


def _unit_text(unit, header):
    if unit is None:
        return header.get("BUNIT", "1")  # what astropy could not read goes out as it came in
    if unit == u.dimensionless_unscaled:
        return "1"
    try:
        return unit.to_string("fits")
    except ValueError:
        text = unit.to_string()
    try:
        readable = u.Unit(text) == unit
    except ValueError:
        readable = False
    if not readable:
        warnings.warn(
            f"unit {text!r} is not one that FITS or astropy knows: it is written as text",
            AstropyUserWarning,
            stacklevel=2,
        )
    return text


def _wcs_cards(wcs, ndim):
    """Return the header cards of a celestial WCS and the HDUs of its look-up tables."""
    if ndim == 3 and wcs.sip is not None:
        wcs = _sip_to_tpv(wcs)
    primary, *tables = wcs.to_fits(relax=True)
    if ndim == 3:
        if tables or wcs.sip is not None:
            warnings.warn(
                "the distortion in the image's WCS is defined for two axes only: read the WCS of "
                "the cube with WCS(header, hdulist, naxis=2)",
                AstropyUserWarning,
                stacklevel=2,
            )
        else:
            wcs = wcs.sub([1, 2, 0])
            wcs.wcs.crpix[2] = wcs.wcs.crval[2] = 1  # counts the bands
            return wcs.to_header(relax=True), []
    return primary.header, tables


def _sip_to_tpv(wcs):
    """Write the distortion of a gnomonic WCS as TPV, which is exact up to the 7th order.

    Both add a polynomial to a linear map of the pixels: SIP before the matrix to degrees,
    TPV after it (Shupe et al. 2012, doi 10.1117/12.925460).
    """
    degree = max(wcs.sip.a_order or 0, wcs.sip.b_order or 0)
    if degree > 7 or not all(ctype.endswith("-TAN-SIP") for ctype in wcs.wcs.ctype):
        return wcs
    matrix = wcs.pixel_scale_matrix
    # a polynomial is known from its values on enough points
    reach = 1.0 + np.abs(wcs.wcs.crpix).max()
    u_, v_ = (reach * grid.ravel() for grid in np.meshgrid(*[np.linspace(-1, 1, 16)] * 2))
    linear = matrix @ (u_, v_)
    polyval2d = np.polynomial.polynomial.polyval2d
    shift = [0 if c is None else polyval2d(u_, v_, c) for c in (wcs.sip.a, wcs.sip.b)]
    target = linear + matrix @ np.broadcast_arrays(*shift, u_)[:2]
    unit = np.abs(linear).max()
    powers = [(k - j, j) for k in range(degree + 1) for j in range(k + 1)]
    numbers = [(0, 1, 4, 7, 12, 17, 24, 31)[i + j] + j for i, j in powers]  # skips radial terms
    pv = []
    for axis in (0, 1):
        own, other = linear[axis] / unit, linear[1 - axis] / unit
        terms = np.stack([own**i * other**j for i, j in powers], axis=-1)
        solution = np.linalg.lstsq(terms, target[axis], rcond=None)[0]
        pv += [
            (axis + 1, number, value / unit ** (i + j))
            for number, (i, j), value in zip(numbers, powers, solution, strict=True)
        ]
    tpv = wcs.deepcopy()
    tpv.sip = None
    tpv.wcs.ctype = [ctype.replace("-TAN-SIP", "-TPV") for ctype in wcs.wcs.ctype]
    tpv.wcs.set_pv(pv)
    return tpv
