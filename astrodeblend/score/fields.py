"""The same simulated fields through every deblender: what is found, and how exact it is."""

import textwrap
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
from astropy.table import QTable
from tqdm import tqdm

from astrodeblend.plot import in_colour
from astrodeblend.simulate import get_survey, simulate_fields
from astrodeblend.training.field_losses import FAINT
from astrodeblend.training.field_scores import CLOSE, EDGES

from . import figures
from .blends import PEERS, name_apart, platform_of
from .field_runs import Field, FieldRun, FieldTruth
from .methods import Catalogue, Method, Model, OtherLight, Seen, check_flux
from .report import Report, aligned, closing_lines, quantile, rows_of, table_lines

__all__ = ["benchmark_fields"]

#: What fields are like, where `simulate_fields` would have it otherwise: sources anywhere, white
#: noise, so that the noise limit is one, and of the sky no more than surveys leave.
CONDITIONS = {"close": 0.0, "correlated": 0.0, "residual": 0.1}

_ALL = (-np.inf, np.inf)
_BRIGHT = 20  # signal to noise of the sources whose flux is judged first
_SIZES = (0, 3, 4, 6, np.inf)  # edges of classes of half-light radius, in pixels
_NOTE = (
    "|dF|: of the flux, over the noise limit 1 / sqrt(sum p^2 / variance), p the source's "
    "true profile; of found sources, all light of the source being true. A detection is a "
    "source if each is the other's nearest, within 2 pixels, half the PSF's width or a "
    "quarter of the source's half-light radius. Neighbours and what is pure: sources with "
    f"S/N above {FAINT:g} in all bands together. Not judged: where a band has no data or "
    "is saturated. close, alone: the nearest other source within 8 pixels, or not. colour: "
    "error of that to the next bluer band. Given are the true positions of all such "
    "sources."
)
# Columns of the tables: what they are called in two lines, and digits.
_COLUMNS = {
    "sources": ("", "sources", 0),
    "complete": ("comp-", "lete", 3),
    "pure": ("", "pure", 3),
    "error_median": ("|dF|/limit", "median", 2),
    "error_90": ("", "90 %", 2),
    "bias": ("", "bias", 2),
    "relative_median": ("|dF/F|", "median", 3),
    "relative_90": ("", "90 %", 3),
    "colour_median": ("colour", "median", 3),
    "colour_90": ("(mag)", "90 %", 3),
    "centroid": ("cen-", "troid", 2),
    "ellipticity": ("ellip-", "ticity", 3),
    "within_1": ("within", "1 error", 3),
    "within_2": ("2", "errors", 3),
    "within_wide": ("wide", "errors", 3),
}


