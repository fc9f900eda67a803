"""What is measured of the sources of a scene, each alone."""

import numpy as np
from astropy import units as u
from astropy.table import QTable
from photutils.aperture import CircularAperture
from photutils.segmentation import SegmentationImage, SourceCatalog
from scipy.spatial import KDTree

from astrodeblend.background import data_and_mask
from astrodeblend.results import measure_fluxes

__all__ = ["measure_components", "source_regions"]

_SHAPES = ("semimajor_axis", "semiminor_axis", "orientation", "ellipticity", "segment_area")
_FLUXES = ("segment_flux", "segment_flux_err", "kron_flux", "kron_flux_err")
_APERTURE = 1.0  # radius in Petrosian radii
_WINDOW = 1 / 15  # width of a centroid's window, of a stamp's; about a galaxy's half-light radius
_FARTHEST = 1.0  # window's widths, that a centroid goes from where the source was detected


def measure_components(image, light, components, places, radii, parents, calibration, pixels):
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
    calibration : Calibration
        How errors of deblending add up in fluxes.
    pixels : int
        Along each side of a stamp.

    Returns
    -------
    `~astropy.table.QTable`
        A row per source, with the names and meanings of
        `photutils.segmentation.SourceCatalog`, and

        ``x_centroid``, ``y_centroid``
            Windowed centroid: of the component's light within a Gaussian window that starts where
            the source was detected or given and moves with it, so that light of a neighbour
            that was not taken out does not draw it away. A source without light stays there.

        ``parent``, ``n_blended``
            The group of sources whose light touches, and how many they are.
        ``neighbor_distance``
            To the nearest other source; NaN if there is none.
        ``blendedness``
            1 - S_k.S_k / S_all.S_k, with S_k the component and S_all the sum of all (Bosch et
            al. 2018, PASJ 70, S5, section 4.9.11).
        ``flux_overlap_fraction``
            The part of the component's light that is where others together are brighter.
        ``blend_score``
            The probability that the stamp around the source shows more than one galaxy, the first
            time the network was shown it; NaN for a model that has none. Of an isolated source it
            is without others' segments, and the flag ``POSSIBLE_BLEND`` says that it is high.
        ``aperture_flux``, ``aperture_flux_err``
            In a circle of ``aperture_radius``, the other components taken away from the data.
            Masked pixels have no part in it.
        ``change``, ``flags``
            As in `astrodeblend.components.Component`.
    """
    count, bands = len(components), len(image.data)
    table = QTable()
    table["label"] = np.arange(1, count + 1)
    errors = [_deblending(component, calibration) for component in components]
    scale = np.array([[place.width / pixels] for place in places]).reshape(-1, 1)
    shapes, fluxes = _measure_alone(components, places, bands, errors, calibration, scale)
    table["x_centroid"], table["y_centroid"] = _centroids(components, places, pixels).T
    if image.wcs is not None:
        table["sky_centroid"] = image.wcs.pixel_to_world(table["x_centroid"], table["y_centroid"])
    pixel = {"semimajor_axis": u.pix, "semiminor_axis": u.pix, "segment_area": u.pix**2}
    for name in _SHAPES:
        unit = u.deg if name == "orientation" else pixel.get(name)
        table[name] = shapes[name] if unit is None else shapes[name] << unit
    table["aperture_radius"] = _APERTURE * np.asarray(radii, float) << u.pix
    circles = table["aperture_radius"].value
    fluxes |= _apertures(image, light, components, places, circles, errors, calibration, scale)
    for name, values in fluxes.items():
        values = values[:, 0] if image.meta["astrodeblend"]["ndim"] == 2 else values
        table[name] = values if image.unit is None else values << image.unit
    table["parent"] = np.asarray(parents, int)
    _, group, size = np.unique(table["parent"], return_inverse=True, return_counts=True)
    table["n_blended"] = size[group].astype(int)
    table["neighbor_distance"] = _nearest(_positions(places)) << u.pix
    blendedness, overlap = _blending(image.data.shape, components)
    table["blendedness"] = blendedness
    table["flux_overlap_fraction"] = overlap
    table["blend_score"] = [component.blend_score for component in components]
    table["change"] = [component.change for component in components]
    table["flags"] = [int(component.flags) for component in components]
    return table


def source_regions(catalog, wcs=None):
    """Return the sources of a catalogue as regions: ellipses of 3 semi-axes.

    Parameters
    ----------
    catalog : `~astropy.table.QTable`
        As `measure_components` gives it.
    wcs : `~astropy.wcs.WCS`, optional
        Of the image; then they are on the sky.

    Returns
    -------
    ``regions.Regions``
        Cyan if the source is blended, white if it is isolated, with its label as text.

    Raises
    ------
    ImportError
        If the package regions is missing.
    """
    try:
        import regions
    except ImportError as error:
        raise ImportError(
            "regions for DS9 take the package regions: pip install 'astrodeblend[regions]'"
        ) from error
    found = []
    for row in catalog:
        centre = regions.PixCoord(row["x_centroid"], row["y_centroid"])
        look = {
            "meta": {"text": str(row["label"])},
            "visual": {"color": "cyan" if row["n_blended"] > 1 else "white"},
        }
        axes = [6 * row[f"semi{name}_axis"].to_value("pix") for name in ("major", "minor")]
        if np.min(axes) > 0:  # false for NaN
            shape = regions.EllipsePixelRegion(centre, *axes, angle=row["orientation"], **look)
        else:
            shape = regions.PointPixelRegion(centre, **look)
        found.append(shape if wcs is None else shape.to_sky(wcs))
    return regions.Regions(found)


def _positions(places):
    return np.reshape([place.position for place in places], (-1, 2))


def _deblending(component, calibration):
    """Return the deviation of a component's pixels by deblending, and what of it adds up."""
    deviation = np.sqrt(np.broadcast_to(component.deblending, component.light.shape))
    footprint = (component.light != 0).any(axis=0)
    return np.stack([deviation, calibration.coherent_std(component.light, deviation, footprint)])


