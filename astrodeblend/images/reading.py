"""Reading images: one function for each type of input, then one common form."""

import os
import re
import warnings
from contextlib import contextmanager, suppress
from functools import singledispatch
from numbers import Number
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData, NDUncertainty, StdDevUncertainty
from PIL import Image, ImageOps

from .bands import put_on_grid, stack
from .dialects import (
    choose_hdu,
    companions,
    is_logarithmic,
    observation_cards,
    parse_unit,
    read_data,
    read_plane,
    valid_cards,
)
from .errors import leave_aside, restated
from .form import (
    KINDS,
    Origin,
    RelativeWeight,
    changed,
    compact,
    kind_by_type,
    kind_in_common,
    noise_per_weight,
    plain_mask,
    standard_deviation,
    transparent,
    with_kind,
)
from .psf import PSF_INPUTS, psf_in_pixels, psf_widths
from .wcs import celestial_wcs, read_wcs

SMALLEST = 16  # pixels along x and y: the least that the networks take

INPUTS = (
    "give a path to a FITS, JPEG or PNG file, an array, a Quantity, an NDData, a CCDData, "
    "a FITS HDU or HDUList, or a sequence of those, one per band"
)

# Uncertainties so many times the others' mark pixels without data, as SWarp's 1e30.
_NO_WEIGHT = 1e8

_COARSE = 40  # median step of a JPEG's coefficients; at a quality of 75 it is 28.5, at 50 56.5

_SCALES = 1e-100, 1e100  # the squares of values are in the range of float64

# How a FITS file starts, bare or compressed with gzip, bzip2, zip, xz or compress.
FITS_STARTS = (b"SIMPLE  =", b"\x1f\x8b", b"BZh", b"PK\x03\x04", b"\xfd7zXZ", b"\x1f\x9d")
PATHS, HDUS = (str, os.PathLike), (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)


def read_image(image, *, kind=None, uncertainty=None, weight=None, mask=None, psf=None):
    """Read an image from a file, an array or an object of astropy.

    Parameters
    ----------
    image : path, array, Quantity, NDData, HDU, HDUList or sequence
        A path to a FITS file (``"f.fits[2]"`` and ``"f.fits[SCI]"`` choose an extension) or to
        a picture (JPEG, PNG, TIFF); an array, also masked or of Dask, of shape (y, x),
        (bands, y, x) or, for colour pictures, (y, x, 3 or 4); an object of astropy that holds such
        an array; or a sequence of single-band images, resampled to the grid of the first where
        their WCS differ.
    kind : {"picture", "flux"}, optional
        What the values are: displayed colours, or linear flux. By default as in the notes.
    uncertainty : path, HDU, array, number or `~astropy.nddata.NDUncertainty`, optional
        Replaces the input's own uncertainty. Arrays and HDUs are standard deviations, unless the
        HDU's name or UTYPE states another type. A sequence holds one for each band.
    weight : as ``uncertainty``, optional
        Weights in place of an uncertainty: inverse variances, or proportional to them.
    mask : path, HDU or array, optional
        True or 1 where there is no data, in addition to the input's own mask.
    psf : number, Quantity, array, path, HDU, NDData or model, optional
        Full width at half maximum of the PSF: in pixels or as an angle, NaN where it is not known;
        an image (y, x) or (bands, y, x) of the PSF, on the pixels of the band; or a model of
        photutils or astropy. One for all bands, or a sequence of one for each. By default what
        the header of a single band states.

    Returns
    -------
    image : `~astropy.nddata.NDData`
        Data of shape (bands, y, x), sharing no memory with the input, in the input's own unit:
        float32, or float64 where most values are below 1e-15 or above 1e15, or so far from zero
        that float32 would round their differences. The mask, of the same shape, is true where the
        input's is, where a value is not finite in that type, an uncertainty not finite, 0 or 1e8
        times that of others, or a weight not above 0; values under it stay as they are. The
        uncertainty is a standard deviation, the WCS celestial with two axes. ``meta["header"]``
        holds the FITS cards that describe the observation, ``meta["astrodeblend"]`` a dictionary:
        ``ndim``, 2 or 3 dimensions in the input; ``kind``; ``full_scale``, the value that is white
        in a picture, None for flux; ``bands``, a tuple of names or None; ``psf``, an array of the
        PSF's full width at half maximum in pixels by band, NaN where it is not known; ``read``,
        sentences that say what was decided and what was left unread.

    Raises
    ------
    OSError
        If a path names no file, a folder, or a file that cannot be read.
    TypeError
        If the input is no image, or its values are no real numbers.
    ValueError
        If the shape is not that of an image, no pixel is valid, an uncertainty is 0 throughout
        a band, the bands do not match, or ``psf`` is not for as many bands, no width of 0.5 to
        50 pixels, no image of one star, or an angle where there is no celestial WCS.

    Notes
    -----
    :doc:`/survey_images` says how the kind is decided, which extensions of a FITS file and which
    bits of a mask are read, and when weights are scaled. With ``kind="picture"``, white is the
    largest value of the integer type, else the smallest of 1, 255 and 65535 that at least 99.9 % of
    the values do not exceed; values below black or above white are clipped.

    Bands are resampled by bicubic interpolation, or by the anti-aliased ``reproject_adaptive``
    where their pixels have less than half the area of the grid's. Values per solid angle or beam
    and temperatures keep their value, all others scale with the pixel's area. Pixels outside a
    band's footprint are masked.
    """
    if kind not in (None, *KINDS):
        raise ValueError(f"kind is {kind!r}; give one of {', '.join(KINDS)}")
    if uncertainty is not None and weight is not None:
        raise ValueError("uncertainty and weight are both given; leave one of them out")
    planes = {"uncertainty": uncertainty, "weight": weight, "mask": mask}
    planes["psf"] = _read_psf(psf)
    planes = {name: plane for name, plane in planes.items() if plane is not None}
    image, origin = _read_bands(image, planes, kind)
    if image.mask is not None and image.mask.all():
        text = "each is masked (True is no data), not finite, or without uncertainty or weight"
        raise ValueError(f"image has no valid pixel: {text}")
    return with_kind(image, origin, kind)


