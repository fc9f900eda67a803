"""Names and wavelengths of bands; single-band images stacked in one unit on one grid."""

import re
from contextlib import suppress

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.wcs.utils import proj_plane_pixel_area, proj_plane_pixel_scales

from .errors import leave_aside
from .form import changed, compact

# Effective wavelengths in nm, rounded: they only order bands. A lower-case v is violet.
_WAVELENGTHS = {
    "fuv": 153, "nuv": 230, "u": 360, "v": 384, "b": 440, "g": 480, "V": 550, "r": 630, "vis": 720,
    "i": 770, "z": 900, "y": 1000, "j": 1240, "h": 1650, "k": 2180, "ks": 2150,
    "w1": 3368, "w2": 4618, "w3": 12082, "w4": 22194,
}  # fmt: skip
# JWST and Roman filters of three digits, 200 or more, whose number is in tens of nm.
_TENS = re.compile(
    "F(200W|2(50|10)M|212N|213|277W|3(00|35|60)M|322W2|323N|356W|405N|4(10|30|60|80)M|444W|4(66|70)N"
    "|560W|770W)"
)


def _band_name(header):
    """Return the name of the band that a header states, or None."""
    names = [str(header.get(f"FILTER{k}", "")).strip() for k in ("", 1, 2)]
    names += [str(header.get(key, "")).strip() for key in ("BAND", "BAND1")]
    return next((name for name in names if name and not name.upper().startswith("CLEAR")), None)


def wavelength_of(name):
    """Return the approximate wavelength of a band in nm, or None for an unknown name.

    Known names are such as ``r``, ``HSC-R2``, ``sdss_g``, ``i.MP9702``, ``Ks``, ``VIS``, ``f444w``.
    """
    found = set()
    for word in re.split("[^A-Za-z0-9]+", name):
        if filter_ := re.fullmatch(r"F(\d{3,4})([A-Z]{1,2}\d?)?", word.upper()):
            tens = len(filter_[1]) == 4 or int(filter_[1]) < 200 or filter_[2] is None
            tens = tens or _TENS.fullmatch(word.upper())
            found.add(int(filter_[1]) * (10 if tens else 1))
        known = [each for each in (word, word.lower(), word.lower()[:-1]) if each in _WAVELENGTHS]
        if known and (known[0] != word.lower()[:-1] or word[-1].isdigit()):
            found.add(_WAVELENGTHS[known[0]])
    return found.pop() if len(found) == 1 else None


def channels_of(image, bands):
    """Return the bands of each colour channel, red first (one channel is grey), and their names.

    The names are None for the three channels of a colour picture and for one band without a name.
    ``bands`` are those to show, by number or name; None: all.
    """
    known, count = image.meta.get("astrodeblend", {}), image.data[..., 0, 0].size
    names = known.get("bands")
    if names is None and count == 1 and (name := _band_name(image.meta.get("header", {}))):
        names = [name]
    names = names and list(map(str, names))
    chosen, ordered = list(range(count)), False
    if bands is not None:
        whole = isinstance(bands, str) and (count == 1 or bands in (names or ()))
        bands = [bands] if whole or isinstance(bands, int | np.integer) else list(bands)
        if all(isinstance(band, str) for band in bands) and names is None and len(bands) == count:
            names = bands
        numbers = {band: k for k, band in [*enumerate(chosen), *enumerate(names or ())]}
        found = [numbers.get(band) for band in bands]
        if not bands or None in found or len(set(found)) < len(found):
            may_be = f"0 to {count - 1}" + (f" or {', '.join(names)}" if names else "")
            raise ValueError(f"bands is {bands}: give some of {may_be}, each once")
        chosen, ordered = found, not any(isinstance(band, str) for band in bands)
    elif known.get("kind") == "picture":
        chosen, ordered = chosen[::-1], True
    waves = [wavelength_of(names[k]) if names else None for k in chosen]
    if not ordered and None not in waves:
        chosen = [chosen[k] for k in np.argsort(waves, kind="stable")]
    chosen = chosen[::-1]  # from red to blue
    if len(chosen) == 2:
        groups = [chosen[:1], chosen, chosen[1:]]
    else:
        groups = [part.tolist() for part in np.array_split(chosen, min(len(chosen), 3))]
    if names is None and (len(chosen) == 1 or known.get("kind") == "picture"):
        return groups, None
    called = names or [f"band {k}" for k in range(count)]
    said = ["+".join(called[k] for k in reversed(group)) for group in groups]
    return groups, None if said == list("RGB") else said


