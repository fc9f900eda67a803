"""Blends of two, pictures and those of surveys: how the benchmark measures and shows them."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from astropy.table import QTable, vstack
from tqdm import tqdm

from astrodeblend.calibration import measure_segment
from astrodeblend.metrics import flux_error, isophote, moments, psnr, ssim, ssim_reiman2019
from astrodeblend.plot import in_colour
from astrodeblend.simulate import draw_psfs
from astrodeblend.weights import check_model

from . import figures
from .methods import Batch, Conditions, check_flux
from .report import (
    Measure,
    aligned,
    limits_text,
    mean,
    measured,
    median,
    number_text,
    ratio_of_sums,
    rows_of,
    standard_error,
    table_lines,
)

_BATCH = 32  # blends at once, also while a model is timed

#: Scores of pictures, in the order of the paper's Table 1.
METRICS = {"psnr": psnr, "ssim_reiman2019": ssim_reiman2019, "ssim": ssim}
_OF_PICTURES = """\
PSNR of images from 0 to 1, both components together. Of a peer, the pair of sources that scores \
highest is taken, in the better order, and its other sources are dropped or added to the nearer \
of the pair, whichever scores higher. Models are scored as they come.
±: standard error of the mean, by bootstrap over blends.
By position: mean PSNR without that look at the truth; a galaxy gets the source at its position.
Flux error: median of |found / true - 1| in the true galaxy's footprint.
Failures: blends in which a peer found fewer than two sources, or stopped with an error. The \
blend is then taken for both galaxies, or the one source and the sky, whichever scores higher.
""".splitlines()


_error = partial(standard_error, resamples=1000)
# Columns of the table; a sample has the scores of an `Entry`, the entry itself, and the PSNR of the
# blends that all have tried ("same").
_PICTURE_MEASURES = {
    "blends": Measure("", "blends", 0, of=lambda s: len(s["psnr"])),
    "psnr_mean": Measure("PSNR dB", "mean", 2, of=lambda s: s["psnr"].mean()),
    "psnr_error": Measure("", "±", 2, of=lambda s: _error(s["psnr"])),
    "psnr_median": Measure("", "median", 2, of=lambda s: np.median(s["psnr"])),
    "psnr_p1": Measure("", "1 %", 2, of=lambda s: np.percentile(s["psnr"], 1)),
    "psnr_min": Measure("", "min", 2, of=lambda s: s["psnr"].min()),
    "psnr_by_position": Measure("by posi-", "tion", 2, of=lambda s: s["by_position"].mean()),
    "psnr_same_blends": Measure("same", "blends", 2, of=lambda s: s["same"].mean()),
    "psnr_same_error": Measure("", "±", 2, of=lambda s: _error(s["same"])),
    "ssim": Measure("", "ssim", 3, of=lambda s: s["ssim"].mean()),
    "ssim_reiman2019": Measure("ssim_rei-", "man2019", 3, of=lambda s: s["ssim_reiman2019"].mean()),
    "flux_error": Measure("flux", "error", 3, of=lambda s: np.nanmedian(np.abs(s["flux_error"]))),
    "failures": Measure("fail-", "ures", 0, of=lambda s: s["entry"].failed),
    "milliseconds": Measure("ms per", "blend", 1, of=lambda s: s["entry"].milliseconds),
}


class Pictures:
    """Blends of colour pictures, and how they are scored."""

    limits, best, quality = (0, 1), "psnr_mean", {"ylabel": "mean PSNR (dB)"}
    given, grid = "given", "grid"  # attributes of methods
    notes, truth = _OF_PICTURES, None

    def __init__(self, blends):
        self.blends = blends
        self.meta = {"blends": len(blends), "folder": str(blends.folder), **blends.meta}

    check = staticmethod(check_model)

    def batches(self, *, progress=False):
        """Yield each `Batch`."""
        recipe, start = self.blends.recipe, 0
        positions, _ = recipe.positions(self.blends.draw, recipe.crop)
        for blend, isolated in self.blends.batches(_BATCH, progress=progress):
            yield Batch(blend, isolated, positions[start : start + len(blend)])
            start += len(blend)

    @staticmethod
    def scores(batch, images, placed, std, method):
        """Return the scores of `Entry`, of components as they are scored, and by position."""
        scores = {name: metric(images, batch.isolated) for name, metric in METRICS.items()}
        scores["flux_error"] = flux_error(images, batch.isolated)
        return scores | {"by_position": psnr(placed, batch.isolated)}

    @staticmethod
    def tuned(entry):
        """Return the numbers that settings are compared by."""
        names = {"psnr_mean": "psnr", "psnr_by_position": "by_position"}
        return {name: entry.scores[of].mean() for name, of in names.items()}

    @staticmethod
    def value(entry):
        """Return the number that is drawn against time."""
        return entry.scores["psnr"].mean()

    def tables(self, entries, same, meta):
        """Return the table that `benchmark` describes, its lines, and numbers for JSON."""
        measures = {
            name: measure
            for name, measure in _PICTURE_MEASURES.items()
            if same or not name.startswith("psnr_same")
        }
        rows = [
            {"deblender": entry.name, "version": entry.version}
            | measured(
                measures, entry.scores | {"entry": entry, "same": entry.scores["psnr"][:same]}
            )
            for entry in entries
        ]
        table = QTable(rows, meta=meta)
        deblenders = [
            row | {"kind": entry.kind, "given": entry.given, "settings": entry.settings,
                   "reasons of failures": entry.failures}
            for row, entry in zip(rows_of(table), entries, strict=True)
        ]  # fmt: skip
        lines = [f"{self.blends}", "", *table_lines(table, ("deblender", "version"), measures)]
        return {"benchmark": table}, (lines, []), {"deblenders": deblenders}

    @staticmethod
    def in_colour(images):
        """Return images (n, ..., bands, y, x) unchanged: they are colour pictures."""
        return images

    def labels(self, entries, pictures):
        """Return the PSNR to write on components."""
        truth = pictures["truth"]
        return {
            name: figures.psnr_texts(made, truth[: len(made)])
            for name, made in pictures.items()
            if name not in ("truth", "blend")
        }

    def card_scores(self, table, meta):
        """Return nothing: scores of `evaluate` go on cards."""
        return {}


#: Signal-to-noise ratio in a band above which a source counts, where not all of them do.
BRIGHT = 20.0
_SNR_EDGES = (0.0, 10.0, 20.0, 50.0, 100.0, 200.0, np.inf)
_FAINTER_EDGES = (-np.inf, -1.0, 0.0, 1.0, np.inf)
_SEPARATION_BINS = 5
# Scores on a model's card, and the columns of the table they are from.
_ON_CARD = {
    "flux error, mean": "flux_mean",
    "flux error, median": "flux_median",
    "flux bias": "flux_bias",
    "psnr": "psnr",
}
_OF_SURVEYS = """\
Flux: |found / true - 1| in the true source's footprint, its isophote at a tenth of the peak in \
the sum of the bands, each over its noise; bias is the mean of found / true - 1. Total: the same \
of the whole stamp. Centroid (in arcsec) and ellipticity (the distortion of the moments): medians \
of the errors in the footprint. PSNR: mean, in dB over the truth's peak in the band, whole stamp. \
All of sources with a signal-to-noise ratio above 20 in the band, measured with the true image as \
weights, but for "any S/N".
Within errors: which part of the footprints' pixels, and of the fluxes in the segments that are \
detected in the components, is within the 68.3 % and the 95.4 % interval of the errors that a \
deblender states; a component without a segment counts as outside.
Of a peer, the pair of sources that scores the highest PSNR is taken, in the better order, and its \
other sources are dropped or added to the nearer of the pair, whichever scores higher. Where it \
found fewer than two, or stopped with an error, the blend is taken for both sources, or the one \
source and an empty sky, whichever scores higher. Its settings are those of the lowest flux error \
on other blends. Models are scored as they come.
""".splitlines()


def _within(sample, name):
    """Return the share of a sample's pixels or fluxes within error bars; NaN without these."""
    inside = sample.get(name, np.empty(0))
    every = sample["pixels"] if name.startswith("pixels") and inside.size else np.ones(len(inside))
    return ratio_of_sums(np.stack([inside, every], axis=1))