def _read_bands(image, planes, kind):
    """Return an image in the common form, its kind still open, and what its type says of that."""
    if not _is_sequence(image):
        return _conform(*_read(image), planes)
    if not image:
        raise ValueError(f"image is an empty {type(image).__name__}; {INPUTS}")
    planes = {name: _of_each_band(plane, name, len(image)) for name, plane in planes.items()}
    bands, origins = [], []
    for i, each in enumerate(image):
        own = {name: plane[i] for name, plane in planes.items()}
        try:
            band, origin = _read_bands(each, own, kind)
        except (TypeError, ValueError, OSError) as error:
            raise restated(error, f"band {i} of the sequence: {error}") from error
        if len(band.data) != 1:
            text = "bands of its own; give images of one band each, or that image alone"
            raise ValueError(f"band {i} of the sequence has {len(band.data)} {text}")
        bands.append(put_on_grid(band, bands[0], i) if bands else band)
        origins.append(origin)
    files = [Path(each).name.split(".")[0] if isinstance(each, PATHS) else None for each in image]
    return stack(bands, files), kind_in_common(origins, kind)


def _is_sequence(given):
    """Return whether a sequence holds several images, not one as nested lists of numbers."""
    if isinstance(given, fits.HDUList) or not isinstance(given, list | tuple):
        return False
    first = given
    while isinstance(first, list | tuple) and first:
        first = first[0]
    return not isinstance(first, Number)


def _of_each_band(plane, name, bands):
    """Return the uncertainty, mask or PSF of each band of a sequence."""
    if name == "psf":
        return psf_widths(plane, bands)
    if isinstance(plane, NDUncertainty) and np.ndim(plane.array) == 3:
        each = [type(plane)(array, unit=plane.unit) for array in plane.array]
    elif _is_sequence(plane) or np.ndim(plane) == 3 or (name != "mask" and np.ndim(plane) == 1):
        each = list(plane)
    else:  # bands do not share the noise in one file; they may share a mask of bad columns
        each = [plane] * (bands if name == "mask" or not isinstance(plane, PATHS + HDUS) else 1)
    if len(each) != bands:
        few = "one band" if len(each) == 1 else f"{len(each)} bands"
        raise ValueError(f"{name} is for {few}, and there are {bands}; give one for each")
    return each


