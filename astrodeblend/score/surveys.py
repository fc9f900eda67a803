"""Blends of a survey in linear flux, as the benchmark scores them: tables by band and by bin."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from astropy.table import QTable, vstack
from tqdm import tqdm

from astrodeblend.calibration import measure_segment
from astrodeblend.metrics import isophote, moments, psnr
from astrodeblend.plot import in_colour
from astrodeblend.simulate import draw_psfs

from .methods import Batch, Conditions, check_flux
from .report import (
    aligned,
    limits_text,
    mean,
    median,
    number_text,
    rows_of,
    table_lines,
)

__all__ = ["Surveys", "Truth"]

_BATCH = 32  # blends at once, also while a model is timed
#: Signal-to-noise ratio in a band above which a source counts, where not all of them do.
BRIGHT = 20.0
_SNR_EDGES = (0.0, 10.0, 20.0, 50.0, 100.0, 200.0, np.inf)
_FAINTER_EDGES = (-np.inf, -1.0, 0.0, 1.0, np.inf)
_SEPARATION_BINS = 5
# What stands on a model's card, and in which column of the table it is.
_ON_CARD = {
    "flux error, mean": "flux_mean",
    "flux error, median": "flux_median",
    "flux bias": "flux_bias",
    "psnr": "psnr",
}

_NOTES = """\
Flux: |found / true - 1| in the true source's footprint, its isophote at a tenth of the peak in \
the sum of the bands, each over its noise; bias is the mean of found / true - 1. Total: the same \
of the whole stamp. Centroid (in arcsec) and ellipticity (the distortion of the moments): medians \
of the errors in the footprint. PSNR: mean, in dB over the truth's peak in the band, whole stamp. \
All of sources with a signal-to-noise ratio above 20 in the band, measured with the true image as \
weights, but for "any S/N".
Within errors: which part of the footprints' pixels, and of the fluxes in the segments that are \
detected in the components, is within the 68.3 % and the 95.4 % interval of the errors that a \
deblender states.
Of a peer, the pair of sources that scores the highest PSNR is taken, in the better order, and its \
other sources are dropped or added to the nearer of the pair, whichever scores higher. Where it \
found fewer than two, or stopped with an error, the blend is taken for both sources, or the one \
source and an empty sky, whichever scores higher. Its settings are those of the lowest flux error \
on other blends. Models are scored as they come.
""".splitlines()
# What the tables show of a column: heading (two lines) and digits.
_TRIED = {
    "blends": ("", "blends", 0),
    "failures": ("fail-", "ures", 0),
    "milliseconds": ("ms per", "blend", 1),
}
_SHOWN = {
    "sources": ("", "sources", 0),
    "flux_mean": ("flux", "mean", 4),
    "flux_median": ("error", "median", 4),
    "flux_bias": ("", "bias", 4),
    "flux_mean_any": ("any", "mean", 4),
    "flux_median_any": ("S/N", "median", 4),
    "total_mean": ("total", "mean", 4),
    "total_median": ("flux", "median", 4),
    "centroid": ("cen-", "troid", 4),
    "ellipticity": ("ellip-", "ticity", 4),
    "psnr": ("PSNR", "dB", 2),
    "pixels_68": ("within", "pixels", 3),
    "pixels_95": ("errors:", "95 %", 3),
    "fluxes_68": ("", "fluxes", 3),
    "fluxes_95": ("", "95 %", 3),
}


@dataclass(frozen=True, eq=False)
class Truth:
    """What the sources of n blends are, as far as scores are told apart by it."""

    bands: tuple[str, ...]
    pixel_scale: float  # arcsec
    separation: np.ndarray  # of each blend, in arcsec
    fainter: np.ndarray  # (n, 2), by how many magnitudes than the neighbour in the reference band
    snr: np.ndarray  # (n, 2, bands), signal to noise, measured with the true image as weights

    @property
    def bright(self):
        """Whether a source has a signal-to-noise ratio above 20 in a band, as ``snr``."""
        return self.snr > BRIGHT

    def bins(self):
        """Return by quantity edges of bins, and in which each source is, (n, 2, bands)."""
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
    notes = _NOTES

    def __init__(self, blends):
        self.blends, self.truth = blends, _truth(blends)
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
        """Return what `Entry` says, of components and, if there are any, their deviations."""
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
        # what cannot be measured, as there is no light, is as wrong as can be
        for name in ("centroid", "ellipticity", "colour"):
            scores[name] = np.where(np.isnan(scores[name]), np.inf, scores[name])
        if std is not None:
            scores |= _coverage(images, std, isolated, inside, method.calibration)
        return scores

    def tuned(self, entry):
        """Return what settings are compared by."""
        bright = self.truth.bright[: len(entry)]
        found = _summary(entry.scores, bright, bright)
        return {name: found[name] for name in ("flux_mean", "flux_median", "psnr")}

    def value(self, entry, number):
        """Return what is drawn against time, of the first blends."""
        bright = self.truth.bright[: len(entry)][:number]
        return median(np.abs(entry.scores["flux"][:number][bright]))

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
        lines += table_lines(QTable(rows), ("deblender", "version"), _TRIED)
        number, sets, after = len(self.blends), {}, []
        titles = {number: f"All {number} blends"}
        if same:
            titles[same] = f"The first {same}, which all tried"
        for most, title in titles.items():
            tried = [entry for entry in entries if len(entry) >= most]
            made_of = {"bands": self._bands, "bins": self._bins, "colours": self._colours}
            sets[most] = {n: QTable(make(tried, most), meta=meta) for n, make in made_of.items()}
            after += ["", title, "=" * len(title), *_text(**sets[most])]
        every = {name: [of[name] for of in sets.values()] for name in made_of}
        numbers = {
            name: {f"{n}": rows_of(each) for n, each in zip(sets, tables, strict=True)}
            for name, tables in every.items()
        }
        numbers["deblenders"] = [
            {name: value for name, value in vars(entry).items() if name != "scores"}
            for entry in entries
        ]
        joined = {n: vstack(each, metadata_conflicts="silent") for n, each in every.items()}
        return {"benchmark": joined.pop("bands")} | joined, (lines, after), numbers

    def _bands(self, entries, number):
        """Return rows of scores band by band, of the first blends."""
        of = np.arange(len(self.truth.bands))
        return [
            {"band": band, "deblender": entry.name, "version": entry.version, "blends": number}
            | self._row(entry, np.broadcast_to(of == b, self.truth.snr.shape), number)
            | {"milliseconds": entry.milliseconds}
            for b, band in enumerate(self.truth.bands)
            for entry in entries
        ]

    def _bins(self, entries, number):
        """Return rows of scores binned by separation, flux ratio and signal-to-noise ratio."""
        of = np.arange(len(self.truth.bands))
        bands = [*((band, of == b) for b, band in enumerate(self.truth.bands)), ("all", of >= 0)]
        return [
            {"quantity": quantity, "low": edges[k], "high": edges[k + 1]}
            | {"band": band, "deblender": entry.name, "blends": number}
            | self._row(entry, (place == k) & which, number, any_snr=quantity == "snr")
            for quantity, (edges, place) in self.truth.bins().items()
            for k in range(len(edges) - 1)
            for band, which in bands
            for entry in entries
        ]

    def _colours(self, entries, number):
        """Return rows of the errors of the colours."""
        bands, bright = self.truth.bands, self.truth.bright[:number]
        rows = []
        for entry in entries:
            row = {"deblender": entry.name}
            for b in range(len(bands) - 1):
                error = entry.scores["colour"][:number, :, b][bright[..., b] & bright[..., b + 1]]
                row[f"{bands[b]}-{bands[b + 1]}"] = median(np.abs(error))
            rows.append(row)
        return rows

    def _row(self, entry, chosen, number, *, any_snr=False):
        chosen = chosen[:number]
        bright = chosen if any_snr else chosen & self.truth.bright[:number]
        return _summary(entry.scores, bright, chosen, self.truth.pixel_scale)

    def pictures(self, first, drawn):
        """Return the first blends, and what was made of them, in colour."""
        blends = self.blends
        number = len(next(iter(drawn.values())))
        flux = {"truth": blends.isolated[:number], "blend": blends.blend[:number, None]}
        for name, each in list(drawn.items())[1:]:
            flux[name] = each * blends.noise[: len(each), None, :, None, None]
        wavelength = [band.wavelength for band in blends.survey.bands]
        shown = {
            name: in_colour(each, blends.noise[: len(each)], wavelength)
            for name, each in flux.items()
        }
        return shown | {"blend": shown["blend"][:, 0]}

    def labels(self, entries, pictures):
        """Return errors of fluxes in the band with the highest signal-to-noise ratios."""
        reference = int(np.argmax(np.median(self.truth.snr, axis=(0, 1))))
        errors = {entry.name: entry.scores["flux"][..., reference] for entry in entries}
        return {n: [[f"{100 * e:+.1f} %" for e in pair] for pair in errors[n]] for n in errors}

    def card_scores(self, table, meta):
        """Return what models' cards get, by the start of their hashes."""
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
    """Say which pixels and fluxes are within the error bars, and how many pixels there are."""
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


