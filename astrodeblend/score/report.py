"""A report on what was scored: text, tables, numbers, figures, and scores for models' cards."""

import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from astrodeblend import __version__
from astrodeblend.files import atomic_paths, plain
from astrodeblend.metrics import bootstrap_error

_RESAMPLES = 200  # of the bootstrap: standard errors are good to 5 %


@dataclass(frozen=True, eq=False)
class Report:
    """What was scored; `str` gives it as text.

    Attributes
    ----------
    text : str
        What commands print.
    tables : dict of str to `~astropy.table.QTable`
        Tables by name; :ref:`score-tables` describes their columns.
    numbers : dict
        The numbers of the text, for JSON.
    figures : dict of str to callable
        Functions without parameters that draw a figure, by name.
    json : str
        Name of the file for ``numbers``, without ending; empty for no such file.
    card_scores : dict of str to dict
        Scores for models' cards, by the first eight digits of the weights' SHA-256.
    dpi : int or 'figure'
        Resolution of the figures' files in dots per inch. Default: that of each figure.
    measured : types.SimpleNamespace
        Arrays and objects that tables and figures are made of.
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
        numbers = [f"{self.json}.json"] if self.json else []
        return (
            *(f"{name}.ecsv" for name in self.tables),
            *numbers,
            *(f"{name}.png" for name in self.figures),
        )

    def to_dict(self):
        """Return the numbers for JSON, with None for those that are not finite."""
        return plain(self.numbers)

    def to_card(self, card):
        """Return a model's card with these scores added, in place of older ones of the same name.

        Parameters
        ----------
        card : astrodeblend.weights.Card
            Card of a model that was scored.
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
            Folder for the files; it is made if its parent exists.
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


class Measure(NamedTuple):
    """A column of numbers: how its heading and its values are printed, and how it is measured."""

    first: str  # The heading, in two lines.
    second: str
    digits: int  # after the point
    times: float = 1  # what values are multiplied by in print, 100 for per cent
    of: Callable | None = None  # measures a sample, for `measured`


def measured(measures, *sample):
    """Return the row of a table: all measures of a sample, by name."""
    return {name: measure.of(*sample) for name, measure in measures.items()}


def rows_of(table):
    """Return the rows of a table as dictionaries."""
    return [dict(zip(table.colnames, row, strict=True)) for row in table.iterrows()]


def aligned(rows, left=1):
    """Yield rows of cells as lines, the first ``left`` columns flush left; one cell is a title."""
    columns = zip(*(row for row in rows if len(row) > 1), strict=True)
    widths = [max(map(len, column)) for column in columns]
    for row in rows:
        if len(row) > 1:
            cells = zip(row, widths, strict=True)
            row = [f"{c:{'<' if k < left else '>'}{w}}" for k, (c, w) in enumerate(cells)]
        yield "  ".join(row)


def table_lines(table, words, measures):
    """Return lines of text: columns of words, then those of the measures that the table has.

    ``words`` are names of columns, or texts by their heading. A column of the same name and
    ``_error`` has standard errors, which stand behind the numbers.
    """
    if not isinstance(words, dict):
        words = {name: table[name] for name in words}
    heads, columns = [[""] * len(words), list(words)], list(words.values())
    for name in [name for name in measures if name in table.colnames]:
        first, second, digits, times, _ = measures[name]
        heads[0].append(first)
        heads[1].append(second)
        error = f"{name}_error"
        errors = table[error] if error in table.colnames else np.full(len(table), np.nan)
        pairs = zip(np.multiply(table[name], times), np.multiply(errors, times), strict=True)
        columns.append([number_text(value, digits, error) for value, error in pairs])
    return list(aligned([*heads[not any(heads[0]) :], *zip(*columns, strict=True)], len(words)))


def number_text(value, digits, error=np.nan):
    """Write a number, with ± its error if that is known; a dash for NaN."""
    text = "-" if np.isnan(value) else f"{value:.{digits}f}"
    return text if np.isnan(error) else f"{text} ± {error:.{digits}f}"


def limits_text(low, high):
    """Write an interval that includes its lower end."""
    if np.isneginf(low):
        return f"below {high:.3g}"
    return f"from {low:.3g}" if np.isinf(high) else f"{low:.3g} to {high:.3g}"


def about(deblender):
    """Return name, hash and arithmetic of a model, which stand over tables of its scores."""
    card = deblender.card
    return {"model": card.name, "sha256": card.sha256, "arithmetic": deblender.arithmetic}


def about_text(meta):
    """Write what `about` returns."""
    model = f"model {meta['model']} (sha256 {meta['sha256'][:12]})"
    return f"{model}, {meta['arithmetic']}, astrodeblend {__version__}"


def closing_lines(machine, versions, notes):
    """Return notes, machine and versions as lines of text."""
    machine = ", ".join(f"{name}: {value}" for name, value in machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in versions.items())
    lines = [line for note in notes for line in textwrap.wrap(note, 100)]
    return ["", *lines, "", machine, *textwrap.wrap(versions, 100)]


def within(values, low, high):
    """Return which values are in a bin: from ``low`` up to, not with, ``high``."""
    return (values >= low) & (values < high)


def mean(values):
    """Return the mean of values; NaN of none."""
    return float(np.mean(values)) if len(values) else np.nan


def median(values):
    """Return the median of values; NaN of none."""
    return float(np.median(values)) if len(values) else np.nan


def quantile(values, share, *, method="linear"):
    """Return a quantile of values; NaN of none."""
    return float(np.quantile(values, share, method=method)) if len(values) else np.nan


def standard_error(values, statistic=np.mean, *, resamples=_RESAMPLES):
    """Return the standard error of a statistic by bootstrap over rows; NaN of less than two."""
    if len(values) < 2:
        return np.nan
    return bootstrap_error(values, statistic, resamples=resamples, rng=0)


def ratio_of_sums(rows):
    """Return the sum of the first column over that of the second; NaN where that is 0."""
    part, total = np.sum(rows, axis=0)
    return float(part / total) if total else np.nan


def share_of(name, part, total):
    """Return the share of all, by its name, and its standard error by bootstrap over rows."""
    sums = np.stack([part, total], axis=1)
    return {name: ratio_of_sums(sums), f"{name}_error": standard_error(sums, ratio_of_sums)}
