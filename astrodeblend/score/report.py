"""What was scored, as one report: words, tables, numbers, figures, and what stands on a card."""

import json
import textwrap
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np

from astrodeblend import __version__
from astrodeblend.files import atomic_paths, plain
from astrodeblend.metrics import bootstrap_error

__all__ = [
    "Report",
    "about",
    "about_text",
    "aligned",
    "closing_lines",
    "coverage_lines",
    "files",
    "limits_text",
    "mean",
    "median",
    "number_text",
    "quantile",
    "ratio_of_sums",
    "rows_of",
    "share_of",
    "standard_error",
    "table_lines",
]

_RESAMPLES = 200  # of the bootstrap: errors to 5 %


@dataclass(frozen=True, eq=False)
class Report:
    """What was scored; `str` gives it as text.

    Attributes
    ----------
    text : str
        All of it in words, as commands print it.
    tables : dict of str to `~astropy.table.QTable`
        By name; what they list is said where the report is made.
    numbers : dict
        What the text shows, for JSON.
    figures : dict of str to callable
        Each draws a figure.
    json : str
        Name of the file for ``numbers``; none is written if it is empty.
    card_scores : dict of str to dict
        What models' cards get, by the first eight digits of their hashes.
    dpi : int, optional
        Of figures; by default what they have.
    measured : types.SimpleNamespace
        What the tables are made of.
    """

    text: str
    tables: dict
    numbers: dict
    figures: dict = field(default_factory=dict)
    json: str = ""
    card_scores: dict = field(default_factory=dict)
    dpi: int | str = "figure"
    measured: SimpleNamespace = field(default_factory=SimpleNamespace)

    def __str__(self):
        return self.text

    @property
    def files(self):
        """Names of the files that `write` writes."""
        return files(self.tables, [self.json] if self.json else [], self.figures)

    def to_dict(self):
        """Return the numbers for JSON: those that are not finite are None."""
        return plain(self.numbers)

    def to_card(self, card):
        """Return a model's card with these scores added; older ones of the same name go.

        Parameters
        ----------
        card : astrodeblend.weights.Card
            Of a model that took part.
        """
        found = self.card_scores.get(card.sha256[:8])
        if found is None:
            raise ValueError(f"card is that of model {card.name!r}, which has no scores here")
        return replace(card, scores=card.scores | found)

    def write(self, folder, *, overwrite=False):
        """Write `files`: tables (ECSV), numbers (JSON) and figures (PNG), all of them or none.

        Parameters
        ----------
        folder : str or path-like
            Made if its parent exists.
        overwrite : bool, optional
            Replace files that are there already. By default that is refused.
        """
        with atomic_paths(folder, self.files, overwrite=overwrite) as paths:
            paths = iter(paths)
            for table in self.tables.values():
                table.write(next(paths), format="ascii.ecsv")
            if self.json:
                text = json.dumps(self.to_dict(), indent=1) + "\n"
                next(paths).write_text(text, encoding="utf-8")
            for draw in self.figures.values():
                draw().savefig(next(paths), dpi=self.dpi)


def files(tables, numbers, figures):
    """Return the names of files of tables, numbers and figures."""
    ends = {".ecsv": tables, ".json": numbers, ".png": figures}
    return tuple(name + end for end, names in ends.items() for name in names)


def rows_of(table):
    """Return the rows of a table, each a dictionary."""
    return [dict(zip(table.colnames, row, strict=True)) for row in table.iterrows()]


def aligned(rows, left=1):
    """Lay rows of texts out as lines, the first columns flush left; a row of one is a title."""
    columns = zip(*(row for row in rows if len(row) > 1), strict=True)
    widths = [max(map(len, column)) for column in columns]
    for row in rows:
        if len(row) > 1:
            cells = zip(row, widths, strict=True)
            row = [f"{c:{'<' if k < left else '>'}{w}}" for k, (c, w) in enumerate(cells)]
        yield "  ".join(row)


