"""Whole scenes with known truth: drawn, so that anyone can repeat them, and scored."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

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
from astrodeblend.simulate import SCENE_MODES, find_images, read_images, simulate_scene
from astrodeblend.weights import check_model, read_card

from . import figures
from .coverage import coverage_lines
from .report import (
    Measure,
    Report,
    about,
    about_text,
    limits_text,
    median,
    quantile,
    rows_of,
    share_of,
    standard_error,
    table_lines,
    within,
)

METHODS = (*LIGHTS, "photutils")
#: Quantities that galaxies are binned by: what they are, and the edges of the bins.
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
_FEWEST, _MOST = 2, 8  # galaxies in a scene
# Threshold of a true footprint above the sky, in the sky's standard deviations. With 3, fluxes of
# galaxies alone are off by about as much: photutils' by -4 %, ours by 3 %.
_THRESHOLD = 3.0
_SMOOTH = 1.0  # pixels: standard deviation of the Gaussian that peaks are smoothed by
_RADIUS = 10 / 3  # pixels: largest distance of a source that is the galaxy; these are 4.7 apart


@dataclass(frozen=True, eq=False)
class SceneSet:
    """A list of scenes; iterating simulates them, one at a time."""

    folder: Path  # folder of the pictures
    paths: tuple[Path, ...]  # pictures to draw from
    split: str | None  # part of the folder they are; None: all
    mode: str  # blending mode, "max" or "sum"
    seed: int  # seed of the random numbers
    members: tuple[np.ndarray, ...]  # indices of ``paths``, for every scene

    def __len__(self):
        return len(self.members)

    def __iter__(self):
        for k, members in enumerate(self.members):
            images = [read_images([self.paths[j]])[0] for j in members]
            yield simulate_scene(images, mode=self.mode, rng=_rng(self.seed, k, "perturbation"))

    def names(self, scene):
        """Return the files of a scene's galaxies, relative to the folder."""
        return [self.paths[k].relative_to(self.folder).as_posix() for k in self.members[scene]]

    @property
    def meta(self):
        """The entries ``recipe``, ``split`` and ``seed`` of tables of these scenes."""
        return {"recipe": self.mode, "split": self.split or "all", "seed": self.seed}

    def __str__(self):
        used = np.concatenate(self.members)
        part = "all images" if self.split is None else f"split {self.split!r}"
        return (
            f"{len(self)} scenes with {len(used)} galaxies from {len(np.unique(used))} pictures; "
            f"{part} of {self.folder}, recipe {self.mode}, seed {self.seed}"
        )


def draw_scenes(folder, *, split=None, mode="max", number=200, seed=1):
    """Draw galaxies for scenes of two to eight that overlap.

    All numbers from two to eight are equally likely, as far as there are galaxies. If
    ``splits.csv`` has a column ``isolated``, the galaxies are those with 1 in it.

    Parameters
    ----------
    folder : str or path-like
        Pictures of isolated galaxies, as `astrodeblend.simulate.find_images` takes them.
    split : str, optional
        Part of the pictures, by the table ``splits.csv`` in the folder. Default: all.
    mode : {'max', 'sum'}, optional
        Blending mode.
    number : int, optional
        Number of scenes.
    seed : int, optional
        Seed of the random numbers; the same seed and images give the same scenes.

    Returns
    -------
    SceneSet
    """
    folder = Path(folder)
    if mode not in SCENE_MODES:
        raise ValueError(f"mode={mode!r} is not known; choose {' or '.join(SCENE_MODES)}")
    if number < 1:
        raise ValueError(f"number={number}: give at least 1 scene")
    paths = find_images(folder, split=split, isolated=True)
    if len(paths) < _FEWEST:
        raise ValueError(
            f"{str(folder)!r} holds {len(paths)} isolated galaxies; a scene takes at least "
            f"{_FEWEST}"
        )
    members = []
    for k in range(number):
        rng = _rng(seed, k, "galaxies")
        count = rng.integers(_FEWEST, min(_MOST, len(paths)) + 1)
        members.append(rng.choice(len(paths), count, replace=False))
    return SceneSet(folder, tuple(paths), split, mode, seed, tuple(members))


def _rng(seed, scene, what):
    return np.random.default_rng([seed, scene, ("galaxies", "perturbation").index(what)])


