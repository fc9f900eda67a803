"""Images of one band each become one image: one unit, one grid."""

import warnings

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs.utils import proj_plane_pixel_area, proj_plane_pixel_scales

__all__ = ["is_surface_brightness", "put_on_grid", "stack"]


def put_on_grid(band, first, number):
    """Convert a band to the unit of the first one, and resample it to its grid if need be.

    Parameters
    ----------
    band, first : `~astropy.nddata.NDData`
        Images of one band, as `astrodeblend.images.read_image` gives them.
    number : int
        The band's place in the sequence, for messages.

    Returns
    -------
    band : `~astropy.nddata.NDData`

    Raises
    ------
    ValueError
        If the units do not convert, the shapes differ without a WCS, or there is no overlap.
    """
    factor = _unit_factor(band, first, number)
    flux = band.data * factor
    deviation = None if band.uncertainty is None else band.uncertainty.array * factor
    mask = band.mask
    if not _same_grid(band, first):
        if first.wcs is None or band.wcs is None:
            raise ValueError(
                f"band {number} has shape {band.data.shape[1:]} and band 0 {first.data.shape[1:]}; "
                "where they differ, both need a WCS"
            )
        flux, mask, deviation = _resample(flux, mask, deviation, band.wcs, first)
        if mask.all():
            raise ValueError(f"band {number} does not overlap band 0 on the sky; leave it out")
    return NDData(
        flux,
        unit=first.unit,
        mask=mask,
        uncertainty=None if deviation is None else StdDevUncertainty(deviation, copy=False),
        wcs=first.wcs,
        meta=band.meta,
    )


def stack(bands):
    """Stack bands on one grid; of their headers keep what they have in common."""
    mask = uncertainty = None
    if any(band.mask is not None for band in bands):
        empty = np.zeros(bands[0].data.shape, dtype=bool)
        mask = np.concatenate([empty if band.mask is None else band.mask for band in bands])
    with_uncertainty = [band.uncertainty.array for band in bands if band.uncertainty is not None]
    if len(with_uncertainty) == len(bands):
        uncertainty = StdDevUncertainty(np.concatenate(with_uncertainty), copy=False)
    elif with_uncertainty:
        warnings.warn(
            "only some of the bands have an uncertainty: it is left aside",
            AstropyUserWarning,
            stacklevel=2,
        )
    headers = [band.meta["header"] for band in bands]
    images = [{card.image for card in header.cards} for header in headers]
    common = [card for card in headers[0].cards if all(card.image in cards for cards in images)]
    names = [header.get("FILTER") for header in headers]
    full_scales = {band.meta["astrodeblend"]["full_scale"] for band in bands}
    known = {
        "ndim": 3,
        "full_scale": full_scales.pop() if len(full_scales) == 1 else None,
        "bands": names if len(set(names)) == len(names) else None,
    }
    return NDData(
        np.concatenate([band.data for band in bands]),
        unit=bands[0].unit,
        mask=mask,
        uncertainty=uncertainty,
        wcs=bands[0].wcs,
        meta={"header": fits.Header(common), "astrodeblend": known},
    )


def _unit_factor(band, first, number):
    # a BUNIT that is still in the header is one that astropy cannot read
    ours, theirs = (
        str(image.unit or image.meta["header"].get("BUNIT") or "no unit") for image in (band, first)
    )
    if ours == theirs:
        return 1.0
    try:
        if band.unit is not None and first.unit is not None:
            return band.unit.to(first.unit)
    except u.UnitConversionError:
        pass
    raise ValueError(
        f"band {number} is in {ours} and band 0 in {theirs}; "
        "give all bands units that convert into each other, or none"
    )


def _same_grid(band, first):
    """Whether both have the same pixels, to a thousandth of one."""
    if band.data.shape != first.data.shape:
        return False
    if band.wcs is None or first.wcs is None:
        return True
    height, width = first.data.shape[1:]
    x, y = np.meshgrid(np.linspace(0, width - 1, 3), np.linspace(0, height - 1, 3))
    apart = band.wcs.pixel_to_world(x, y).separation(first.wcs.pixel_to_world(x, y))
    # where the projection has no sky, in the corners of an all-sky image, this is NaN
    return not (apart.deg > 1e-3 * proj_plane_pixel_scales(first.wcs).min()).any()


def _resample(flux, mask, deviation, wcs, first):
    """Put flux, mask and standard deviation, each (1, y, x), on the grid of another image.

    The standard deviation is that of each pixel; that neighbours are correlated is not kept.
    """
    from reproject import reproject_adaptive, reproject_interp  # slow to import, rarely needed

    def onto_grid(method, array, **options):
        array = array[0].astype(np.float64)
        grid = {"output_projection": first.wcs, "shape_out": first.data.shape[1:]}
        return method((array, wcs), **grid, **options)

    if mask is None:
        mask = np.zeros(flux.shape, dtype=bool)
    flux = np.where(mask, np.median(flux[~mask]), flux)  # one NaN would spread over the whole image
    area = proj_plane_pixel_area(first.wcs) / proj_plane_pixel_area(wcs)
    if area > 2:
        averaged = area
        flux, footprint = onto_grid(reproject_adaptive, flux, kernel="hann")
        hidden, _ = onto_grid(reproject_adaptive, mask, kernel="hann")
    else:
        averaged = 1
        flux, footprint = onto_grid(reproject_interp, flux, order="bicubic")
        hidden, _ = onto_grid(reproject_interp, mask, order="bilinear")
    mask = (footprint == 0) | ~np.isfinite(flux) | ~(hidden < 1e-6)
    scale = 1 if is_surface_brightness(first) else area
    if deviation is not None:
        deviation, _ = onto_grid(reproject_interp, deviation, order="bilinear")
        deviation = (deviation * scale / np.sqrt(averaged)).astype(np.float32)[np.newaxis]
    return (flux * scale).astype(np.float32)[np.newaxis], mask[np.newaxis], deviation


def is_surface_brightness(image):
    """Tell whether values are brightnesses, which do not depend on the size of a pixel.

    Those of a picture are, and those per solid angle or beam.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.

    Returns
    -------
    bool
    """
    if image.meta.get("astrodeblend", {}).get("full_scale") is not None:
        return True
    if not isinstance(image.unit, u.UnitBase):  # none, or magnitudes
        return False
    base = image.unit.decompose()
    powers = dict(zip(base.bases, base.powers, strict=True))
    return powers.get(u.rad, 0) < 0 or powers.get(u.beam, 0) < 0
