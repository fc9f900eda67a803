"""Figures of a benchmark."""

from itertools import cycle, pairwise

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullFormatter

__all__ = ["errors", "field_page", "panels", "quality"]

# Okabe & Ito's colours, told apart by all eyes; each deblender, or each kind of them, with a
# marker of its own.
_COLOURS = "#777777", "#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#009E73", "#56B4E9"
_MARKERS = "osD^v<>"
_STYLES = {
    "peer": {"color": "#D55E00", "marker": "s"},
    "model": {"color": "#0072B2", "marker": "o"},
}


def quality(result):
    """Draw the mean PSNR of each deblender against its time per blend.

    Parameters
    ----------
    result : Benchmark

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    for entry in result.entries:
        score = entry.scores["psnr"].mean()
        if entry.kind == "nothing":
            axes.axhline(score, color="#777777", linestyle=":")
            axes.annotate(
                entry.name, (0, score), (6, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", fontsize=8, color="#555555",
            )  # fmt: skip
            continue
        look = {"linestyle": "none", "markersize": 8, **_STYLES[entry.kind]}
        axes.plot(entry.milliseconds, score, **look)
        if result.same is not None:
            same = entry.scores["psnr"][: result.same].mean()
            axes.plot(entry.milliseconds, same, **look, fillstyle="none")
        some = f" ({len(entry)} blends)" if len(entry) < len(result.blends) else ""
        axes.annotate(
            f"{entry.name}{some}", (entry.milliseconds, score), (0, 7),
            textcoords="offset points", fontsize=9, ha="center",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.15)
    axes.grid(alpha=0.3)
    axes.set(xlabel="milliseconds per blend", ylabel="mean PSNR (dB)")
    recipe = result.blends.recipe.name
    some = "" if result.same is None else f" (open: the first {result.same}, which all have tried)"
    axes.set_title(f"{len(result.blends)} blends{some}, recipe {recipe}", fontsize=10)
    return figure


def errors(result):
    """Draw the flux errors on blends of a survey, against what makes them hard and against time.

    Parameters
    ----------
    result : SurveyBenchmark

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(10, 7), dpi=130, layout="constrained")
    axes = figure.subplots(2, 2, sharey=True)
    looks = zip(cycle(_COLOURS), cycle(_MARKERS), strict=False)
    for entry, (colour, marker) in zip(result.entries, looks, strict=False):
        some = f" ({len(entry)} blends)" if len(entry) < len(result) else ""
        look = {"color": colour, "marker": marker, "label": f"{entry.name}{some}"}
        bins = result.to_bins(len(entry))
        bins = bins[(bins["deblender"] == entry.name) & (bins["band"] == "all")]
        for each, quantity in zip(axes.flat, ("separation", "fainter", "snr"), strict=False):
            rows = bins[bins["quantity"] == quantity]
            places = np.arange(len(rows))
            each.plot(places, rows["flux_median"], **look)
            each.plot(places, rows["flux_mean"], **look | {"linestyle": ":", "label": None})
            edges = [f"{edge:.3g}" for edge in rows["high"][:-1]]
            each.set_xticks(places[:-1] + 0.5, edges)
        score = result.overall(entry)
        axes[1, 1].plot(entry.milliseconds, score["flux_median"], **look | {"linestyle": "none"})
        if entry.kind == "nothing":
            axes[1, 1].axhline(score["flux_median"], color=colour, linestyle="--")
    labels = (
        "separation (arcsec)",
        "magnitudes fainter than the neighbour",
        "S/N in the band (all sources)",
        "milliseconds per blend",
    )
    for each, label in zip(axes.flat, labels, strict=True):
        each.set(xlabel=label, yscale="log")
        each.grid(alpha=0.3)
    axes[1, 1].set_xscale("log")
    axes[1, 1].xaxis.set_minor_formatter(NullFormatter())
    axes[1, 1].margins(x=0.2)
    for each in axes[:, 0]:
        each.set_ylabel("flux error |df/f|")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(
        f"{result.blends}\nall bands together, S/N > 20; lines: median, dotted: mean", fontsize=10
    )
    return figure