def benchmark_fields(
    survey, number=20, *, seed=1, models=(), peers=("photutils", "sep", "scarlet2"), bands=None,
    scarlet2_fields=1, meta=None, progress=False, **options,
):  # fmt: skip
    """Take the same simulated fields apart with several deblenders, and score them alike.

    Parameters
    ----------
    survey : str, path-like or Survey
        As `astrodeblend.simulate.get_survey` takes it.
    number : int, optional
        How many fields.
    seed : int, optional
        Where the randomness comes from.
    models : sequence of Deblender, optional
        Models for linear flux.
    peers : sequence of {'photutils', 'sep', 'scarlet2'} or Method, optional
        Other deblenders. What is not installed is listed and passed over, and failures are
        counted. scarlet2 fits sources where the first deblender has found them.
    bands : sequence of str, optional
        Of the survey; signal to noise and flux are judged in r, or the middle one. Default: all
        but u.
    scarlet2_fields : int, optional
        On how many of the fields, the first, scarlet2 is tried.
    meta : dict, optional
        What else there is to say of where the fields come from.
    progress : bool, optional
        Show a progress bar.
    **options
        Of `astrodeblend.simulate.simulate_fields`. Default: sources anywhere (``close=0``), white
        noise (``correlated=0``), and a residual sky of up to a tenth of the noise.

    Returns
    -------
    Report
        Its tables are described in :ref:`score-tables`. ``measured`` has ``entries``
        (`FieldEntry`), ``truth`` (`FieldTruth`), ``band``, the number of the one that signal to
        noise is of, ``pictures`` of the first field, and two functions: ``targets``, of how
        many fields, and ``numbers``, of an entry and a class of sources.
    """
    for name, value in (("number", number), ("scarlet2_fields", scarlet2_fields)):
        if value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    for model in models:
        check_flux(model.card)
    for peer in peers:
        if not isinstance(peer, Method) and peer not in PEERS:
            raise ValueError(f"peers has {peer!r}: choose among {', '.join(PEERS)}")
    survey = get_survey(survey)
    names = [band.name for band in survey.bands]
    if unknown := set(bands or ()) - set(names):
        raise ValueError(f"bands has {unknown.pop()!r}: {survey.name} has {', '.join(names)}")
    bands = tuple(name for name in names if (name in bands if bands else name != "u"))
    others = [PEERS[peer]() if isinstance(peer, str) else peer for peer in peers]
    methods = []
    for deblender in models:
        model = Model(deblender, whole=True)
        methods += [model, OtherLight(model)]
    methods += [other for other in others if other.installed]
    runs = [FieldRun(method, number if method.detects else scarlet2_fields) for method in methods]
    name_apart(runs)
    if not runs or not runs[0].method.detects:
        raise ValueError(
            f"models={list(models)!r}, peers={list(peers)!r}: the first deblender has to find "
            "sources; give a model, photutils or sep"
        )
    options = CONDITIONS | options
    fields = simulate_fields(survey, number, seed, bands=bands, **options)
    band = bands.index("r") if "r" in bands else len(bands) // 2
    truths, pictures = [], {}
    for k in tqdm(range(number), "fields", disable=not progress, unit="field"):
        one, detected = Field(fields, k, band), None
        truths.append(one.truth)
        seen = Seen(one.data, one.error, one.bad, survey, bands)
        for run in runs:
            if k < run.most:
                found = run.score(one, seen, detected)
                detected = found if detected is None else detected
                if run.method.timed:
                    pictures.setdefault(run.name, found)
    pictures["truth"] = truths[0].position[(truths[0].flux / truths[0].limit)[:, band] > 10]
    wavelength = [each.wavelength for each in survey.bands if each.name in bands]
    pictures["image"] = in_colour(fields.image[:1, None], fields.noise[:1], wavelength)[0, 0]
    rows, columns = fields.image.shape[2:]
    known = {name: options[name] for name in options if not name.endswith("images")}
    meta = (
        {"survey": survey.name, "number": number, "bands": "".join(bands), "seed": seed}
        | {"density": 60, **known, "size": f"{columns}x{rows}", **(meta or {})}
    )  # fmt: skip
    scores = _Scores(
        truth=FieldTruth(*map(np.concatenate, zip(*truths, strict=True))),
        entries=tuple(entry for run in runs for entry in run.entries()),
        bands=bands,
        band=band,
    )
    missing = [other.hint for other in others if not other.installed]
    made = platform_of({model.device for model in models})
    return scores.report(meta, missing, made, pictures)