# Columns of the tables; a sample has scores of `Entry`, each of the same sources in some bands, and
# of any S/N the relative errors of the flux ("any").
_SURVEY_MEASURES = {
    "sources": Measure("", "sources", 0, of=lambda s: len(s["flux"])),
    "flux_mean": Measure("flux", "mean", 4, of=lambda s: mean(np.abs(s["flux"]))),
    "flux_median": Measure("error", "median", 4, of=lambda s: median(np.abs(s["flux"]))),
    "flux_bias": Measure("", "bias", 4, of=lambda s: mean(s["flux"])),
    "flux_mean_any": Measure("any", "mean", 4, of=lambda s: mean(np.abs(s["any"]))),
    "flux_median_any": Measure("S/N", "median", 4, of=lambda s: median(np.abs(s["any"]))),
    "total_mean": Measure("total", "mean", 4, of=lambda s: mean(np.abs(s["total"]))),
    "total_median": Measure("flux", "median", 4, of=lambda s: median(np.abs(s["total"]))),
    "centroid": Measure("cen-", "troid", 4, of=lambda s: s["pixel scale"] * median(s["centroid"])),
    "ellipticity": Measure("ellip-", "ticity", 4, of=lambda s: median(s["ellipticity"])),
    "psnr": Measure("PSNR", "dB", 2, of=lambda s: mean(s["psnr"])),
    "pixels_68": Measure("within", "pixels", 3, of=lambda s: _within(s, "pixels_68")),
    "pixels_95": Measure("errors:", "95 %", 3, of=lambda s: _within(s, "pixels_95")),
    "fluxes_68": Measure("", "fluxes", 3, of=lambda s: _within(s, "fluxes_68")),
    "fluxes_95": Measure("", "95 %", 3, of=lambda s: _within(s, "fluxes_95")),
}


