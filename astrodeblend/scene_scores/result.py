"""What scenes scored: tables, text and files."""

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from astropy.table import QTable

from astrodeblend.files import atomic_paths
from astrodeblend.metrics import bootstrap_error

from .drawing import errors
from .sets import SceneSet

__all__ = ["FILES", "LIGHTS", "METHODS", "SceneScores"]

#: What is compared: both kinds of components of a scene, and photutils' segments.
LIGHTS = ("apportioned", "network")
METHODS = (*LIGHTS, "photutils")
#: Files that `SceneScores.write` writes.
FILES = (
    "sources.ecsv",
    "table.ecsv",
    "coverage.ecsv",
    "detections.ecsv",
    "scores.json",
    "errors.png",
)
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
_RESAMPLES = 200  # of the bootstrap: errors to 5 %


@dataclass(frozen=True, eq=False)
class SceneScores:
    """How well a model took scenes apart, beside photutils.

    Made by `score_scenes`; `str` gives the tables as text.

    Attributes
    ----------
    model, sha256 : str
        The model's name and the hash of its weights.
    version : str
        Of this package.
    arithmetic : str
        Of the network.
    interval_95 : dict of float
        How many standard deviations are to hold 95.4 % of the truths, of a ``pixel`` and of a
        ``flux``.
    scenes : SceneSet
        What it was tried on.
    sources : `~astropy.table.QTable`
        A row for every galaxy: which ``scene``, its file (``galaxy``), ``number`` of galaxies
        in the scene, true place ``x`` and ``y``, ``separation`` to the nearest other galaxy
        in pixels, ``overlap`` (share of its light that is where the others together are
        brighter), ``overlapping`` (whether its footprint has pixels of another one's),
        ``footprint_area`` in pixels, ``true_flux`` per band. Then for each method
        (``apportioned``, ``network``, ``photutils``) with positions ``given`` or ``detected``,
        as in ``flux_network_given``: ``come_back``, ``flux`` per band; of ours ``flux_err``
        and ``flags``; with positions given ``pixels``, those of the footprint (in all bands) that
        the component has an error in, and in how many the truth is within it and within the
        wider interval, ``pixels_within_68`` and ``pixels_within_95``. Fluxes
        are sums of the picture's values, from 0 to 1, above the sky; not proportional to
        light.
    detections : `~astropy.table.QTable`
        A row for every scene and method: sources ``detected``, how many of them are ``pure``,
        ``galaxies``, and how many of those were detected.
    """

    model: str
    sha256: str
    version: str
    arithmetic: str
    interval_95: dict[str, float]
    scenes: SceneSet
    sources: QTable
    detections: QTable

    def flux_error(self, method, positions):
        """Return the relative error of the flux, all bands together, of every galaxy.

        Parameters
        ----------
        method : {'apportioned', 'network', 'photutils'}
        positions : {'given', 'detected'}

        Returns
        -------
        numpy.ndarray
            With its sign; NaN for a galaxy that did not come back.
        """
        found = self.sources[f"flux_{method}_{positions}"].sum(axis=1)
        return found / self.sources["true_flux"].sum(axis=1) - 1

    def to_table(self):
        """Compare errors of fluxes, group by group.

        Returns
        -------
        `~astropy.table.QTable`
            A row per kind of ``positions`` (``given``, ``detected``) and group of galaxies:
            ``by`` what (``all``; ``overlapping``, those whose footprint has pixels of
            another's; ``number`` of galaxies in the scene, ``separation``, ``overlap``; or
            overlapping ones in one ``band`` alone), from ``low`` up to ``high``; their
            ``number``. For each method the ``median`` of abs(dF / F), its ``error``, and ``p90``,
            the 90th percentile; and for both of ours ``ratio``, photutils' median over ours,
            with its ``error``. Of detected positions only galaxies that all methods found are
            compared. Errors are by bootstrap over scenes.
        """
        return QTable(self._comparisons, meta=self._meta())

    @cached_property
    def _comparisons(self):
        """Rows of `to_table`, which take a while."""
        rows = []
        for positions in POSITIONS:
            errors = {m: np.abs(self.flux_error(m, positions)) for m in METHODS}
            both = np.all([~np.isnan(values) for values in errors.values()], axis=0)
            for group, chosen in self._groups():
                rows.append(
                    {"positions": positions, **group, **self._compare(errors, chosen & both)}
                )
            for band, name in enumerate(_BANDS):
                true = self.sources["true_flux"][:, band]
                of_band = {
                    m: np.abs(self.sources[f"flux_{m}_{positions}"][:, band] / true - 1)
                    for m in METHODS
                }
                group = {"by": f"band {name}", "low": np.nan, "high": np.nan}
                chosen = both & self.sources["overlapping"]
                rows.append({"positions": positions, **group, **self._compare(of_band, chosen)})
        return rows

    def to_coverage_table(self):
        """Say how often the truth is within the errors of components and catalogue.

        Returns
        -------
        `~astropy.table.QTable`
            A row for both kinds of ``light`` and for what the errors are ``of``: ``flux`` of
            the catalogue (galaxies and bands; ``segment_flux_err``) and ``pixels`` of the
            components in the true footprints, where they have one. ``within_68`` is the share
            of truths within one error, ``within_95`` within the interval that is to hold 95.4 %,
            with their errors by bootstrap over scenes; ``interval_95`` that interval in errors,
            and ``number`` how many truths there are. True positions are given.
        """
        rows = []
        for light in LIGHTS:
            off = np.abs(self.sources[f"flux_{light}_given"] - self.sources["true_flux"])
            error = self.sources[f"flux_err_{light}_given"]
            pixels = [
                self.sources[f"{name}_{light}_given"]
                for name in ("pixels", "pixels_within_68", "pixels_within_95")
            ]
            limits = (np.inf, 1, self.interval_95["flux"])
            fluxes = [np.sum(off <= limit * error, axis=1) for limit in limits]
            for of, (total, *within) in (("flux", fluxes), ("pixels", pixels)):
                row = {"light": light, "of": of, "number": int(np.sum(total))}
                for share, inside in zip(("68", "95"), within, strict=True):
                    sums = self._by_scene(np.stack([inside, total], axis=1))
                    sums = np.stack([each.sum(axis=0) for each in sums])
                    row[f"within_{share}"] = _ratio_of_sums(sums)
                    row[f"within_{share}_error"] = _error(sums, _ratio_of_sums)
                row["interval_95"] = self.interval_95[of.removesuffix("s")]
                rows.append(row)
        return QTable(rows, meta=self._meta())

    def to_dict(self):
        """Return everything that `str` shows, for JSON: numbers that are not finite are None."""
        content = self._meta() | {"folder": str(self.scenes.folder), "version": self.version}
        content["galaxies"] = len(self.sources)
        content["come_back"] = {m: self._come_back(m) for m in METHODS}
        content["detection"] = {m: self._detection(m) for m in METHODS}
        for name, table in (("table", self.to_table()), ("coverage", self.to_coverage_table())):
            content[name] = [
                {key: _plain(value) for key, value in zip(table.colnames, row, strict=True)}
                for row in table
            ]
        return content

    def write(self, folder, *, overwrite=False):
        """Write tables and figure to a folder: all of the files, or none.

        Parameters
        ----------
        folder : str or path-like
            Where to; it is made if its parent exists. The files are ``sources.ecsv`` and
            ``detections.ecsv`` (the attributes), ``table.ecsv`` (`to_table`), ``coverage.ecsv``
            (`to_coverage_table`), ``scores.json`` (`to_dict`) and ``errors.png``.
        overwrite : bool, optional
            Replace files that are there already.

        Raises
        ------
        FileExistsError, FileNotFoundError, PermissionError
            If a file exists, the folder's parent does not, or nothing can be written there.
        """
        table = self.to_table()
        tables = {
            "sources.ecsv": self.sources,
            "table.ecsv": table,
            "coverage.ecsv": self.to_coverage_table(),
            "detections.ecsv": self.detections,
        }
        with atomic_paths(folder, FILES, overwrite=overwrite) as paths:
            places = dict(zip(FILES, paths, strict=True))
            for name, content in tables.items():
                content = content.copy(copy_data=False)
                content.meta = self._meta()
                content.write(places[name], format="ascii.ecsv")
            places["scores.json"].write_text(json.dumps(self.to_dict(), indent=1) + "\n")
            labels = {name: label for name, (label, _) in BINS.items()}
            errors(table, labels, title=f"{self.model} on {self.scenes}").savefig(
                places["errors.png"]
            )

    def __str__(self):
        made_by = f"{self.arithmetic}, astrodeblend {self.version}"
        lines = [
            f"model {self.model} (sha256 {self.sha256[:12]}), {made_by}",
            str(self.scenes),
            "",
            "true positions given: "
            + ", ".join(
                f"{method} {self._come_back(method)} of {len(self.sources)} galaxies come back"
                for method in METHODS
            ),
            "",
            f"{'positions detected':24}{'sources':>9}{'complete':>16}{'pure':>16}",
        ]
        for method in METHODS:
            found = self._detection(method)
            shares = "".join(
                f"{100 * found[name]:9.1f} ± {100 * found[f'{name}_error']:.1f} %"
                for name in ("completeness", "purity")
            )
            lines.append(f"  {method:22}{found['detected']:9}{shares}")
        table = self.to_table()
        for positions, words in POSITIONS.items():
            lines += ["", f"abs(dF / F), {words}"]
            lines += _table_lines(table[table["positions"] == positions])
        lines += ["", "truths within the error bars, true positions given (%)"]
        head = ("within 68.3 %", "within 95.4 %", "which is")
        lines.append(f"{'':24}{'number':>10}" + "".join(f"{words:>17}" for words in head))
        for row in self.to_coverage_table():
            shares = "".join(
                f"{100 * row[f'within_{k}']:.1f} ± {100 * row[f'within_{k}_error']:.1f}".rjust(17)
                for k in ("68", "95")
            )
            name, wide = f"{row['light']}, {row['of']}", f"± {row['interval_95']:.2f} errors"
            lines.append(f"  {name:22}{row['number']:10}{shares}{wide:>17}")
        return "\n".join([*lines, "", *_NOTES])

    def _groups(self):
        """Yield names and members of the groups that errors are compared in."""
        everywhere = {"low": np.nan, "high": np.nan}
        yield {"by": "all", **everywhere}, np.ones(len(self.sources), bool)
        yield {"by": "overlapping", **everywhere}, np.asarray(self.sources["overlapping"])
        for name, (_, edges) in BINS.items():
            values = self.sources[name]
            for low, high in pairwise(edges):
                inside = (values >= low) & (values < high)
                yield {"by": name, "low": float(low), "high": float(high)}, inside

    def _compare(self, errors, chosen):
        """Return the median of errors, and how much smaller ours is, of some galaxies."""
        row = {"number": int(chosen.sum())}
        values = np.stack([np.where(chosen, errors[m], np.nan) for m in METHODS], axis=1)
        scenes = [v[~np.isnan(v[:, 0])] for v in self._by_scene(values)]
        scenes = _padded([v for v in scenes if len(v)])
        for k, method in enumerate(METHODS):
            one = scenes[..., k]
            row[f"median_{method}"] = _median(one)
            row[f"median_{method}_error"] = _error(one, _median)
            row[f"p90_{method}"] = _percentile(one)
        for k, light in enumerate(LIGHTS):
            pair = scenes[..., [-1, k]]
            row[f"ratio_{light}"] = _ratio_of_medians(pair)
            row[f"ratio_{light}_error"] = _error(pair, _ratio_of_medians)
        return row

    def _by_scene(self, values):
        """Split an array with a row for each galaxy by their scenes."""
        return np.split(values, np.flatnonzero(np.diff(self.sources["scene"])) + 1)

    def _come_back(self, method):
        return int(self.sources[f"come_back_{method}_given"].sum())

    def _detection(self, method):
        rows = self.detections[self.detections["method"] == method]
        names = {
            "completeness": ("galaxies_detected", "galaxies"),
            "purity": ("pure", "detected"),
        }
        found = {"detected": int(rows["detected"].sum())}
        for share, (part, total) in names.items():
            sums = np.stack([rows[part], rows[total]], axis=1)
            found[share] = _ratio_of_sums(sums)
            found[f"{share}_error"] = _error(sums, _ratio_of_sums)
        return found

    def _meta(self):
        meta = {"model": self.model, "sha256": self.sha256, "arithmetic": self.arithmetic}
        meta["scenes"] = len(self.scenes)
        return meta | self.scenes.meta


