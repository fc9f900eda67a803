"""Deblend the same simulated fields with every deblender: what is found, and how exact it is."""

import textwrap
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from astropy.table import QTable
from scipy.spatial.distance import cdist
from tqdm import tqdm

from astrodeblend.plot import in_colour
from astrodeblend.simulate import get_survey, simulate_fields
from astrodeblend.training.field_losses import FAINT, match

from . import figures
from .blends import name_apart, platform_of
from .methods import Catalogue, Method, Model, OtherLight, Seen, attempt, check_flux, ellipticity_of
from .peers import PEERS
from .report import (
    Measure,
    Report,
    aligned,
    closing_lines,
    mean,
    measured,
    quantile,
    rows_of,
    table_lines,
    within,
)

#: Options of `simulate_fields` that differ from its defaults: sources anywhere; white noise, so
#: that there is one noise limit; and a residual sky of up to 0.1 of the noise, as surveys leave.
CONDITIONS = {"close": 0.0, "correlated": 0.0, "residual": 0.1}

#: Edges of classes of signal to noise, and pixels: the distance of neighbours in close pairs.
EDGES, CLOSE = (5, 10, 20, 100, np.inf), 8.0
_ALL = (-np.inf, np.inf)
_BRIGHT = 20  # signal-to-noise ratio of the sources whose flux is judged first
_SIZES = (0, 3, 4, 6, np.inf)  # edges of classes of half-light radius, in pixels
_NOTE = f"""\
|dF|: of the flux, over the noise limit 1 / sqrt(sum p^2 / variance), p the source's true profile; \
of found sources, all light of the source being true. A detection is a source if each is the \
other's nearest, within 2 pixels, half the PSF's width or a quarter of the source's half-light \
radius. Neighbours and what is pure: sources with S/N above {FAINT:g} in all bands together. Not \
judged: where a band has no data or is saturated. close, alone: the nearest other source within 8 \
pixels, or not. colour: error of that to the next bluer band. Given are the true positions of all \
such sources."""


def _quantile(values, share):
    """Return a quantile of errors; NaN, where nothing is stated, counts as infinite."""
    return quantile(np.where(np.isnan(values), np.inf, values), share, method="inverted_cdf")


def _absolute(name, share):
    return lambda sample: _quantile(np.abs(getattr(sample, name)), share)


# Columns of the table; `_Scores.numbers` makes samples.
_MEASURES = {
    "sources": Measure("", "sources", 0, of=lambda s: len(s.complete)),
    "complete": Measure("comp-", "lete", 3, of=lambda s: mean(s.complete)),
    "pure": Measure("", "pure", 3, of=lambda s: mean(s.pure)),
    "error_median": Measure("|dF|/limit", "median", 2, of=_absolute("error", 0.5)),
    "error_90": Measure("", "90 %", 2, of=_absolute("error", 0.9)),
    "bias": Measure("", "bias", 2, of=lambda s: _quantile(s.error, 0.5)),
    "relative_median": Measure("|dF/F|", "median", 3, of=_absolute("relative", 0.5)),
    "relative_90": Measure("", "90 %", 3, of=_absolute("relative", 0.9)),
    "colour_median": Measure("colour", "median", 3, of=_absolute("colour", 0.5)),
    "colour_90": Measure("(mag)", "90 %", 3, of=_absolute("colour", 0.9)),
    "centroid": Measure("cen-", "troid", 2, of=_absolute("apart", 0.5)),
    "ellipticity": Measure("ellip-", "ticity", 3, of=_absolute("shape", 0.5)),
    "within_1": Measure("within", "1 error", 3, of=lambda s: mean(s.off <= s.stated)),
    "within_2": Measure("2", "errors", 3, of=lambda s: mean(s.off <= 2 * s.stated)),
    "within_wide": Measure("wide", "errors", 3, of=lambda s: mean(s.off <= s.wide * s.stated)),
}
# The first table: a title, headline numbers (`_Scores.targets`), digits, and a factor.
_HEADLINES = (
    ("|dF| over the noise limit in {band}, S/N > {bright}: median", ["error_median"], 2, 1),
    ("|dF/F|, {near}: median / 90 %", ["close_median", "close_90"], 3, 1),
    ("complete above S/N 10 (%)", ["complete"], 1, 100),
    ("the same, {near} (%)", ["complete_close"], 1, 100),
    ("pure (%)", ["pure"], 1, 100),
    ("fluxes within 1 / 2 errors, S/N > {least} (%)", ["within_1", "within_2"], 1, 100),
    ("seconds a field: wall / processor", ["seconds", "processor_seconds"], 2, 1),
    ("fields", ["fields"], 0, 1),
)