@dataclass(frozen=True, eq=False)
class _Truth:
    """Properties of n galaxies, each alone."""

    light: np.ndarray  # (n, bands, y, x), zero outside of the footprints
    footprints: np.ndarray  # (n, y, x)
    positions: np.ndarray  # (n, 2): x and y in pixels
    distance: np.ndarray  # (n,): to the nearest other galaxy, in pixels
    overlap: np.ndarray  # (n,): share of the light where the others together are brighter
    overlapping: np.ndarray  # (n,): whether the footprint has pixels in common with another one
    seen: np.ndarray  # (m, 2): peaks of what photutils detects in the isolated images

    @property
    def flux(self):
        return self.light.sum(axis=(-2, -1))

    def pure(self, places):
        """Return how many places are a galaxy's, or of another source in its isolated image."""
        known = np.concatenate([self.positions, self.seen])
        return int((cdist(places, known) <= _RADIUS).any(axis=1).sum())


def score_scenes(deblender, scenes, *, progress=False):
    """Deblend scenes with known truth, and compare every galaxy with the truth.

    Each scene is given to the deblender with the true positions, and without; and to photutils
    (`astrodeblend.detect.find_sources`, on the picture as it is) likewise.

    Parameters
    ----------
    deblender : Deblender
        Deblender with a model for colour pictures.
    scenes : SceneSet
        The scenes.
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
        rows, found = _score_scene(deblender, scene, interval_95["pixel"])
        which = {"scene": np.full(len(scene.positions), k), "galaxy": scenes.names(k)}
        sources.append(QTable(which | rows))
        detections += [{"scene": k} | row for row in found]
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
        **{name: rows_of(tables[name]) for name in ("table", "coverage")},
    }
    labels = {name: label for name, (label, _) in BINS.items()}
    title = f"{deblender.card.name} on {scenes}"
    return Report(
        text="\n".join(_lines(numbers, scenes, tables)),
        tables=tables,
        numbers=numbers,
        json="scores",
        figures={"errors": lambda: figures.scenes(tables["table"], labels, title=title)},
    )


def _score_scene(deblender, simulated, wide):
    """Return columns of the galaxies of a scene, and a row of what each method detected."""
    truth = measure_truth(simulated)
    number = len(truth.positions)
    columns = {
        "number": np.full(number, number),
        "x": truth.positions[:, 0],
        "y": truth.positions[:, 1],
        "separation": truth.distance,
        "overlap": truth.overlap,
        "overlapping": truth.overlapping,
        "footprint_area": truth.footprints.sum(axis=(1, 2)),
        "true_flux": truth.flux,
    }
    detections = []
    for kind, positions in (("given", truth.positions), ("detected", None)):
        scene = deblender.deblend_scene(simulated.blend, positions=positions)
        for method in METHODS:
            if method in LIGHTS:
                shown = scene.with_light(method)
                places, fluxes = _of_scene(shown)
            else:
                places, fluxes = _of_photutils(simulated.blend, positions)
            which = np.arange(number)
            if positions is None:
                which = match_sources(truth.positions, places)
            come_back = (which >= 0) & (which < len(places))
            found = {"come_back": come_back}
            for name, values in fluxes.items():
                found[name] = np.full(truth.flux.shape, np.nan)
                found[name][come_back] = values[which[come_back]]
            if positions is None:
                row = {"method": method, "detected": len(places), "pure": truth.pure(places)}
                row |= {"galaxies": number, "galaxies_detected": int(come_back.sum())}
                detections.append(row)
            elif method in LIGHTS:
                found |= _pixels_within(shown, truth, wide)
            columns |= {f"{name}_{method}_{kind}": values for name, values in found.items()}
    return columns, detections


def flux_errors(sources, positions):
    """Return relative errors of fluxes (methods, galaxies, bands + 1), the last of all bands."""
    fluxes = [sources["true_flux"], *(sources[f"flux_{m}_{positions}"] for m in METHODS)]
    fluxes = np.stack([np.c_[flux, flux.sum(axis=1)] for flux in fluxes])
    return fluxes[1:] / fluxes[0] - 1


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
                by_scene = np.full((len(scene), _MOST), np.nan)
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
            yield name, low, high, within(sources[name], low, high), -1
    for band, name in enumerate("RGB"):
        yield f"band {name}", np.nan, np.nan, overlapping, band


def _coverages(sources, interval_95):
    """Return rows of the shares of truths within errors."""
    first = np.flatnonzero(np.diff(sources["scene"], prepend=-1))
    rows = []
    for light in LIGHTS:
        off = np.abs(sources[f"flux_{light}_given"] - sources["true_flux"])
        error = sources[f"flux_err_{light}_given"]
        inside = error > 0, off <= error, off <= interval_95["flux"] * error
        names = ("pixels", "pixels_within_68", "pixels_within_95")
        for of, counts in (
            ("flux", [np.sum(inside[0] & each, axis=1) for each in inside]),
            ("pixels", [sources[f"{name}_{light}_given"] for name in names]),
        ):
            total, *some = (np.add.reduceat(each, first) for each in counts)
            row = {"light": light, "of": of, "number": int(total.sum())}
            row |= share_of("within_68", some[0], total) | share_of("within_95", some[1], total)
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
    """Yield the text."""
    yield from (about_text(numbers), str(scenes), "")
    yield "true positions given: " + ", ".join(
        f"{method} {number} of {numbers['galaxies']} galaxies come back"
        for method, number in numbers["come_back"].items()
    )
    found = QTable(list(numbers["detection"].values()))
    measures = {
        "detected": Measure("", "sources", 0),
        "completeness": Measure("", "complete (%)", 1, 100),
        "purity": Measure("", "pure (%)", 1, 100),
    }
    names = [f"  {method}" for method in METHODS]
    yield from ("", *table_lines(found, {"positions detected": names}, measures))
    measures = {"number": Measure("", "galaxies", 0)}
    for method in METHODS:
        measures[f"median_{method}"] = Measure(method, "median", 3)
        measures[f"p90_{method}"] = Measure("", "90 %", 3)
    for positions, words in POSITIONS.items():
        rows = tables["table"][tables["table"]["positions"] == positions]
        names = []
        for name, low, high in rows.iterrows("by", "low", "high"):
            limits = f"{low:g}" if name == "number" else limits_text(low, high)
            names.append(f"  {name} {limits}" if name in BINS else f"  {name}")
        yield from ("", f"abs(dF / F), {words}", *table_lines(rows, {"": names}, measures))
    yield from ("", "truths within the error bars, true positions given (%)")
    yield from (*coverage_lines(tables["coverage"], "light", "of"), "", *_NOTES)


def measure_truth(scene):
    """Return the truth of a simulated scene, each galaxy measured alone."""
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
    """Return where each segment is brightest, (n, 2): neighbours pull centroids, but not that."""
    smooth = gaussian_filter(image.sum(axis=0), _SMOOTH)
    peaks = np.reshape(maximum_position(smooth, segments, labels), (-1, 2))
    return peaks[:, ::-1].astype(float)


def _of_photutils(blend, positions):
    """Return where the segments of photutils are brightest, (m, 2), and their fluxes."""
    sources, segments = find_sources(NDData(blend), positions=positions)
    flux = np.asarray(Quantity(sources["segment_flux"]).value)
    return _peaks(blend, segments, sources["label"]), {"flux": np.nan_to_num(flux)}


def _of_scene(scene):
    """Return where components are brightest, NaN without light, (m, 2), and fluxes and errors."""
    catalog, places = scene.catalog, []
    for label in catalog["label"]:
        light = scene.component(label).data
        one = np.ones(light.shape[1:], int)
        places.append(_peaks(light, one, [1])[0] if light.any() else (np.nan, np.nan))
    columns = {"flux": "segment_flux", "flux_err": "segment_flux_err"}
    # the flux of a source without light is 0
    fluxes = {name: np.nan_to_num(Quantity(catalog[of]).value) for name, of in columns.items()}
    return np.reshape(places, (-1, 2)), fluxes


def match_sources(galaxies, sources, *, radius=_RADIUS):
    """Match galaxies with sources, each source with one galaxy at most.

    As many as possible are matched within the ``radius``, and of such matches the one whose
    distances have the least sum. Positions (n, 2) and (m, 2) are in pixels, NaN for a source that
    has none. Return the index of each galaxy's source, -1 for a galaxy without.
    """
    distance = cdist(galaxies, sources)
    near = distance <= radius  # false for NaN
    matched, sources = linear_sum_assignment(np.where(near, distance, 1e3 * radius))
    near = near[matched, sources]
    which = np.full(len(galaxies), -1)
    which[matched[near]] = sources[near]
    return which


def _pixels_within(scene, truth, wide):
    """Return how many pixels of each footprint have an error, and whose truth is within it."""
    errors = list(pixel_errors(scene, truth))
    limits = {"pixels": np.inf, "pixels_within_68": 1, "pixels_within_95": wide}
    return {
        name: np.array([np.sum(error <= limit * deviation) for error, deviation in errors])
        for name, limit in limits.items()
    }


def pixel_errors(scene, truth):
    """Yield for each source the pixels' errors in its true footprint, and stated deviations."""
    for label, light, footprint in zip(
        scene.catalog["label"], truth.light, truth.footprints, strict=True
    ):
        component = scene.component(label)
        deviation = component.uncertainty.array[:, footprint]
        stated = deviation > 0  # a component ends somewhere, and nothing is said beyond
        yield np.abs(component.data - light)[:, footprint][stated], deviation[stated]