@dataclass(frozen=True, eq=False)
class Truth:
    """Properties of the sources of n blends that scores are told apart by."""

    bands: tuple[str, ...]
    pixel_scale: float  # arcsec
    separation: np.ndarray  # (n,), in arcsec
    fainter: np.ndarray  # (n, 2), by how many magnitudes than the neighbour in the reference band
    snr: np.ndarray  # (n, 2, bands), signal to noise, measured with the true image as weights

    @classmethod
    def of(cls, blends):
        """Return the truth of `astrodeblend.simulate.SurveyBlends` of two."""
        if blends.isolated.shape[1] != 2 or not blends.present.all():
            raise ValueError(
                f"there are {blends}; the benchmark takes blends of two: give sources=2 to "
                "simulate_blends"
            )
        magnitude = blends.sources.magnitude.reshape(-1, 2)
        distance = np.hypot(*(blends.position[:, 1] - blends.position[:, 0]).T)
        signal = np.square(blends.isolated, dtype=float) / blends.variance[:, None]
        return cls(
            bands=tuple(band.name for band in blends.survey.bands),
            pixel_scale=blends.survey.pixel_scale,
            separation=distance * blends.survey.pixel_scale,
            fainter=magnitude - magnitude[:, ::-1],
            snr=np.sqrt(signal.sum(axis=(-2, -1))),
        )

    @property
    def bright(self):
        """Whether a source has a signal-to-noise ratio above 20 in a band, as ``snr``."""
        return self.snr > BRIGHT

    def bins(self):
        """Return by quantity the edges of bins, and in which each source is, (n, 2, bands)."""
        low, high = np.round([self.separation.min(), self.separation.max()], 1)
        edges = np.linspace(low, max(high, low + 0.1), _SEPARATION_BINS + 1)
        found = {
            "separation": (edges, self.separation[:, None, None]),
            "fainter": (np.array(_FAINTER_EDGES), self.fainter[..., None]),
            "snr": (np.array(_SNR_EDGES), self.snr),
        }
        return {
            name: (edges, np.broadcast_to(np.digitize(values, edges[1:-1]), self.snr.shape))
            for name, (edges, values) in found.items()
        }