def _measure_alone(components, places, bands, errors, calibration, scale):
    """Measure shapes and fluxes on one sheet on which all components lie side by side."""
    corners, shape = _side_by_side([c.light.shape[1:] for c in components])
    light, noise, deblending, coherent = np.zeros((4, bands, *shape))
    detection = np.zeros(shape)
    segments = np.zeros(shape, np.int32)
    for k, (component, place, (row, column), error) in enumerate(
        zip(components, places, corners, errors, strict=True), 1
    ):
        height, width = component.light.shape[1:]
        tile = slice(row, row + height), slice(column, column + width)
        light[:, *tile] = component.light
        noise[:, *tile] = np.sqrt(np.maximum(component.variance - component.deblending, 0))
        deblending[:, *tile], coherent[:, *tile] = error
        detection[tile] = (component.light / place.noise).sum(axis=0)
        segments[tile] = np.where((component.light != 0).any(axis=0), k, 0)
    shapes = {name: np.full(len(components), np.nan) for name in _SHAPES}
    fluxes = {name: np.full((len(components), bands), np.nan) for name in _FLUXES}
    if not segments.any():
        return shapes, fluxes
    sheet = SegmentationImage(segments)
    catalog = SourceCatalog(detection, sheet, progress_bar=False, aperture_mask_method="mask")
    rows = catalog.label - 1
    for name in _SHAPES:
        shapes[name][rows] = u.Quantity(getattr(catalog, name)).value
    measured = measure_fluxes(
        catalog,
        sheet,
        light,
        noise=noise,
        deblending=deblending,
        coherent=coherent,
        calibration=calibration,
        scale=scale[rows],
        sky=np.array([place.noise.ravel() for place in places])[rows],
        kron_area=catalog.segment_area.value,  # beyond the segment the sheet is empty
    )
    for name in _FLUXES:
        fluxes[name][rows] = measured[name]
    return shapes, fluxes


def _centroids(components, places, pixels):
    """Return the windowed centroids (x, y) of components (Bertin & Arnouts 1996, 2010 on)."""
    centroids = _positions(places).astype(float)
    for k, (component, place) in enumerate(zip(components, places, strict=True)):
        light = np.maximum((component.light / place.noise).sum(axis=0), 0)
        rows, columns = (np.arange(part.start, part.stop) for part in component.box)
        sigma = max(_WINDOW * place.width, 1.5)
        start = position = centroids[k]
        for _ in range(20):
            across = np.exp(-((columns - position[0]) ** 2) / (2 * sigma**2))
            along = np.exp(-((rows - position[1]) ** 2) / (2 * sigma**2))
            weighted = light * along[:, None] * across
            total = weighted.sum()
            if total <= 0:
                break
            # twice as far: a window halves the offset of a galaxy of its own width
            mean = (weighted.sum(axis=0) @ columns, weighted.sum(axis=1) @ rows)
            step = 2 * (np.array(mean) / total - position)
            position = position + step
            if np.hypot(*(position - start)) > _FARTHEST * sigma:
                position = start  # its light is elsewhere
                break
            if np.hypot(*step) < 1e-3:
                break
        centroids[k] = position
    return centroids


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


def _apertures(image, light, components, places, radii, errors, calibration, scale):
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
        # in the component's own part, beyond which it has no light
        aperture = CircularAperture((x - columns.start, y - rows.start), radii[k])
        weight = aperture.to_mask(method="exact").to_image(component.light.shape[1:])
        if weight is not None:
            deviation, coherent = (
                (weight * e).sum(axis=(1, 2)) for e in (errors[k][0] ** 2, errors[k][1])
            )
            parts = coherent, deviation, weight.sum(), place.noise.ravel()
            fluxes[1, k] = np.hypot(fluxes[1, k], calibration.combined(*parts, scale=scale[k]))
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
