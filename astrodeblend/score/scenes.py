"""Whole scenes with known truth taken apart, beside photutils in the same run."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

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
from astrodeblend.light import LIGHTS
from astrodeblend.simulate import SCENE_MODES, find_images, read_images, simulate_scene
from astrodeblend.weights import check_model, read_card

from . import figures
from .report import (
    Report,
    limits_text,
    number_text,
    ratio_of_sums,
    rows_of,
    share_text,
    standard_error,
)

__all__ = ["SceneSet", "draw_scenes", "match_sources", "score_scenes"]

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
_BANDS = ("R", "G", "B")
_NOTES = """\
apportioned, network: both kinds of light of the deblender; photutils: its segments.
F: sum of the picture's values above the sky, all bands; the true one in the galaxy's own
footprint, where its isolated image (smoothed as for detection) is 3 standard deviations above its
sky.
ratio: photutils' median over ours. A source whose brightest pixel is within 3.33 pixels is the
galaxy; it is pure if it is one, or as near to what photutils detects in an isolated image. Of
detected positions, galaxies that all three found are compared. ±: by bootstrap over scenes.
""".splitlines()
_FEWEST, _MOST = 2, 8  # galaxies in a scene


@dataclass(frozen=True, eq=False)
class SceneSet:
    """Scenes that anyone can make again.

    Made by `draw_scenes`. Iterating over it makes the scenes, one at a time; a scene is the
    same however many there are.

    Attributes
    ----------
    folder : pathlib.Path
        Where the pictures are.
    paths : tuple of pathlib.Path
        All that could be taken.
    split : str or None
        Which part of the folder they are.
    mode : {'max', 'sum'}
        How galaxies become one image.
    seed : int
        Where the randomness started from.
    members : tuple of numpy.ndarray
        Indices of ``paths``, of every scene.
    """

    folder: Path
    paths: tuple[Path, ...]
    split: str | None
    mode: str
    seed: int
    members: tuple[np.ndarray, ...]

    def __len__(self):
        return len(self.members)

    def __iter__(self):
        for k, members in enumerate(self.members):
            images = [read_images([self.paths[j]])[0] for j in members]
            yield simulate_scene(images, mode=self.mode, rng=_rng(self.seed, k, "perturbation"))

    def names(self, scene):
        """Return the files of a scene's galaxies, relative to the folder.

        Parameters
        ----------
        scene : int
            Which of the scenes.
        """
        return [self.paths[k].relative_to(self.folder).as_posix() for k in self.members[scene]]

    @property
    def meta(self):
        """What stands over tables of these scenes: ``recipe``, ``split`` and ``seed``."""
        return {"recipe": self.mode, "split": self.split or "all", "seed": self.seed}

    def __str__(self):
        used = np.concatenate(self.members)
        part = "all images" if self.split is None else f"split {self.split!r}"
        return (
            f"{len(self)} scenes with {len(used)} galaxies from {len(np.unique(used))} pictures; "
            f"{part} of {self.folder}, recipe {self.mode}, seed {self.seed}"
        )


def draw_scenes(folder, *, split=None, mode="max", number=200, seed=1):
    """Choose galaxies for scenes of two to eight that overlap.

    All numbers from two to eight are as likely, as far as there are galaxies. Where
    ``splits.csv`` has a column ``isolated``, the galaxies are those with 1 in it.

    Parameters
    ----------
    folder : str or path-like
        Pictures of isolated galaxies, as `astrodeblend.simulate.find_images` takes them.
    split : str, optional
        Which part of them, by the table ``splits.csv`` in the folder. Default: all.
    mode : {'max', 'sum'}, optional
        How galaxies become one image.
    number : int, optional
        How many scenes.
    seed : int, optional
        The same seed and images give the same scenes.

    Returns
    -------
    SceneSet

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder, split or mode, fewer than two isolated galaxies, or
        ``number`` is not positive.
    """
    folder = Path(folder)
    if mode not in SCENE_MODES:
        raise ValueError(f"mode={mode!r} is none of scenes; choose {' or '.join(SCENE_MODES)}")
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
    Report
        Its tables:

        ``sources``
            A row for every galaxy: which ``scene``, its file (``galaxy``), ``number`` of galaxies
            in the scene, true place ``x`` and ``y``, ``separation`` to the nearest other galaxy
            in pixels, ``overlap`` (share of its light that is where the others together are
            brighter), ``overlapping`` (whether its footprint has pixels of another one's),
            ``footprint_area`` in pixels, ``true_flux`` per band. Then for each method
            (``apportioned``, ``network``, ``photutils``) with positions ``given`` or ``detected``,
            as in ``flux_network_given``: ``come_back``, ``flux`` per band; of ours ``flux_err``
            and ``flags``; with positions given ``pixels``, those of the footprint (in all bands)
            that the component has an error in, and in how many the truth is within it and within
            the wider interval, ``pixels_within_68`` and ``pixels_within_95``. Fluxes are sums of
            the picture's values, from 0 to 1, above the sky; not proportional to light.
        ``table``
            A row per kind of ``positions`` (``given``, ``detected``) and group of galaxies:
            ``by`` what (``all``; ``overlapping``, those whose footprint has pixels of
            another's; ``number`` of galaxies in the scene, ``separation``, ``overlap``; or
            overlapping ones in one ``band`` alone), from ``low`` up to ``high``; their
            ``number``. For each method the ``median`` of abs(dF / F), its ``error``, and ``p90``,
            the 90th percentile; and for both of ours ``ratio``, photutils' median over ours,
            with its ``error``. Of detected positions only galaxies that all methods found are
            compared. Errors are by bootstrap over scenes.
        ``coverage``
            A row for both kinds of ``light`` and for what the errors are ``of``: ``flux`` of
            the catalogue (galaxies and bands; ``segment_flux_err``) and ``pixels`` of the
            components in the true footprints, where they have one. ``within_68`` is the share
            of truths within one error, ``within_95`` within the interval that is to hold 95.4 %,
            with their errors; ``interval_95`` that interval in errors, and ``number`` how many
            truths there are. True positions are given.
        ``detections``
            A row for every scene and method: sources ``detected``, how many of them are ``pure``,
            ``galaxies``, and how many of those were detected.

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
    sources = QTable(
        {
            name: np.concatenate([np.asarray(table[name]) for table in sources])
            for name in sources[0].colnames
        }
    )
    meta = {"model": card.name, "sha256": card.sha256, "arithmetic": deblender.arithmetic}
    meta |= {"scenes": len(scenes)} | scenes.meta
    tables = {
        "sources": sources,
        "table": QTable(_comparisons(sources)),
        "coverage": QTable(_coverages(sources, interval_95)),
        "detections": QTable(detections),
    }
    for table in tables.values():
        table.meta = dict(meta)
    come_back = {m: int(sources[f"come_back_{m}_given"].sum()) for m in METHODS}
    found = {m: _detection(tables["detections"], m) for m in METHODS}
    numbers = meta | {"folder": str(scenes.folder), "version": __version__}
    numbers |= {"galaxies": len(sources), "come_back": come_back, "detection": found}
    numbers |= {name: rows_of(tables[name]) for name in ("table", "coverage")}
    labels = {name: label for name, (label, _) in BINS.items()}
    title = f"{card.name} on {scenes}"
    return Report(
        text="\n".join(_lines(numbers, scenes, tables)),
        tables=tables,
        numbers=numbers,
        json="scores",
        figures={"errors": lambda: figures.scenes(tables["table"], labels, title=title)},
    )


def flux_error(sources, method, positions):
    """Return every galaxy's relative error of the flux, bands together; NaN for a lost one."""
    found = sources[f"flux_{method}_{positions}"].sum(axis=1)
    return found / sources["true_flux"].sum(axis=1) - 1


