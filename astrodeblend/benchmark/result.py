"""Deblenders side by side: the table, its notes, and the files."""

import json
import textwrap
from dataclasses import dataclass

import numpy as np
from astropy.table import QTable

from astrodeblend.blends import BlendSet
from astrodeblend.files import atomic_paths, plain
from astrodeblend.metrics import bootstrap_error, psnr

from .drawing import panels, quality

__all__ = ["FILES", "Benchmark", "Entry", "closing_lines", "notes_on", "table_lines"]

#: Files that `Benchmark.write` writes.
FILES = ("benchmark.ecsv", "benchmark.json", "benchmark.png", "panels.png")
# What the numbers mean.
_NOTES = """\
PSNR of images from 0 to 1, both components together. Of a peer, the pair of sources that scores \
highest is taken, in the better order, and its other sources are dropped or added to the nearer \
of the pair, whichever scores higher. Models are scored as they come.
±: standard error of the mean, by bootstrap over blends.
By position: mean PSNR without that look at the truth; a galaxy gets the source at its position.
Flux error: median of |found / true - 1| in the true galaxy's footprint.
Failures: blends in which a peer found fewer than two sources, or stopped with an error. The \
blend is then taken for both galaxies, or the one source and the sky, whichever scores higher.
""".splitlines()
_REASONS = 3  # for failures of a peer, the most frequent, that are told
# What the table shows of a column: heading (two lines), width and digits.
_SHOWN = {
    "blends": ("", "blends", 8, 0),
    "psnr_mean": ("PSNR dB", "mean", 9, 2),
    "psnr_error": ("", "±", 6, 2),
    "psnr_median": ("", "median", 8, 2),
    "psnr_p1": ("", "1 %", 8, 2),
    "psnr_min": ("", "min", 8, 2),
    "psnr_by_position": ("by posi-", "tion", 10, 2),
    "psnr_same_blends": ("same", "blends", 8, 2),
    "psnr_same_error": ("", "±", 6, 2),
    "ssim": ("", "ssim", 8, 3),
    "ssim_reiman2019": ("ssim_rei-", "man2019", 10, 3),
    "flux_error": ("flux", "error", 8, 3),
    "failures": ("fail-", "ures", 7, 0),
    "milliseconds": ("ms per", "blend", 10, 1),
}


@dataclass(frozen=True, eq=False)
class Entry:
    """What one deblender scored.

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
        For ``psnr``, ``ssim_reiman2019``, ``ssim`` and ``flux_error`` (relative, with its
        sign) the score of every component, shape (blends, 2), central first.
    by_position : numpy.ndarray
        PSNR if nothing but the galaxies' positions is used to tell the components apart, shape
        (blends, 2).
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
    by_position: np.ndarray
    failures: dict[str, int]
    milliseconds: float
    timed: str

    def __len__(self):
        return len(self.by_position)

    def summary(self, same=None):
        """Return the row of the table.

        Parameters
        ----------
        same : int, optional
            Also average the PSNR of so many blends, the first.

        Returns
        -------
        dict
        """
        score = self.scores["psnr"]
        row = {
            "deblender": self.name,
            "version": self.version,
            "blends": len(self),
            "psnr_mean": score.mean(),
            "psnr_error": bootstrap_error(score, rng=0),
            "psnr_median": np.median(score),
            "psnr_p1": np.percentile(score, 1),
            "psnr_min": score.min(),
            "psnr_by_position": self.by_position.mean(),
        }
        if same is not None:
            row["psnr_same_blends"] = score[:same].mean()
            row["psnr_same_error"] = bootstrap_error(score[:same], rng=0)
        return row | {
            "ssim": self.scores["ssim"].mean(),
            "ssim_reiman2019": self.scores["ssim_reiman2019"].mean(),
            "flux_error": np.nanmedian(np.abs(self.scores["flux_error"])),
            "failures": sum(self.failures.values()),
            "milliseconds": self.milliseconds,
        }


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Deblenders side by side, on the same blends.

    Made by `benchmark`; `str` gives the table with its notes as text.

    Attributes
    ----------
    blends : BlendSet
        What they were tried on.
    entries : tuple of Entry
        The blend itself, the peers, the models.
    missing : tuple of str
        What to say of peers that are not installed.
    machine, versions : dict of str
        Where and with what it was run.
    pictures : dict of str to numpy.ndarray
        Of the first few blends: the ``"truth"`` and, by name, what each deblender made of
        them, shape (n, 2, bands, y, x), and the ``"blend"``, shape (n, bands, y, x).
    """

    blends: BlendSet
    entries: tuple[Entry, ...]
    missing: tuple[str, ...]
    machine: dict[str, str | int]
    versions: dict[str, str]
    pictures: dict[str, np.ndarray]

    @property
    def same(self):
        """Number of blends that all have tried, if some were tried on fewer; else None."""
        fewest = min(map(len, self.entries))
        return fewest if fewest < len(self.blends) else None

    def to_table(self):
        """Return the table.

        Returns
        -------
        `~astropy.table.QTable`
            A row per ``deblender``, with its ``version`` and the number of ``blends`` it was
            tried on. Columns of both components together: ``psnr_mean``, its standard error
            ``psnr_error`` (by bootstrap over blends), ``psnr_median``, ``psnr_p1`` (1st
            percentile) and ``psnr_min`` in dB; ``psnr_by_position``, the mean when components
            are told apart by position instead of in the peer's favour; ``psnr_same_blends``,
            the mean on the blends that all have tried, and ``psnr_same_error`` (only if some
            were tried on fewer); the means of ``ssim`` and ``ssim_reiman2019``; ``flux_error``, the
            median of the modulus of `astrodeblend.metrics.flux_error`; ``failures``, blends in
            which fewer than two sources were found; and ``milliseconds`` per blend.
        """
        rows = [entry.summary(self.same) for entry in self.entries]
        meta = {"blends": len(self.blends), **self.blends.meta}
        meta |= {"machine": self.machine, "versions": self.versions, "notes": self.notes()}
        return QTable(rows, names=list(rows[0]), meta=meta)

    def to_dict(self):
        """Return everything that `str` shows, for JSON: numbers that are not finite are None."""
        deblenders = [
            entry.summary(self.same)
            | {
                "kind": entry.kind,
                "given": entry.given,
                "settings": entry.settings,
                "reasons of failures": entry.failures,
            }
            for entry in self.entries
        ]
        return plain(
            {
                "blends": len(self.blends),
                "folder": str(self.blends.folder),
                **self.blends.meta,
                "deblenders": deblenders,
                "not installed": list(self.missing),
                "machine": self.machine,
                "versions": self.versions,
                "notes": self.notes(),
            }
        )

    def notes(self):
        """Say what the numbers mean.

        Returns
        -------
        list of str
        """
        notes = [*_NOTES]
        if self.same is not None:
            notes.append(f"Same blends: mean PSNR of the first {self.same}, which all have tried.")
        for entry in self.entries:
            told = notes_on(entry)
            if entry.name == "scarlet2":
                modes = ", ".join(self.blends.recipe.modes)
                told.insert(
                    1,
                    "scarlet2 models scenes of linear flux in which light adds. These blends are "
                    f"of colour pictures, whose values are no flux, and of mode {modes}.",
                )
            notes += told
        return notes

    def write(self, folder, *, overwrite=False):
        """Write table, numbers and figures to a folder: all of the files, or none.

        Parameters
        ----------
        folder : str or path-like
            Where to; it is made if its parent exists. The files are ``benchmark.ecsv``
            (`to_table`), ``benchmark.json`` (`to_dict`), ``benchmark.png`` (quality against
            time) and ``panels.png`` (what each deblender made of a few blends).
        overwrite : bool, optional
            Replace files that are there already.

        Raises
        ------
        FileExistsError, FileNotFoundError, PermissionError
            If a file exists, the folder's parent does not, or nothing can be written there.
        """
        with atomic_paths(folder, FILES, overwrite=overwrite) as (table, numbers, quality, panels):
            self.to_table().write(table, format="ascii.ecsv")
            numbers.write_text(json.dumps(self.to_dict(), indent=1) + "\n")
            self.draw_quality().savefig(quality)
            self.draw_panels().savefig(panels)

    def draw_quality(self):
        """Draw the mean PSNR against the time per blend.

        Returns
        -------
        `~matplotlib.figure.Figure`
        """
        return quality(self)

    def draw_panels(self):
        """Draw the first few blends, a row each: truth, blend, and what each made of it.

        Returns
        -------
        `~matplotlib.figure.Figure`
        """
        truth = self.pictures["truth"]
        labels = {
            name: [[f"{score:.1f} dB" for score in pair] for pair in psnr(each, truth[: len(each)])]
            for name, each in self.pictures.items()
            if name not in ("truth", "blend")
        }
        return panels(self.pictures, labels)

    def __str__(self):
        return "\n".join(
            [
                *(str(self.blends), ""),
                *table_lines(self.to_table(), ("deblender", "version"), _SHOWN),
                *self.missing,
                *closing_lines(self),
            ]
        )


