"""Detection of sources, their sizes and their blends, with photutils."""

import math
import warnings

import numpy as np
from astropy import units as u
from astropy.table import QTable
from photutils.segmentation import (
    SegmentationImage,
    deblend_sources,
    detect_sources,
    make_2dgaussian_kernel,
)
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.segmentation import relabel_sequential, watershed

from astrodeblend.flags import Flag
from astrodeblend.scaling import scaling_of
from astrodeblend.sky import estimate_sky, sky_of

__all__ = [
    "around",
    "describe_sources",
    "find_sources",
    "petrosian_radius",
    "pixels_of",
    "stamp_widths",
]

_SMOOTH = 1.0  # pixels: standard deviation of the smoothing of light that may touch
_FEWEST = 10  # connected pixels of a source, half of that for a peak in a group
_CORRELATED = 1.5  # bound on the smoothed noise over smoothed white noise, at least
_ENLARGED = 1.7, 12.0  # factors of enlargement: less is harmless, more is light of galaxies
_PER_ENLARGEMENT = 0.65  # lag in pixels of autocorrelation 0.5, per factor, for cubic splines
_LEAST_SKY = 0.03  # least share of sky in a picture for an estimate of the enlargement
_UNSEEN = 3  # pixels: radius of the segment of a position without detection
_CLOSE = 64.0  # pixels: a source within gives its size to a position without detection
_SMALLEST_STAMP = 16.0  # pixels: least width of a stamp
# Largest distance of the companion from the middle in x and y in training, in widths of the
# stamp, and largest reduction of galaxies there: a stamp widens to contain its companion.
_FARTHEST = 50 / 240
_WIDEN = 1 / 0.7


