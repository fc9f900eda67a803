"""Reading an image from whatever holds it: a function for each kind of input, then one form."""

import os
import re
import warnings
from contextlib import suppress
from functools import singledispatch
from numbers import Number
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import (
    CCDData,
    InverseVariance,
    NDData,
    StdDevUncertainty,
    VarianceUncertainty,
)
from astropy.utils.exceptions import AstropyUserWarning
from PIL import Image

from .bands import put_on_grid, stack
from .cards import cards_of_mapping, observation_cards, valid_cards
from .errors import restated
from .uncertainty import broadcast, standard_deviation
from .wcs import celestial_wcs, read_wcs

__all__ = ["read_image"]

SMALLEST = 16  # pixels along x and y that the networks need

KINDS = (
    "give a path to a FITS, JPEG or PNG file, an array, a Quantity, an NDData, a CCDData, "
    "a FITS HDU or HDUList, or a sequence of those, one per band"
)

# How a FITS file starts, bare or compressed with gzip, bzip2, zip, xz or compress.
FITS_STARTS = (b"SIMPLE  =", b"\x1f\x8b", b"BZh", b"PK\x03\x04", b"\xfd7zXZ", b"\x1f\x9d")


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

    An array of 8-bit integers without unit is a picture, any other array holds fluxes. The
    alpha channel of a picture is dropped, and Pillow reads colours of 16 bits as 8.

    A FITS image of four axes is accepted where one of the first two has length 1, as in radio
    astronomy. With a FITS image go the extensions MASK and UNCERT, as CCDData writes them, or
    NAME_MASK and NAME_UNCERT for an image called NAME. A BUNIT that astropy cannot read stays in
    ``meta["header"]`` as text.

    Bands on other grids are put on the first one's by bicubic interpolation, or by the
    anti-aliased ``reproject_adaptive`` (Hann kernel) where their pixels have less than
    half the area. Values per solid angle or beam keep their value, all others are light per
    pixel and scale with the pixel's area. Pixels outside a band's footprint are masked.
    """
    return _conform(_read(image))


# One function for each kind of input, each giving an NDData in the input's own layout.


@singledispatch
def _read(image):
    if not hasattr(image, "__array__"):
        raise TypeError(f"image is of type {type(image).__name__}, not an image; {KINDS}")
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
    try:
        with path.open("rb") as file:
            is_fits = file.read(9).startswith(FITS_STARTS)
    except PermissionError:
        raise PermissionError(
            f"image {str(path)!r} may not be read; check its permissions"
        ) from None
    if is_fits:
        return _read_fits(path, extension)
    if extension is not None:
        raise ValueError(f"image {str(path)!r} is no FITS file: it has no extension {extension!r}")
    return _read_picture(path)


def _read_fits(path, extension):
    with warnings.catch_warnings():
        # A file that lacks data is refused below; one that only lacks its padding is whole.
        warnings.filterwarnings("ignore", message="(?s).*(truncated|corrupted|non-ASCII)")
        try:
            hdulist = fits.open(path, lazy_load_hdus=False)
        except Exception as error:  # whatever a damaged file makes astropy raise
            raise OSError(
                f"image {str(path)!r} is not a whole FITS file; get a fresh copy ({error})"
            ) from error
        with hdulist:
            try:
                return _read_hdu(_choose_hdu(hdulist, extension), hdulist)
            except (OSError, ValueError) as error:
                raise restated(error, f"image {str(path)!r}: {error}") from error


def _read_picture(path):
    try:
        with Image.open(path) as picture:
            # older versions of Pillow read a PNG of 16 bits as 32-bit integers
            is_16_bit = picture.mode.startswith("I;16") or (picture.mode, picture.format) == (
                "I",
                "PNG",
            )
            if picture.mode in ("1", "LA"):
                picture = picture.convert("L")
            elif not picture.mode.startswith(("L", "I", "F")) or picture.mode == "LAB":
                picture = picture.convert("RGB")  # drops alpha, resolves palettes
            values = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(
            f"image {str(path)!r} is not a whole FITS, JPEG, PNG or TIFF file; "
            f"get a fresh copy or convert it ({error})"
        ) from error
    return NDData(values, meta={"astrodeblend": {"full_scale": 65535 if is_16_bit else None}})


@_read.register(fits.HDUList)
def _read_hdulist(hdulist):
    return _read_hdu(_choose_hdu(hdulist, None), hdulist)


@_read.register(fits.PrimaryHDU)
@_read.register(fits.ImageHDU)
@_read.register(fits.CompImageHDU)
def _read_hdu(hdu, hdulist=None):
    header = observation_cards(hdu.header)
    mask = uncertainty = None
    if hdulist is not None:
        if hdu is not hdulist[0] and not _has_image(hdulist[0]):
            header.extend(observation_cards(hdulist[0].header), strip=True, unique=True)
        mask = _read_mask(_partner(hdulist, hdu, "MASK"))
        uncertainty = _read_uncertainty(_partner(hdulist, hdu, "UNCERT"))
    return NDData(
        _data(hdu),
        unit=_pop_unit(header),
        mask=mask,
        uncertainty=uncertainty,
        wcs=read_wcs(valid_cards(hdu.header), hdulist),
        meta={"header": header},
    )


@_read.register(list)
@_read.register(tuple)
def _read_sequence(images):
    if not images:
        raise ValueError(f"image is an empty {type(images).__name__}; {KINDS}")
    if _holds_numbers(images):
        return NDData(np.array(images))
    bands = []
    for i, image in enumerate(images):
        try:
            band = read_image(image)
        except (TypeError, ValueError, OSError) as error:
            raise restated(error, f"band {i} of the sequence: {error}") from error
        if len(band.data) != 1:
            raise ValueError(
                f"band {i} of the sequence has {len(band.data)} bands of its own; "
                "give images of one band each, or that image alone"
            )
        bands.append(put_on_grid(band, bands[0], i) if bands else band)
    return stack(bands)


def _holds_numbers(nested):
    """Whether lists within lists hold numbers, as an array written out in full does."""
    while isinstance(nested, list | tuple) and nested:
        nested = nested[0]
    return isinstance(nested, Number)


def _choose_hdu(hdulist, extension):
    """Return the HDU that ``extension`` names, by default the first one with an image."""
    if extension is None:
        for hdu in hdulist:
            if _has_image(hdu):
                return hdu
        raise ValueError("there is no image in any of its HDUs; give a file that has one")
    name, _, version = (part.strip() for part in extension.partition(","))
    key = int(name) if name.isdigit() else name
    try:
        hdu = hdulist[(key, int(version)) if version else key]
    except (KeyError, IndexError, ValueError):
        there = ", ".join(f"{i} {hdu.name}".strip() for i, hdu in enumerate(hdulist))
        raise ValueError(f"there is no extension {extension!r}; there are {there}") from None
    if not _has_image(hdu):
        raise ValueError(f"extension {extension!r} holds no image; choose another one")
    return hdu


def _has_image(hdu):
    return hdu.is_image and len(hdu.shape) > 0


def _data(hdu):
    """Return an HDU's array, or say that there is none."""
    if not _has_image(hdu):
        raise ValueError(f"HDU {hdu.name!r} holds no image; choose another one")
    try:
        return hdu.data
    except Exception as error:  # whatever a damaged file makes the decoders raise
        raise OSError(
            f"the data of HDU {hdu.name!r} cannot be read, the file is truncated or damaged; "
            f"get a fresh copy ({error})"
        ) from error


