"""Measurement of the catalogue, each component alone, with photutils."""

import numpy as np
from astropy import units as u
from astropy.table import QTable
from photutils.aperture import CircularAperture
from photutils.segmentation import SegmentationImage, SourceCatalog
from scipy import ndimage

from astrodeblend.detect import around
from astrodeblend.flags import Flag, flag_names

__all__ = ["measure"]

_SHAPES = {
    "semimajor_axis": u.pix,
    "semiminor_axis": u.pix,
    "orientation": u.deg,
    "ellipticity": None,
    "segment_area": u.pix**2,
}
_KINDS = ("segment", "kron")
_FORMATS = {"x_centroid": ".2f", "y_centroid": ".2f", "semimajor_axis": ".2f",
            "semiminor_axis": ".2f", "orientation": ".1f", "ellipticity": ".3f",
            "segment_area": ".0f"}  # fmt: skip
_APERTURE = 1.0  # radius of the aperture in Petrosian radii
_ASIDE = 0.3, 1.5  # half-light radii, pixels: largest distance of a source's centroid from its peak


def measure(image, sky, above, components, sources, calibration, *, unclaimed=0.0):
    """Measure components, each alone; return a row for each.

    ``sources`` are their rows in the table of `astrodeblend.detect.find_sources`; ``above`` is the
    image above the sky, 0 without data, ``unclaimed`` the light of no component, both (bands, y,
    x); the sky has pixels without data and the correlation of the noise, which increases the errors
    of fluxes; the calibration is that of errors of deblending.

    With the names and meanings of `photutils.segmentation.SourceCatalog`: ``label``;
    ``x_centroid``, ``y_centroid``, the windowed centroid, or the peak if the centroid is too far
    from it; ``sky_centroid`` if the image has a WCS; ``semimajor_axis``, ``semiminor_axis``,
    ``orientation``, ``ellipticity``, ``segment_area``; ``segment_flux`` and ``kron_flux`` with
    their ``_err``, of shape (rows, bands) for an image (bands, y, x), in its unit. One error holds
    68.3 % of the true fluxes of sources alone in the same segment. A component without light has
    its detected position and zero flux. The flux is NaN in a band without data where most of the
    light is. Further columns:

    ``aperture_radius``, ``aperture_flux``, ``aperture_flux_err``
        Flux of the image less all other light, in a circle of one Petrosian radius.
    ``parent``, ``n_blended``, ``neighbor_distance``
        As in `astrodeblend.detect.find_sources`.
    ``blendedness``
        1 - S_k.S_k / S_all.S_k, with S_k the component and S_all the sum of all (Bosch et
        al. 2018, PASJ 70, S5, section 4.9.11).
    ``flux_overlap_fraction``
        Fraction of the component's light in pixels where the others together are brighter.
    ``masked_fraction``
        Share of the light in pixels without data, which fluxes lack, of shape (rows, bands) for
        an image (bands, y, x): estimated from the component's mean light in elliptical rings,
        so too low where the source's middle is masked.
    ``blend_score``
        Probability that the stamp around the source shows more than one galaxy; NaN for a
        model without a blend score.
    ``flags``, ``flag_names``
        Flags as bits and as names (`astrodeblend.Flag`).
    """
    count = len(components)
    table = QTable({"label": np.arange(1, count + 1)})
    positions = np.reshape([c.position for c in components], (-1, 2)).astype(float)
    errors = [_deblending(component, calibration) for component in components]
    scale = np.reshape([c.scale for c in components], (-1, 1))
    shapes, fluxes = _alone(components, positions, sky, errors, calibration, scale)
    for name in ("x_centroid", "y_centroid", *_SHAPES):
        unit = _SHAPES.get(name)
        table[name] = shapes[name] if unit is None else shapes[name] << unit
    if image.wcs is not None:
        place = image.wcs.pixel_to_world(table["x_centroid"], table["y_centroid"])
        table.add_column(place, name="sky_centroid", index=3)
    radii = _APERTURE * sources["petrosian_radius"].value
    table["aperture_radius"] = radii << u.pix
    fluxes |= _apertures(
        image, sky, above, components, radii, errors, calibration, scale, unclaimed
    )
    for name, values in fluxes.items():
        values = values[:, 0] if image.meta["astrodeblend"]["ndim"] == 2 else values
        table[name] = values if image.unit is None else values << image.unit
    for name in ("parent", "n_blended", "neighbor_distance"):
        table[name] = sources[name]
    table["blendedness"], table["flux_overlap_fraction"] = _blending(
        unclaimed + np.zeros(image.data.shape), components
    )
    ellipses = zip(*(shapes[name] for name in ("x_centroid", "y_centroid", *_SHAPES)), strict=True)
    masked = [_masked(c, *ellipse[:5]) for c, ellipse in zip(components, ellipses, strict=True)]
    masked = np.reshape(masked, (count, len(above)))
    table["masked_fraction"] = masked[:, 0] if image.meta["astrodeblend"]["ndim"] == 2 else masked
    table["blend_score"] = np.array([c.blend_score for c in components], float)
    table["flags"] = np.array([int(c.flags) for c in components], int)
    table["flags"][shapes["several"]] |= int(Flag.SEVERAL_PEAKS)
    table["flag_names"] = np.array(flag_names(table["flags"]), str)
    for name in table.colnames:
        if name in _FORMATS or "flux" in name:
            table[name].info.format = _FORMATS.get(name, ".5g")
    return table