def _comparisons(sources):
    """Return rows that compare errors of fluxes, group by group."""
    rows = []
    for positions in POSITIONS:
        errors = {m: np.abs(flux_error(sources, m, positions)) for m in METHODS}
        both = np.all([~np.isnan(values) for values in errors.values()], axis=0)
        for group, chosen in _groups(sources):
            row = _compare(sources, errors, chosen & both)
            rows.append({"positions": positions, **group, **row})
        for band, name in enumerate(_BANDS):
            true = sources["true_flux"][:, band]
            of_band = {
                m: np.abs(sources[f"flux_{m}_{positions}"][:, band] / true - 1) for m in METHODS
            }
            group = {"by": f"band {name}", "low": np.nan, "high": np.nan}
            row = _compare(sources, of_band, both & sources["overlapping"])
            rows.append({"positions": positions, **group, **row})
    return rows


def _coverages(sources, interval_95):
    """Return rows that say how often the truth is within errors."""
    rows = []
    for light in LIGHTS:
        off = np.abs(sources[f"flux_{light}_given"] - sources["true_flux"])
        error = sources[f"flux_err_{light}_given"]
        pixels = [
            sources[f"{name}_{light}_given"]
            for name in ("pixels", "pixels_within_68", "pixels_within_95")
        ]
        limits = (np.inf, 1, interval_95["flux"])
        fluxes = [np.sum(off <= limit * error, axis=1) for limit in limits]
        for of, (total, *within) in (("flux", fluxes), ("pixels", pixels)):
            row = {"light": light, "of": of, "number": int(np.sum(total))}
            for share, inside in zip(("68", "95"), within, strict=True):
                sums = _by_scene(sources, np.stack([inside, total], axis=1))
                sums = np.stack([each.sum(axis=0) for each in sums])
                row[f"within_{share}"] = ratio_of_sums(sums)
                row[f"within_{share}_error"] = standard_error(sums, ratio_of_sums)
            row["interval_95"] = interval_95[of.removesuffix("s")]
            rows.append(row)
    return rows


