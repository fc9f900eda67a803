"""Scenes taken apart, and every galaxy of them compared with the truth."""

from dataclasses import dataclass

import numpy as np
from astropy.nddata import NDData
from astropy.table import QTable
from astropy.units import Quantity
from scipy.ndimage import gaussian_filter, maximum_position
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from tqdm import tqdm

from astrodeblend import __version__
from astrodeblend.calibration import Calibration
from astrodeblend.detect import find_sources
from astrodeblend.weights import check_model, read_card

from .result import METHODS, SceneScores

__all__ = ["match_sources", "score_scenes"]

# A true footprint is where the galaxy alone stands out of its sky by so many standard deviations:
# with it both are off by as much, given the galaxy alone; photutils 4 % down, ours 3 % up.
_THRESHOLD = 3.0
_SMOOTH = 1.0  # pixels, standard deviation, for peaks
_RADIUS = 10 / 3  # pixels; a source this near to a galaxy is it. Galaxies are at least 4.7 apart


@dataclass(frozen=True, eq=False)
class _Truth:
    """What is true of n galaxies."""

    light: np.ndarray  # (n, bands, y, x), zero outside of the footprints
    footprints: np.ndarray  # (n, y, x)
    positions: np.ndarray  # (n, 2)
    distance: np.ndarray  # to the nearest other galaxy
    overlap: np.ndarray  # share of the light where the others together are brighter
    overlapping: np.ndarray  # whether the footprint has pixels in common with another one
    seen: np.ndarray  # (m, 2), what photutils detects in the pictures alone

    @property
    def flux(self):
        return self.light.sum(axis=(-2, -1))


def score_scenes(deblender, scenes, *, progress=False):
    """Take scenes with known truth apart, and compare every galaxy with the truth.

    Each scene is given to the deblender with the true positions, and without; and to photutils
    (`astrodeblend.detect.find_sources`, on the picture as it is) likewise.

    A galaxy's true flux is the light above the sky in its own footprint: the connected region
    around its true position in which its isolated image, smoothed as there,
    stands out of its sky by 3 standard deviations. A detected source is a galaxy if it is
    brightest within 3.33 pixels of its true position, one source to a galaxy, so that distances
    are least. It is pure if it is a galaxy, or as near to any source that photutils detects in one
    of the isolated images alone, such as a star in the surroundings.

    Parameters
    ----------
    deblender : Deblender
        With a model for colour pictures.
    scenes : SceneSet
        What to try it on.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    SceneScores

    Raises
    ------
    ValueError
        If the model is not one for colour pictures.
    """
    card = deblender.card
    check_model(card, "scenes")
    scenes_card = read_card(card.crowded) if card.crowded else card
    interval_95 = Calibration(**scenes_card.calibration).of_scenes().interval_95
    sources, detections = [], []
    bar = tqdm(scenes, "scenes", len(scenes), disable=not progress, unit="scene")
    for k, scene in enumerate(bar):
        truth = measure_truth(scene)
        rows = {
            "scene": np.full(len(truth.flux), k),
            "galaxy": scenes.names(k),
            "number": np.full(len(truth.flux), len(truth.flux)),
            "x": truth.positions[:, 0],
            "y": truth.positions[:, 1],
            "separation": truth.distance,
            "overlap": truth.overlap,
            "overlapping": truth.overlapping,
            "footprint_area": truth.footprints.sum(axis=(1, 2)),
            "true_flux": truth.flux,
        }
        for given in (True, False):
            positions = truth.positions if given else None
            apart = deblender.deblend_scene(scene.blend, positions=positions)
            for method in METHODS:
                ours = None if method == "photutils" else apart.with_light(method)
                found, counts = _try(ours, scene.blend, truth, interval_95, given=given)
                suffix = f"{method}_{'given' if given else 'detected'}"
                rows |= {f"{name}_{suffix}": values for name, values in found.items()}
                if not given:
                    detections.append({"scene": k, "method": method, **counts})
        sources.append(QTable(rows))
    return SceneScores(
        model=card.name,
        sha256=card.sha256,
        version=__version__,
        arithmetic=deblender.arithmetic,
        interval_95=interval_95,
        scenes=scenes,
        sources=_stacked(sources),
        detections=QTable(detections),
    )


def _stacked(tables):
    columns = {
        name: np.concatenate([np.asarray(table[name]) for table in tables])
        for name in tables[0].colnames
    }
    return QTable(columns)


