"""Writing images as FITS that CCDData and DS9 open."""

import gzip
import warnings

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData
from astropy.utils.exceptions import AstropyUserWarning

from astrodeblend.files import atomic_path

from .uncertainty import broadcast, standard_deviation
from .wcs import wcs_to_cards

__all__ = ["image_to_hdus", "to_original_shape", "write_fits"]


def to_original_shape(image):
    """Give a 2-D image back as 2-D, and any other one as it is.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `read_image` gives it, or derived from that.

    Returns
    -------
    image : `~astropy.nddata.NDData`
        Of shape (y, x) if the image has one band and ``meta["astrodeblend"]["ndim"]`` is 2;
        its arrays are views.
    """
    if np.ndim(image.data) != 3 or len(image.data) != 1:
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
        deviation under ``name_UNCERT``, where the image has them; and the tables of a WCS whose
        distortion is a look-up table. ``CCDData.read(path, hdu=name, hdu_mask=f"{name}_MASK",
        hdu_uncertainty=f"{name}_UNCERT")`` opens them.

    Notes
    -----
    A dimensionless image, or one without unit, gets the BUNIT ``1``, since CCDData demands a
    unit. A BUNIT that astropy could not read goes out as it came in.

    SIP is defined for two axes only, so a cube's SIP distortion is written as the TPV polynomial
    that equals it.
    """
    image = to_original_shape(image)
    data = np.asarray(image.data)
    header = image.meta.get("header", fits.Header()).copy()
    header["BUNIT"] = _unit_text(image.unit, header)
    for i, band in enumerate(image.meta.get("astrodeblend", {}).get("bands") or ()):
        header[f"BAND{i + 1}"] = (band, f"name of band {i + 1}")
    tables = []
    if image.wcs is not None:
        cards, tables = wcs_to_cards(image.wcs, data.ndim)
        header.update(cards)
    hdus = [fits.ImageHDU(_big_endian(data), header, name=name)]
    if image.mask is not None:
        mask = broadcast(image.mask, data.shape, "mask").astype(np.uint8)
        hdus.append(fits.ImageHDU(mask, name=f"{name}_MASK"))
    deviation = standard_deviation(image)
    if deviation is not None:
        deviation = _big_endian(broadcast(deviation, data.shape, "uncertainty"))
        hdus.append(fits.ImageHDU(deviation, header, name=f"{name}_UNCERT"))
        hdus[-1].header["UTYPE"] = "StdDevUncertainty"
    return hdus + tables


def write_fits(hdus, path, *, cutouts=(), name="CUTOUT", overwrite=False):
    """Write HDUs to a FITS file that appears whole or not at all.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList` or sequence of HDUs
        What to write; an empty primary HDU comes first if there is none.
    path : str or path-like
        Where to; ``.gz`` at its end compresses the file.
    cutouts : sequence of `~astropy.nddata.NDData`, optional
        Parts of one image, to follow as `image_to_hdus` turns them into HDUs, with their place
        in the sequence, from 1, as EXTVER. ``meta["box"]`` says where in the image each is,
        ((y, y), (x, x)); LTV1 and LTV2 say so in the file: physical coordinates in DS9 are
        those of the image.
    name : str, optional
        Of their HDUs.
    overwrite : bool, optional
        Replace a file that is there already. By default that is refused.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is false.
    FileNotFoundError, PermissionError
        If the folder of ``path`` does not exist or is read-only.
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

    There may be thousands. What differs between their headers is little, and astropy takes
    milliseconds for each new one: so those of the first serve all.
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
        cutout = to_original_shape(cutout)
        arrays = [np.asarray(cutout.data, ">f4")]
        if cutout.mask is not None:
            arrays.append(broadcast(cutout.mask, cutout.data.shape, "mask").astype(np.uint8))
        deviation = standard_deviation(cutout)
        if deviation is not None:
            arrays.append(broadcast(deviation, cutout.data.shape, "uncertainty").astype(">f4"))
        (top, _), (left, _) = cutout.meta["box"]
        for header, array in zip(headers, arrays, strict=True):
            header["EXTVER"] = number
            header["NAXIS1"], header["NAXIS2"] = array.shape[:-3:-1]
            header["LTV1"], header["LTV2"] = -float(left), -float(top)
            if cutout.wcs is not None and "CRPIX1" in header:
                header["CRPIX1"], header["CRPIX2"] = map(float, cutout.wcs.wcs.crpix)
            yield header.tostring().encode("ascii")
            content = array.tobytes()
            yield content + bytes(-len(content) % 2880)


def _big_endian(array):
    """Copy as float32 in the byte order of FITS; others astropy swaps in place while it writes."""
    return np.array(array, dtype=">f4")


def _unit_text(unit, header):
    if unit is None:
        return header.get("BUNIT", "1")
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
            f"unit {text!r} is not known to FITS nor to astropy: it is written as text",
            AstropyUserWarning,
            stacklevel=3,
        )
    return text