def _detection(detections, method):
    """Return completeness and purity of a method, with their errors."""
    rows = detections[detections["method"] == method]
    names = {"completeness": ("galaxies_detected", "galaxies"), "purity": ("pure", "detected")}
    found = {"detected": int(rows["detected"].sum())}
    for share, (part, total) in names.items():
        sums = np.stack([rows[part], rows[total]], axis=1)
        found[share] = ratio_of_sums(sums)
        found[f"{share}_error"] = standard_error(sums, ratio_of_sums)
    return found


def _lines(numbers, scenes, tables):
    """Yield everything in words."""
    made_by = f"{numbers['arithmetic']}, astrodeblend {numbers['version']}"
    yield f"model {numbers['model']} (sha256 {numbers['sha256'][:12]}), {made_by}"
    yield from (str(scenes), "")
    yield "true positions given: " + ", ".join(
        f"{method} {number} of {numbers['galaxies']} galaxies come back"
        for method, number in numbers["come_back"].items()
    )
    yield from ("", f"{'positions detected':24}{'sources':>9}{'complete':>16}{'pure':>16}")
    for method, found in numbers["detection"].items():
        shares = "".join(
            f"{100 * found[name]:9.1f} ± {100 * found[f'{name}_error']:.1f} %"
            for name in ("completeness", "purity")
        )
        yield f"  {method:22}{found['detected']:9}{shares}"
    table = tables["table"]
    for positions, words in POSITIONS.items():
        yield from ("", f"abs(dF / F), {words}")
        yield from _table_lines(table[table["positions"] == positions])
    yield from ("", "truths within the error bars, true positions given (%)")
    head = ("within 68.3 %", "within 95.4 %", "which is")
    yield f"{'':24}{'number':>10}" + "".join(f"{words:>17}" for words in head)
    for row in tables["coverage"]:
        shares = "".join(share_text(row, f"within_{k}", 17) for k in ("68", "95"))
        name, wide = f"{row['light']}, {row['of']}", f"± {row['interval_95']:.2f} errors"
        yield f"  {name:22}{row['number']:10}{shares}{wide:>17}"
    yield from ("", *_NOTES)


