"""Deblenders side by side on blends of a survey: tables by band and by bin, and the files."""

import json
from dataclasses import dataclass, replace

import numpy as np
from astropy.table import QTable, vstack

from astrodeblend.files import atomic_paths, plain

from .drawing import errors, panels
from .result import closing_lines, notes_on, table_lines

__all__ = ["BRIGHT", "SURVEY_FILES", "SurveyBenchmark", "SurveyEntry", "Truth", "summary"]

#: Files that `SurveyBenchmark.write` writes.
SURVEY_FILES = ("benchmark.ecsv", "bins.ecsv", "benchmark.json", "benchmark.png", "panels.png")
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
# What the table shows of a column: heading (two lines), width and digits.
_SHOWN = {
    "sources": ("", "sources", 9, 0),
    "flux_mean": ("flux", "mean", 8, 4),
    "flux_median": ("error", "median", 8, 4),
    "flux_bias": ("", "bias", 9, 4),
    "flux_mean_any": ("any", "mean", 8, 4),
    "flux_median_any": ("S/N", "median", 8, 4),
    "total_mean": ("total", "mean", 8, 4),
    "total_median": ("flux", "median", 8, 4),
    "centroid": ("cen-", "troid", 8, 4),
    "ellipticity": ("ellip-", "ticity", 8, 4),
    "psnr": ("PSNR", "dB", 7, 2),
    "pixels_68": ("within", "pixels", 8, 3),
    "pixels_95": ("errors:", "95 %", 8, 3),
    "fluxes_68": ("", "fluxes", 8, 3),
    "fluxes_95": ("", "95 %", 7, 3),
}


@dataclass(frozen=True, eq=False)
class Truth:
    """What the sources of the blends are, as far as scores are told apart by it.

    Attributes
    ----------
    bands : tuple of str
        Their names.
    pixel_scale : float
        In arcsec.
    separation : numpy.ndarray
        Of each blend, in arcsec, shape (n,).
    fainter : numpy.ndarray
        By how many magnitudes in the reference band a source is fainter than its neighbour, shape
        (n, 2).
    snr : numpy.ndarray
        Signal-to-noise ratio of each source in each band, measured with the true image as weights,
        shape (n, 2, bands).
    """

    bands: tuple[str, ...]
    pixel_scale: float
    separation: np.ndarray
    fainter: np.ndarray
    snr: np.ndarray

    @property
    def bright(self):
        """Whether a source has a signal-to-noise ratio above 20 in a band, as ``snr``."""
        return self.snr > BRIGHT

    def bins(self):
        """Return what scores are binned by.

        Returns
        -------
        dict of str to tuple
            For ``separation``, ``fainter`` and ``snr`` the edges of the bins, and of each source
            and band in which bin it is, shape (n, 2, bands). Sources beyond the outermost edges
            are in the outermost bins.
        """
        low, high = np.round([self.separation.min(), self.separation.max()], 1)
        found = {
            "separation": (
                np.linspace(low, max(high, low + 0.1), _SEPARATION_BINS + 1),
                self.separation[:, None, None],
            ),
            "fainter": (np.array(_FAINTER_EDGES), self.fainter[..., None]),
            "snr": (np.array(_SNR_EDGES), self.snr),
        }
        return {
            name: (edges, np.broadcast_to(np.digitize(values, edges[1:-1]), self.snr.shape))
            for name, (edges, values) in found.items()
        }


