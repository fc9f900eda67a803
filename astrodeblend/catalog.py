"""What is measured of the sources of a scene, each alone."""

import numpy as np
from astropy import units as u
from astropy.table import QTable
from photutils.aperture import CircularAperture
from photutils.segmentation import SegmentationImage, SourceCatalog
from scipy.spatial import KDTree

from astrodeblend.detect import data_and_mask

__all__ = ["measure_components"]

_SHAPES = ("semimajor_axis", "semiminor_axis", "orientation", "ellipticity", "segment_area")
_FLUXES = ("segment_flux", "segment_flux_err", "kron_flux", "kron_flux_err")
_APERTURE = 1.0  # radius in Petrosian radii


def measure_components(image, light, components, places, radii, parents):
    """Measure every component by itself.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    light : numpy.ndarray, shape (bands, y, x)
        Of the image, above the sky.
    components : list of Component
        As `astrodeblend.separate.separate` gives them.
    places : list of Place
        Where the sources are.
    radii : numpy.ndarray
        Their Petrosian radii in pixels.
    parents : numpy.ndarray of int
        The same number for sources whose light touches.

    Returns
    -------
    `~astropy.table.QTable`
        A row per source, with the names and meanings of
        `photutils.segmentation.SourceCatalog`, and

        ``parent``, ``n_blended``
            The group of sources whose light touches, and how many they are.
        ``neighbor_distance``
            To the nearest other source; NaN if there is none.
        ``blendedness``
            1 - S_k.S_k / S_all.S_k, with S_k the component and S_all the sum of all (Bosch et
            al. 2018, PASJ 70, S5, section 4.9.11).
        ``flux_overlap_fraction``
            The part of the component's light that is where others together are brighter.
        ``aperture_flux``, ``aperture_flux_err``
            In a circle of ``aperture_radius``, the other components taken away from the data.
            Masked pixels have no part in it.
        ``change``, ``flags``
            As in `astrodeblend.separate.Component`.
    """
    count, bands = len(components), len(image.data)
    table = QTable()
    table["label"] = np.arange(1, count + 1)
    shapes, fluxes = _measure_alone(components, places, bands)
    for name in ("x_centroid", "y_centroid"):
        table[name] = shapes[name]
    if image.wcs is not None:
        table["sky_centroid"] = image.wcs.pixel_to_world(table["x_centroid"], table["y_centroid"])
    pixel = {"semimajor_axis": u.pix, "semiminor_axis": u.pix, "segment_area": u.pix**2}
    for name in _SHAPES:
        unit = u.deg if name == "orientation" else pixel.get(name)
        table[name] = shapes[name] if unit is None else shapes[name] << unit
    table["aperture_radius"] = _APERTURE * np.asarray(radii, float) << u.pix
    fluxes |= _apertures(image, light, components, places, table["aperture_radius"].value)
    for name, values in fluxes.items():
        values = values[:, 0] if image.meta["astrodeblend"]["ndim"] == 2 else values
        table[name] = values if image.unit is None else values << image.unit
    table["parent"] = np.asarray(parents, int)
    _, group, size = np.unique(table["parent"], return_inverse=True, return_counts=True)
    table["n_blended"] = size[group].astype(int)
    table["neighbor_distance"] = _nearest([place.position for place in places]) << u.pix
    blendedness, overlap = _blending(image.data.shape, components)
    table["blendedness"] = blendedness
    table["flux_overlap_fraction"] = overlap
    table["change"] = [component.change for component in components]
    table["flags"] = [int(component.flags) for component in components]
    return table


def _measure_alone(components, places, bands):
    """Measure shapes and fluxes on one sheet on which all components lie side by side."""
    corners, shape = _side_by_side([c.light.shape[1:] for c in components])
    light, error = np.zeros((2, bands, *shape))
    detection = np.zeros(shape)
    segments = np.zeros(shape, np.int32)
    for k, (component, place, (row, column)) in enumerate(
        zip(components, places, corners, strict=True), 1
    ):
        height, width = component.light.shape[1:]
        tile = slice(row, row + height), slice(column, column + width)
        light[:, *tile] = component.light
        error[:, *tile] = np.sqrt(component.variance)
        detection[tile] = (component.light / place.noise).sum(axis=0)
        segments[tile] = np.where((component.light != 0).any(axis=0), k, 0)
    names = ("x_centroid", "y_centroid", *_SHAPES)
    shapes = {name: np.full(len(components), np.nan) for name in names}
    fluxes = {name: np.full((len(components), bands), np.nan) for name in _FLUXES}
    if not segments.any():
        return shapes, fluxes
    options = {"aperture_mask_method": "mask", "progress_bar": False}
    sheet = SegmentationImage(segments)
    catalog = SourceCatalog(detection, sheet, **options)
    rows = catalog.label - 1
    for name in names:
        shapes[name][rows] = u.Quantity(getattr(catalog, name)).value
    for axis, part in (("x", 1), ("y", 0)):
        start = np.array([c.box[part].start for c in components])
        shapes[f"{axis}_centroid"] += start - np.array(corners)[:, part]
    for band in range(bands):
        measured = SourceCatalog(
            light[band], sheet, error=error[band], detection_catalog=catalog, **options
        )
        for name in _FLUXES:
            fluxes[name][rows, band] = getattr(measured, name)
    return shapes, fluxes


def _side_by_side(shapes, width=1024):
    """Lay rectangles out in rows; return their corners (y, x) and the shape of the whole."""
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


def _apertures(image, light, components, places, radii):
    """Return fluxes in a circle around each source, with all others taken away."""
    _, hidden = data_and_mask(image)
    rest = light.copy()
    for component in components:
        rest[:, *component.box] -= component.light
    fluxes = np.zeros((2, len(places), len(light)))
    for k, (component, place) in enumerate(zip(components, places, strict=True)):
        rows, columns = component.box
        rest[:, rows, columns] += component.light
        x, y = place.position
        # wider than the component's part of the image may be
        box = tuple(slice(max(int(at - radii[k]) - 1, 0), int(at + radii[k]) + 3) for at in (y, x))
        alone = rest[:, *box]
        aperture = CircularAperture((x - box[1].start, y - box[0].start), radii[k])
        error = np.broadcast_to(place.noise, alone.shape)
        if image.uncertainty is not None:
            error = image.uncertainty.array[:, *box]
        error = np.where(hidden[:, *box], 0, error)
        for band in range(len(light)):
            fluxes[:, k, band] = np.ravel(aperture.do_photometry(alone[band], error=error[band]))
        rest[:, rows, columns] -= component.light
    return {"aperture_flux": fluxes[0], "aperture_flux_err": fluxes[1]}


def _nearest(positions):
    """Return the distance of each position from the nearest other one."""
    if len(positions) < 2:
        return np.full(len(positions), np.nan)
    distance, _ = KDTree(positions).query(positions, k=2)
    return distance[:, 1]


def _blending(shape, components):
    """Return blendedness and flux overlap fraction of every component."""
    total = np.zeros(shape)
    for component in components:
        total[:, *component.box] += component.light
    result = np.full((2, len(components)), np.nan)
    for k, component in enumerate(components):
        own, everything = component.light, total[:, *component.box]
        both, summed = np.vdot(own, everything), own.sum()
        if both > 0:
            result[0, k] = 1 - np.vdot(own, own) / both
        if summed > 0:
            result[1, k] = own[everything - own > own].sum() / summed
    return result
