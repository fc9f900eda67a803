"""Score how well blends are told from single galaxies: a model's blend score, and photutils."""

from itertools import pairwise

import numpy as np
from astropy.table import QTable
from scipy.stats import mannwhitneyu
from tqdm import tqdm

from astrodeblend import __version__
from astrodeblend.detect import find_sources
from astrodeblend.images import read_image
from astrodeblend.simulate import find_images, read_images
from astrodeblend.simulate.doubles import FARTHEST, make_doubles

from .report import (
    Measure,
    Report,
    about,
    about_text,
    aligned,
    number_text,
    rows_of,
    standard_error,
    table_lines,
    within,
)

#: Edges of the bins of separation, in stamp pixels.
BINS = (0, 1, 2, 3, 5, 8, 12, FARTHEST)
#: Operating points, and how they are called in print.
POINTS = {
    "photutils": "false alarms as photutils has them",
    "1 %": "1 % of false alarms",
    "threshold": "above the model's threshold",
    "threshold, plain": "the same, of stamps as the survey shows them",
}
_METHODS = {"score": "blend score", "photutils": "photutils"}
_RATE = 0.01  # false alarms over single galaxies, of the point "1 %"
_NEAR = FARTHEST + 1  # stamp pixels: farthest from the middle that a source of photutils counts
_BATCH = 64  # stamps


def score_detection(deblender, folder, *, split=None, number=2000, seed=1, progress=False):
    """Count how many blends are told from single galaxies, by blend score and by photutils.

    Stamps are those of `astrodeblend.simulate.doubles.make_doubles`, of pictures that the
    folder's table, if there is one, says are isolated. photutils detects and deblends as the
    package does it in whole images (`astrodeblend.detect.find_sources`).

    Parameters
    ----------
    deblender : Deblender
        Deblender with a model for colour pictures that has a blend score.
    folder : str or path-like
        Pictures of isolated galaxies, as `astrodeblend.simulate.find_images` takes them.
    split : str, optional
        Part of the pictures, by the table ``splits.csv`` in the folder. Default: all.
    number : int, optional
        Number of stamps, but for a few that are left out.
    seed : int, optional
        Seed of the random numbers; the same seed and images give the same stamps.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Report
        Its tables are described in :ref:`score-tables`.
    """
    card = deblender.card
    if deblender.blend_threshold is None:
        raise ValueError(
            f"model {card.name!r} has no blend score; astrodeblend.training.add_blend_score adds it"
        )
    if number < 2 / _RATE:
        raise ValueError(f"number={number}: give at least {2 / _RATE:.0f}, to see a false alarm")
    paths = find_images(folder, split=split, isolated=True)
    if len(paths) < 2:
        raise ValueError(f"{str(folder)!r} holds {len(paths)} isolated galaxies; give at least 2")
    rng = np.random.default_rng(seed)
    if len(paths) > number:
        paths = [paths[k] for k in np.sort(rng.permutation(len(paths))[:number])]
    images = read_images(paths)
    rows = []
    with tqdm(total=number, unit="stamp", desc="stamps", disable=not progress) as bar:
        for start in range(0, number, _BATCH):
            size = min(_BATCH, number - start)
            stamps = make_doubles(images, size, rng=rng)
            columns = {
                "blended": stamps.blended,
                "separation": stamps.separation,
                "flux_ratio": stamps.flux_ratio,
                "plain": stamps.plain,
                "score": np.asarray(deblender.blend_scores(stamps.picture)),
                "second": [_second(picture) for picture in stamps.picture.numpy()],
            }
            rows.append(columns)
            bar.update(size)
    stamps = QTable({name: np.concatenate([part[name] for part in rows]) for name in rows[0]})
    meta = about(deblender) | {"stamps": len(stamps), "split": split or "all", "seed": seed}
    of = {"folder": str(folder), "version": __version__, "galaxies": len(paths)}
    of["threshold"] = deblender.blend_threshold
    return _report(stamps, meta, of)


def _report(stamps, meta, of):
    """Return the `Report` on stamps; ``of`` are further numbers."""
    threshold = of["threshold"]
    tables = {
        "table": QTable(_operating_points(stamps, threshold), meta=dict(meta)),
        "reliability": QTable(_reliability(stamps), meta=dict(meta)),
        "stamps": stamps,
    }
    areas = {}
    for method, column in (("score", "score"), ("photutils", "second")):
        rows = np.stack([np.asarray(stamps[column], float), stamps["blended"]], axis=1)
        areas[method] = {"area": _area(rows), "error": standard_error(rows, _area)}
    part = "all images" if meta["split"] == "all" else f"split {meta['split']!r}"
    words = (
        f"{len(stamps)} stamps of {of['galaxies']} isolated galaxies, half of them of two; "
        f"{part} of {of['folder']}, seed {meta['seed']}"
    )
    numbers = meta | of | {"area": areas}
    numbers |= {name: rows_of(tables[name]) for name in ("table", "reliability")}
    lines = [about_text(meta), words, "", *_point_lines(tables["table"], threshold), ""]
    lines += [
        f"area under the curve, {_METHODS[method]:12}{each['area']:7.4f} ± {each['error']:.4f}"
        for method, each in areas.items()
    ]
    reliability = tables["reliability"]
    shares = reliability["number", "score"]
    shares["blended"], shares["blended_error"] = reliability["blended"], reliability["error"]
    scores = [f"  {row['low']:.1f} to {row['high']:.1f}" for row in reliability]
    measures = {
        "number": Measure("", "stamps", 0),
        "score": Measure("", "mean score", 3),
        "blended": Measure("", "blends (%)", 1, 100),
    }
    lines += ["", *table_lines(shares, {"blend score": scores}, measures)]
    return Report(text="\n".join(lines), tables=tables, numbers=numbers, json="scores")


