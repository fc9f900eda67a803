"""Score real blends in linear flux, whose truth is unknown but for the positions of peaks."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from astropy import units as u
from astropy.nddata import InverseVariance, NDData
from astropy.table import QTable, vstack
from scipy.spatial.distance import cdist
from tqdm import tqdm

from astrodeblend import __version__
from astrodeblend.detect import find_sources
from astrodeblend.flags import Flag
from astrodeblend.images import read_image
from astrodeblend.plot import scene_panels

from .methods import attempt
from .report import Report, about, about_text, aligned, rows_of
from .scenes import match_sources

BANDS = "grizy"  # of the files, in their order
_COLOUR = "irg"  # the bands that a model for colour pictures takes as R, G, B
_RADIUS = 2.5  # pixels: largest distance of a source that is the peak
_BRIGHT = 5.0  # signal-to-noise ratio above which peaks count
_MOST = 25  # peaks of a blend that another deblender is tried on: a fit of more takes too long
_METHODS = ("deblender", "photutils")
_OF_SOURCES = {"chi_square": "all sources", "chi_square_blended": "blended sources"}


def real_files(folder):
    """Return the names of the files of a report on a folder of blends."""
    return ["peaks.ecsv", "blends.ecsv", *(f"{path.stem}.png" for path in _blends_in(folder))]


def score_real_blends(deblender, folder, *, bands=None, peers=(), progress=False):
    """Deblend real blends as scenes, and match their sources with the known peaks.

    Parameters
    ----------
    deblender : Deblender
        Deblender with any model.
    folder : str or path-like
        Folder of files ``.npz`` with ``images`` (5, y, x) in the bands g, r, i, z, y, ``weights``
        (inverse variances, 0 where masked) and ``peaks`` (n, 2), (x, y) in pixels; for other
        deblenders also ``psfs`` (5, width, width).
    bands : str, optional
        Bands in the order in which the model takes them. Default: ``irg`` for colour models, all
        for others.
    peers : sequence of Method, optional
        Other deblenders, such as `Scarlet2`, for the same blends. Their ``deblend_image`` is
        given the data less the sky of the scene, the weights, the PSFs, the bands and the file's
        peaks. A blend of more than 25 peaks is not tried.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Report
        Its tables are described in :ref:`score-tables`. ``measured`` has, by the names of blends,
        the ``scenes`` and why there is none (``failures``), and by the names of other deblenders
        why there is no light of a blend (``not_done``).
    """
    paths = _blends_in(folder)
    if bands is None:
        bands = _COLOUR if deblender.card.scaling == "picture" else BANDS
    if not bands or set(bands) - set(BANDS):
        raise ValueError(f"bands={bands!r}: choose from {', '.join(BANDS)}, as in {_COLOUR!r}")
    chosen = [BANDS.index(band) for band in bands]
    peaks, blends, failures, scenes = [], [], {}, {}
    not_done = {peer.name: {} for peer in peers}
    for path in tqdm(paths, "blends", disable=not progress, unit="blend"):
        with np.load(path) as file:
            data, weights = (np.asarray(file[n], float)[chosen] for n in ("images", "weights"))
            places = np.reshape(file["peaks"], (-1, 2)).astype(float)
            psfs = np.asarray(file["psfs"], float)[chosen] if peers else None
        width, height = data.shape[:0:-1]
        if not np.all((places >= -0.5) & (places < (width - 0.5, height - 0.5))):
            raise ValueError(
                f"{path.name} has peaks outside of its {width}x{height} pixels; give (x, y)"
            )
        # no unit is known, but it is flux
        image = NDData(data, uncertainty=InverseVariance(weights, copy=False), unit=u.adu)
        found = {"photutils": _places(find_sources(read_image(image))[0])}
        try:
            scene = deblender.deblend_scene(image)
        except Exception as error:  # noqa: BLE001 - the rest goes on, and this one is listed
            failures[path.stem] = f"{type(error).__name__}: {error}"
            found["deblender"] = np.zeros((0, 2))
        else:
            scenes[path.stem] = scene
            found["deblender"] = _places(scene.catalog)
            sky = np.reshape(scene.meta["background"], (-1, 1, 1))
            squares = _chi_squares(scene.residual.data - sky, scene, weights)
            for peer in peers:
                light, why = _light_of(peer, data - sky, weights, psfs, bands, places)
                if why:
                    not_done[peer.name][path.stem] = why
                theirs = _chi_squares(data - sky - light, scene, weights)
                squares |= {f"{name}_{peer.name}": value for name, value in theirs.items()}
            row = {"blend": path.stem, "peaks": len(places), "sources": len(scene.catalog)}
            row["masked"] = float(np.mean(weights <= 0))
            unsplit = np.asarray(scene.catalog["flags"]) & int(Flag.NOT_DEBLENDED) > 0
            row["not_deblended"] = int(np.sum(unsplit))
            blends.append(row | squares)
        snr = _signal_to_noise(data, weights, places)
        rows = {"blend": np.full(len(places), path.stem), "x": places[:, 0], "y": places[:, 1]}
        rows["signal_to_noise"] = snr
        for method in _METHODS:
            rows[f"matched_{method}"] = match_sources(places, found[method], radius=_RADIUS) >= 0
            apart = cdist(places, found[method])
            rows[f"distance_{method}"] = apart.min(axis=1, initial=np.inf)
        lost = (snr > _BRIGHT) & ~rows["matched_deblender"]
        reasons = [
            _reason(k, places, found["deblender"], weights) if lost[k] else ""
            for k in range(len(lost))
        ]
        peaks.append(QTable(rows | {"reason": np.array(reasons, str)}))
    meta = about(deblender) | {"bands": bands, "version": __version__}
    meta["peers"] = {peer.name: peer.version for peer in peers}
    peaks, blends = QTable(vstack(peaks), meta=dict(meta)), QTable(blends, meta=dict(meta))
    return Report(
        text="\n".join(_lines(peaks, blends, str(folder), failures, not_done)),
        tables={"peaks": peaks, "blends": blends},
        numbers={"blends": rows_of(blends)},
        figures={name: partial(scene_panels, scene, bands=bands) for name, scene in scenes.items()},
        dpi=75,
        measured=SimpleNamespace(scenes=scenes, failures=failures, not_done=not_done),
    )


def _places(table):
    """Return the centroids of sources, (n, 2)."""
    return np.stack([table["x_centroid"], table["y_centroid"]], axis=-1)


def chi_squares(blends, column):
    """Return chi squares (deblenders, blends), the model's first, of blends that all have done."""
    names = [column, *(f"{column}_{peer}" for peer in blends.meta["peers"])]
    values = np.array([blends[name] for name in names], float)
    return values[:, np.isfinite(values).all(axis=0)]