@dataclass(frozen=True, eq=False)
class SurveyEntry:
    """What one deblender scored on blends of a survey.

    Attributes
    ----------
    name, version : str
        Of the deblender.
    kind : str
        "nothing" (the blend itself), "peer" or "model".
    given : str
        What it was told.
    settings : dict
        Of a peer.
    scores : dict of str to numpy.ndarray
        Of every source in every band, shape (blends, 2, bands): ``flux`` in the footprint and
        ``total`` flux (relative errors with their sign), ``centroid`` (pixels), ``ellipticity``,
        ``psnr`` (dB); errors of the ``colour`` of adjacent bands (mag), shape (blends, 2, bands -
        1). Of those that state errors also how many ``pixels`` there are in the footprint, how
        many of these are within the intervals, ``pixels_68`` and ``pixels_95``, and whether the
        flux is, ``fluxes_68`` and ``fluxes_95``.
    failures : dict of str to int
        Why blends were not separated, and how many.
    milliseconds : float
        Per blend; NaN for doing nothing.
    timed : str
        How.
    """

    name: str
    version: str
    kind: str
    given: str
    settings: dict
    scores: dict[str, np.ndarray]
    failures: dict[str, int]
    milliseconds: float
    timed: str

    def __len__(self):
        return len(self.scores["flux"])