def _partner(hdulist, hdu, kind):
    """Return the HDU that CCDData or `image_to_hdus` wrote to go with this one, if any."""
    for name in (f"{hdu.name}_{kind}", kind):
        if name not in hdulist or hdulist[name] is hdu:
            continue
        if _has_image(hdulist[name]) and hdulist[name].shape == hdu.shape:
            return hdulist[name]
    return None


def _read_mask(hdu):
    if hdu is None:
        return None
    mask = _data(hdu)
    if mask.dtype.itemsize > 1 and mask.max(initial=0) > 1:
        warnings.warn(  # as in surveys, where a bit may just say that a source was detected
            f"HDU {hdu.name!r} holds bit planes, not a mask of 0 and 1: it is left aside",
            AstropyUserWarning,
            stacklevel=2,
        )
        return None
    return mask.astype(bool)


def _read_uncertainty(hdu):
    if hdu is None:
        return None
    kinds = {kind.__name__: kind for kind in (VarianceUncertainty, InverseVariance)}
    return kinds.get(hdu.header.get("UTYPE"), StdDevUncertainty)(_data(hdu))


def _pop_unit(header):
    """Take the unit out of a header; a BUNIT that is none stays there, as text."""
    text = str(header.get("BUNIT", "")).strip()
    unit = CCDData.known_invalid_fits_unit_strings.get(text)
    if text and unit is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            with suppress(ValueError):
                unit = u.Unit("adu" if text.lower() == "adu" else text)
        if unit is None:
            warnings.warn(
                f"BUNIT {text!r} is no unit that astropy knows: it is kept as text",
                AstropyUserWarning,
                stacklevel=2,
            )
            return None
    header.remove("BUNIT", ignore_missing=True)
    return unit


