"""Whole scenes with known truth taken apart, beside photutils in the same run."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from astropy.nddata import NDData
from astropy.table import QTable, vstack
from astropy.units import Quantity
from scipy.ndimage import gaussian_filter, maximum_position
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from tqdm import tqdm

from astrodeblend import __version__
from astrodeblend.calibration import Calibration
from astrodeblend.detect import find_sources
from astrodeblend.light import LIGHTS
from astrodeblend.weights import check_model, read_card

from . import figures
from .report import (
    Report,
    about,
    about_text,
    coverage_lines,
    limits_text,
    median,
    quantile,
    rows_of,
    share_of,
    standard_error,
    table_lines,
)
from .scene_set import MOST

__all__ = ["match_sources", "measure_truth", "pixel_errors", "score_scenes"]

METHODS = (*LIGHTS, "photutils")
#: What galaxies are grouped by, and the bins: from the first value up to, not with, the second.
BINS = {
    "number": ("galaxies in the scene", (2, 3, 4, 5, 6, 7, 8, 9)),
    "separation": ("distance to the nearest galaxy (pixels)", (0, 8, 11, 14, 18, np.inf)),
    "overlap": (
        "share of own light where the others are brighter",
        (0, 0.03, 0.1, 0.3, 0.6, np.inf),
    ),
}
POSITIONS = {"given": "true positions given", "detected": "positions detected"}
_NOTES = """\
apportioned, network: both kinds of light of the deblender; photutils: its segments.
F: sum of the picture's values above the sky, all bands; the true one in the galaxy's own
footprint, where its isolated image (smoothed as for detection) is 3 standard deviations above its
sky.
A source whose brightest pixel is within 3.33 pixels is the galaxy; it is pure if it is one, or as
near to what photutils detects in an isolated image. Of detected positions, galaxies that all three
found are compared. ±: by bootstrap over scenes.
""".splitlines()
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
    Report
        Its tables are described in :ref:`score-tables`.
    """
    card = deblender.card
    check_model(card, "scenes")
    scenes_card = read_card(card.crowded) if card.crowded else card
    interval_95 = Calibration(**scenes_card.calibration).of_scenes().interval_95
    sources, detections = [], []
    bar = tqdm(scenes, "scenes", len(scenes), disable=not progress, unit="scene")
    for k, scene in enumerate(bar):
        truth = measure_truth(scene)
        number = len(truth.flux)
        rows = {
            "scene": np.full(number, k),
            "galaxy": scenes.names(k),
            "number": np.full(number, number),
            "x": truth.positions[:, 0],
            "y": truth.positions[:, 1],
            "separation": truth.distance,
            "overlap": truth.overlap,
            "overlapping": truth.overlapping,
            "footprint_area": truth.footprints.sum(axis=(1, 2)),
            "true_flux": truth.flux,
        }
        for kind, positions in (("given", truth.positions), ("detected", None)):
            apart = deblender.deblend_scene(scene.blend, positions=positions)
            for method in METHODS:
                ours = None if method == "photutils" else apart.with_light(method)
                found, counts = _try(ours, scene.blend, truth, positions, interval_95["pixel"])
                rows |= {f"{name}_{method}_{kind}": values for name, values in found.items()}
                if kind == "detected":
                    detections.append({"scene": k, "method": method, **counts})
        sources.append(QTable(rows))
    meta = about(deblender) | {"scenes": len(scenes)} | scenes.meta
    tables = {"sources": vstack(sources)}
    tables["table"] = QTable(_comparisons(tables["sources"]))
    tables["coverage"] = QTable(_coverages(tables["sources"], interval_95))
    tables["detections"] = QTable(detections)
    for table in tables.values():
        table.meta = dict(meta)
    sources = tables["sources"]
    numbers = meta | {"folder": str(scenes.folder), "version": __version__}
    numbers |= {
        "galaxies": len(sources),
        "come_back": {m: int(sources[f"come_back_{m}_given"].sum()) for m in METHODS},
        "detection": {m: _detection(tables["detections"], m) for m in METHODS},
    }
    numbers |= {name: rows_of(tables[name]) for name in ("table", "coverage")}
    labels = {name: label for name, (label, _) in BINS.items()}
    title = f"{deblender.card.name} on {scenes}"
    return Report(
        text="\n".join(_lines(numbers, scenes, tables)),
        tables=tables,
        numbers=numbers,
        json="scores",
        figures={"errors": lambda: figures.scenes(tables["table"], labels, title=title)},
    )


def flux_errors(sources, positions):
    """Return relative errors of fluxes (methods, galaxies, bands), the last of all together."""
    with_sum = (
        np.concatenate([flux, flux.sum(axis=1, keepdims=True)], axis=1)
        for flux in (sources[f"flux_{method}_{positions}"] for method in METHODS)
    )
    true = sources["true_flux"]
    true = np.concatenate([true, true.sum(axis=1, keepdims=True)], axis=1)
    return np.stack([flux / true - 1 for flux in with_sum])