def measure_truth(scene):
    """Measure the galaxies of a scene, each alone."""
    footprints, seen = [], []
    for image, position in zip(scene.isolated, scene.positions, strict=True):
        alone = NDData(image)
        _, segments = find_sources(alone, positions=[position], threshold=_THRESHOLD)
        footprints.append(segments > 0)
        found, segments = find_sources(alone)
        seen.append(_peaks(image, segments, found["label"]))
    footprints = np.array(footprints)
    light = scene.light * footprints[:, None]
    summed = light.sum(axis=1)
    others = summed.sum(axis=0) - summed
    flux = summed.sum(axis=(1, 2))
    distance = cdist(scene.positions, scene.positions)
    np.fill_diagonal(distance, np.inf)
    return _Truth(
        light=light,
        footprints=footprints,
        positions=scene.positions,
        distance=distance.min(axis=1),
        overlap=np.where(others > summed, summed, 0).sum(axis=(1, 2)) / flux,
        overlapping=(footprints & (footprints.sum(axis=0) > 1)).any(axis=(1, 2)),
        seen=np.concatenate(seen),
    )


def _peaks(image, segments, labels):
    """Return where each segment is brightest, (x, y): neighbours pull the centroid, not that."""
    smooth = gaussian_filter(image.sum(axis=0), _SMOOTH)
    peaks = np.reshape(maximum_position(smooth, segments, labels), (-1, 2))
    return peaks[:, ::-1].astype(float)


def _try(scene, blend, truth, interval_95, *, given):
    """Return what became of the galaxies, and what was detected: in a scene, or by photutils."""
    if scene is None:
        positions = truth.positions if given else None
        sources, segments = find_sources(NDData(blend), positions=positions)
        places = _peaks(blend, segments, sources["label"])
    else:
        sources = scene.catalog
        places = np.reshape([_peak(scene.component(k)) for k in sources["label"]], (-1, 2))
    which = np.arange(len(truth.flux)) if given else match_sources(truth.positions, places)
    come_back = (which >= 0) & (which < len(sources))
    rows = which[come_back]
    flux, error = (np.full(truth.flux.shape, np.nan) for _ in range(2))
    # a source without light is there, and has none
    flux[come_back] = np.nan_to_num(Quantity(sources["segment_flux"]).value[rows])
    found = {"come_back": come_back, "flux": flux}
    if scene is not None:
        error[come_back] = Quantity(sources["segment_flux_err"]).value[rows]
        found["flux_err"] = error
        flags = np.zeros(len(truth.flux), int)
        flags[come_back] = sources["flags"][rows]
        found["flags"] = flags
        if given:
            found |= _coverage(scene, truth, interval_95["pixel"])
    known = np.concatenate([truth.positions, truth.seen])
    pure = (cdist(places, known) <= _RADIUS).any(axis=1)
    counts = {"detected": len(sources), "pure": int(pure.sum())}
    counts |= {"galaxies": len(which), "galaxies_detected": int(come_back.sum())}
    return found, counts


def match_sources(galaxies, sources, *, radius=_RADIUS):
    """Return which source each galaxy is.

    Parameters
    ----------
    galaxies, sources : numpy.ndarray, shape (n, 2)
        Places in pixels; NaN for a source that has none.
    radius : float, optional
        In pixels; how near a source is to the galaxy that it is.

    Returns
    -------
    numpy.ndarray of int
        Shape (n,): -1 for a galaxy that none of the sources is. A source is one galaxy at
        most; first as many as possible are matched, then distances are least in sum.
    """
    distance = cdist(galaxies, sources)
    near = distance <= radius  # false for NaN
    matched, sources = linear_sum_assignment(np.where(near, distance, 1e3 * radius))
    near = near[matched, sources]
    which = np.full(len(galaxies), -1)
    which[matched[near]] = sources[near]
    return which


def _peak(component):
    """Return where a component is brightest, (x, y); NaN if it has no light."""
    light = component.data
    if not light.any():
        return np.nan, np.nan
    return tuple(_peaks(light, np.ones(light.shape[1:], int), [1])[0])


def pixel_errors(scene, truth):
    """Yield the errors in each true footprint, where a deviation is stated, and that deviation."""
    for label, light, footprint in zip(
        scene.catalog["label"], truth.light, truth.footprints, strict=True
    ):
        component = scene.component(label)
        deviation = component.uncertainty.array[:, footprint]
        stated = deviation > 0  # a component ends somewhere, and nothing is said beyond
        yield np.abs(component.data - light)[:, footprint][stated], deviation[stated]


def _coverage(scene, truth, wide):
    """Return in how many of a footprint's pixels the truth is within the error bars."""
    counts = np.array(
        [
            (len(error), np.sum(error <= deviation), np.sum(error <= wide * deviation))
            for error, deviation in pixel_errors(scene, truth)
        ]
    )
    return dict(zip(("pixels", "pixels_within_68", "pixels_within_95"), counts.T, strict=True))
