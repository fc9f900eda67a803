"""What was scored, as one report: words, tables, numbers, figures, and what stands on a card."""

import json
import textwrap
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np

from astrodeblend.files import atomic_paths, plain
from astrodeblend.metrics import bootstrap_error

__all__ = [
    "Report",
    "closing_lines",
    "limits_text",
    "number_text",
    "ratio_of_sums",
    "rows_of",
    "share_text",
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
        numbers = [f"{self.json}.json"] if self.json else []
        tables, figures = (
            (f"{name}.ecsv" for name in self.tables),
            map("{}.png".format, self.figures),
        )
        return (*tables, *numbers, *figures)

    def to_dict(self):
        """Return the numbers for JSON: those that are not finite are None."""
        return plain(self.numbers)

    def to_card(self, card):
        """Return a model's card with these scores added; older ones of the same name go.

        Parameters
        ----------
        card : astrodeblend.weights.Card

        Returns
        -------
        astrodeblend.weights.Card

        Raises
        ------
        ValueError
            If the model did not take part.
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

        Raises
        ------
        FileExistsError, FileNotFoundError, PermissionError
            If a file exists, the folder's parent does not, or nothing can be written there.
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


def rows_of(table):
    """Return the rows of a table, each a dictionary."""
    return [dict(zip(table.colnames, row, strict=True)) for row in table.iterrows()]


def table_lines(table, words, shown):
    """Lay a table out as lines of text: columns of ``words``, then numbers, if it has them.

    ``shown`` says of a column its heading (two lines), width and digits.
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
        cells += [number_text(row[name], look[3], look[2]) for name, look in shown.items()]
        lines.append("".join(cells))
    return lines


def number_text(value, digits, width, error=np.nan):
    """Write a number, with its error if that is known; a dash where there is none."""
    text = "-" if np.isnan(value) else f"{value:.{digits}f}"
    return (text if np.isnan(error) else f"{text} ± {error:.{digits}f}").rjust(width)


def limits_text(low, high):
    """Write an interval that includes its lower end."""
    if np.isinf(low):
        return f"below {high:g}"
    return f"from {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"


def share_text(row, name, width):
    """Write a share and its error in per cent."""
    return number_text(100 * row[name], 1, width, 100 * row[f"{name}_error"])


def closing_lines(machine, versions, notes):
    """Return notes, machine and versions as lines of text."""
    machine = ", ".join(f"{name}: {value}" for name, value in machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in versions.items())
    lines = [line for note in notes for line in textwrap.wrap(note, 100)]
    return ["", *lines, "", machine, *textwrap.wrap(versions, 100)]


def standard_error(values, statistic=np.mean):
    """Return the standard error of a statistic by bootstrap over rows; NaN of less than two."""
    if len(values) < 2:
        return np.nan
    return bootstrap_error(values, statistic, resamples=_RESAMPLES, rng=0)


def ratio_of_sums(rows):
    """Return the sum of the first column over that of the second."""
    part, total = np.sum(rows, axis=0)
    return float(part / total) if total else np.nan
