"""Images of one band each become one image: one unit, one grid."""

from contextlib import suppress

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.wcs.utils import proj_plane_pixel_area, proj_plane_pixel_scales

from .errors import leave_aside
from .planes import changed, compact
from .units import is_surface_brightness

__all__ = ["put_on_grid", "stack"]


def put_on_grid(band, first, number):
    """Convert a band to the unit of the first one, and resample it to its grid if need be."""
    factor = np.float64(_unit_factor(band, first, number))
    flux, mask, meta = band.data * factor, band.mask, band.meta
    deviation = None if band.uncertainty is None else band.uncertainty.array * factor
    if not _same_grid(band, first):
        text = band.meta["header"].get("BUNIT")
        if first.wcs is None or band.wcs is None:
            text = f"shape {band.data.shape[1:]} and band 0 {first.data.shape[1:]}"
            raise ValueError(f"band {number} has {text}; where they differ, both need a WCS")
        if text is not None:
            raise ValueError(
                f"band {number} is on another grid than band 0 and its unit {text!r} is not known: "
                "it may be light per pixel or per area; give BUNIT a unit that astropy reads"
            )
        known = meta["astrodeblend"]
        resampled = _resample(flux, mask, deviation, known["psf"], band.wcs, first)
        flux, mask, deviation, psf = resampled
        meta = meta | {"astrodeblend": known | {"psf": psf}}
        if mask.all():
            raise ValueError(f"band {number} does not overlap band 0 on the sky; leave it out")
    hidden = False if mask is None else mask
    deviation = None if deviation is None else compact(deviation, hidden)
    return changed(first, compact(flux, hidden), mask=mask, deviation=deviation, meta=meta)


def stack(bands):
    """Stack bands on one grid; of their headers keep what they have in common."""
    each = [band.meta["astrodeblend"]["read"] for band in bands]
    said = [f"band {i}: {text}" for i, texts in enumerate(each) for text in texts]
    mask = deviation = None
    if any(band.mask is not None for band in bands):
        empty = np.zeros(bands[0].data.shape, dtype=bool)
        mask = np.concatenate([empty if band.mask is None else band.mask for band in bands])
    deviations = [band.uncertainty.array for band in bands if band.uncertainty is not None]
    if len(deviations) == len(bands):
        deviation = np.concatenate(deviations)
    elif deviations:
        leave_aside(said, "only some of the bands have an uncertainty: it is left aside")
    headers = [band.meta["header"] for band in bands]
    images = [{card.image for card in header.cards} for header in headers]
    common = [card for card in headers[0].cards if all(card.image in cards for cards in images)]
    names = [header.get("FILTER") for header in headers]
    names = tuple(names) if all(names) and len(set(names)) == len(names) else None
    known = bands[0].meta["astrodeblend"] | {"ndim": 3, "bands": names, "read": said}
    known["psf"] = np.concatenate([band.meta["astrodeblend"]["psf"] for band in bands])
    meta = {"header": fits.Header(common), "astrodeblend": known}
    data = np.concatenate([band.data for band in bands])
    return changed(bands[0], data, mask=mask, deviation=deviation, meta=meta)


def _unit_factor(band, first, number):
    # a BUNIT that is still in the header is one that astropy cannot read
    units = [i.unit or i.meta["header"].get("BUNIT") or "no unit" for i in (band, first)]
    ours, theirs = map(str, units)
    if ours == theirs:
        return 1.0
    with suppress(u.UnitConversionError, AttributeError):
        return band.unit.to(first.unit)
    text = "give all bands units that convert into each other, or none"
    raise ValueError(f"band {number} is in {ours} and band 0 in {theirs}; {text}")


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


def _resample(flux, mask, deviation, psf, wcs, first):
    """Put flux, mask and standard deviation, each (1, y, x), and the PSF on another image's grid.

    The standard deviation is that of each pixel; that neighbours are correlated is not kept.
    """
    from reproject import reproject_adaptive, reproject_interp  # slow to import, rarely needed

    def onto_grid(array, order):
        array = array[0].astype(np.float64), wcs
        grid = {"output_projection": first.wcs, "shape_out": first.data.shape[1:]}
        if order is None:
            return reproject_adaptive(array, kernel="hann", **grid)
        return reproject_interp(array, order=order, **grid)

    if mask is None:
        mask = np.zeros(flux.shape, dtype=bool)
    flux = np.where(mask, np.median(flux[~mask]), flux)  # one NaN would spread over the whole image
    area = proj_plane_pixel_area(first.wcs) / proj_plane_pixel_area(wcs)
    finer = area > 2
    flux, footprint = onto_grid(flux, None if finer else "bicubic")
    hidden, _ = onto_grid(mask, None if finer else "bilinear")
    mask = (footprint == 0) | ~np.isfinite(flux) | ~(hidden < 1e-6)
    scale = 1 if is_surface_brightness(first) else area
    if deviation is not None:
        deviation, _ = onto_grid(deviation, "bilinear")
        deviation = (deviation * scale / (np.sqrt(area) if finer else 1))[np.newaxis]
    psf = np.hypot(psf / np.sqrt(area), 1 if finer else 0)  # the Hann kernel smears by a pixel
    return (flux * scale)[np.newaxis], mask[np.newaxis], deviation, psf