def _deblending(component, calibration):
    """Return the deviation of a component's pixels by deblending, and its correlated part."""
    if component.flux_std is not None:  # distributed as the light is
        light = np.maximum(component.seen, 0).astype(float)
        total = light.sum(axis=(1, 2), keepdims=True)
        part = np.divide(light, total, out=np.zeros_like(light), where=total > 0)
        coherent = calibration.coherent * component.flux_std[:, None, None] * part
        return np.stack([np.zeros_like(light), coherent])
    deviation = np.where(component.seen != 0, component.deblending, 0).astype(float)
    coherent = calibration.coherent_std(component.seen, deviation, component.footprint)
    return np.stack([deviation, coherent])


def _alone(components, positions, sky, errors, calibration, scale):
    """Measure shapes and fluxes in one image with all components side by side."""
    bands = len(sky.correlation)
    corners, shape = _side_by_side([c.light.shape[1:] for c in components])
    images = np.zeros((4, bands, *shape))  # light, noise, deblending's correlated part, deblending
    hidden = np.zeros((bands, *shape), bool)
    detection = np.zeros(shape)
    segments = np.zeros(shape, np.int32)
    for k, (c, (row, column), error) in enumerate(zip(components, corners, errors, strict=True), 1):
        tile = slice(row, row + c.light.shape[1]), slice(column, column + c.light.shape[2])
        noise = np.where(c.seen != 0, c.noise, 0).astype(float)
        images[:, :, *tile] = c.seen, noise**2, error[1], error[0] ** 2
        hidden[:, *tile] = c.hidden
        detection[tile] = (c.seen / c.sky_noise).sum(axis=0)
        segments[tile] = np.where((c.seen != 0).any(axis=0) & c.footprint, k, 0)
    shapes = {name: np.full(len(components), np.nan) for name in _SHAPES}
    shapes |= {"x_centroid": positions[:, 0].copy(), "y_centroid": positions[:, 1].copy()}
    shapes["several"] = np.zeros(len(components), bool)
    fluxes = {
        f"{kind}_flux{end}": np.full((len(components), bands), 0.0 if end == "" else np.nan)
        for kind in _KINDS
        for end in ("", "_err")
    }
    for kind in _KINDS:  # light without data is unknown, not 0
        for k, component in enumerate(components):
            fluxes[f"{kind}_flux"][k, component.hidden.all(axis=(1, 2))] = np.nan
    if not segments.any():
        return shapes, fluxes
    sheet = SegmentationImage(segments)
    catalog = SourceCatalog(detection, sheet, progress_bar=False, aperture_mask_method="mask")
    rows = catalog.label - 1
    for name in _SHAPES:
        shapes[name][rows] = u.Quantity(getattr(catalog, name)).value
    start = [np.subtract([p.start for p in components[k].box], corners[k])[::-1] for k in rows]
    centroid = catalog.centroid_win + start
    peaks = np.array([components[k].peak for k in rows])
    apart, radius = np.hypot(*(centroid - peaks).T), catalog.flux_radius(0.5).value
    several = ~(apart <= np.maximum(_ASIDE[0] * radius, _ASIDE[1]))  # true for NaN
    shapes["several"][rows] = several
    centroid[several] = peaks[several]
    shapes["x_centroid"][rows], shapes["y_centroid"][rows] = centroid.T
    sums = _sums(catalog, sheet, images, hidden)
    # the flux of a band without data where most of the light is is unknown
    detection = np.abs(detection)  # the sum of noise may be negative
    light = ndimage.sum_labels(detection, segments, catalog.label)
    unknown = np.stack(
        [
            ndimage.sum_labels(detection * out, segments, catalog.label) > light / 2
            for out in hidden
        ],
        axis=-1,
    )
    sky_noise = np.array([components[k].sky_noise.ravel() for k in rows])
    for kind, factor in zip(_KINDS, (1, calibration.kron), strict=True):
        flux, variance, *parts = sums[kind]
        area = catalog.segment_area.value[:, None]  # beyond the segment the image is empty
        deviation = factor * calibration.combined(*parts, area, sky_noise, scale=scale[rows])
        noise = variance * (calibration.noise * sky.correlation) ** 2
        error = np.sqrt(noise + deviation**2)
        fluxes[f"{kind}_flux"][rows] = np.where(unknown, np.nan, flux)
        fluxes[f"{kind}_flux_err"][rows] = np.where(unknown, np.nan, error)
    return shapes, fluxes