def _lines(peaks, blends, folder, failures, not_done):
    """Yield the text."""
    meta = blends.meta
    yield from (about_text(meta), f"real blends of {folder}, bands {', '.join(meta['bands'])}")
    yield f"{len(blends)} taken apart, {len(failures)} failed"
    yield from (f"  {name}: {words}" for name, words in failures.items())
    bright = peaks[peaks["signal_to_noise"] > _BRIGHT]
    for method in _METHODS:
        found, count = np.sum(bright[f"matched_{method}"]), len(bright)
        yield (
            f"{method}: {found} of {count} peaks with S/N above {_BRIGHT:g} matched within "
            f"{_RADIUS:g} pixels, {100 * found / max(count, 1):.1f} %"
        )
    if len(blends):
        yield from ("", *_chi_square_lines(blends))
        for name, left_out in not_done.items():
            given = f"{name} was given the files' peaks, PSFs and variance"
            yield f"{given}; {len(left_out)} blends go without it"
            yield from (f"  {blend}: {words}" for blend, words in left_out.items())
        yield ""
        yield (
            f"{blends['sources'].sum()} sources for {len(peaks)} peaks, "
            f"{blends['not_deblended'].sum()} not deblended"
        )
    rows = [["not matched", "x", "y", "S/N", "reason"]]
    for row in peaks[peaks["reason"] != ""]:
        numbers = f"{row['x']:.0f}", f"{row['y']:.0f}", f"{row['signal_to_noise']:.1f}"
        rows.append([f"  {row['blend']}", *numbers, f"{row['reason']}"])
    yield from ("", *aligned(rows))