def find_sources(
    image,
    sky=None,
    *,
    positions=None,
    rest=False,
    threshold=5.0,
    smoothing=None,
):
    """Detect the sources of an image.

    Sources are detected in the smoothed sum of the bands over their noise, and separated where
    they touch (`photutils.segmentation.deblend_sources`). A picture is converted to linear light.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        Data of shape (bands, y, x).
    sky : `astrodeblend.sky.Sky`, optional
        The image's sky. By default it is estimated.
    positions : array_like, shape (n, 2), optional
        Positions of the sources, (x, y) in pixels: one row for each, in this order. Detected light
        is divided among them (`skimage.segmentation.watershed`); the segment of a position without
        detection has a radius of three pixels.
    rest : bool, optional
        With positions: divide only the segments that contain them; other detected sources have rows
        after theirs. Default: all light belongs to the positions.
    threshold : float, optional
        Detection threshold in standard deviations of the smoothed sum.
    smoothing : float, optional
        Full width at half maximum of the smoothing kernel in pixels. Default: 2, times the factor
        of enlargement of a picture, which is estimated from the correlation of its noise.

    Returns
    -------
    sources : `~astropy.table.QTable`
        One row per source: ``label``, ``x_centroid``, ``y_centroid``, ``segment_area``,
        ``segment_flux`` (rows, bands), ``signal_to_noise``, ``parent`` (one number for all
        sources that touch), ``n_blended`` (the number of these), ``neighbor_distance`` (to the
        nearest source; NaN for a single one), ``petrosian_radius``, ``petrosian_found`` (false
        for a guess), and ``flags``.
    segmentation : numpy.ndarray of int, shape (y, x)
        The label of the source that each pixel belongs to, 0 for the sky.

    Raises
    ------
    ValueError
        If a position is outside the image, or two are in one pixel.
    """
    scaling = scaling_of(image)
    sky = estimate_sky(image) if sky is None else sky
    data, level, noise = scaling.linear(
        np.where(sky.hidden, sky.level, image.data), sky.level, sky.noise
    )
    light, nowhere = data - level, sky.hidden.all(axis=0)
    detection = (light / noise).sum(axis=0)
    detection /= np.sqrt(np.maximum((~sky.hidden).sum(axis=0), 1))
    # In flux, or with a given kernel, correlated noise does not mean that galaxies are enlarged.
    known = scaling.adds or smoothing is not None
    times = 1.0 if known else _enlargement(detection, nowhere)
    smoothing = 2 * times if smoothing is None else smoothing
    n_pixels = round(_FEWEST * times**2)
    kernel = make_2dgaussian_kernel(smoothing, size=2 * int(np.ceil(1.5 * smoothing)) + 1).array
    smooth = detection
    for axis in (0, 1):  # a Gaussian is the product of its sums
        smooth = ndimage.convolve1d(smooth, kernel.sum(axis=0), axis, mode="nearest")
    # smoothing reduces noise less that is correlated between pixels or bands
    base, scatter, _ = sky_of(smooth, nowhere)
    white = np.sqrt((kernel**2).sum())
    scatter = max(scatter, white)
    if image.uncertainty is not None:  # scatter in excess of it is light of galaxies
        scatter = min(scatter, white * max(_CORRELATED, sky.correlation.mean()))
        base = base if abs(base) > 1 else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        parents = detect_sources(smooth, base + threshold * scatter, n_pixels, mask=nowhere)
    parents = np.zeros(smooth.shape, np.int32) if parents is None else parents.data
    segments = parents
    several = _with_several_peaks(smooth, parents)
    if positions is not None:
        positions = np.reshape(np.asarray(positions, float), (-1, 2))
        rows, columns = pixels_of(positions, smooth.shape)
        several = np.intersect1d(several, parents[rows, columns])
    if several.size and (rest or positions is None):
        segments = deblend_sources(
            *(smooth, SegmentationImage(parents), max(n_pixels // 2, 1)),
            labels=several,
            progress_bar=False,
            **scaling.division,
        ).data
    seen = None
    if positions is None:
        segments = relabel_sequential(segments)[0]
    else:
        segments, parents, seen = _segments_at((rows, columns), smooth, segments, rest)
    segments = segments.astype(np.int32)
    return _measure(light, detection, nowhere, segments, parents, positions, seen), segments


def _enlargement(image, hidden):
    """Return the factor by which a picture was enlarged, from the correlation of its noise.

    It is 1 for original pixels, and if too little sky is left for an estimate.
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
    """Return the labels of segments with more than one peak: no other can be divided."""
    inside = np.where(labels > 0, smooth, -np.inf)
    peaks = (labels > 0) & (inside == ndimage.maximum_filter(inside, 3, mode="nearest"))
    return np.flatnonzero(np.bincount(labels[peaks]) > 1)


def _segments_at(pixels, smooth, segments, rest):
    """Divide light among sources at known pixels.

    Return the segments, labelled by position from 1 and then by other detected sources; the
    parents, one number for segments that touch; and whether each position was detected.
    """
    number = len(pixels[0])
    markers = np.zeros(smooth.shape, np.int32)
    markers[*pixels] = np.arange(1, number + 1)
    seen = segments[*pixels] > 0
    divided = segments > 0
    if rest:
        divided = np.isin(segments, segments[*pixels][seen])
    divided |= ndimage.distance_transform_edt(markers == 0) <= _UNSEEN
    owner = watershed(-smooth, markers, mask=divided)
    others = relabel_sequential(np.where(divided, 0, segments))[0]
    owner = np.where(others > 0, others + number, owner)
    connected, _ = ndimage.label(owner > 0, structure=np.ones((3, 3)))
    return owner, connected, seen


def _measure(light, detection, nowhere, segments, parents, positions, seen):
    """Measure segments: positions and sizes on the summed bands, fluxes in every band."""
    labels = np.arange(1, segments.max(initial=0) + 1)
    sources = QTable({"label": labels})
    positive = np.maximum(detection, 0) + 1e-12
    place = np.reshape(ndimage.center_of_mass(positive, segments, labels), (-1, 2))[:, ::-1]
    if positions is not None:  # more accurate than the centroid of a part of the light
        place[: len(positions)] = positions
    sources["x_centroid"], sources["y_centroid"] = place.T
    area = np.bincount(segments.ravel(), minlength=len(labels) + 1)[1:]
    sources["segment_area"] = area * u.pix**2
    sources["segment_flux"] = np.reshape(
        [ndimage.sum_labels(band, segments, labels) for band in light], (len(light), -1)
    ).T
    sources["signal_to_noise"] = ndimage.sum_labels(detection, segments, labels) / np.sqrt(area)
    # a segment lies in one parent, so its first pixel suffices
    present, first = np.unique(segments, return_index=True)
    parent = parents.flat[first[present > 0]].astype(int)
    sources["parent"] = parent
    sources["n_blended"] = np.bincount(parent, minlength=1)[parent]
    sources["neighbor_distance"] = _nearest(place) * u.pix

    radius, found = np.full((2, len(labels)), np.nan)
    smooth = ndimage.gaussian_filter(detection, 1.0)
    wanted = np.ones(len(labels), bool)
    if positions is not None:  # the positions, and sources close to undetected ones
        wanted = np.arange(len(labels)) < len(positions)
        for unseen in positions[~seen]:
            wanted |= np.hypot(*(place - unseen).T) < _CLOSE
    boxes = ndimage.find_objects(segments)
    for k in np.flatnonzero(wanted):
        box = boxes[k]
        largest = 1.5 * np.hypot(*(part.stop - part.start for part in box)) + 5
        near, at = around(place[k], largest + 1, segments.shape)
        others = (segments[near] != 0) & (segments[near] != k + 1) | nowhere[near]
        measured = petrosian_radius(detection[near], at, mask=others, largest=largest)
        found[k] = np.isfinite(measured)
        if not found[k]:  # 1.8 times the first moment of its light, the value of exponential disks
            rows, columns = np.nonzero(segments[near] == k + 1)
            weight = positive[near][rows, columns]
            moment = np.average(np.hypot(columns - at[0], rows - at[1]), weights=weight)
            measured = max(1.8 * moment, np.sqrt(area[k] / np.pi))
        near, at = around(place[k], 4 * measured + 1, segments.shape)
        radius[k] = np.fmin(measured, _symmetric_radius(smooth[near], nowhere[near], at, measured))
    sources["petrosian_radius"] = radius << u.pix
    sources["petrosian_found"] = found == 1
    flags = np.where(found == 1, 0, int(Flag.UNCERTAIN_SIZE))
    if seen is not None:
        flags[: len(seen)] |= np.where(seen, 0, int(Flag.NO_SOURCE))
    sources["flags"] = flags.astype(int)
    return sources


def around(place, half, shape):
    """Return the part of an image (y, x) around a position (x, y), and the position in it."""
    box = tuple(
        slice(max(int(at - half), 0), min(int(at + half) + 2, n))
        for at, n in zip(place[::-1], shape, strict=True)
    )
    return box, (place[0] - box[1].start, place[1] - box[0].start)


def describe_sources(components, radii, shape):
    """Return the table of sources that a network found, with the columns of `find_sources`.

    ``radii`` are the Petrosian radii of ``components`` in pixels, ``shape`` is the image's (y, x).
    One ``parent`` is for all sources whose light touches, where its smoothed sum over the bands is
    above its noise.
    """
    sources = QTable({"label": np.arange(1, len(components) + 1)})
    place = np.reshape([c.position for c in components], (-1, 2))
    sources["x_centroid"], sources["y_centroid"] = place.T
    light = np.zeros(shape)
    for c in components:
        light[c.box] += (c.light / c.sky_noise).sum(axis=0) / np.sqrt(len(c.light))
    noise = 1 / (2 * np.sqrt(np.pi) * _SMOOTH)
    groups, number = ndimage.label(ndimage.gaussian_filter(light, _SMOOTH) > noise, np.ones((3, 3)))
    rows, columns = np.clip(np.floor(place.T[::-1] + 0.5).astype(int), 0, np.transpose([shape]) - 1)
    parent = groups[rows, columns]
    parent = np.where(parent > 0, parent, number + sources["label"])
    sources["parent"] = parent
    sources["n_blended"] = np.bincount(parent, minlength=1)[parent]
    sources["neighbor_distance"] = _nearest(place) * u.pix
    sources["petrosian_radius"] = radii * u.pix
    return sources


def _nearest(place):
    """Return the distance of each position from the nearest other one; NaN for a single one."""
    if len(place) < 2:
        return np.full(len(place), np.nan)
    return KDTree(place).query(place, k=2)[0][:, 1]


def pixels_of(positions, shape):
    """Return rows and columns, (2, n), of the pixels that contain positions (n, 2).

    ValueError if a position is outside the image of the ``shape`` (y, x), or two are in one pixel.
    """
    places = positions[:, ::-1]  # y, x
    outside = ~((places >= -0.5) & (places <= np.array(shape) - 0.5)).all(axis=1)
    if outside.any():
        y, x = places[outside][0]
        raise ValueError(
            f"positions has ({x:.6g}, {y:.6g}), outside the image; x has to be within 0 and "
            f"{shape[1] - 1}, y within 0 and {shape[0] - 1}"
        )
    # the last pixel includes its far edge
    pixels = np.minimum(np.floor(places + 0.5).astype(int), np.array(shape) - 1)
    if len(np.unique(pixels, axis=0)) < len(pixels):
        raise ValueError("positions has two sources in one pixel; give each source once")
    return pixels.T


def stamp_widths(sources, size_rule, shape):
    """Return the widths of the stamps of sources, which contain the sources that touch them.

    They are in pixels of the image, at least 16, and none is wider than the longer side of its
    ``shape`` (y, x); ``sources`` are as `find_sources` returns them, ``size_rule`` is that of the
    model's card. For a position without detection it is the width of the nearest source within 64
    pixels, or else of the network's stamp.
    """
    widths = size_rule["petrosian_radii"] * sources["petrosian_radius"].value
    place = np.stack([sources["x_centroid"], sources["y_centroid"]], axis=-1)
    light, parent = sources["segment_flux"].sum(axis=1), np.asarray(sources["parent"])
    unseen = (np.asarray(sources["flags"]) & Flag.NO_SOURCE) > 0
    result = widths.copy()
    for k, width in enumerate(widths):
        touching = (parent == parent[k]) & (np.arange(len(parent)) != k) & ~unseen
        if unseen[k]:
            distance = np.where(unseen, np.inf, np.hypot(*(place - place[k]).T))
            near = np.argmin(distance)
            result[k] = widths[near] if distance[near] < _CLOSE else size_rule["pixels"]
        elif touching.any():
            companion = np.argmax(np.where(touching, light, -np.inf))
            apart = np.abs(place[companion] - place[k]).max()
            result[k] = np.clip(apart / _FARTHEST, width, _WIDEN * width)
    return np.maximum(np.minimum(result, max(shape)), _SMALLEST_STAMP)


def _symmetric_radius(light, hidden, position, radius):
    """Return the Petrosian radius of the symmetric part of a galaxy's light."""
    rows, columns = np.indices(light.shape)
    # The centre is the brightest pixel close to the position.
    close = np.hypot(columns - position[0], rows - position[1]) <= max(radius / 4, 1)
    row, column = np.unravel_index(np.argmax(np.where(close, light, -np.inf)), light.shape)
    centre = float(column), float(row)
    return petrosian_radius(_alike(light, centre), centre, mask=hidden)


def _alike(light, position):
    """Return the symmetric part of light (y, x): the minimum of it and its rotation by 180 degrees.

    The rotation is about a position, with linear interpolation; where it has no pixel, the light
    is unchanged.
    """
    mirrored, inside = light, []
    for axis, at in zip((-1, -2), position, strict=True):
        side = light.shape[axis]
        opposite = 2 * at - np.arange(side)
        inside.append((opposite >= 0) & (opposite <= side - 1))
        low = np.floor(opposite).astype(int)
        part = (opposite - low).reshape(-1, *(1,) * (-1 - axis))
        mirrored = (1 - part) * mirrored.take(low.clip(0, side - 1), axis) + part * mirrored.take(
            (low + 1).clip(0, side - 1), axis
        )
    return np.where(np.logical_and.outer(*inside[::-1]), np.minimum(light, mirrored), light)


def petrosian_radius(data, position, *, mask=None, eta=0.2, largest=None):
    """Return the Petrosian radius of a galaxy in pixels; NaN if there is none.

    It is the radius r at which the mean surface brightness in the annulus from 0.8 r to 1.25 r has
    fallen to ``eta`` times the mean within r (Petrosian 1976; the definition is the SDSS's, Blanton
    et al. 2001, equation 2). Masked pixels of an annulus are replaced by the mean of its other
    pixels. ``data`` (y, x) is background-subtracted, ``position`` (x, y); ``largest`` is the
    largest radius, by default the extent of the image.
    """
    x, y = position
    ny, nx = data.shape
    if largest is None:
        largest = np.hypot(max(x, nx - 1 - x), max(y, ny - 1 - y))
    steps = 3  # rings per factor of 1.25, so that 0.8 r and 1.25 r are edges of rings, too
    count = int(np.ceil(steps * np.log(max(largest, 2)) / np.log(1.25))) + 1
    edges = np.concatenate([[0], 1.25 ** (np.arange(-steps, count) / steps)])
    seen = np.isfinite(data) if mask is None else np.isfinite(data) & ~mask
    rows, columns = np.indices(data.shape)
    distance = np.hypot(columns - x, rows - y).ravel()
    order = np.argsort(distance)
    order = order[: np.searchsorted(distance[order], edges[-1] + 1)]
    light = np.where(seen, data, 0).ravel()[order]
    disc_light, disc_area = (
        _within(distance[order], of, edges[1:]) for of in (light, seen.ravel()[order])
    )
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
    part = 1.0
    if np.isfinite(ratio[last - 1]):
        part = (ratio[last - 1] - eta) / (ratio[last - 1] - ratio[last])
    return float(edges[r][last - 1] * 1.25 ** (part / steps))


def _within(distance, values, radii):
    """Return sums of values within radii; pixels at an edge are weighted.

    The weight rises linearly over half a pixel to either side of the edge.
    """
    sums, moments = (
        np.concatenate([[0], np.cumsum(each, dtype=float)]) for each in (values, values * distance)
    )
    low, high = (np.searchsorted(distance, radii + half) for half in (-0.5, 0.5))
    edge = (radii + 0.5) * (sums[high] - sums[low]) - (moments[high] - moments[low])
    return sums[low] + edge
