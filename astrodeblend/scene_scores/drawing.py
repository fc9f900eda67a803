"""Figure of the scores of scenes."""

import numpy as np
from matplotlib.figure import Figure

__all__ = ["errors"]

# Okabe & Ito's colours, told apart by all eyes; each with a marker and line of its own.
_STYLES = {
    "apportioned": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "network": {"color": "#009E73", "marker": "D", "linestyle": "--"},
    "photutils": {"color": "#D55E00", "marker": "s", "linestyle": ":"},
}
_ROWS = {"given": "true positions given", "detected": "positions detected"}


def errors(table, labels, *, title):
    """Draw the median error of the flux against what galaxies are grouped by.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        From `astrodeblend.scene_scores.SceneScores.to_table`.
    labels : dict of str to str
        What to write below each quantity.
    title : str
        Over the figure.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(4 * len(labels), 6.4), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(2, len(labels), sharey=True, squeeze=False)
    for (positions, words), row in zip(_ROWS.items(), grid, strict=True):
        for axes, (quantity, label) in zip(row, labels.items(), strict=True):
            chosen = (table["positions"] == positions) & (table["by"] == quantity)
            chosen &= table["number"] > 0
            rows = table[chosen]
            names = [
                f"{low:g}" if quantity == "number" else _limits(low, high)
                for low, high in zip(rows["low"], rows["high"], strict=True)
            ]
            for k, (method, style) in enumerate(_STYLES.items()):
                axes.errorbar(
                    np.arange(len(rows)) + 0.08 * (k - 1), rows[f"median_{method}"],
                    yerr=np.nan_to_num(rows[f"median_{method}_error"]), label=method,
                    capsize=3, markersize=5, linewidth=1.2, **style,
                )  # fmt: skip
            axes.set_xticks(range(len(rows)), names, fontsize=8)
            axes.set_xlabel(label, fontsize=9)
            axes.grid(alpha=0.3)
        row[0].set_ylabel(f"median abs(dF / F)\n{words}")
    grid[0, 0].set_yscale("log")
    grid[0, 0].legend(fontsize=8)
    return figure


def _limits(low, high):
    return f"from {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"