# One function for each type of input. It returns an image in the input's layout, sentences on
# what was read, and the kind, white and reason, or None if the type does not decide them.


@singledispatch
def _read(image):
    if not hasattr(image, "__array__") and not isinstance(image, list | tuple):
        raise TypeError(f"image is of type {type(image).__name__}, not an image; {INPUTS}")
    return NDData(_computed(image)), [], None


def _computed(array):
    """Return an array as a numpy array; a Dask array is computed, a mask is kept."""
    array = array.compute() if hasattr(array, "compute") else array
    try:
        array = array if isinstance(array, np.ndarray) else np.asarray(array)
    except ValueError as error:
        raise ValueError(f"image is no array of numbers ({error}); make its rows alike") from error
    if array.dtype.kind == "O":
        raise TypeError("values of type object are no numbers; convert them with astype(float)")
    return array


@_read.register(NDData)
def _read_nddata(image):
    known = image.meta.get("astrodeblend", {})
    told = (known["kind"], known["full_scale"], "") if "kind" in known else None
    if hasattr(image.data, "compute"):
        computed = NDData(_computed(image.data))  # takes a masked array apart
        masks = [np.asarray(m) for m in (computed.mask, image.mask) if m is not None]
        mask = sum(masks) > 0 if masks else None
        image = changed(image, computed.data, mask=mask, uncertainty=image.uncertainty)
    return image, list(known.get("read", [])), told


@_read.register(str)
@_read.register(os.PathLike)
def _read_path(image):
    with _opened(image) as (path, hdulist, extension):
        if hdulist is None:
            return _read_picture(path)
        return _read_hdu(choose_hdu(hdulist, extension), hdulist, extension is not None)


@contextmanager
def _opened(name, what="image"):
    """Yield path, HDUs and chosen extension of a FITS file; say in errors what it is."""
    path, extension = Path(name).expanduser(), None
    chosen = re.fullmatch(r"(.+)\[([^\[\]]+)\]", str(path))
    if chosen and not path.exists():
        path, extension = Path(chosen[1]), chosen[2]
    said = f"{what} {str(path)!r}"
    if "://" in str(name):
        raise FileNotFoundError(f"{what} {str(name)!r} is no path; download it first")
    if not path.exists():
        raise FileNotFoundError(f"{said} does not exist; check the path")
    if path.is_dir():
        raise IsADirectoryError(f"{said} is a folder; name a file in it")
    if not path.stat().st_size:
        raise OSError(f"{said} is empty; get a fresh copy")
    with path.open("rb") as file:
        is_fits = file.read(9).startswith(FITS_STARTS)
    if not is_fits:
        if extension is not None:
            raise ValueError(f"{said} is no FITS file: it has no extension {extension!r}")
        yield path, None, None
        return
    with warnings.catch_warnings():
        # Missing data raise below; a file that lacks only its final padding is complete.
        warnings.filterwarnings("ignore", message="(?s).*(truncated|corrupted|non-ASCII)")
        try:
            hdulist = fits.open(path, lazy_load_hdus=False)
        except Exception as error:  # whatever a damaged file makes astropy raise
            raise OSError(f"{said} is not a whole FITS file; get a fresh copy ({error})") from error
        with hdulist:
            try:
                yield path, hdulist, extension
            except (OSError, ValueError) as error:
                raise restated(error, f"{said}: {error}") from error