# From the input's own layout to the one form inside.


def _conform(image):
    data = np.asarray(image.data)
    if data.dtype.kind not in "iuf":
        raise TypeError(
            f"image has values of type {data.dtype}, which are no real numbers; "
            "convert them to integers or floats first"
        )
    if _is_logarithmic(image.unit):
        raise ValueError(f"image is in {image.unit}, but magnitudes do not add; convert it to flux")
    values = _bands_first(data)
    if values.ndim != 3 or min(values.shape[1:]) < SMALLEST or not values.size:
        raise ValueError(
            f"image has shape {data.shape}; it has to be (y, x) or (bands, y, x), "
            f"with at least {SMALLEST} pixels along x and y"
        )
    flux = _float32(values)
    mask = ~np.isfinite(flux)
    has_mask = image.mask is not None and image.mask is not np.ma.nomask
    if has_mask:
        mask |= _bands_first(broadcast(image.mask, data.shape, "mask")).astype(bool)
    deviation = standard_deviation(image)
    if deviation is not None:
        deviation = _float32(_bands_first(broadcast(deviation, data.shape, "uncertainty")))
        mask |= ~(np.isfinite(deviation) & (deviation >= 0))
    if mask.all():
        raise ValueError(
            "image has no valid pixel: all are masked or not finite; give one that has some"
        )
    brightest = np.abs(values[~mask]).max()
    if 0 < brightest < np.finfo(np.float32).tiny:
        raise ValueError(
            f"image has no value above {brightest:.3g}, too small for float32; choose another unit"
        )
    return NDData(
        flux,
        unit=image.unit,
        mask=mask if has_mask or mask.any() else None,
        uncertainty=None if deviation is None else StdDevUncertainty(deviation, copy=False),
        wcs=celestial_wcs(image.wcs),
        meta=_meta(image, bands=len(flux)),
    )


def _is_logarithmic(unit):
    if unit is None or isinstance(unit, u.LogUnit):
        return unit is not None
    return any(isinstance(base, type(u.dex)) for base in unit.decompose().bases)


def _float32(array):
    """Copy an array; what is beyond the range of float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(array, dtype=np.float32, order="C")


def _bands_first(array):
    """View an array as (bands, y, x), if it can be one."""
    if array.ndim == 2:
        return array[np.newaxis]
    if array.ndim == 4 and 1 in array.shape[:2]:  # Stokes, frequency, y, x
        return array.squeeze(axis=array.shape[:2].index(1))
    if _colour_last(array):
        return np.moveaxis(array[..., :3] if array.dtype == np.uint8 else array, -1, 0)
    return array


def _colour_last(array):
    return array.ndim == 3 and array.shape[0] > 4 and array.shape[2] in (3, 4)


def _meta(image, *, bands):
    meta = {} if isinstance(image.meta, fits.Header) else dict(image.meta)
    known = meta.pop("astrodeblend", {})
    cards = meta.get("header", image.meta)
    header = observation_cards(cards if isinstance(cards, fits.Header) else cards_of_mapping(cards))
    names = known.get("bands") or [header.get(f"BAND{i + 1}") for i in range(bands)]
    if _colour_last(image.data) and bands == 3:
        names = "RGB"
    full_scale = known.get("full_scale")
    if image.data.dtype == np.uint8 and image.unit in (None, u.dimensionless_unscaled):
        full_scale = 255
    is_2d = bands == 1 and (image.data.ndim == 2 or known.get("ndim") == 2)
    meta["header"] = header
    meta["astrodeblend"] = {
        "ndim": 2 if is_2d else 3,
        "full_scale": full_scale,
        "bands": tuple(names) if len(names) == bands and all(names) else None,
    }
    return meta