def _truth(blends):
    """Return what the scores are told apart by."""
    if blends.isolated.shape[1] != 2 or not blends.present.all():
        raise ValueError(
            f"there are {blends}; the benchmark takes blends of two: give sources=2 to "
            "simulate_blends"
        )
    magnitude = blends.sources.magnitude.reshape(-1, 2)
    distance = np.hypot(*(blends.position[:, 1] - blends.position[:, 0]).T)
    signal = np.square(blends.isolated, dtype=float) / blends.variance[:, None]
    return Truth(
        bands=tuple(band.name for band in blends.survey.bands),
        pixel_scale=blends.survey.pixel_scale,
        separation=distance * blends.survey.pixel_scale,
        fainter=magnitude - magnitude[:, ::-1],
        snr=np.sqrt(signal.sum(axis=(-2, -1))),
    )


def _text(bands, bins, colours):
    """Lay out the tables of the first blends."""
    some = np.isfinite(bands["pixels_68"]).any()
    shown = {k: v for k, v in _SHOWN.items() if some or not k.startswith(("pixels", "fluxes"))}
    yield from ("", *table_lines(bands, ("band", "deblender"), shown))
    names = colours.colnames[1:]
    if names:
        yield from ("", f"Median error of colours in mag, S/N above {BRIGHT:g} in both bands:")
        yield from table_lines(colours, ("deblender",), {name: ("", name, 4) for name in names})
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


def _summary(scores, chosen, every, pixel_scale=1.0):
    """Return columns of tables from the scores of some sources (n, 2, bands)."""
    values = {
        name: each[: len(chosen)][chosen] for name, each in scores.items() if name != "colour"
    }
    any_flux = np.abs(scores["flux"][: len(every)][every])
    row = {
        "sources": int(chosen.sum()),
        "flux_mean": mean(np.abs(values["flux"])),
        "flux_median": median(np.abs(values["flux"])),
        "flux_bias": mean(values["flux"]),
        "flux_mean_any": mean(any_flux),
        "flux_median_any": median(any_flux),
        "total_mean": mean(np.abs(values["total"])),
        "total_median": median(np.abs(values["total"])),
        "centroid": pixel_scale * median(values["centroid"]),
        "ellipticity": median(values["ellipticity"]),
        "psnr": mean(values["psnr"]),
    }
    for name in ("pixels_68", "pixels_95", "fluxes_68", "fluxes_95"):
        if name not in values or not row["sources"]:
            row[name] = np.nan
        elif name.startswith("pixels"):
            row[name] = values[name].sum() / values["pixels"].sum()
        else:
            row[name] = values[name].mean()
    return row