def _read_picture(path, what="image"):
    said, colours, mask = [], None, None
    try:
        with Image.open(path) as picture:
            form, mode = picture.format, picture.mode
            if getattr(picture, "n_frames", 1) > 1:
                said.append(f"the first of {picture.n_frames} pages is read")
            if form == "JPEG" and (step := np.median(picture.quantization[0])) > _COARSE:
                text = (
                    f"JPEG of low quality, quantised in steps of {step:g}: faint galaxies are lost"
                )
                text += ", and its blocks of 8 x 8 pixels may be taken for sources"
                leave_aside(said, f"{text}; give a PNG, or a JPEG of quality 75 or more")
            if picture.getexif().get(0x0112, 1) != 1:
                said.append("turned as its EXIF orientation says")
            tiff_bits = max(picture.tag_v2.get(258, (8,))) if form == "TIFF" else 8
            if mode.startswith("RGB") and tiff_bits == 16:
                from skimage.io import imread  # slow to import; Pillow reads 8 of the bits

                colours = imread(path)[..., :3]
            if form == "PNG" and not mode.startswith("I") and path.read_bytes()[24] == 16:
                said.append("its values of 16 bits are read as 8")
            picture = ImageOps.exif_transpose(picture)
            if picture.has_transparency_data:
                mask = transparent(np.asarray(picture.convert("RGBA"))[..., 3], said)
            if mode in ("1", "LA"):
                picture = picture.convert("L")
            elif not mode.startswith(("L", "I", "F")) or mode == "LAB":
                picture = picture.convert("RGB")  # drops alpha, resolves palettes
            values = np.asarray(picture) if colours is None else colours
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        text = f"is not a whole FITS, JPEG, PNG or TIFF file; get a fresh copy ({error})"
        raise OSError(f"{what} {str(path)!r} {text}") from error
    # older versions of Pillow read a PNG of 16 bits as 32-bit integers
    bits = 16 if mode.startswith("I;16") or (mode, form) == ("I", "PNG") else 8 * values.itemsize
    told = ("picture", 2**bits - 1, f"a picture file of {bits} bits") if bits <= 16 else None
    return NDData(values, mask=mask), said, told


@_read.register(fits.PrimaryHDU)
@_read.register(fits.ImageHDU)
@_read.register(fits.CompImageHDU)
@_read.register(fits.HDUList)
def _read_hdu(hdu, hdulist=None, chosen=False):
    if isinstance(hdu, fits.HDUList):
        hdu, hdulist = choose_hdu(hdu), hdu
    header, said, told = observation_cards(hdu.header), [], None
    data, mask, uncertainty, unit = read_data(hdu, said), None, None, None
    if hdulist is not None:
        if hdu is not hdulist[0] and not hdulist[0].shape:
            header.extend(observation_cards(hdulist[0].header), strip=True, unique=True)
        noise, hidden = companions(hdulist, hdu, said, chosen)
        if noise is not None:
            uncertainty = read_plane(noise, "uncertainty", said)
        if hidden is not None:
            try:
                mask = read_plane(hidden, "mask", said, header.get("TELESCOP"))
            except ValueError as error:  # a mask that is given is refused
                leave_aside(said, f"the mask is ignored: {error}")
    if text := str(header.get("BUNIT", "")).strip():
        unit = parse_unit(text)
        if unit is None and not is_logarithmic(text):  # which is refused later
            leave_aside(said, f"BUNIT {text!r} is no unit that astropy knows: it is kept as text")
    if unit is not None or not text:
        header.remove("BUNIT", ignore_missing=True)
    if isinstance(white := hdu.header.get("FULLSCAL"), int | float) and white > 0:
        told = "picture", white, f"its header says FULLSCAL = {white:g}"
    elif unit is None and data.dtype != np.uint8:
        told = "flux", None, "FITS values of more than 8 bits"
    wcs = read_wcs(valid_cards(hdu.header), hdulist, said)
    image = NDData(data, unit=unit, mask=mask, uncertainty=uncertainty, wcs=wcs, meta=header)
    return image, said, told