def _groups(sources):
    """Yield names and members of the groups that errors are compared in."""
    everywhere = {"low": np.nan, "high": np.nan}
    yield {"by": "all", **everywhere}, np.ones(len(sources), bool)
    yield {"by": "overlapping", **everywhere}, np.asarray(sources["overlapping"])
    for name, (_, edges) in BINS.items():
        values = sources[name]
        for low, high in pairwise(edges):
            inside = (values >= low) & (values < high)
            yield {"by": name, "low": float(low), "high": float(high)}, inside


def _compare(sources, errors, chosen):
    """Return the median of errors, and how much smaller ours is, of some galaxies."""
    row = {"number": int(chosen.sum())}
    values = np.stack([np.where(chosen, errors[m], np.nan) for m in METHODS], axis=1)
    scenes = [v[~np.isnan(v[:, 0])] for v in _by_scene(sources, values)]
    scenes = _padded([v for v in scenes if len(v)])
    for k, method in enumerate(METHODS):
        one = scenes[..., k]
        row[f"median_{method}"] = _median(one)
        row[f"median_{method}_error"] = standard_error(one, _median)
        row[f"p90_{method}"] = _percentile(one)
    for k, light in enumerate(LIGHTS):
        pair = scenes[..., [-1, k]]
        row[f"ratio_{light}"] = _ratio_of_medians(pair)
        row[f"ratio_{light}_error"] = standard_error(pair, _ratio_of_medians)
    return row


def _by_scene(sources, values):
    """Split an array with a row for each galaxy by their scenes."""
    return np.split(values, np.flatnonzero(np.diff(sources["scene"])) + 1)


def _table_lines(table):
    """Lay out errors group by group."""
    head = "".join(f"{m:>25}" for m in METHODS) + "".join(f"{'ratio,':>16}" for _ in LIGHTS)
    yield f"{'':40}{'':>6}{head}"
    head = f"{'median':>17}{'90 %':>8}" * len(METHODS) + "".join(f"{m:>16}" for m in LIGHTS)
    yield f"{'':36}{'galaxies':>10}{head}"
    for row in table:
        name, (low, high) = row["by"], (row["low"], row["high"])
        if name in BINS:
            name = f"{name} {f'{low:g}' if name == 'number' else limits_text(low, high)}"
        cells = "".join(
            number_text(row[f"median_{m}"], 3, 17, row[f"median_{m}_error"])
            + number_text(row[f"p90_{m}"], 3, 8)
            for m in METHODS
        )
        cells += "".join(
            number_text(row[f"ratio_{m}"], 2, 16, row[f"ratio_{m}_error"]) for m in LIGHTS
        )
        yield f"  {name:34}{row['number']:10}{cells}"


def _padded(scenes):
    """Put scenes with different numbers of galaxies into one array, NaN where there is none."""
    most = max(map(len, scenes), default=1)
    padded = np.full((len(scenes), most, len(METHODS)), np.nan)
    for row, values in zip(padded, scenes, strict=True):
        row[: len(values)] = values
    return padded


def _median(values):
    values = values[~np.isnan(values)]
    return float(np.median(values)) if values.size else np.nan


def _percentile(values):
    values = values[~np.isnan(values)]
    return float(np.percentile(values, 90)) if values.size else np.nan


def _ratio_of_medians(pairs):
    theirs, ours = _median(pairs[..., 0]), _median(pairs[..., 1])
    return theirs / ours if ours > 0 else np.nan


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