def panels(pictures, labels):
    """Draw the first blends, a row each: truth, blend, and what each deblender made of it.

    Parameters
    ----------
    pictures : dict of str to numpy.ndarray
        The ``"truth"`` and, by name, what each deblender made of the blends, shape (n, 2, 3, y,
        x), and the ``"blend"``, shape (n, 3, y, x); from 0 to 1.
    labels : dict of str to array_like of str
        What to write on each component, by the deblender's name, shape (n, 2).

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    truth, blend = pictures["truth"], pictures["blend"]
    found = {k: v for k, v in pictures.items() if k not in ("truth", "blend")}
    size = blend.shape[-1]
    gap, top = max(1, size // 40), size // 2
    step = size + gap
    columns = 3 + 2 * len(found)
    # One picture of all, which is drawn at once.
    canvas = np.ones((top + len(blend) * step - gap, columns * step - gap, 3))
    inches = 1.1 / size
    figure = Figure(figsize=(inches * canvas.shape[1], inches * canvas.shape[0]), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1))
    outlined = {
        "color": "white",
        "fontsize": 9,
        "path_effects": [withStroke(linewidth=2, foreground="black")],
    }
    for row in range(len(blend)):
        y = top + row * step
        tried = {name: each[row] for name, each in found.items() if row < len(each)}
        shown = dict(enumerate([*truth[row], blend[row]]))
        for k, name in enumerate(found):
            if name not in tried:
                continue
            for branch in (0, 1):
                column = 3 + 2 * k + branch
                shown[column] = tried[name][branch]
                place = column * step + gap, y + size - 2 * gap
                axes.text(*place, labels[name][row][branch], **outlined)
        for column, picture in shown.items():
            x = column * step
            canvas[y : y + size, x : x + size] = np.moveaxis(picture, 0, -1).clip(0, 1)
    titles = ["true\ncentral", "true\ncompanion", "blend"]
    titles += [f"{name}\n{branch}" for name in found for branch in ("central", "companion")]
    for column, title in enumerate(titles):
        place = column * step + size / 2, top - 2 * gap
        axes.text(*place, title, fontsize=9, ha="center", va="bottom")
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    return figure


def field_page(result):
    """Draw what deblenders make of fields by signal to noise, and what they find in the first one.

    Parameters
    ----------
    result : FieldBenchmark

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    found = {k: v for k, v in result.pictures.items() if k not in ("image", "truth")}
    columns = max(3, len(found))
    figure = Figure(figsize=(4 * columns, 8), dpi=130, layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    left, middle, right = upper.subplots(1, 3)
    edges = np.array([5, 7, 10, 15, 20, 30, 50, 100, 1000])
    entries = [entry for entry in result.entries if entry.positions == "detected"]
    looks = zip(cycle(_COLOURS[1:]), cycle(_MARKERS), strict=False)
    for entry, (colour, marker) in zip(entries, looks, strict=False):
        rows = [result.numbers(entry, limits) for limits in pairwise(edges)]
        look = {"color": colour, "marker": marker, "label": entry.name}
        middles = np.sqrt(edges[1:] * edges[:-1])
        for axes, name in ((left, "error_median"), (middle, "complete"), (right, "within_1")):
            axes.plot(middles, [row[name] for row in rows], **look)
        left.plot(middles, [row["error_90"] for row in rows], color=colour, linestyle=":")
    right.axhline(0.683, color="#777777", linestyle="--")
    band = result.bands[result.band]
    for axes, label in (
        (left, "|dF| over the noise limit: median, 90 % (dotted)"),
        (middle, "complete"),
        (right, "fluxes within one error"),
    ):
        axes.set(xscale="log", xlabel=f"S/N in {band}", ylabel=label)
        axes.grid(alpha=0.3)
    left.set_yscale("log")
    left.legend(fontsize=8)
    picture = np.moveaxis(result.pictures["image"], 0, -1)
    for axes, (name, places) in zip(lower.subplots(1, columns).flat, found.items(), strict=False):
        axes.imshow(picture, origin="lower", interpolation="nearest")
        axes.plot(*result.pictures["truth"].T, "o", mfc="none", mec="white", ms=7, mew=0.6)
        axes.plot(*places.T, "+", color="#E69F00", ms=5, mew=0.8)
        axes.set_title(name, fontsize=10)
    for axes in lower.axes:
        axes.set_axis_off()
    lower.suptitle(f"circles: true, S/N > 10 in {band}; crosses: found", fontsize=10)
    return figure