def _read_planes(given, name, said):
    """Return a given mask or uncertainty as a list of one part, or of one for each band."""
    if given is None:
        return []
    if _is_sequence(given):
        return [part for one in given for part in _read_planes(one, name, said)]
    if isinstance(given, PATHS):
        with _opened(given, name) as (path, hdulist, extension):
            if hdulist is not None:
                hdu = choose_hdu(hdulist, extension, name)
                plane = read_plane(hdu, name, said, hdulist[0].header.get("TELESCOP"))
            elif name == "mask":
                plane = plain_mask(_read_picture(path, name)[0].data)
            else:
                raise ValueError(f"{name} is {str(given)!r}, no FITS file; give one")
    elif isinstance(given, HDUS):
        plane = read_plane(given, name, said)
    elif name == "mask":
        plane = plain_mask(_computed(given))
    elif isinstance(given, NDUncertainty):
        plane = given
    else:
        kind = RelativeWeight if name == "weight" else StdDevUncertainty
        plane = kind(np.asarray(_computed(given)), unit=getattr(given, "unit", None))
    return [plane]


def _read_psf(given):
    """Replace paths in a given PSF by the images in the files, and texts of widths by widths."""
    if isinstance(given, list | tuple):
        return [_read_psf(one) for one in given]
    if not isinstance(given, PATHS):
        return given
    with suppress(TypeError, ValueError):
        return u.Quantity(str(given))
    try:
        with _opened(given, "file") as (path, hdulist, extension):
            if hdulist is None:
                raise ValueError(f"{str(path)!r} is no FITS file")
            for hdu in hdulist:
                if "POLNAXIS" in hdu.header and "PSF_FWHM" in hdu.header:  # of PSFEx
                    return hdu.header["PSF_FWHM"] * u.pix
            hdu = choose_hdu(hdulist, extension)
            return fits.ImageHDU(np.array(read_data(hdu, [])), hdu.header)
    except (OSError, ValueError) as error:
        raise restated(error, f"psf={str(given)!r}: {error}; {PSF_INPUTS}") from error


def _conform(image, said, told, planes):
    """Return an image in the common form and the origin of its kind."""
    data = np.asarray(image.data)
    if data.dtype.kind not in "iuf":
        raise TypeError(f"image has values of type {data.dtype}, which are no real numbers")
    unit = image.unit or image.meta.get("header", image.meta).get("BUNIT")
    if is_logarithmic(unit):
        raise ValueError(f"image is in {unit}, but magnitudes do not add; convert it to flux")
    if isinstance(unit, u.UnitBase) and unit.physical_type in ("time", "length", "angle"):
        leave_aside(
            said, f"image is in {unit}, a {unit.physical_type}, not light: is it the image?"
        )
    values = _bands_first(data)
    if values.ndim != 3 or min(values.shape[1:]) < SMALLEST or not values.size:
        text = (
            f"it has to be (y, x) or (bands, y, x), with at least {SMALLEST} pixels along x and y"
        )
        if data.ndim == 3 and data.shape[-1] < SMALLEST:
            text += "; np.moveaxis(image, -1, 0) puts bands first"
        raise ValueError(f"image has shape {data.shape}; {text}")
    own = [] if image.mask is None or image.mask is np.ma.nomask else [plain_mask(image.mask)]
    given = _read_planes(planes.get("mask"), "mask", said)
    hidden = np.zeros(values.shape, bool)
    for parts in filter(None, (own, given)):
        hidden |= _fitted(parts, "mask", values, data)
    flux = compact(values, hidden)
    mask = hidden | ~np.isfinite(flux)
    largest = float(np.abs(flux[~mask]).max(initial=0))
    if largest and not _SCALES[0] <= largest <= _SCALES[1]:
        text = "{:g} to {:g}: give it in another unit".format(*_SCALES)
        raise ValueError(f"image has values of up to {largest:.4g}; that has to be {text}")
    deviation = _deviation(image, values, mask, planes, said)
    wcs = celestial_wcs(image.wcs, said)
    type_ = data.dtype.name, _colour_last(data)
    has_more = wcs is not None or deviation is not None
    origin = Origin(told or kind_by_type(*type_, image.unit, has_more), *type_)
    mask = mask if own or given or mask.any() else None
    meta = _meta(image, origin, len(values), said)
    known, psf = meta["astrodeblend"], planes.get("psf")
    if psf is not None or np.shape(known.get("psf")) != (len(values),):
        known["psf"] = psf_in_pixels(psf, len(values), meta["header"], wcs, said)
    return changed(image, flux, mask=mask, deviation=deviation, wcs=wcs, meta=meta), origin