def _side_by_side(shapes, width=1024):
    """Pack rectangles in rows; return their corners (y, x) and the shape of the whole."""
    width = max([width, *(x for _, x in shapes)])
    corners = [None] * len(shapes)
    row = column = height = 0
    for k in sorted(range(len(shapes)), key=lambda k: -shapes[k][0]):
        if column + shapes[k][1] > width:
            row, column, height = row + height, 0, 0
        corners[k] = (row, column)
        height = max(height, shapes[k][0])
        column += shapes[k][1]
    return corners, (row + height, width)


def _apertures(image, sky, above, components, radii, errors, calibration, scale, unclaimed):
    """Return fluxes in a circle around each source, with all other light subtracted."""
    rest = above - unclaimed
    for component in components:
        rest[:, *component.box] -= component.seen
    fluxes = np.full((2, len(components), len(above)), np.nan)
    for k, component in enumerate(components):
        rows, columns = component.box
        x, y = component.position
        box, at = around((x, y), radii[k] + 1, above.shape[1:])
        rest[:, rows, columns] += component.seen
        alone = rest[:, *box].copy()
        rest[:, rows, columns] -= component.seen
        spread = np.broadcast_to(component.sky_noise, alone.shape)
        if image.uncertainty is not None:
            spread = image.uncertainty.array[:, *box].astype(float)
        weight = CircularAperture(at, radii[k]).to_mask(method="exact").to_image(alone.shape[1:])
        if weight is None:
            continue
        known = ~sky.hidden[:, *box]
        fluxes[0, k] = (weight * alone).sum(axis=(1, 2))
        noise = (weight * np.where(known, spread, 0) ** 2).sum(axis=(1, 2))
        # errors of deblending: in the component's box, beyond which it has no light
        aperture = CircularAperture((x - columns.start, y - rows.start), radii[k])
        weight = aperture.to_mask(method="exact").to_image(component.light.shape[1:])
        sums = (
            [np.zeros(len(above))] * 2
            if weight is None
            else [(weight * e).sum(axis=(1, 2)) for e in (errors[k][1], errors[k][0] ** 2)]
        )
        area = 0 if weight is None else weight.sum()
        sky_noise = component.sky_noise.ravel()
        deviation = calibration.combined(*sums, area, sky_noise, scale=scale[k])
        fluxes[1, k] = np.sqrt(noise * sky.correlation**2 + deviation**2)
        fluxes[:, k, ~known.any(axis=(1, 2))] = np.nan
    return {"aperture_flux": fluxes[0], "aperture_flux_err": fluxes[1]}


