"""Where the galaxies are, how large they are, and which of them overlap (photutils).

Everything here takes an image as `astrodeblend.images.read_image` gives it: an
`~astropy.nddata.NDData` with float data of shape (bands, y, x).
"""

import math
import warnings

import numpy as np
from astropy import units as u
from astropy.table import QTable
from photutils.geometry import circular_overlap_grid
from photutils.segmentation import (
    SegmentationImage,
    SourceCatalog,
    deblend_sources,
    detect_sources,
    make_2dgaussian_kernel,
)
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage
from skimage.segmentation import watershed

from astrodeblend.background import data_and_mask, estimate_background, is_picture
from astrodeblend.sky import sky_of

__all__ = [
    "find_sources",
    "petrosian_radius",
    "select_blends",
]

_CORRELATED = 1.5  # times as much noise is left by smoothing where neighbouring pixels share it
_ENLARGED = 1.7, 12.0  # times: by less does no harm, and by more it is light of galaxies
_PER_ENLARGEMENT = 0.65  # pixels at which noise that was enlarged by cubic splines is half alike
_LEAST_SKY = 0.03  # share of a picture that tells what its noise is like
# How groups are divided, by whether they are in a picture. From a group's faintest to its
# brightest pixel flux goes over more decades, which takes more levels to look for peaks at.
_DIVISION = {
    True: {"contrast": 0.005, "n_levels": 32},
    False: {"contrast": 0.001, "n_levels": 64},
}
_CATALOGUE = [
    "label",
    "x_centroid",
    "y_centroid",
    "bbox_xmin",
    "bbox_xmax",
    "bbox_ymin",
    "bbox_ymax",
    "segment_area",
    "semimajor_axis",
    "semiminor_axis",
    "orientation",
    "ellipticity",
    "kron_radius",
]