def _operating_points(stamps, threshold):
    """Return rows of how many blends are found, at the same number of false alarms."""
    score, second = (np.asarray(stamps[name], float) for name in ("score", "second"))
    blended, separation = np.asarray(stamps["blended"]), np.asarray(stamps["separation"])
    alarms = np.sum(second[~blended] > 0)
    few = int(_RATE * np.sum(~blended))
    every = np.ones(len(stamps), bool)
    rows = []
    for point, method, found, chosen in (
        ("photutils", "score", _above(score, blended, alarms), every),
        ("photutils", "photutils", second > 0, every),
        ("1 %", "score", _above(score, blended, few), every),
        ("1 %", "photutils", _above(second, blended, few), every),
        ("threshold", "score", score > threshold, every),
        ("threshold, plain", "score", score > threshold, np.asarray(stamps["plain"])),
    ):
        rate, _ = _share(found[~blended & chosen])
        for low, high in (*pairwise(BINS), (0, FARTHEST)):
            inside = blended & chosen & within(separation, low, high)
            share, error = _share(found[inside])
            row = {"point": point, "method": method, "low": float(low), "high": float(high)}
            row |= {"number": int(inside.sum()), "completeness": share, "error": error}
            row |= {"false_alarms": rate, "purity": np.nan}
            if share + rate > 0:
                row["purity"] = share / (share + rate)
            rows.append(row)
    return rows


def _above(values, blended, alarms):
    """Return which values are above the threshold that gives at most so many false alarms."""
    # Of values that are equal, such as no second source, all are below or all above.
    highest = np.sort(values[~blended])[::-1]
    return values > highest[min(alarms, len(highest) - 1)]


def _reliability(stamps):
    """Return rows of how often stamps are blends, by score."""
    score, blended = (np.asarray(stamps[name]) for name in ("score", "blended"))
    rows = []
    for k, (low, high) in enumerate(pairwise(np.linspace(0, 1, 11))):
        inside = np.minimum((10 * score).astype(int), 9) == k
        if inside.any():
            share, error = _share(blended[inside])
            row = {"low": low, "high": high, "number": int(inside.sum())}
            row |= {"score": float(score[inside].mean()), "blended": share, "error": error}
            rows.append(row)
    return rows


def _point_lines(table, threshold):
    """Return the lines of the operating points, one for each method."""
    bins = [f"{low:g}-{high:g}" for low, high in pairwise(BINS)]
    lines = [["", *bins, "all", "false alarms", "purity"]]
    for point, words in POINTS.items():
        lines.append([words + (f", {threshold:.3f}" if point == "threshold" else "")])
        for method, name in _METHODS.items():
            rows = table[(table["point"] == point) & (table["method"] == method)]
            if not len(rows):
                continue
            cells = [number_text(100 * share, 0) for share in rows["completeness"][:-1]]
            every = {name: 100 * rows[name][-1] for name in rows.colnames[-4:]}
            cells.append(number_text(every["completeness"], 1, every["error"]))
            cells += [f"{number_text(every[n], 1)} %" for n in ("false_alarms", "purity")]
            lines.append([f"  {name}", *cells])
    rows = table[(table["point"] == "1 %") & (table["method"] == "score")]
    lines.append(["  blends", *map(str, rows["number"]), "", ""])
    return ["completeness (%) by separation (stamp pixels)", *aligned(lines)]


def _second(picture):
    """Return the flux of the second brightest source near the middle over the brightest's."""
    image = read_image(picture)
    # the default estimates an enlargement that stamps do not have, and finds fewer second peaks
    sources, _ = find_sources(image, smoothing=2.0)
    middle = (picture.shape[-1] - 1) / 2
    distance = np.hypot(sources["x_centroid"] - middle, sources["y_centroid"] - middle)
    flux = np.sort(np.sum(sources["segment_flux"], axis=1)[distance <= _NEAR])
    return max(float(flux[-2] / flux[-1]), 0.0) if len(flux) > 1 and flux[-1] > 0 else 0.0


def _share(found):
    """Return the share of True, and its binomial standard error; NaN of no values."""
    if not len(found):
        return np.nan, np.nan
    share = float(found.mean())
    return share, float(np.sqrt(share * (1 - share) / len(found)))


def _area(rows):
    """Return the area under the curve of completeness over false alarms; rows (value, blended)."""
    blended = rows[:, 1] > 0
    pairs = blended.sum() * (~blended).sum()
    return mannwhitneyu(rows[blended, 0], rows[~blended, 0]).statistic / pairs
