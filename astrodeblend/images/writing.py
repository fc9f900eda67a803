"""Writing images as FITS that CCDData and DS9 open."""

import gzip
import warnings

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from astrodeblend.files import atomic_path

from .form import changed, compact, standard_deviation
from .wcs import wcs_to_cards


def to_original_shape(image):
    """Return an image that was read as 2-D in 2-D, sharing its arrays; any other one as it is."""
    if np.shape(image.data)[:-2] != (1,) or image.meta.get("astrodeblend", {}).get("ndim") != 2:
        return image
    uncertainty = image.uncertainty
    if uncertainty is not None:
        uncertainty = type(uncertainty)(uncertainty.array[0], unit=uncertainty.unit, copy=False)
    mask = None if image.mask is None else image.mask[0]
    return changed(image, image.data[0], mask=mask, uncertainty=uncertainty)


def image_to_hdus(image, name):
    """Turn an image into the HDUs from which `~astropy.nddata.CCDData` reads it back.

    What `read_image` read as 2-D becomes 2-D again. The HDUs are the data, in float32 if that holds
    them, under ``name``; the mask under ``name_MASK`` and the standard deviation under
    ``name_UNCERT``, where the image has them; and the tables of its distortion.
    ``CCDData.read(path, hdu=name, hdu_mask=f"{name}_MASK", hdu_uncertainty=f"{name}_UNCERT")``
    opens them.

    The card FULLSCAL marks a picture and holds the value of white; `read_image` reads it. BUNIT is
    ``1`` without a unit, since CCDData demands one; a BUNIT that astropy cannot parse is written
    unchanged. A cube's SIP distortion, which takes two axes only, is written as TPV.
    """
    image = to_original_shape(image)
    header = image.meta.get("header", fits.Header()).copy()
    header["BUNIT"] = _unit_text(image.unit, header)
    known = image.meta.get("astrodeblend", {})
    for i, band in enumerate(known.get("bands") or ()):
        header[f"BAND{i + 1}"] = (ascii(str(band))[1:-1], f"name of band {i + 1}")
    if known.get("full_scale") is not None:
        header["FULLSCAL"] = (known["full_scale"], "white, as the values are a picture")
    tables = []
    if image.wcs is not None:
        cards, tables = wcs_to_cards(image.wcs, np.ndim(image.data))
        header.update(cards)
    hdus = []
    for suffix, array in _planes(image).items():
        is_mask = suffix == "_MASK"
        values = array if is_mask else _big_endian(array)
        hdus.append(fits.ImageHDU(values, None if is_mask else header, name=name + suffix))
    if suffix == "_UNCERT":
        hdus[-1].header["UTYPE"] = "StdDevUncertainty"
    return hdus + tables


def _planes(image):
    """Return data, mask and standard deviation of an image by the suffix of their HDU's name."""
    shape = np.shape(image.data)
    planes = {"": np.asarray(image.data)}
    if image.mask is not None:
        planes["_MASK"] = np.broadcast_to(image.mask, shape).astype(np.uint8)
    if image.uncertainty is not None:
        deviation = standard_deviation(image.uncertainty, image.unit)
        planes["_UNCERT"] = np.broadcast_to(deviation, shape)
    return planes


def write_fits(hdus, path, *, cutouts=(), name="CUTOUT", overwrite=False):
    """Write HDUs to a FITS file; after an error no file is left.

    An empty primary HDU is added in front if there is none; a file that ends in ``.gz`` is
    compressed; without ``overwrite`` a file that exists is refused.

    ``cutouts`` are parts of one image, written after ``hdus`` as `image_to_hdus` does, under
    ``name`` with EXTVER from 1. ``meta["box"]`` is the part's place in the image, ((y, y), (x, x));
    LTV1 and LTV2 state it in the file, so that physical coordinates in DS9 are those of the image.
    """
    hdus = list(hdus)
    if not hdus or not isinstance(hdus[0], fits.PrimaryHDU):
        hdus.insert(0, fits.PrimaryHDU())
    with atomic_path(path, overwrite=overwrite) as temporary:
        fits.HDUList(hdus).writeto(temporary, output_verify="exception", checksum=True)
        opened = gzip.open if temporary.suffix == ".gz" else open
        with opened(temporary, "ab") as file:
            file.writelines(_cutout_blocks(cutouts, name))


def _cutout_blocks(cutouts, name):
    """Yield headers and data of cutouts as bytes.

    The headers of the first cutout are reused: astropy takes milliseconds for each new one, and
    there may be thousands.
    """
    if not cutouts:
        return
    first = image_to_hdus(cutouts[0], name)
    headers = [hdu.header for hdu in first]
    for hdu, header in zip(first, headers, strict=True):
        hdu.ver = 1  # also puts EXTVER into the header
        header["LTV1"] = (0.0, "[pix] x of the image's first column in this one")
        header["LTV2"] = (0.0, "[pix] y of the image's first row in this one")
    for number, cutout in enumerate(cutouts, 1):
        planes = _planes(to_original_shape(cutout)).values()
        (top, _), (left, _) = cutout.meta["box"]
        for header, array in zip(headers, planes, strict=True):
            header["EXTVER"] = number
            header["NAXIS1"], header["NAXIS2"] = array.shape[:-3:-1]
            header["LTV1"], header["LTV2"] = -float(left), -float(top)
            if cutout.wcs is not None and "CRPIX1" in header:
                header["CRPIX1"], header["CRPIX2"] = map(float, cutout.wcs.wcs.crpix)
            yield header.tostring().encode("ascii")
            dtype = np.dtype(fits.BITPIX2DTYPE[header["BITPIX"]]).newbyteorder(">")
            content = np.asarray(array, dtype).tobytes()
            yield content + bytes(-len(content) % 2880)


def _big_endian(array):
    """Return a big-endian copy, as FITS stores it; astropy swaps other orders in place."""
    array = compact(array, ~np.isfinite(array), 1e-30)
    return array.astype(array.dtype.newbyteorder(">"))


def _unit_text(unit, header):
    if unit is None:
        return header.get("BUNIT", "1")
    if unit == u.dimensionless_unscaled:
        return "1"
    try:
        return unit.to_string("fits")
    except ValueError:
        text = unit.to_string()
    if u.Unit(text, parse_strict="silent") != unit:
        message = f"unit {text!r} is not known to FITS nor to astropy: it is written as text"
        warnings.warn(message, AstropyUserWarning, stacklevel=3)
    return text