_NOTES = """\
apportioned, network: both kinds of light of the deblender; photutils: its segments.
F: sum of the picture's values above the sky, all bands; the true one in the galaxy's own
footprint, where its isolated image (smoothed as for detection) is 3 standard deviations above its
sky.
ratio: photutils' median over ours. A source whose brightest pixel is within 3.33 pixels is the
galaxy; it is pure if it is one, or as near to what photutils detects in an isolated image. Of
detected positions, galaxies that all three found are compared. ±: by bootstrap over scenes.
""".splitlines()


def _table_lines(table):
    """Lay out errors group by group."""
    head = "".join(f"{m:>25}" for m in METHODS) + "".join(f"{'ratio,':>16}" for _ in LIGHTS)
    yield f"{'':40}{'':>6}{head}"
    head = f"{'median':>17}{'90 %':>8}" * len(METHODS) + "".join(f"{m:>16}" for m in LIGHTS)
    yield f"{'':36}{'galaxies':>10}{head}"
    for row in table:
        name, (low, high) = row["by"], (row["low"], row["high"])
        if name in BINS:
            whole = name == "number"
            limits = f"{low:g}" if whole else f"{low:g} to {high:g}" if np.isfinite(high) else ""
            name = f"{name} {limits or f'from {low:g}'}"
        cells = "".join(
            _with_error(row[f"median_{m}"], row[f"median_{m}_error"], 3, 17)
            + f"{row[f'p90_{m}']:8.3f}"
            for m in METHODS
        )
        cells += "".join(
            _with_error(row[f"ratio_{m}"], row[f"ratio_{m}_error"], 2, 16) for m in LIGHTS
        )
        yield f"  {name:34}{row['number']:10}{cells}"


def _with_error(value, error, digits, width):
    text = f"{value:.{digits}f}" + ("" if np.isnan(error) else f" ± {error:.{digits}f}")
    return text.rjust(width)


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


def _ratio_of_sums(rows):
    part, total = rows.sum(axis=0)
    return float(part / total) if total else np.nan


def _error(values, statistic):
    """Bootstrap over scenes; NaN if there is no more than one."""
    if len(values) < 2:
        return np.nan
    return bootstrap_error(values, statistic, resamples=_RESAMPLES, rng=0)


def _plain(value):
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