def _blending(total, components):
    """Return blendedness and flux overlap fraction of every component."""
    for component in components:
        total[:, *component.box] += component.seen
    result = np.full((2, len(components)), np.nan)
    for k, component in enumerate(components):
        own, everything = component.seen.astype(float), total[:, *component.box]
        both, summed = np.vdot(own, everything), own.sum()
        if both > 0:
            result[0, k] = 1 - np.vdot(own, own) / both
        if summed > 0:
            result[1, k] = own[everything - own > own].sum() / summed
    return result


def _masked(component, x, y, major, minor, angle):
    """Return the share by band of a source's light in pixels without data; NaN without light."""
    if not component.hidden.any():
        return np.zeros(len(component.hidden))
    share = np.full(len(component.hidden), np.nan)
    rows, columns = (np.arange(part.start, part.stop) for part in component.box)
    turned = (columns - x + 1j * (rows[:, None] - y)) * np.exp(-1j * np.deg2rad(angle))
    radius = np.hypot(turned.real / major, turned.imag / minor)
    ring = np.fmin(4 * radius, 40).astype(int)
    for band, (light, hidden) in enumerate(zip(component.seen, component.hidden, strict=True)):
        if light.any():
            number, total = (np.bincount(ring[~hidden], each) for each in (None, light[~hidden]))
            there = np.flatnonzero(number)
            lost = np.interp(ring[hidden], there, total[there] / number[there]).sum()
            share[band] = lost / (lost + total.sum())
    return share


def _sums(catalog, segments, images, masks):
    """Sum images (kinds, bands, y, x) over segments, and over Kron apertures without others.

    The result is that of photutils, which would draw each aperture again for every image: a dict
    of arrays (kinds, rows, bands), NaN without pixels.
    """
    labels, owner = np.atleast_1d(catalog.label), segments.data
    sums = {kind: np.full((len(images), len(labels), len(masks)), np.nan) for kind in _KINDS}
    for band, hidden in enumerate(masks):
        seen = np.where(hidden, 0, owner)
        there = np.bincount(seen.ravel(), minlength=labels.max() + 1)[labels] > 0
        for kind, image in enumerate(images[:, band]):
            summed = np.bincount(seen.ravel(), image.ravel(), minlength=labels.max() + 1)[labels]
            sums["segment"][kind, :, band] = np.where(there, summed, np.nan)
    for row, (label, aperture) in enumerate(zip(labels, catalog.kron_aperture, strict=True)):
        if aperture is None:
            continue
        weights = aperture.to_mask(method="exact")
        part, inner = weights.get_overlap_slices(owner.shape)
        if part is None:
            continue
        alone = (owner[part] == 0) | (owner[part] == label)
        seen = weights.data[inner] * (alone & ~masks[:, *part])
        summed = np.einsum("kbyx,byx->kb", images[:, :, *part], seen)
        sums["kron"][:, row] = np.where((seen > 0).any(axis=(1, 2)), summed, np.nan)
    sums["kron"][np.isnan(sums["segment"])] = np.nan
    return sums