def table_lines(table, words, shown):
    """Lay a table out as lines of text: columns of words, then numbers, if it has them.

    ``words`` are names of columns, or texts by their heading. ``shown`` says of a column its
    heading (two lines), digits, and what it is multiplied by, if not by 1; an error stands behind
    the number if there is a column of it, of the same name and ``_error``.
    """
    if not isinstance(words, dict):
        words = {name: table[name] for name in words}
    shown = {name: look for name, look in shown.items() if name in table.colnames}
    heads = [[""] * len(words), list(words)]
    columns = list(words.values())
    for name, (first, second, digits, *times) in shown.items():
        for head, text in zip(heads, (first, second), strict=True):
            head.append(text)
        values = np.multiply(table[name], times or 1)
        errors = np.full(len(table), np.nan)
        if f"{name}_error" in table.colnames:
            errors = np.multiply(table[f"{name}_error"], times or 1)
        pairs = zip(values, errors, strict=True)
        columns.append([number_text(value, digits, error) for value, error in pairs])
    return list(aligned([*heads[not any(heads[0]) :], *zip(*columns, strict=True)], len(words)))


def number_text(value, digits, error=np.nan):
    """Write a number, with its error if that is known; a dash where there is none."""
    text = "-" if np.isnan(value) else f"{value:.{digits}f}"
    return text if np.isnan(error) else f"{text} ± {error:.{digits}f}"


def limits_text(low, high):
    """Write an interval that includes its lower end."""
    if np.isneginf(low):
        return f"below {high:.3g}"
    return f"from {low:.3g}" if np.isinf(high) else f"{low:.3g} to {high:.3g}"


def coverage_lines(table, *words):
    """Lay out how many truths are within error bars; ``words`` are columns that say of what."""
    names = ["  " + ", ".join(row) for row in zip(*(table[name] for name in words), strict=True)]
    shown = {
        "number": ("", "number", 0),
        "within_68": ("", "within 68.3 %", 1, 100),
        "within_95": ("", "within 95.4 %", 1, 100),
        "interval_95": ("", "which is ± errors", 2),
    }
    return table_lines(table, {"": names}, shown)


def about(deblender):
    """Return what stands over tables of a model's scores."""
    card = deblender.card
    return {"model": card.name, "sha256": card.sha256, "arithmetic": deblender.arithmetic}


def about_text(meta):
    """Write that in words."""
    model = f"model {meta['model']} (sha256 {meta['sha256'][:12]})"
    return f"{model}, {meta['arithmetic']}, astrodeblend {__version__}"


def closing_lines(machine, versions, notes):
    """Return notes, machine and versions as lines of text."""
    machine = ", ".join(f"{name}: {value}" for name, value in machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in versions.items())
    lines = [line for note in notes for line in textwrap.wrap(note, 100)]
    return ["", *lines, "", machine, *textwrap.wrap(versions, 100)]


def median(values):
    """Return the median of values; NaN of none."""
    return float(np.median(values)) if len(values) else np.nan


def quantile(values, share, *, method="linear"):
    """Return a quantile of values; NaN of none."""
    return float(np.quantile(values, share, method=method)) if len(values) else np.nan


def mean(values):
    """Return the mean of values; NaN of none."""
    return float(np.mean(values)) if len(values) else np.nan


def standard_error(values, statistic=np.mean):
    """Return the standard error of a statistic by bootstrap over rows; NaN of less than two."""
    if len(values) < 2:
        return np.nan
    return bootstrap_error(values, statistic, resamples=_RESAMPLES, rng=0)


def ratio_of_sums(rows):
    """Return the sum of the first column over that of the second."""
    part, total = np.sum(rows, axis=0)
    return float(part / total) if total else np.nan


def share_of(name, part, total):
    """Return a share of all under its name, and its error by bootstrap over rows."""
    sums = np.stack([part, total], axis=1)
    return {name: ratio_of_sums(sums), f"{name}_error": standard_error(sums, ratio_of_sums)}