@dataclass(frozen=True, eq=False)
class _Scores:
    """What deblenders made of the sources, and how tables are made of it."""

    truth: FieldTruth
    entries: tuple
    bands: tuple
    band: int  # in which signal to noise and flux are judged

    def report(self, meta, missing, made, pictures):
        """Return the `Report`."""
        table = QTable(self.rows(), meta=dict(meta))
        described = ", ".join(f"{name} {value}" for name, value in meta.items())
        lines = textwrap.wrap(f"Fields: {described}", 110)
        lines += [f"Judged by {self.bands[self.band]}, {len(self.truth.field)} sources", ""]
        lines += self.target_lines(None)
        tried = {len(entry.seconds) for entry in self.entries}
        if len(tried) > 1:
            fewest = min(tried)
            lines += ["", f"The first {fewest}, which all tried", *self.target_lines(fewest)]
        for kind in ("detected", "given"):
            some = table[table["positions"] == kind]
            if len(some):
                lines += ["", f"Positions {kind}", ""]
                lines += table_lines(some, ("group", "deblender"), _COLUMNS)
        detected = [entry for entry in self.entries if entry.positions == "detected"]
        band = self.bands[self.band]
        return Report(
            text="\n".join([*lines, *closing_lines(**made, notes=[*self.notes(), *missing])]),
            tables={"fields": table},
            numbers={
                "meta": meta, "band": band, "targets": self.targets(), "rows": rows_of(table),
                **made, "missing": missing,
                "failures": {f"{e.name}, {e.positions}": e.failures for e in self.entries},
            },
            json="fields",
            figures={"fields": lambda: figures.fields(detected, self.numbers, pictures, band)},
            measured=SimpleNamespace(
                entries=self.entries, truth=self.truth, band=self.band, pictures=pictures,
                targets=self.targets, numbers=self.numbers,
            ),
        )  # fmt: skip

    def targets(self, fields=None):
        """Return the headline numbers, with positions detected, of some or all fields.

        Of a model they are those of the light that scenes show.
        """
        numbers, close = {}, {"away": (0, CLOSE), "fields": fields}
        for entry in self.entries:
            if entry.positions == "given" or not entry.method.timed:
                continue
            least = (EDGES[0], 10, _BRIGHT)
            every, strong, bright = (
                self.numbers(entry, (edge, np.inf), fields=fields) for edge in least
            )
            near = self.numbers(entry, (_BRIGHT, np.inf), **close)
            numbers[entry.name] = {
                "error_median": bright["error_median"],
                "close_median": near["relative_median"],
                "close_90": near["relative_90"],
                "complete": strong["complete"],
                "complete_close": self.numbers(entry, (10, np.inf), **close)["complete"],
                "pure": self.numbers(entry, _ALL, fields=fields)["pure"],
                "within_1": every["within_1"],
                "within_2": every["within_2"],
                "seconds": _quantile(entry.seconds[:fields], 0.5),
                "processor_seconds": _quantile(entry.processor_seconds[:fields], 0.5),
                "fields": len(entry.seconds[:fields]),
            }
        return numbers

    def rows(self):
        """Compare deblenders class by class of sources."""
        alone, close = {"away": (CLOSE, np.inf)}, {"away": (0, CLOSE)}
        bright = _BRIGHT, np.inf
        groups = {f"S/N > {EDGES[0]}": {"snr": (EDGES[0], np.inf)}}
        for limits in pairwise(EDGES):
            for name, near in (("alone", alone), ("close", close)):
                groups[f"S/N {_interval(limits)}, {name}"] = {"snr": limits, **near}
        for size in pairwise(_SIZES):
            groups[f"S/N > {_BRIGHT}, size {_interval(size)}"] = {"snr": bright, "size": size}
        return [
            {"positions": kind, "group": name, "deblender": entry.name}
            | self.numbers(entry, **group)
            for kind in ("detected", "given")
            for name, group in groups.items()
            for entry in self.entries
            if entry.positions == kind
        ]

    def numbers(self, entry, snr, *, away=_ALL, size=_ALL, fields=None):
        """Return the numbers of an entry for sources within limits, the upper ones without."""
        truth, first, b = self.truth, (0, fields or np.inf), self.band
        strength_of = (truth.flux / truth.limit)[:, b]
        chosen = _within(strength_of, snr) & _within(truth.away, away) & _within(truth.size, size)
        chosen = np.flatnonzero((chosen & _within(truth.field, first))[: len(entry.found)])
        strength, distance, true, of = entry.detections.T
        counted = _within(strength, snr) & _within(distance, away) & _within(of, first)
        found = chosen[entry.found[chosen]]
        told = Catalogue(*(each[found] for each in entry.sources))
        flux, limit = truth.flux[found], truth.limit[found]
        off = told.flux[:, b] - flux[:, b]
        colour = np.array([])
        if b > 0:
            with np.errstate(invalid="ignore", divide="ignore"):
                magnitude = -2.5 * np.log10(told.flux[:, b - 1 : b + 1] / flux[:, b - 1 : b + 1])
            colour = np.diff(magnitude)[(flux / limit)[:, b - 1] > 10, 0]
        apart = np.hypot(*(told.position - truth.position[found]).T)
        shape = np.abs(told.ellipticity - truth.ellipticity[found])
        row = {
            "sources": len(chosen),
            "complete": len(found) / len(chosen) if len(chosen) else np.nan,
            "pure": true[counted].mean() if counted.any() and size == _ALL else np.nan,
            **_median_and_90("error", off / limit[:, b]),
            "bias": _quantile(off / limit[:, b], 0.5),
            **_median_and_90("relative", off / flux[:, b]),
            **_median_and_90("colour", colour),
            "centroid": _quantile(apart, 0.5),
            "ellipticity": _quantile(shape, 0.5),
        }
        known = np.isfinite(entry.sources.error).any() and len(found)
        for name, times in (("1", 1), ("2", 2), ("wide", entry.method.wide)):
            inside = np.abs(off) <= times * told.error[:, b]
            row[f"within_{name}"] = inside.mean() if known else np.nan
        return row

    def target_lines(self, fields):
        """Lay the headline numbers out, a line each."""
        targets = self.targets(fields)
        near = f"a neighbour within {CLOSE:g} pixels"
        looks = {  # title: numbers, digits, times what
            f"|dF| over the noise limit in {self.bands[self.band]}, S/N > {_BRIGHT}: median": (
                ["error_median"], 2, 1,
            ),
            f"|dF/F|, {near}: median / 90 %": (["close_median", "close_90"], 3, 1),
            "complete above S/N 10 (%)": (["complete"], 1, 100),
            f"the same, {near} (%)": (["complete_close"], 1, 100),
            "pure (%)": (["pure"], 1, 100),
            f"fluxes within 1 / 2 errors, S/N > {EDGES[0]} (%)": (["within_1", "within_2"], 1, 100),
            "seconds a field: wall / processor": (["seconds", "processor_seconds"], 2, 1),
            "fields": (["fields"], 0, 1),
        }  # fmt: skip
        rows = [["", *targets]]
        for title, (names, digits, times) in looks.items():
            cells = ([f"{times * of[n]:.{digits}f}" for n in names] for of in targets.values())
            rows.append([title, *map(" / ".join, cells)])
        return aligned(rows)

    def notes(self):
        """Say what the numbers mean, and who took part, line by line."""
        yield _NOTE
        for entry in self.entries:
            method = entry.method
            settings = "".join(f", {name} {value}" for name, value in method.field_settings.items())
            if entry.positions == "detected":
                yield (
                    f"{entry.name} {method.version}: given {method.given_of_field}{settings}; "
                    f"wide is {method.wide:.2f} errors."
                )
            for why, number in entry.failures.items():
                yield f"{entry.name} failed on {number} fields: {why}"


def _within(values, limits):
    """Say which values are within limits; without any, what is not known is, too."""
    inside = (values >= limits[0]) & (values < limits[1])
    return np.ones(len(values), bool) if limits == _ALL else inside


def _interval(limits):
    low, high = limits
    return f"> {low:g}" if np.isinf(high) else f"{low:g}-{high:g}"


def _quantile(values, share):
    """Return a quantile; what is not known is as wrong as can be."""
    return quantile(np.where(np.isnan(values), np.inf, values), share, method="inverted_cdf")


def _median_and_90(name, values):
    values = np.abs(values)
    return {f"{name}_median": _quantile(values, 0.5), f"{name}_90": _quantile(values, 0.9)}