def benchmark_fields(
    survey, number=20, *, seed=1, models=(), peers=("photutils", "sep", "scarlet2"), bands=None,
    scarlet2_fields=1, meta=None, progress=False, **options,
):  # fmt: skip
    """Deblend the same simulated fields with several deblenders, and score them alike.

    Parameters
    ----------
    survey : str, path-like or Survey
        As `astrodeblend.simulate.get_survey` takes it.
    number : int, optional
        Number of fields.
    seed : int, optional
        Seed of the random numbers.
    models : sequence of Deblender, optional
        Models for linear flux.
    peers : sequence of {'photutils', 'sep', 'scarlet2'} or Method, optional
        Other deblenders. What is not installed is listed and passed over, and failures are
        counted. scarlet2 fits sources where the first deblender has found them.
    bands : sequence of str, optional
        Bands of the survey; signal-to-noise ratio and flux are judged in r, or the middle one.
        Default: all but u.
    scarlet2_fields : int, optional
        Number of the fields, the first, that scarlet2 is tried on.
    meta : dict, optional
        Further entries that say where the fields come from.
    progress : bool, optional
        Show a progress bar.
    **options
        Options of `astrodeblend.simulate.simulate_fields`. Default: sources anywhere
        (``close=0``), white noise (``correlated=0``), and a residual sky of up to 0.1 of the noise.

    Returns
    -------
    Report
        Its tables are described in :ref:`score-tables`. ``measured`` has ``entries``
        (`FieldEntry`), ``truth`` (`FieldTruth`), ``band``, the index of the band that is judged,
        ``pictures`` of the first field, and two functions: ``targets`` returns the headline
        numbers of the first so many fields, ``numbers`` those of an entry for a class of sources.
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
    runs = [_FieldRun(method, number if method.detects else scarlet2_fields) for method in methods]
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
        one, detected = _Field(fields, k, band), None
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
    truth = FieldTruth(*map(np.concatenate, zip(*truths, strict=True)))
    entries = tuple(entry for run in runs for entry in run.entries())
    missing = [other.hint for other in others if not other.installed]
    made = platform_of({model.device for model in models})
    return _Scores(truth, entries, bands, band).report(meta, missing, made, pictures)


class FieldTruth(NamedTuple):
    """Properties of n true sources."""

    field: np.ndarray  # (n,), index of the field each is in
    position: np.ndarray  # (n, 2): x and y in pixels
    flux: np.ndarray  # (n, bands), in nJy
    limit: np.ndarray  # (n, bands): noise limit of the flux, in nJy
    ellipticity: np.ndarray  # (n,), complex, as `Catalogue` has it
    size: np.ndarray  # (n,): half-light radius in pixels
    away: np.ndarray  # (n,): distance to the nearest other source, in pixels


@dataclass(frozen=True, eq=False)
class FieldEntry:
    """Sources of one deblender in the first fields, those it tried."""

    method: Method
    name: str  # unique
    positions: str  # "detected" or "given"
    found: np.ndarray  # whether each source of `FieldTruth` was found
    sources: Catalogue  # its measurements of these; NaN for those that were not found
    # (d, 4), of every detection where there are data, none of given positions: signal to noise,
    # distance to the nearest other one in pixels, whether it is true, and its field
    detections: np.ndarray
    seconds: np.ndarray  # wall time of each field
    processor_seconds: np.ndarray
    failures: dict  # number of fields by the reason why it failed


class _Field:
    """One field: its data, its truth, and which detection is which source."""

    def __init__(self, fields, k, band):
        bad = fields.mask[k] | fields.saturated[k]
        self.data, self.error = np.where(bad, 0, fields.image[k]), np.sqrt(fields.variance[k])
        self.bad, self.band = bad, band
        self.position, snr = fields.position[k], fields.snr[k]
        strong = fields.present[k] & (np.sqrt(np.square(snr).sum(axis=1)) > FAINT)
        of = {n: torch.as_tensor(getattr(fields, n)[[k]]) for n in ("position", "size", "psf")}
        self.every, self.strong = (  # sources that `match` knows
            SimpleNamespace(present=torch.as_tensor(there[None]), **of)
            for there in (fields.present[k], strong)
        )
        known = np.isfinite(fields.limit[k, :, band]) & ~self.hidden(self.position)
        self.judged = np.flatnonzero(fields.inside[k] & known)
        away = cdist(self.position, self.position)
        np.fill_diagonal(away, np.inf)
        away[:, ~strong] = np.inf
        values = (
            np.full(len(away), k), self.position, fields.flux[k], fields.limit[k],
            _ellipticities(fields, k), fields.size[k], away.min(axis=1),
        )  # fmt: skip
        self.truth = FieldTruth(*(each[self.judged] for each in values))
        # positions to give; of two sources in one pixel that of the brighter one
        told = self.judged[strong[self.judged]]
        told = told[np.argsort(-snr[told, band], kind="stable")]
        pixels = np.floor(self.position[told] + 0.5)
        self.told = told[np.sort(np.unique(pixels, axis=0, return_index=True)[1])]

    def hidden(self, position):
        """Return whether positions are where a band has no data or is saturated."""
        bad = self.bad.any(axis=0)
        x, y = np.round(np.nan_to_num(position)).astype(int).T
        return bad[y.clip(0, len(bad) - 1), x.clip(0, bad.shape[1] - 1)]

    def match(self, position):
        """Return the source of each detection, -1 for none, and whether it counts for purity."""
        places = torch.as_tensor(np.nan_to_num(position, nan=-1e6))
        which = match(self.strong, 0, places).numpy()
        faint = match(self.every, 0, places).numpy() >= 0
        return which, ~self.hidden(position) & ((which >= 0) | ~faint)

    def aligned(self, which, catalogue):
        """Return which of the sources to be judged were found, and their measurements."""
        known = which >= 0
        rows = Catalogue.empty(len(self.position), len(self.data))
        found = np.zeros(len(self.position), bool)
        found[which[known]] = True
        for mine, theirs in zip(rows, catalogue, strict=True):
            mine[which[known]] = theirs[known]
        return found[self.judged], rows.of(self.judged)


class _FieldRun:
    """A deblender that is scored field by field, with detected and with given positions."""

    def __init__(self, method, most):
        self.method, self.most, self.name = method, most, method.name
        kinds = ("detected", "given") if method.takes_positions else ("detected",)
        self.parts = {kind: [] for kind in kinds}
        self.failures = {kind: Counter() for kind in kinds}

    def score(self, one, seen, detected):
        """Score the sources of a field, detected and of given positions; return the detected."""
        asked = None if self.method.detects else detected
        catalogue, *times = self.ask("detected", seen, asked)
        which, counts = one.match(catalogue.position)
        away = cdist(catalogue.position, catalogue.position)
        np.fill_diagonal(away, np.inf)
        with np.errstate(invalid="ignore", divide="ignore"):
            strength = (catalogue.flux / catalogue.error)[:, one.band]
        away = away.min(axis=1, initial=np.inf)
        field = np.full(len(which), len(self.parts["detected"]))
        detections = np.stack([strength, away, which >= 0, field], axis=1)
        self.parts["detected"].append((*one.aligned(which, catalogue), detections[counts], *times))
        found = catalogue.position[np.isfinite(catalogue.position).all(axis=1)]
        if "given" in self.parts:
            catalogue, *times = self.ask("given", seen, one.position[one.told])
            which = one.told if len(catalogue.flux) else one.told[:0]  # none if it has failed
            self.parts["given"].append((*one.aligned(which, catalogue), np.empty((0, 4)), *times))
        return found

    def ask(self, kind, seen, positions):
        """Return a catalogue, and the seconds and processor seconds that it took."""
        start = time.perf_counter(), time.process_time()

        def find():
            found = self.method.find(seen, positions)
            if kind == "given" and len(found.flux) != len(positions):
                raise ValueError(f"{len(found.flux)} sources for {len(positions)} positions")
            return found

        catalogue, why = attempt(find, strict=self.method.kind == "model")
        if why:
            self.failures[kind][why[:200]] += 1
            catalogue = Catalogue.empty(0, len(seen.data))
        return catalogue, time.perf_counter() - start[0], time.process_time() - start[1]

    def entries(self):
        """Yield a `FieldEntry` for each kind of positions."""
        for kind, parts in self.parts.items():
            found, sources, detections, *times = zip(*parts, strict=True)
            yield FieldEntry(
                self.method, self.name, kind, np.concatenate(found),
                Catalogue(*map(np.concatenate, zip(*sources, strict=True))),
                np.concatenate(detections), *map(np.array, times), dict(self.failures[kind]),
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Scores:
    """The sources of all deblenders, and the tables that are made of them."""

    truth: FieldTruth
    entries: tuple
    bands: tuple
    band: int  # index of the band in which signal-to-noise ratio and flux are judged

    def report(self, meta, missing, made, pictures):
        """Return the `Report`."""
        table, band = QTable(self.rows(), meta=dict(meta)), self.bands[self.band]
        words = ", ".join(f"{name} {value}" for name, value in meta.items())
        lines = textwrap.wrap(f"Fields: {words}", 110)
        lines += [f"Judged by {band}, {len(self.truth.field)} sources", ""]
        lines += self.target_lines(None)
        tried = {len(entry.seconds) for entry in self.entries}
        if len(tried) > 1:
            fewest = min(tried)
            lines += ["", f"The first {fewest}, which all tried", *self.target_lines(fewest)]
        for kind in ("detected", "given"):
            some = table[table["positions"] == kind]
            if len(some):
                lines += ["", f"Positions {kind}", ""]
                lines += table_lines(some, ("group", "deblender"), _MEASURES)
        detected = [entry for entry in self.entries if entry.positions == "detected"]
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
        """Return the headline numbers by name of the deblender, with positions detected.

        Of models they are those of the light that scenes show. ``fields`` is how many of the
        fields, the first, count; default: all.
        """
        targets, close = {}, {"away": (0, CLOSE)}
        for entry in self.entries:
            if entry.positions == "given" or not entry.method.timed:
                continue
            of = partial(self.numbers, entry, fields=fields)
            every, strong, bright = (of((least, np.inf)) for least in (EDGES[0], 10, _BRIGHT))
            near = of((_BRIGHT, np.inf), **close)
            targets[entry.name] = {
                "error_median": bright["error_median"],
                "close_median": near["relative_median"],
                "close_90": near["relative_90"],
                "complete": strong["complete"],
                "complete_close": of((10, np.inf), **close)["complete"],
                "pure": of(_ALL)["pure"],
                "within_1": every["within_1"],
                "within_2": every["within_2"],
                "seconds": _quantile(entry.seconds[:fields], 0.5),
                "processor_seconds": _quantile(entry.processor_seconds[:fields], 0.5),
                "fields": len(entry.seconds[:fields]),
            }
        return targets

    def rows(self):
        """Return the rows of the table: classes of sources by S/N, neighbour and size."""
        groups = {f"S/N > {EDGES[0]}": {"snr": (EDGES[0], np.inf)}}
        for limits in pairwise(EDGES):
            for name, away in (("alone", (CLOSE, np.inf)), ("close", (0, CLOSE))):
                groups[f"S/N {_interval(limits)}, {name}"] = {"snr": limits, "away": away}
        for size in pairwise(_SIZES):
            name = f"S/N > {_BRIGHT}, size {_interval(size)}"
            groups[name] = {"snr": (_BRIGHT, np.inf), "size": size}
        return [
            {"positions": kind, "group": name, "deblender": entry.name}
            | self.numbers(entry, **group)
            for kind in ("detected", "given")
            for name, group in groups.items()
            for entry in self.entries
            if entry.positions == kind
        ]

    def numbers(self, entry, snr, *, away=_ALL, size=_ALL, fields=None):
        """Return the measures of an entry for sources within limits, the upper ones excluded."""
        truth, first, b = self.truth, (0, fields or np.inf), self.band
        chosen = (
            _inside((truth.flux / truth.limit)[:, b], snr)
            & _inside(truth.away, away)
            & _inside(truth.size, size)
            & _inside(truth.field, first)
        )
        chosen = np.flatnonzero(chosen[: len(entry.found)])
        strength, distance, true, of = entry.detections.T
        counted = _inside(strength, snr) & _inside(distance, away) & _inside(of, first)
        found = chosen[entry.found[chosen]]
        told = entry.sources.of(found)
        flux, limit = truth.flux[found], truth.limit[found]
        off = told.flux[:, b] - flux[:, b]
        colour = np.array([])
        if b > 0:
            with np.errstate(invalid="ignore", divide="ignore"):
                magnitude = -2.5 * np.log10(told.flux[:, b - 1 : b + 1] / flux[:, b - 1 : b + 1])
            colour = np.diff(magnitude)[(flux / limit)[:, b - 1] > 10, 0]
        known = np.isfinite(entry.sources.error).any()
        sample = SimpleNamespace(
            complete=entry.found[chosen],
            pure=true[counted] if size == _ALL else [],
            error=off / limit[:, b],
            relative=off / flux[:, b],
            colour=colour,
            apart=np.hypot(*(told.position - truth.position[found]).T),
            shape=told.ellipticity - truth.ellipticity[found],
            off=np.abs(off) if known else np.array([]),
            stated=told.error[:, b] if known else np.array([]),
            wide=entry.method.wide,
        )
        return measured(_MEASURES, sample)

    def target_lines(self, fields):
        """Return the first table: the headline numbers of some or all fields, a line each."""
        targets = self.targets(fields)
        words = {"band": self.bands[self.band], "bright": _BRIGHT, "least": EDGES[0]}
        words["near"] = f"a neighbour within {CLOSE:g} pixels"
        rows = [["", *targets]]
        for title, names, digits, times in _HEADLINES:
            cells = ([f"{times * of[n]:.{digits}f}" for n in names] for of in targets.values())
            rows.append([title.format(**words), *map(" / ".join, cells)])
        return aligned(rows)

    def notes(self):
        """Yield sentences: what the numbers mean, and who took part."""
        yield _NOTE
        for entry in self.entries:
            method = entry.method
            if entry.positions == "detected":
                settings = "".join(f", {n} {value}" for n, value in method.field_settings.items())
                yield (
                    f"{entry.name} {method.version}: given {method.given_of_field}{settings}; "
                    f"wide is {method.wide:.2f} errors."
                )
            for why, number in entry.failures.items():
                yield f"{entry.name} failed on {number} fields: {why}"


def _inside(values, limits):
    """Return which values are within limits; without limits all are, NaN too."""
    return np.ones(len(values), bool) if limits == _ALL else within(values, *limits)


def _interval(limits):
    low, high = limits
    return f"> {low:g}" if np.isinf(high) else f"{low:g}-{high:g}"


def _ellipticities(fields, k):
    """Return the ellipticities of all sources of a field; NaN for those without light on it."""
    most = fields.present.shape[1]
    found = np.full(most, np.nan, complex)
    for source, _, stamps in fields.light.groups:
        of = source // most == k
        if of.any():
            found[source[of] % most] = ellipticity_of(stamps[of], fields.noise[k])
    return found