def _comparisons(sources):
    """Return rows that compare errors of fluxes, group by group."""
    rows = []
    for positions in ("given", "detected"):
        errors = np.abs(flux_errors(sources, positions))
        all_found = ~np.isnan(errors[..., -1]).any(axis=0)
        for name, low, high, chosen, band in _groups(sources):
            chosen = chosen & all_found
            row = {"positions": positions, "by": name, "low": low, "high": high}
            row["number"] = int(chosen.sum())
            # a row for each scene, NaN where there is no galaxy
            scene, place = np.unique(sources["scene"][chosen], return_inverse=True)
            column = np.arange(len(place)) - np.searchsorted(place, place)
            for method, of_method in zip(METHODS, errors, strict=True):
                values = of_method[chosen, band]
                by_scene = np.full((len(scene), MOST), np.nan)
                by_scene[place, column] = values
                row[f"median_{method}"] = median(values)
                row[f"median_{method}_error"] = standard_error(by_scene, np.nanmedian)
                row[f"p90_{method}"] = quantile(values, 0.9)
            rows.append(row)
    return rows


def _groups(sources):
    """Yield name, limits, members and band of the groups that errors are compared in."""
    overlapping = np.asarray(sources["overlapping"])
    yield "all", np.nan, np.nan, np.ones(len(sources), bool), -1
    yield "overlapping", np.nan, np.nan, overlapping, -1
    for name, (_, edges) in BINS.items():
        for low, high in pairwise(map(float, edges)):
            yield name, low, high, (sources[name] >= low) & (sources[name] < high), -1
    for band, name in enumerate("RGB"):
        yield f"band {name}", np.nan, np.nan, overlapping, band


def _coverages(sources, interval_95):
    """Return rows that say how often the truth is within errors."""
    first = np.flatnonzero(np.diff(sources["scene"], prepend=-1))
    rows = []
    for light in LIGHTS:
        off = np.abs(sources[f"flux_{light}_given"] - sources["true_flux"])
        error = sources[f"flux_err_{light}_given"]
        names = ("pixels", "pixels_within_68", "pixels_within_95")
        limits = (np.inf, 1, interval_95["flux"])
        for of, counts in (
            ("flux", [np.sum(off <= limit * error, axis=1) for limit in limits]),
            ("pixels", [sources[f"{name}_{light}_given"] for name in names]),
        ):
            total, *within = (np.add.reduceat(each, first) for each in counts)
            row = {"light": light, "of": of, "number": int(total.sum())}
            for share, inside in zip(("68", "95"), within, strict=True):
                row |= share_of(f"within_{share}", inside, total)
            rows.append(row | {"interval_95": interval_95[of.removesuffix("s")]})
    return rows


def _detection(detections, method):
    """Return completeness and purity of a method, with their errors."""
    rows = detections[detections["method"] == method]
    return (
        {"detected": int(rows["detected"].sum())}
        | share_of("completeness", rows["galaxies_detected"], rows["galaxies"])
        | share_of("purity", rows["pure"], rows["detected"])
    )


def _lines(numbers, scenes, tables):
    """Yield everything in words."""
    yield from (about_text(numbers), str(scenes), "")
    yield "true positions given: " + ", ".join(
        f"{method} {number} of {numbers['galaxies']} galaxies come back"
        for method, number in numbers["come_back"].items()
    )
    found = QTable(list(numbers["detection"].values()))
    shown = {
        "detected": ("", "sources", 0),
        "completeness": ("", "complete (%)", 1, 100),
        "purity": ("", "pure (%)", 1, 100),
    }
    names = [f"  {method}" for method in METHODS]
    yield from ("", *table_lines(found, {"positions detected": names}, shown))
    shown = {"number": ("", "galaxies", 0)}
    for method in METHODS:
        shown[f"median_{method}"] = (method, "median", 3)
        shown[f"p90_{method}"] = ("", "90 %", 3)
    for positions, words in POSITIONS.items():
        rows = tables["table"][tables["table"]["positions"] == positions]
        names = []
        for name, low, high in rows.iterrows("by", "low", "high"):
            limits = f"{low:g}" if name == "number" else limits_text(low, high)
            names.append(f"  {name} {limits}" if name in BINS else f"  {name}")
        yield from ("", f"abs(dF / F), {words}", *table_lines(rows, {"": names}, shown))
    yield from ("", "truths within the error bars, true positions given (%)")
    yield from (*coverage_lines(tables["coverage"], "light", "of"), "", *_NOTES)


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


def _try(scene, blend, truth, positions, wide):
    """Return what became of the galaxies, and what was detected: in a scene, or by photutils."""
    if scene is None:
        sources, segments = find_sources(NDData(blend), positions=positions)
        places = _peaks(blend, segments, sources["label"])
    else:
        sources = scene.catalog
        places = np.reshape([_peak(scene.component(k)) for k in sources["label"]], (-1, 2))
    which = np.arange(len(truth.flux))
    if positions is None:
        which = match_sources(truth.positions, places)
    come_back = (which >= 0) & (which < len(sources))
    rows = which[come_back]
    found = {"come_back": come_back}
    for name, column in (("flux", "segment_flux"), ("flux_err", "segment_flux_err")):
        if name == "flux" or scene is not None:
            found[name] = np.full(truth.flux.shape, np.nan)
            # a source without light is there, and has none
            found[name][come_back] = np.nan_to_num(Quantity(sources[column]).value[rows])
    if scene is not None and positions is not None:
        errors = list(pixel_errors(scene, truth))
        for name, limit in (("", np.inf), ("_within_68", 1), ("_within_95", wide)):
            inside = [np.sum(error <= limit * deviation) for error, deviation in errors]
            found[f"pixels{name}"] = np.array(inside)
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