def find_sources(
    image,
    *,
    positions=None,
    threshold=5.0,
    n_pixels=10,
    contrast=None,
    smoothing=None,
    background=None,
):
    """Detect and measure the sources of an image.

    Sources are found on the sum of the bands weighted by their noise, smoothed, and separated
    where they touch (`photutils.segmentation.deblend_sources`).

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        Data of shape (bands, y, x).
    positions : array_like, shape (n, 2), optional
        Where the sources are, (x, y) in pixels. Then there is a source for each, in this
        order, and no other; light that stands out is divided among them
        (`skimage.segmentation.watershed`), and what is not seen is given three pixels around.
        A source on masked pixels only has no measurements but that place.
    threshold : float, optional
        Detection threshold, in standard deviations of the smoothed sum's noise.
    n_pixels : int, optional
        Smallest number of connected pixels of a source; half of that makes a peak of its own
        in a group. In enlarged pictures it grows with the square of ``smoothing``.
    contrast : float, optional
        Smallest part of the light of a group that a peak needs to be a source of its own.
        Default: 0.001 of flux, 0.005 of pictures, in which less is often made by compression.
    smoothing : float, optional
        Full width at half maximum of the smoothing kernel in pixels. Default: 2; in a picture
        that was enlarged, as its noise shows, so many times more: its specks of noise are many
        pixels large.
    background : tuple of `~numpy.ndarray`, optional
        Level and noise of the sky, if `~astrodeblend.background.estimate_background` has.

    Returns
    -------
    sources : `~astropy.table.QTable`
        One row per source, with the names and meanings of
        `photutils.segmentation.SourceCatalog`: ``label``, ``x_centroid``, ``y_centroid``,
        ``sky_centroid`` (if the image has a WCS), ``semimajor_axis``, ``orientation`` and so
        on; ``max_value``, ``segment_flux`` and ``kron_flux`` have shape (rows, bands) and the
        image's unit. Besides: ``parent`` (the same number for sources whose light touches),
        ``signal_to_noise``, ``petrosian_radius``, and ``petrosian_found`` (false where that
        radius is a guess from the source's other sizes). Without sources the table has all
        its columns and no rows.
    segmentation : `~numpy.ndarray` of int, shape (y, x)
        The label of the source that each pixel belongs to, 0 for the sky.

    Raises
    ------
    ValueError
        If a band has no valid pixel, a position is outside the image, or two are in one pixel.
    """
    level, noise = estimate_background(image) if background is None else background
    data, hidden = data_and_mask(image)
    data = np.where(hidden, 0, data - level)
    nowhere = hidden.all(axis=0)
    if nowhere.all():
        raise ValueError("image has no valid pixel; leave it out")
    detection = (data / noise).sum(axis=0) / np.sqrt(np.maximum((~hidden).sum(axis=0), 1))
    if smoothing is None:
        # In flux noise may be alike and galaxies as small as ever, so there it says nothing.
        times = _enlargement(detection, nowhere) if is_picture(image) else 1.0
        smoothing, n_pixels = 2 * times, round(n_pixels * times**2)
    kernel = make_2dgaussian_kernel(smoothing, size=2 * int(np.ceil(1.5 * smoothing)) + 1).array
    smooth = detection
    for axis in (0, 1):  # a Gaussian is the product of its sums
        smooth = ndimage.convolve1d(smooth, kernel.sum(axis=0), axis, mode="nearest")
    # neighbouring pixels and bands may share their noise: the smoothing leaves more of it then
    base, scatter, _ = sky_of(smooth, nowhere)
    white = np.sqrt((kernel**2).sum())
    scatter = max(scatter, white)
    if image.uncertainty is not None:  # what is more than that is light of galaxies
        scatter = min(scatter, _CORRELATED * white)
        base = base if abs(base) > 1 else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        parents = detect_sources(smooth, base + threshold * scatter, n_pixels, mask=nowhere)
    if positions is not None and len(positions):
        segments, parents = _segments_at(positions, smooth, parents)
        return _measure(image, data, hidden, detection, segments, parents), segments.data
    if parents is None or positions is not None:
        # a made-up source is measured and dropped, so that the empty table has all columns
        lone = np.zeros(detection.shape, dtype=np.int32)
        lone[0, 0] = 1
        lone = SegmentationImage(lone)
        sources = _measure(image, data, hidden, np.ones_like(detection), lone, lone)
        return sources[:0], np.zeros_like(lone.data)
    segments = parents
    several = _with_several_peaks(smooth, parents.data)
    if several.size:
        segments = deblend_sources(
            *(smooth, parents, max(n_pixels // 2, 1)),
            labels=several,
            progress_bar=False,
            **_DIVISION[is_picture(image)] | ({} if contrast is None else {"contrast": contrast}),
        )
    return _measure(image, data, hidden, detection, segments, parents), segments.data


def _enlargement(image, hidden):
    """Return how many times a picture was enlarged, by the distance at which its noise is alike.

    1 where pixels are what was observed, and where too little sky is left to tell.
    """
    least, most = _ENLARGED
    level, _, sources = sky_of(image, hidden)
    sky = ~(sources | hidden)
    if sky.mean() < _LEAST_SKY:
        return 1.0
    lowest, highest = np.quantile(image[sky], (0.01, 0.99))
    values = np.clip(image, lowest, highest) - level
    before = 1.0
    for lag in range(1, math.ceil(most * _PER_ENLARGEMENT) + 1):
        products, squares = 0.0, 0.0
        for first, second in ((np.s_[lag:], np.s_[:-lag]), (np.s_[:, lag:], np.s_[:, :-lag])):
            both = sky[first] & sky[second]
            one, other = values[first][both], values[second][both]
            products += one @ other
            squares += (one @ one + other @ other) / 2
        correlation = products / squares if squares > 0 else 0.0
        if correlation < 0.5:
            half = lag - 1 + (before - 0.5) / (before - correlation)
            times = half / _PER_ENLARGEMENT
            return times if least <= times <= most else 1.0
        before = correlation
    return 1.0


def _with_several_peaks(smooth, labels):
    """Return the labels of segments that have more than one peak: no other can be divided."""
    inside = np.where(labels > 0, smooth, -np.inf)
    peaks = (labels > 0) & (inside == ndimage.maximum_filter(inside, 3, mode="nearest"))
    return np.flatnonzero(np.bincount(labels[peaks]) > 1)


def _segments_at(positions, smooth, parents):
    """Divide the light that stands out among sources at known positions."""
    seen = np.zeros(smooth.shape, bool) if parents is None else parents.data > 0
    places = np.asarray(positions, float)[:, ::-1]  # y, x
    outside = ~((places >= -0.5) & (places <= np.array(smooth.shape) - 0.5)).all(axis=1)
    if outside.any():
        y, x = places[outside][0]
        raise ValueError(
            f"positions has ({x:.6g}, {y:.6g}), outside the image; x has to be within 0 and "
            f"{smooth.shape[1] - 1}, y within 0 and {smooth.shape[0] - 1}"
        )
    # the far edge of the last pixel is part of it
    pixels = np.minimum(np.floor(places + 0.5).astype(int), np.array(smooth.shape) - 1)
    rows, columns = pixels.T
    markers = np.zeros(smooth.shape, np.int32)
    markers[rows, columns] = np.arange(1, len(rows) + 1)
    if np.count_nonzero(markers) < len(rows):
        raise ValueError("positions has two sources in one pixel; give each source once")
    seen |= ndimage.distance_transform_edt(markers == 0) <= 3
    seen_by = watershed(-smooth, markers, mask=seen)
    connected, _ = ndimage.label(seen, structure=np.ones((3, 3)))
    return SegmentationImage(seen_by), SegmentationImage(connected.astype(np.int32))


def _measure(image, data, hidden, detection, segments, parents):
    """Catalogue the segments: shapes on the summed bands, fluxes in every band."""
    nowhere = hidden.all(axis=0)
    catalog = SourceCatalog(detection, segments, mask=nowhere, wcs=image.wcs, progress_bar=False)
    sources = QTable(catalog.to_table(columns=_CATALOGUE))  # without photutils' old names
    if image.wcs is not None:
        sources.add_column(catalog.sky_centroid, name="sky_centroid", index=3)
    bands = [
        SourceCatalog(band, segments, mask=out, detection_catalog=catalog, progress_bar=False)
        for band, out in zip(data, hidden, strict=True)
    ]
    for name in ("max_value", "segment_flux", "kron_flux"):
        values = np.stack([getattr(band, name) for band in bands], axis=-1)
        sources[name] = values if image.unit is None else values << image.unit
    # a source at a given position may have nothing but masked or negative pixels
    for axis in "xy":
        middle = (sources[f"bbox_{axis}min"] + sources[f"bbox_{axis}max"]) / 2
        known = np.isfinite(sources[f"{axis}_centroid"])
        sources[f"{axis}_centroid"] = np.where(known, sources[f"{axis}_centroid"], middle)
    area = segments.areas
    sources["signal_to_noise"] = catalog.segment_flux / np.sqrt(area)
    # a segment lies in one parent as a whole, so any of its pixels tells
    labels, first = np.unique(segments.data, return_index=True)
    sources["parent"] = parents.data.flat[first[labels > 0]]

    extent = np.hypot(
        sources["bbox_xmax"] - sources["bbox_xmin"], sources["bbox_ymax"] - sources["bbox_ymin"]
    )
    radius = np.array(
        [
            _radius_among_neighbours(detection, segments.data, nowhere, *place)
            for place in zip(
                sources["label"],
                sources["x_centroid"],
                sources["y_centroid"],
                1.5 * extent + 5,
                strict=True,
            )
        ]
    )
    found = np.isfinite(radius)
    axis = np.sqrt(sources["semimajor_axis"] * sources["semiminor_axis"]).value
    # for an exponential disc the Petrosian radius is 1.8 times the first moment of its light
    guess = np.fmax(1.8 * sources["kron_radius"].value * axis, np.sqrt(area / np.pi))
    sources["petrosian_radius"] = np.where(found, radius, guess) << u.pix
    sources["petrosian_found"] = found
    return sources


def _radius_among_neighbours(detection, segmentation, nowhere, label, x, y, largest):
    """Petrosian radius of one segment, the pixels of all others masked."""
    low = np.maximum(np.array([y, x]) - largest - 1, 0).astype(int)
    high = (np.array([y, x]) + largest + 2).astype(int)
    box = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    others = (segmentation[box] != 0) & (segmentation[box] != label)
    position = (x - low[1], y - low[0])
    return petrosian_radius(detection[box], position, mask=others | nowhere[box], largest=largest)


def petrosian_radius(data, position, *, mask=None, eta=0.2, largest=None):
    """Measure the Petrosian radius of a galaxy.

    It is the radius r at which the mean surface brightness in the annulus from 0.8 r to
    1.25 r has fallen to ``eta`` times the mean within r (Petrosian 1976; the definition is
    the SDSS's, Blanton et al. 2001, equation 2). Where parts of an annulus are masked, the
    mean of the rest of it stands for them.

    Parameters
    ----------
    data : `~numpy.ndarray`, shape (y, x)
        The image, its background subtracted.
    position : tuple of float
        Centre (x, y) in pixels.
    mask : `~numpy.ndarray` of bool, shape (y, x), optional
        True where pixels are not to be used, such as those of a neighbour.
    eta : float, optional
        The Petrosian ratio.
    largest : float, optional
        Largest radius to look at in pixels; by default as far as the image goes.

    Returns
    -------
    radius : float
        In pixels; NaN if the ratio does not fall to ``eta``.
    """
    x, y = position
    ny, nx = data.shape
    if largest is None:
        largest = np.hypot(max(x, nx - 1 - x), max(y, ny - 1 - y))
    steps = 3  # rings to a factor of 1.25, so that 0.8 r and 1.25 r are edges of rings too
    count = int(np.ceil(steps * np.log(max(largest, 2)) / np.log(1.25))) + 1
    edges = np.concatenate([[0], 1.25 ** (np.arange(-steps, count) / steps)])
    seen = np.isfinite(data) if mask is None else np.isfinite(data) & ~mask
    light = np.where(seen, data, 0)
    disc_light, disc_area = np.transpose([_within(light, seen, x, y, r) for r in edges[1:]])
    ring_light, ring_area = (np.diff(of, prepend=0) for of in (disc_light, disc_area))
    known = ring_area > 1e-6 * np.pi * np.diff(edges**2)
    if not known.any():
        return np.nan
    middle = (edges[1:] + edges[:-1]) / 2
    brightness = np.interp(middle, middle[known], ring_light[known] / ring_area[known])
    area = np.pi * edges**2
    flux = np.concatenate([[0], np.cumsum(brightness * np.diff(area))])
    r = slice(1 + steps, -steps)
    inner, outer = slice(1, -2 * steps), slice(1 + 2 * steps, None)
    annulus = (flux[outer] - flux[inner]) / (area[outer] - area[inner])
    within = flux[r] / area[r]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(within > 0, annulus / within, np.inf)
    below = np.flatnonzero(ratio < eta)
    if below.size == 0 or below[0] == 0:
        return np.nan
    last = below[0]
    part = (ratio[last - 1] - eta) / (ratio[last - 1] - ratio[last])
    return float(edges[r][last - 1] * 1.25 ** (part / steps))


def _within(light, seen, x, y, radius):
    """Return the light within a radius, and the area that is seen of it."""
    ny, nx = light.shape
    left, right = max(math.floor(x - radius), 0), min(math.ceil(x + radius) + 1, nx)
    low, high = max(math.floor(y - radius), 0), min(math.ceil(y + radius) + 1, ny)
    if left >= right or low >= high:
        return 0.0, 0.0
    frame = (left - 0.5 - x, right - 0.5 - x, low - 0.5 - y, high - 0.5 - y)
    disc = circular_overlap_grid(*frame, right - left, high - low, radius, 1, 1)
    return (disc * light[low:high, left:right]).sum(), (disc * seen[low:high, left:right]).sum()


def select_blends(image, sources, segmentation, *, petrosian_radii=5.8, pixels=80):
    """Pick the clearest blends of two galaxies, the clearest first.

    A blend is clear when two galaxies of like brightness, neither faint nor tiny, touch, a
    dip of light or a change of colour between them, each around a peak of its own, with little
    light of others in the stamp. The companion is the brightest of those that lie where the
    recipe ``reiman2019`` puts it: no further than 16.7 pixels of the stamp along either axis,
    no nearer than 3.3 along both.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        Data of shape (bands, y, x).
    sources, segmentation : `~astropy.table.QTable`, `~numpy.ndarray`
        As `find_sources` gives them.
    petrosian_radii, pixels : float, int, optional
        Width of a stamp in Petrosian radii of its central galaxy, and in its own pixels.

    Returns
    -------
    `~astropy.table.QTable`
        One row per blend, no source in two of them: ``central`` and ``companion`` (labels;
        the central is the brighter), ``x_centroid`` and ``y_centroid`` of the central,
        ``separation`` in pixels of the image, ``flux_ratio`` (companion to central),
        ``clarity`` (0 to 1).
    """
    data, hidden = data_and_mask(image)
    level, noise = estimate_background(image)
    bands = np.where(hidden, 0, (data - level) / noise)
    labels = np.asarray(sources["label"])
    light = ndimage.gaussian_filter(bands.sum(axis=0), 1.0)
    peaks = np.reshape(ndimage.maximum_position(light, segmentation, labels), (-1, 2))
    colour = np.stack([ndimage.sum_labels(band, segmentation, labels) for band in bands], -1)
    flux = colour.sum(axis=-1)
    colour /= np.where(flux > 0, flux, 1)[:, None]
    radius = sources["petrosian_radius"].value
    place = np.stack([sources["x_centroid"], sources["y_centroid"]], axis=-1)
    # a part of a spiral has its peak aside
    lopsided = np.hypot(*(peaks[:, ::-1] - place).T) / radius

    blends = []
    for a in range(len(sources)):
        half = petrosian_radii * radius[a] / 2
        low, high = place[a] - half, place[a] + half
        if (low < 0).any() or (high > np.array(light.shape[::-1]) - 1).any():
            continue
        offset = np.abs(place - place[a])
        reach = offset.max(axis=-1) * pixels / (2 * half)
        near = (reach > 3.3) & (reach < 16.7) & (flux < flux[a])
        near &= sources["parent"] == sources["parent"][a]
        if not near.any():
            continue
        b = np.flatnonzero(near)[np.argmax(flux[near])]
        stamp = tuple(slice(int(lo), int(hi) + 1) for lo, hi in zip(low, high, strict=True))[::-1]
        segments = segmentation[stamp]
        own, other = segments == labels[a], segments == labels[b]
        if not (ndimage.binary_dilation(own, np.ones((3, 3))) & other).any():
            continue
        along = ndimage.map_coordinates(light, np.linspace(peaks[a], peaks[b], 50).T, order=1)
        saddle = along.min() / max(min(along[0], along[-1]), 1e-9)
        unlike = 1 - saddle + 1.5 * np.abs(colour[a] - colour[b]).sum()
        third = light[stamp][(segments > 0) & ~own & ~other].sum() / (flux[a] + flux[b])
        ratio = flux[b] / flux[a]
        clarity = (
            _ramp(unlike, 0.15, 0.5)
            * _ramp(saddle, 0, 0.2)
            * _ramp(max(lopsided[a], lopsided[b]), 0.5, 0)
            * np.sqrt(_ramp(ratio, 0.05, 0.5))
            * _ramp(np.log(max(sources["signal_to_noise"][b], 1)), np.log(60), np.log(400))
            * _ramp(radius[b], 4, 10)
            * np.exp(-max(third, 0))
        )
        if clarity > 0:
            apart = np.hypot(*offset[b])
            blends.append((labels[a], labels[b], *place[a], apart, ratio, clarity))

    blends.sort(key=lambda blend: -blend[-1])
    taken, clearest = set(), []
    for blend in blends:
        if taken.isdisjoint(blend[:2]):
            taken.update(blend[:2])
            clearest.append(blend)
    names = ["central", "companion", "x_centroid", "y_centroid"]
    names += ["separation", "flux_ratio", "clarity"]
    return QTable(rows=clearest or None, names=names, dtype=[int, int] + 5 * [float])


def _ramp(value, low, high):
    """Rise from 0 at ``low`` to 1 at ``high``, level outside."""
    return np.clip((value - low) / (high - low), 0, 1)