@dataclass(frozen=True, eq=False)
class SurveyBenchmark:
    """Deblenders side by side, on the same blends of a survey.

    Made by `benchmark_survey`; `str` gives the tables with their notes as text.

    Attributes
    ----------
    blends : str
        What they were tried on, in words.
    meta : dict
        The survey's name, and what else was told of the blends.
    truth : Truth
        What the sources are.
    entries : tuple of SurveyEntry
        The blend itself, the peers, the models.
    missing : tuple of str
        What to say of peers that are not installed.
    machine, versions : dict of str
        Where and with what it was run.
    pictures : dict of str to numpy.ndarray
        Of the first few blends in colour: the ``"truth"`` and, by name, what each deblender made
        of them, shape (n, 2, 3, y, x), and the ``"blend"``, shape (n, 3, y, x).
    """

    blends: str
    meta: dict
    truth: Truth
    entries: tuple[SurveyEntry, ...]
    missing: tuple[str, ...]
    machine: dict[str, str | int]
    versions: dict[str, str]
    pictures: dict[str, np.ndarray]

    def __len__(self):
        return len(self.truth.separation)

    @property
    def sets(self):
        """Numbers of blends, the first, that the tables are about: all; those that all tried."""
        return tuple(sorted({len(self), min(map(len, self.entries))}, reverse=True))

    def overall(self, entry):
        """Return the scores of a deblender in all bands together, as columns of `to_table`.

        Parameters
        ----------
        entry : SurveyEntry
            On as many blends as it was tried.

        Returns
        -------
        dict of str to float
        """
        return self._summary(entry, np.ones(self.truth.snr.shape, bool), len(entry))

    def to_table(self, number=None):
        """Return the scores band by band.

        Parameters
        ----------
        number : int, optional
            Of so many blends, the first; deblenders that were not tried on all of these are left
            out. By default of all of them.

        Returns
        -------
        `~astropy.table.QTable`
            A row per ``band`` and ``deblender``, with its ``version``, the number of ``blends``,
            and the number of ``sources`` with a signal-to-noise ratio above 20 in the band, which
            the other columns are about. ``flux_mean``, ``flux_median``: of the modulus of the
            relative error of the flux in the true source's footprint; ``flux_bias``: mean of that
            error; ``flux_mean_any``, ``flux_median_any``: of all sources; ``total_mean``,
            ``total_median``: of the flux in the whole stamp; medians of the errors of
            ``centroid`` (arcsec) and ``ellipticity``; ``psnr``: mean in dB, relative to the
            truth's peak in the band; ``pixels_68``, ``pixels_95``, ``fluxes_68``, ``fluxes_95``:
            part of pixels in the footprints and of fluxes within the errors that are stated, NaN
            where none are; and ``milliseconds`` per blend.
        """
        number = len(self) if number is None else number
        rows = []
        for b, band in enumerate(self.truth.bands):
            chosen = np.zeros(self.truth.snr.shape, bool)
            chosen[..., b] = True
            rows += [
                {
                    "band": band,
                    "deblender": entry.name,
                    "version": entry.version,
                    "blends": number,
                    **self._summary(entry, chosen, number),
                    "milliseconds": entry.milliseconds,
                }
                for entry in self._tried(number)
            ]
        return QTable(rows, names=list(rows[0]), meta=self._meta())

    def to_bins(self, number=None):
        """Return the scores binned by separation, flux ratio and signal-to-noise ratio.

        Parameters
        ----------
        number : int, optional
            As for `to_table`.

        Returns
        -------
        `~astropy.table.QTable`
            A row per ``quantity``, bin (from ``low`` to ``high``), ``band`` (one of them, or
            "all") and ``deblender``. ``separation`` is in arcsec; ``fainter`` is by how many
            magnitudes a source is fainter than its neighbour in the reference band; ``snr`` is
            its signal-to-noise ratio in the band. The other columns are as in `to_table`; bins of
            ``snr`` hold all sources, the others those with a signal-to-noise ratio above 20.
        """
        number = len(self) if number is None else number
        bands = np.arange(len(self.truth.bands))
        rows = []
        for quantity, (edges, place) in self.truth.bins().items():
            for k in range(len(edges) - 1):
                for band, which in [*zip(self.truth.bands, bands, strict=True), ("all", bands)]:
                    chosen = (place == k) & np.isin(bands, which)
                    rows += [
                        {
                            "quantity": quantity,
                            "low": edges[k],
                            "high": edges[k + 1],
                            "band": band,
                            "deblender": entry.name,
                            "blends": number,
                            **self._summary(entry, chosen, number, any_snr=quantity == "snr"),
                        }
                        for entry in self._tried(number)
                    ]
        return QTable(rows, names=list(rows[0]), meta=self._meta())

    def to_colours(self, number=None):
        """Return the errors of the colours.

        Parameters
        ----------
        number : int, optional
            As for `to_table`.

        Returns
        -------
        `~astropy.table.QTable`
            A row per ``deblender``; for each pair of adjacent bands the median of the modulus of
            the colour's error in mag, of sources with a signal-to-noise ratio above 20 in both.
            Where a flux is not positive the error is infinite.
        """
        number = len(self) if number is None else number
        bands, bright = self.truth.bands, self.truth.bright[:number]
        rows = []
        for entry in self._tried(number):
            row = {"deblender": entry.name}
            for b in range(len(bands) - 1):
                error = entry.scores["colour"][:number, :, b][bright[..., b] & bright[..., b + 1]]
                row[f"{bands[b]}-{bands[b + 1]}"] = _median(np.abs(error))
            rows.append(row)
        return QTable(rows, names=list(rows[0]), meta=self._meta())

    def to_dict(self):
        """Return everything that `str` shows, for JSON: numbers that are not finite are None."""
        return plain(
            {
                **self._meta(),
                "bands": {str(n): _rows(self.to_table(n)) for n in self.sets},
                "colours": {str(n): _rows(self.to_colours(n)) for n in self.sets},
                "bins": {str(n): _rows(self.to_bins(n)) for n in self.sets},
                "deblenders": [
                    {
                        name: getattr(entry, name)
                        for name in (
                            *("name", "version", "kind", "given", "settings", "failures"),
                            *("milliseconds", "timed"),
                        )
                    }
                    for entry in self.entries
                ],
                "not installed": list(self.missing),
            }
        )

    def on_card(self, card):
        """Return a card with a model's scores added, of all blends.

        Parameters
        ----------
        card : astrodeblend.weights.Card
            Of a model that took part; scores of the same survey and split are replaced.

        Returns
        -------
        astrodeblend.weights.Card
        """
        table = self.to_table()
        (mine,) = np.unique(table["deblender"][table["version"] == card.sha256[:8]])
        scores = {"blends": len(self)}
        scores |= {name: self.meta[name] for name in ("seed",) if name in self.meta}
        for metric, column in _ON_CARD.items():
            scores[metric] = {
                str(row["band"]): round(float(row[column]), 4)
                for row in table[table["deblender"] == mine]
            }
        name = f"{self.meta['survey']} on {self.meta.get('split', 'parametric')}"
        return replace(card, scores={**card.scores, name: scores})

    def notes(self):
        """Say what the numbers mean.

        Returns
        -------
        list of str
        """
        return [*_NOTES, *(note for entry in self.entries for note in notes_on(entry))]

    def write(self, folder, *, overwrite=False):
        """Write tables, numbers and figures to a folder: all of the files, or none.

        Parameters
        ----------
        folder : str or path-like
            Where to; it is made if its parent exists. The files are ``benchmark.ecsv``
            (`to_table`) and ``bins.ecsv`` (`to_bins`), both of all blends and of those that all
            deblenders have tried, told apart by the column ``blends``; ``benchmark.json``
            (`to_dict`); ``benchmark.png`` (errors of fluxes, binned, and against time) and
            ``panels.png`` (what each deblender made of a few blends).
        overwrite : bool, optional
            Replace files that are there already.

        Raises
        ------
        FileExistsError, FileNotFoundError, PermissionError
            If a file exists, the folder's parent does not, or nothing can be written there.
        """
        with atomic_paths(folder, SURVEY_FILES, overwrite=overwrite) as paths:
            for make, path in zip((self.to_table, self.to_bins), paths[:2], strict=True):
                tables = [make(number) for number in self.sets]
                vstack(tables, metadata_conflicts="silent").write(path, format="ascii.ecsv")
            paths[2].write_text(json.dumps(self.to_dict(), indent=1) + "\n")
            self.draw_errors().savefig(paths[3])
            self.draw_panels().savefig(paths[4])

    def draw_errors(self):
        """Draw the errors of fluxes against separation, flux ratio, S/N and time.

        Returns
        -------
        `~matplotlib.figure.Figure`
        """
        return errors(self)

    def draw_panels(self):
        """Draw the first few blends, a row each: truth, blend, and what each made of it.

        The numbers are the errors of fluxes in the band with the highest signal-to-noise ratios.

        Returns
        -------
        `~matplotlib.figure.Figure`
        """
        reference = int(np.argmax(np.median(self.truth.snr, axis=(0, 1))))
        labels = {
            entry.name: [
                [f"{100 * error:+.1f} %" for error in pair]
                for pair in entry.scores["flux"][: len(self.pictures["blend"]), :, reference]
            ]
            for entry in self.entries
        }
        return panels(self.pictures, labels)

    def __str__(self):
        told = ", ".join(f"{k} {v}" for k, v in self.meta.items() if k != "survey")
        lines = [f"{self.blends}{', ' if told else ''}{told}", ""]
        lines += table_lines(
            QTable(
                [
                    {
                        "deblender": entry.name,
                        "version": entry.version,
                        "blends": len(entry),
                        "failures": sum(entry.failures.values()),
                        "milliseconds": entry.milliseconds,
                    }
                    for entry in self.entries
                ]
            ),
            ("deblender", "version"),
            {
                "blends": ("", "blends", 8, 0),
                "failures": ("fail-", "ures", 7, 0),
                "milliseconds": ("ms per", "blend", 10, 1),
            },
        )
        lines += self.missing
        for number in self.sets:
            lines += ["", _title(number, len(self)), *self._text(number)]
        return "\n".join([*lines, *closing_lines(self)])

    def _text(self, number):
        """Lay out the tables of the first blends."""
        table = self.to_table(number)
        some = np.isfinite(table["pixels_68"]).any()
        shown = {k: v for k, v in _SHOWN.items() if some or not k.startswith(("pixels", "fluxes"))}
        lines = ["", *table_lines(table, ("band", "deblender"), shown)]
        if len(self.truth.bands) > 1:
            colours = self.to_colours(number)
            names = colours.colnames[1:]
            lines += ["", f"Median error of colours in mag, S/N above {BRIGHT:g} in both bands:"]
            looks = {name: ("", name, 8, 4) for name in names}
            lines += table_lines(colours, ("deblender",), looks)[1:]
        bins = self.to_bins(number)
        bins = bins[bins["band"] == "all"]
        for quantity, title in {
            "separation": "by separation (arcsec)",
            "fainter": "by magnitudes fainter than the neighbour",
            "snr": "by S/N in the band",
        }.items():
            rows, looks = {}, {}
            for row in bins[bins["quantity"] == quantity]:
                name = _interval(row["low"], row["high"])
                looks[name] = ("", name, 14, 4)
                rows.setdefault(row["deblender"], {})[name] = row["flux_median"]
            table = QTable([{"deblender": name, **row} for name, row in rows.items()])
            lines += ["", f"Median flux error, all bands together, {title}:"]
            lines += table_lines(table, ("deblender",), looks)[1:]
        return lines

    def _tried(self, number):
        return [entry for entry in self.entries if len(entry) >= number]

    def _summary(self, entry, chosen, number, *, any_snr=False):
        chosen = chosen[:number]
        bright = chosen if any_snr else chosen & self.truth.bright[:number]
        found = summary(entry.scores, bright, self.truth.pixel_scale)
        every = summary(entry.scores, chosen, self.truth.pixel_scale)
        names = list(found)
        after = names.index("flux_bias") + 1
        every = {f"{name}_any": every[name] for name in ("flux_mean", "flux_median")}
        return {k: found[k] for k in names[:after]} | every | {k: found[k] for k in names[after:]}

    def _meta(self):
        return {
            "description": self.blends,
            **self.meta,
            "machine": self.machine,
            "versions": self.versions,
            "notes": self.notes(),
        }