def table_lines(table, words, shown):
    """Lay a table out as text.

    Parameters
    ----------
    table : `~astropy.table.QTable`
    words : sequence of str
        Columns of text, which come first.
    shown : dict of str to tuple
        Columns of numbers, if the table has them: heading (two lines), width and digits.

    Returns
    -------
    list of str
    """
    shown = {name: look for name, look in shown.items() if name in table.colnames}
    widths = {name: max(map(len, [name, *table[name]])) + 2 for name in words}
    head = ["".join(f"{look[k]:>{look[2]}}" for look in shown.values()) for k in (0, 1)]
    lines = [
        f"{'':{sum(widths.values())}}{head[0]}",
        f"{''.join(f'{name:{width}}' for name, width in widths.items())}{head[1]}",
    ]
    for row in table:
        cells = [f"{row[name]:{width}}" for name, width in widths.items()]
        cells += [_cell(row[name], look[2], look[3]) for name, look in shown.items()]
        lines.append("".join(cells))
    return lines


def notes_on(entry):
    """Say what a deblender was given, how it was timed, and why it failed.

    Parameters
    ----------
    entry : Entry

    Returns
    -------
    list of str
        Empty for doing nothing.
    """
    if entry.kind == "nothing":
        return []
    settings = ", ".join(f"{name} {value}" for name, value in entry.settings.items())
    settings = f" Settings: {settings}." if settings else ""
    reasons = sorted(entry.failures.items(), key=lambda item: -item[1])
    return [
        f"{entry.name}: given {entry.given}. Timed {entry.timed}.{settings}",
        *(
            f"{entry.name}, {number} of {len(entry)} blends: {reason}."
            for reason, number in reasons[:_REASONS]
        ),
    ]


def closing_lines(result):
    """Return the notes of a benchmark, its machine and its versions, as lines of text.

    Parameters
    ----------
    result : Benchmark

    Returns
    -------
    list of str
    """
    machine = ", ".join(f"{name}: {value}" for name, value in result.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in result.versions.items())
    notes = [line for note in result.notes() for line in textwrap.wrap(note, 100)]
    return ["", *notes, "", machine, *textwrap.wrap(versions, 100)]


def _cell(value, width, digits):
    """Write a number; a dash where there is none."""
    return f"{'-':>{width}}" if np.isnan(value) else f"{value:{width}.{digits}f}"