class Surveys:
    """Blends of a survey, in units of the sky's noise in each band, and how they are scored."""

    limits, best = (-np.inf, np.inf), "flux_mean"
    quality: ClassVar[dict] = {"ylabel": "median flux error |df/f|, S/N > 20", "yscale": "log"}
    given, grid = "given_of_survey", "grid_of_survey"  # attributes of methods
    notes = _OF_SURVEYS

    def __init__(self, blends):
        self.blends, self.truth = blends, Truth.of(blends)
        self.meta = {"description": str(blends), "survey": blends.survey.name}

    check = staticmethod(check_flux)

    def batches(self, *, progress=False):
        """Yield each `Batch`."""
        blends = self.blends
        # as wide as the stamps, with a pixel in the middle
        psfs = draw_psfs(blends.survey, width=blends.blend.shape[-1] // 2 * 2 - 1)
        starts = range(0, len(blends), _BATCH)
        for start in tqdm(starts, "deblending", unit="batch", disable=not progress):
            part = slice(start, start + _BATCH)
            noise = blends.noise[part, :, None, None].astype(np.float32)
            variances = blends.variance[part] / noise**2
            yield Batch(
                blends.blend[part] / noise,
                blends.isolated[part] / noise[:, None],
                blends.position[part],
                [Conditions(variance, psfs, self.truth.bands) for variance in variances],
            )

    @staticmethod
    def scores(batch, images, placed, std, method):
        """Return the scores of `Entry`, of components and, if there are any, their deviations."""
        isolated = batch.isolated
        footprint = isophote(isolated)
        # each band as an image of its own
        found, true = (each[..., None, :, :] for each in (images, isolated))
        inside = footprint[:, :, None]
        have, should = moments(found, inside), moments(true, inside)
        with np.errstate(invalid="ignore", divide="ignore"):
            magnitude = -2.5 * np.log10(have.flux / should.flux)
            colour = magnitude[..., :-1] - magnitude[..., 1:]
        found_total, total = (each.sum(axis=(-2, -1), dtype=float) for each in (images, isolated))
        scores = {
            "flux": have.flux / should.flux - 1,
            "total": found_total / total - 1,
            "centroid": np.hypot(*np.moveaxis(have.centroid - should.centroid, -1, 0)),
            "ellipticity": np.abs(have.distortion - should.distortion),
            "colour": colour,
            "psnr": psnr(found, true, data_range=isolated.max(axis=(-2, -1))),
        }
        # where there is no light to measure, errors are infinite
        for name in ("centroid", "ellipticity", "colour"):
            scores[name] = np.where(np.isnan(scores[name]), np.inf, scores[name])
        if std is not None:
            scores |= _coverage(images, std, isolated, inside, method.calibration)
        return scores

    def _row(self, entry, chosen, *, any_snr=False):
        """Return all measures of an entry for some sources (n, 2, bands), bright ones or any."""
        chosen = chosen[: len(entry)]
        bright = chosen if any_snr else chosen & self.truth.bright[: len(entry)]
        sample = {name: each[bright] for name, each in entry.scores.items() if name != "colour"}
        sample |= {"any": entry.scores["flux"][chosen], "pixel scale": self.truth.pixel_scale}
        return measured(_SURVEY_MEASURES, sample)

    def tuned(self, entry):
        """Return the numbers that settings are compared by."""
        row = self._row(entry, self.truth.bright)
        return {name: row[name] for name in ("flux_mean", "flux_median", "psnr")}

    def value(self, entry):
        """Return the number that is drawn against time."""
        return self.tuned(entry)["flux_median"]

    def tables(self, entries, same, meta):
        """Return the tables that `benchmark` describes, their lines, and numbers for JSON."""
        rows = [
            {"deblender": entry.name, "version": entry.version, "blends": len(entry)}
            | {"failures": entry.failed, "milliseconds": entry.milliseconds}
            for entry in entries
        ]
        made = ("description", "survey", "machine", "versions", "notes")
        words = ", ".join(["", *(f"{k} {v}" for k, v in meta.items() if k not in made)])
        lines = [f"{self.blends}{words}", ""]
        lines += table_lines(QTable(rows), ("deblender", "version"), _PICTURE_MEASURES)
        number, after = len(self.blends), []
        titles = {number: f"All {number} blends"}
        if same:
            titles[same] = f"The first {same}, which all tried"
        made = {"bands": self._bands, "bins": self._bins, "colours": self._colours}
        numbers, every = ({name: {} for name in made} for _ in range(2))
        for most, title in titles.items():
            tried = [entry.first(most) for entry in entries if len(entry) >= most]
            tables = {name: QTable(make(tried), meta=meta) for name, make in made.items()}
            after += ["", title, "=" * len(title), *_text(**tables)]
            for name, table in tables.items():
                every[name][most], numbers[name][f"{most}"] = table, rows_of(table)
        numbers["deblenders"] = [
            {name: value for name, value in vars(entry).items() if name != "scores"}
            for entry in entries
        ]
        tables = {
            name: vstack(list(each.values()), metadata_conflicts="silent")
            for name, each in every.items()
        }
        return {"benchmark": tables.pop("bands")} | tables, (lines, after), numbers

    def _in_bands(self):
        """Return by name of the band a mask of sources, (n, 2, bands)."""
        of = np.arange(len(self.truth.bands))
        return {
            band: np.broadcast_to(of == b, self.truth.snr.shape)
            for b, band in enumerate(self.truth.bands)
        }

    def _bands(self, entries):
        """Return rows of scores band by band."""
        return [
            {"band": band, "deblender": entry.name, "version": entry.version, "blends": len(entry)}
            | self._row(entry, which)
            | {"milliseconds": entry.milliseconds}
            for band, which in self._in_bands().items()
            for entry in entries
        ]

    def _bins(self, entries):
        """Return rows of scores binned by separation, flux ratio and signal-to-noise ratio."""
        bands = self._in_bands() | {"all": np.ones(self.truth.snr.shape, bool)}
        return [
            {"quantity": quantity, "low": edges[k], "high": edges[k + 1]}
            | {"band": band, "deblender": entry.name, "blends": len(entry)}
            | self._row(entry, (place == k) & which, any_snr=quantity == "snr")
            for quantity, (edges, place) in self.truth.bins().items()
            for k in range(len(edges) - 1)
            for band, which in bands.items()
            for entry in entries
        ]

    def _colours(self, entries):
        """Return rows of the median errors of colours, of sources that are bright in both bands."""
        bands = self.truth.bands
        rows = []
        for entry in entries:
            row, bright = {"deblender": entry.name}, self.truth.bright[: len(entry)]
            for b in range(len(bands) - 1):
                error = entry.scores["colour"][..., b][bright[..., b] & bright[..., b + 1]]
                row[f"{bands[b]}-{bands[b + 1]}"] = median(np.abs(error))
            rows.append(row)
        return rows

    def in_colour(self, images):
        """Return images (n, ..., bands, y, x) of the first blends as colour pictures."""
        noise = self.blends.noise[: len(images)]
        wavelength = [band.wavelength for band in self.blends.survey.bands]
        return in_colour(images * noise[:, None, :, None, None], noise, wavelength)

    def labels(self, entries, pictures):
        """Return errors of fluxes in the band with the highest signal-to-noise ratios."""
        reference = int(np.argmax(np.median(self.truth.snr, axis=(0, 1))))
        errors = {entry.name: entry.scores["flux"][..., reference] for entry in entries}
        return {n: [[f"{100 * e:+.1f} %" for e in pair] for pair in errors[n]] for n in errors}

    def card_scores(self, table, meta):
        """Return scores for models' cards, by the start of their hashes."""
        number = len(self.blends)
        name = f"{meta['survey']} on {meta.get('split', 'parametric')}"
        table = table[table["blends"] == number]
        about = {"blends": number} | {name: meta[name] for name in ("seed",) if name in meta}
        scores = {}
        for version in np.unique(table["version"]):
            rows = table[table["version"] == version]
            of_bands = {
                metric: {str(row["band"]): round(float(row[column]), 4) for row in rows}
                for metric, column in _ON_CARD.items()
            }
            scores[version] = {name: about | of_bands}
        return scores


def _coverage(components, std, isolated, inside, calibration):
    """Return which pixels and fluxes are within the error bars, and how many pixels there are."""
    error = np.abs(components - isolated)
    beyond = calibration.interval_95
    flux_off = np.full(components.shape[:3], np.inf)  # in deviations, where it is measured
    for k in np.ndindex(components.shape[:2]):
        fluxes = measure_segment(components[k], isolated[k], noise=1.0)
        if fluxes is not None:
            light = fluxes.light, std[k], fluxes.segment, fluxes.noise
            flux_off[k] = np.abs(fluxes.error) / calibration.flux_std(*light)
    return {
        "pixels": np.broadcast_to(inside.sum(axis=(-2, -1)), flux_off.shape),
        "pixels_68": (inside & (error <= std)).sum(axis=(-2, -1)),
        "pixels_95": (inside & (error <= beyond["pixel"] * std)).sum(axis=(-2, -1)),
        "fluxes_68": flux_off <= 1,
        "fluxes_95": flux_off <= beyond["flux"],
    }


def _text(bands, bins, colours):
    """Yield the lines of the tables of some blends."""
    some = np.isfinite(bands["pixels_68"]).any()
    shown = {
        name: measure
        for name, measure in _SURVEY_MEASURES.items()
        if some or not name.startswith(("pixels", "fluxes"))
    }
    yield from ("", *table_lines(bands, ("band", "deblender"), shown))
    names = colours.colnames[1:]
    if names:
        yield from ("", f"Median error of colours in mag, S/N above {BRIGHT:g} in both bands:")
        shown = {name: Measure("", name, 4) for name in names}
        yield from table_lines(colours, ("deblender",), shown)
    for quantity, title in {
        "separation": "by separation (arcsec)",
        "fainter": "by magnitudes fainter than the neighbour",
        "snr": "by S/N in the band",
    }.items():
        lines = {"deblender": {}}
        for row in bins[(bins["band"] == "all") & (bins["quantity"] == quantity)]:
            name = limits_text(row["low"], row["high"])
            lines["deblender"][name] = name
            lines.setdefault(row["deblender"], {})[name] = number_text(row["flux_median"], 4)
        yield from ("", f"Median flux error, all bands together, {title}:")
        yield from aligned([[name, *cells.values()] for name, cells in lines.items()])