def summary(scores, chosen, pixel_scale=1.0):
    """Put the scores of some sources together.

    Parameters
    ----------
    scores : dict of str to numpy.ndarray
        As in `SurveyEntry`.
    chosen : numpy.ndarray of bool
        Shape (blends, 2, bands), of the first blends: which sources in which bands.
    pixel_scale : float, optional
        In arcsec.

    Returns
    -------
    dict of str to float
        Columns of `SurveyBenchmark.to_table`, NaN where there are no such sources.
    """
    values = {
        name: each[: len(chosen)][chosen] for name, each in scores.items() if name != "colour"
    }
    row = {
        "sources": int(chosen.sum()),
        "flux_mean": _mean(np.abs(values["flux"])),
        "flux_median": _median(np.abs(values["flux"])),
        "flux_bias": _mean(values["flux"]),
        "total_mean": _mean(np.abs(values["total"])),
        "total_median": _median(np.abs(values["total"])),
        "centroid": pixel_scale * _median(values["centroid"]),
        "ellipticity": _median(values["ellipticity"]),
        "psnr": _mean(values["psnr"]),
    }
    for name in ("pixels_68", "pixels_95", "fluxes_68", "fluxes_95"):
        if name not in values or not row["sources"]:
            row[name] = np.nan
        elif name.startswith("pixels"):
            row[name] = values[name].sum() / values["pixels"].sum()
        else:
            row[name] = values[name].mean()
    return row


def _mean(values):
    return float(np.mean(values)) if len(values) else np.nan


def _median(values):
    return float(np.median(values)) if len(values) else np.nan


def _rows(table):
    return [dict(zip(table.colnames, row, strict=True)) for row in table.iterrows()]


def _title(number, total):
    text = f"All {number} blends" if number == total else f"The first {number}, which all tried"
    return f"{text}\n{'=' * len(text)}"


def _interval(low, high):
    if np.isneginf(low):
        return f"< {high:g}"
    if np.isposinf(high):
        return f"> {low:g}"
    return f"{low:.3g} to {high:.3g}"