def is_surface_brightness(image):
    """Return whether the values of an image do not depend on the area of a pixel.

    True for pictures, values per solid angle or beam, and temperatures.
    """
    if image.meta.get("astrodeblend", {}).get("full_scale") is not None:
        return True
    if not isinstance(image.unit, u.UnitBase):
        return False
    base = image.unit.decompose()
    powers = dict(zip(base.bases, base.powers, strict=True))
    return powers.get(u.rad, 0) < 0 or powers.get(u.beam, 0) < 0 or powers.get(u.K, 0) > 0


def put_on_grid(band, first, number):
    """Convert a band to the unit of the first band, and resample it where the grids differ."""
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
        missing = mask is not None and mask.all()
        resampled = _resample(flux, mask, deviation, known["psf"], band.wcs, first)
        flux, mask, deviation, psf = resampled
        meta = meta | {"astrodeblend": known | {"psf": psf}}
        if mask.all() and not missing:
            raise ValueError(f"band {number} does not overlap band 0 on the sky; leave it out")
    hidden = False if mask is None else mask
    deviation = None if deviation is None else compact(deviation, hidden)
    return changed(first, compact(flux, hidden), mask=mask, deviation=deviation, meta=meta)


def stack(bands, names):
    """Stack bands on one grid; keep the cards that all their headers share.

    The headers name the bands; else ``names`` do, if each has a known wavelength and all differ.
    """
    each = [band.meta["astrodeblend"]["read"] for band in bands]
    own = [_band_name(band.meta["header"]) for band in bands]
    names = own if all(own) else [name for name in names if name and wavelength_of(name)]
    names = tuple(names) if len(set(names)) == len(bands) else None
    called = zip(names or range(len(bands)), each, strict=True)
    said = [f"band {name}: {text}" for name, texts in called for text in texts]
    mask = deviation = None
    if any(band.mask is not None for band in bands):
        empty = np.zeros(bands[0].data.shape, dtype=bool)
        mask = np.concatenate([empty if band.mask is None else band.mask for band in bands])
    deviations = [band.uncertainty.array for band in bands if band.uncertainty is not None]
    if len(deviations) == len(bands):
        deviation = np.concatenate(deviations)
    elif deviations:
        leave_aside(said, "only some of the bands have an uncertainty: it is ignored")
    headers = [band.meta["header"] for band in bands]
    images = [{card.image for card in header.cards} for header in headers]
    common = [card for card in headers[0].cards if all(card.image in cards for cards in images)]
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
    """Return whether the pixels of both agree to 0.001 pixels."""
    if band.data.shape != first.data.shape:
        return False
    if band.wcs is None or first.wcs is None:
        return True
    height, width = first.data.shape[1:]
    x, y = np.meshgrid(np.linspace(0, width - 1, 3), np.linspace(0, height - 1, 3))
    apart = band.wcs.pixel_to_world(x, y).separation(first.wcs.pixel_to_world(x, y))
    # NaN where the projection has no sky: in the corners of an all-sky image
    return not (apart.deg > 1e-3 * proj_plane_pixel_scales(first.wcs).min()).any()


def _resample(flux, mask, deviation, psf, wcs, first):
    """Resample flux, mask and standard deviation, each (1, y, x), and the PSF to another grid.

    The standard deviation is that of each pixel; the correlation of neighbours is lost.
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
    fill = 0 if mask.all() else np.median(flux[~mask])
    flux = np.where(mask, fill, flux)  # one NaN would spread over the whole image
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