def _fitted(parts, name, values, data):
    """Return a mask or an uncertainty, given in one part or one for each band, as (bands, y, x)."""
    plane = parts[0] if len(parts) == 1 else np.concatenate([_bands_first(part) for part in parts])
    if np.shape(plane) == (len(values),) and name != "mask":  # one value for each band
        plane = plane[:, np.newaxis, np.newaxis]
    for shape in (values.shape, data.shape):
        with suppress(ValueError):
            return _bands_first(np.broadcast_to(plane, shape))
    shapes = f"{np.shape(plane)} and the image {data.shape}"
    raise ValueError(f"the {name} has shape {shapes}; make them the same")


def _deviation(image, values, mask, planes, said):
    """Return the standard deviation in the common form, or None; mask pixels without one."""
    name = "weight" if "weight" in planes else "uncertainty"
    parts = _read_planes(planes.get(name, image.uncertainty), name, said)
    if not parts:
        return None
    arrays = [standard_deviation(part, image.unit) for part in parts]
    deviation = _fitted(arrays, name, values, image.data)
    valid, none = ~mask, ~(deviation > 0)
    if (~(valid & ~none).any(axis=(1, 2)) & valid.any(axis=(1, 2))).any():
        text = "of a band, or below; give the noise of its pixels, or leave the uncertainty out"
        raise ValueError(f"image has an uncertainty of 0 in every valid pixel {text}")
    none |= ~np.isfinite(deviation)
    for empty, band in zip(none, deviation, strict=True):
        if not empty.all():
            empty |= band > _NO_WEIGHT * np.quantile(band[~empty], 0.1)
    if added := np.count_nonzero(none & valid):
        text = "an uncertainty of 0, none or far above the others', or no weight"
        said.append(f"{added} pixels have {text}: no data there")
    mask |= none
    if any(isinstance(part, RelativeWeight) for part in parts):
        bands = zip(values, deviation, mask, strict=True)
        scale = np.array([noise_per_weight(*band) for band in bands])
        if ((scale < 0.5) | (scale > 2)).any() and np.isfinite(scale).all() and scale.all():
            deviation = deviation * scale[:, np.newaxis, np.newaxis]
            times = ", ".join(f"{factor:.3g}" for factor in scale)
            text = f"noise is 1 / sqrt(weight), times {times} to agree with the image's"
            said.append(f"the weights are no inverse variances: {text}")
    return compact(deviation, mask)


def _bands_first(array):
    """Return a view of shape (bands, y, x), where the array has such a shape."""
    if array.ndim == 2:
        return array[np.newaxis]
    if array.ndim == 4 and 1 in array.shape[:2]:  # Stokes, frequency, y, x
        return array.squeeze(axis=array.shape[:2].index(1))
    return np.moveaxis(array, -1, 0) if _colour_last(array) else array


def _colour_last(array):
    return array.ndim == 3 and array.shape[0] > 4 and array.shape[2] in (3, 4)


def _meta(image, origin, bands, said):
    meta = {} if isinstance(image.meta, fits.Header) else dict(image.meta)
    known = meta.pop("astrodeblend", {})
    header = observation_cards(meta.get("header", image.meta))
    names = known.get("bands") or [header.get(f"BAND{i + 1}") for i in range(bands)]
    if origin.colour_last and bands == 3:
        names = "RGB"
    kind, white, _ = origin.told or (None, None, "")
    is_2d = bands == 1 and (image.data.ndim == 2 or known.get("ndim") == 2)
    names = tuple(names) if len(names) == bands and all(names) else None
    known = {"psf": known.get("psf"), "ndim": 2 if is_2d else 3, "kind": kind}
    known |= {"full_scale": white, "bands": names, "read": said}
    return meta | {"header": header, "astrodeblend": known}