def _chi_square_lines(blends):
    """Yield lines on the light that is left by this model and by others."""
    peers = blends.meta["peers"]
    heads = ["deblender", *(f"{name} {version}" for name, version in peers.items())]
    rows = [["", "blends", *(f"{head}, median (10 %, 90 %)" for head in heads)]]
    for column, words in _OF_SOURCES.items():
        own = np.asarray(blends[column], float)
        values = {words: own[np.isfinite(own)][None]}
        if peers:
            values["  done by all"] = chi_squares(blends, column)
        for start, each in values.items():
            cells = [""] * len(heads)
            for k, some in enumerate(each if each.size else []):
                low, middle, high = np.percentile(some, (10, 50, 90))
                cells[k] = f"{middle:.2f} ({low:.2f}, {high:.2f})"
            rows.append([start, f"{each.shape[1]}", *cells])
    yield "data less the network's components: chi square per pixel and band in footprints of"
    yield from aligned(rows)


def _blends_in(folder):
    """Return the files of blends, or refuse a folder without any."""
    paths = sorted(Path(folder).glob("*.npz"))
    if not paths:
        raise FileNotFoundError(f"{str(folder)!r} holds no .npz files; give a folder of blends")
    return paths


def _signal_to_noise(data, weights, places):
    """Return the signal-to-noise ratio of the pixels of peaks, the bands with data added."""
    columns, rows = np.round(places).astype(int).T
    data, weights = (each[:, rows, columns] for each in (data, weights))
    seen = weights > 0
    total = np.where(seen, data * np.sqrt(weights), 0).sum(axis=0)
    return total / np.sqrt(seen.sum(axis=0).clip(min=1))


def _light_of(peer, data, weights, psfs, bands, places):
    """Return the light of all sources by another deblender, or NaN and why there is none."""
    if len(places) > _MOST:
        return np.nan, f"not tried, as it has {len(places)} peaks, more than {_MOST}"
    light, why = attempt(lambda: peer.deblend_image(data, weights, psfs, bands, places))
    if why:
        return np.nan, why
    if not np.isfinite(light).all():
        return np.nan, "its light is not finite"
    return light, ""


def _chi_squares(left, scene, weights):
    """Return chi square per pixel and band of what is left in the footprints of the sources.

    A footprint has light, or an uncertainty of it: where the network sees light and noise has
    made the data negative, the component has none.
    """
    inside = np.zeros((2, *weights.shape[1:]), bool)  # of all sources, of those that are blended
    for component, blended in zip(scene.components, scene.catalog["n_blended"] > 1, strict=True):
        box = tuple(slice(*ends) for ends in component.meta["box"])
        own = (component.data != 0) | (component.uncertainty.array > 0)
        inside[: 1 + blended, *box] |= own.any(axis=0)
    squares = {}
    for name, footprint in zip(_OF_SOURCES, inside, strict=True):
        seen = footprint & (weights > 0)
        squares[name] = float((weights[seen] * left[seen] ** 2).mean()) if seen.any() else np.nan
    return squares


def _reason(k, places, found, weights):
    """Return in words why no source is a peak."""
    x, y = np.round(places[k]).astype(int)
    around = weights[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    if (around <= 0).mean() > 0.5:
        return "masked"
    if not len(found):
        return "no source in the blend"
    distance = np.hypot(*(found - places[k]).T)
    nearest = found[np.argmin(distance)]
    others = np.hypot(*(np.delete(places, k, axis=0) - nearest).T)
    peak = np.hypot(*(np.delete(places, k, axis=0) - places[k]).T).min(initial=np.inf)
    words = f"nearest source {distance.min():.1f} pixels away"
    if others.min(initial=np.inf) <= _RADIUS:
        return f"{words}, which is another peak, {peak:.1f} pixels from this one"
    return f"{words}, and no peak itself"
