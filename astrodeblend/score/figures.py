"""Figures of scores; each returns a `~matplotlib.figure.Figure`."""

import textwrap
from itertools import cycle, pairwise

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullFormatter

from astrodeblend.metrics import psnr

from .report import limits_text

# Okabe & Ito's colours, told apart by all eyes
_COLOURS = "#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#009E73", "#56B4E9"
_MARKERS = "osD^v<"
_GUIDE = {"color": "#777777", "linestyle": ":", "linewidth": 1}
_STYLES = {
    "components": {"color": "#000000", "marker": "D", "linestyle": "-"},
    "central": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "companion": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    "blend itself": {"color": "#777777", "marker": "^", "linestyle": ":"},
    "apportioned": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "network": {"color": "#009E73", "marker": "D", "linestyle": "--"},
    "photutils": {"color": "#D55E00", "marker": "s", "linestyle": ":"},
}
_LABELS = {
    "psnr": "PSNR (dB)",
    "ssim_reiman2019": "SSIM, scale of the paper",
    "ssim": "SSIM, strict scale",
}
_OUTLINED = {
    "color": "white",
    "fontsize": 9,
    "path_effects": [withStroke(linewidth=2, foreground="black")],
}


def _panels(panels, *, title="", rows=1, size=(4.0, 3.6), legend=0, **sharing):
    """Draw panels row by row, each a list of curves (x, y, look) and properties of its axes.

    ``size`` is that of a panel in inches, ``legend`` the index of the panel with the legend.
    """
    columns = len(panels) // rows
    figure = Figure((size[0] * columns, size[1] * rows), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=10)
    _fill(figure.subplots(rows, columns, squeeze=False, **sharing).flat, panels, legend)
    return figure


def _fill(every, panels, legend=0):
    """Draw the curves of panels on axes; those with ``yerr`` in their look with error bars."""
    for k, (axes, (curves, options)) in enumerate(zip(every, panels, strict=True)):
        for x, y, look in curves:
            if "yerr" in look:
                axes.errorbar(x, y, capsize=3, markersize=5, linewidth=1.2, **look)
            else:
                axes.plot(x, y, **{"markersize": 5} | look)
        axes.set(**options)
        axes.xaxis.label.set_fontsize(9)
        axes.title.set_fontsize(9)
        if axes.get_xscale() == "log":
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        if k == legend:
            axes.legend(fontsize=8)


def distributions(scores, published, *, title):
    """Draw histograms of ``scores`` (by metric, (n, 2)), with the ``published`` means."""
    options = [([], {"xlabel": _LABELS[metric], "ylabel": "components"}) for metric in scores]
    figure = _panels(options, title=title, legend=-1)
    for axes, (metric, values) in zip(figure.axes, scores.items(), strict=True):
        values = np.where(np.isfinite(values), values, np.nan)
        edges = np.linspace(np.nanmin(values), np.nanmax(values) + 1e-9, 41)
        for k, name in enumerate(("central", "companion")):
            style = {key: _STYLES[name][key] for key in ("color", "linestyle")}
            axes.hist(values[:, k], edges, histtype="step", linewidth=1.5, label=name, **style)
        digits = 2 if metric == "psnr" else 3
        lines = {"mean": (np.nanmean(values), "#000000", "-")}
        if metric in published:
            lines["the paper's mean"] = published[metric], "#009E73", "-."
        for name, (mean, colour, style) in lines.items():
            label = f"{name} {mean:.{digits}f}"
            axes.axvline(mean, color=colour, linestyle=style, label=label)
        axes.margins(y=0.35)  # room for the legend
        axes.legend(fontsize=7, loc="upper left", frameon=False)
    return figure


def bins(table, labels, *, title):
    """Draw the mean PSNR against each quantity, from the table ``bins`` of `evaluate`."""
    table, panels = table[table["metric"] == "psnr"], []
    for quantity, label in labels.items():
        curves = []
        for name in ("central", "companion", "blend itself"):
            rows = table[(table["quantity"] == quantity) & (table["of"] == name)]
            look = {"yerr": np.nan_to_num(rows["error"]), "label": name, **_STYLES[name]}
            curves.append((rows["middle"], rows["mean"], look))
        panels.append((curves, {"xlabel": label}))
    panels[0][1]["ylabel"] = "mean PSNR (dB)"
    return _panels(panels, title=title, sharey=True)


def power(table, *, title):
    """Draw power of output over truth by frequency, from the table ``texture`` of `evaluate`."""
    panels = []
    for name, text in {
        "power_ratio": "all components summed", "median_power_ratio": "median component"
    }.items():  # fmt: skip
        waves = table.meta["frequencies"]
        curves = [(waves, r[name], {"label": r["of"], **_STYLES[r["of"]]}) for r in table]
        options = {"xlabel": "spatial frequency (cycles per pixel)", "xlim": (0, 0.5)}
        panels.append(([([0, 0.5], [1, 1], _GUIDE), *curves], options | {"title": text}))
    panels[0][1].update(ylabel="power of output over truth\nin the footprints", ylim=(0, None))
    return _panels(panels, title=title, sharey=True)


def calibration(curve, binned, *, title):
    """Draw shares of truths within error bars, and errors against the stated deviations.

    ``curve`` and ``binned`` are from `astrodeblend.score.Coverage`.
    """
    styles = {"pixels": _STYLES["central"], "fluxes": _STYLES["companion"]}
    held = [(curve["multiple"], curve["normal"], {"label": "normal", **_GUIDE})]
    panels = [(held, {"xlabel": "standard deviations", "ylabel": "share of truths within"})]
    for kind, style in styles.items():
        held.append((curve["multiple"], curve[kind], {"label": kind, **style, "marker": ""}))
        known, curves = binned[kind], []
        curves.append((known["std"], known["error"], style))
        if known["std"].size:
            ends = [known["std"].min(), known["std"].max()]
            curves.append((ends, ends, _GUIDE))
        options = {"xlabel": f"standard deviation, {kind}", "xscale": "log", "yscale": "log"}
        panels.append((curves, options | {"ylabel": "error that 68.3 % are below"}))
    return _panels(panels, title=title)


def scenes(table, labels, *, title):
    """Draw the median error of the flux against each quantity, from the table of `score_scenes`."""
    panels = []
    for positions in ("given", "detected"):
        for quantity, label in labels.items():
            chosen = (table["positions"] == positions) & (table["by"] == quantity)
            rows = table[chosen & (table["number"] > 0)]
            curves = []
            for k, method in enumerate(("apportioned", "network", "photutils")):
                look = {"yerr": np.nan_to_num(rows[f"median_{method}_error"]), "label": method}
                places = np.arange(len(rows)) + 0.08 * (k - 1)
                curves.append((places, rows[f"median_{method}"], look | _STYLES[method]))
            limits = rows.iterrows("low", "high")
            names = [f"{x:g}" if quantity == "number" else limits_text(x, y) for x, y in limits]
            options = {"xlabel": label, "xticks": range(len(rows)), "xticklabels": names}
            words = f"median abs(dF / F)\npositions {positions}"
            panels.append((curves, options | {"ylabel": words, "yscale": "log"}))
    return _panels(panels, title=title, rows=2, sharey=True)


def quality(entries, scored, number, title, options):
    """Draw the score of each deblender (`Entry`) against its time per blend.

    ``scored`` has for each the score of all its blends, and that of the blends that all tried,
    which is drawn as an open symbol if not all tried the whole ``number``.
    """
    times, curves = [e.milliseconds for e in entries if e.kind != "nothing"] or [1.0], []
    for entry, (score, of_same), look in zip(entries, scored, _looks(), strict=False):
        label = entry.name + (f" ({len(entry)} blends)" if len(entry) < number else "")
        if entry.kind == "nothing":
            ends = [min(times) / 2, 2 * max(times)]
            curves.append((ends, [score] * 2, {"label": label, **_GUIDE}))
            continue
        look |= {"linestyle": "none", "markersize": 8}
        curves.append((entry.milliseconds, score, look | {"label": label}))
        if min(map(len, entries)) < number:
            curves.append((entry.milliseconds, of_same, look | {"fillstyle": "none"}))
    options = {"xlabel": "milliseconds per blend", "xscale": "log"} | options
    options["title"] = textwrap.fill(title, 90)
    return _panels([(curves, options)], size=(7, 4))


def fields(entries, numbers, pictures, band):
    """Draw errors, completeness and error bars by S/N, and the sources found in the first field.

    ``numbers`` returns the measures of an entry within limits of S/N; ``pictures`` has the
    ``"image"`` in colour, positions of the ``"truth"``, and those found, by name of the deblender.
    """
    found = {k: v for k, v in pictures.items() if k not in ("image", "truth")}
    columns = max(3, len(found))
    figure = Figure(figsize=(4 * columns, 8), dpi=130, layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    edges = np.array([5, 7, 10, 15, 20, 30, 50, 100, 1000])
    middles = np.sqrt(edges[1:] * edges[:-1])
    labels = {
        "error_median": "|dF| over the noise limit: median, 90 % (dotted)",
        "complete": "complete",
        "within_1": "fluxes within one error",
    }
    panels = {
        name: ([], {"xscale": "log", "xlabel": f"S/N in {band}", "ylabel": label})
        for name, label in labels.items()
    }
    for entry, look in zip(entries, _looks(), strict=False):
        rows = [numbers(entry, limits) for limits in pairwise(edges)]
        for name, (curves, _) in panels.items():
            curves.append((middles, [r[name] for r in rows], look | {"label": entry.name}))
        dotted = {"color": look["color"], "linestyle": ":"}
        panels["error_median"][0].append((middles, [r["error_90"] for r in rows], dotted))
    panels["error_median"][1]["yscale"] = "log"
    panels["within_1"][0].append((edges[[0, -1]], [0.683] * 2, _GUIDE))
    _fill(upper.subplots(1, 3), panels.values())
    picture = np.moveaxis(pictures["image"], 0, -1)
    for axes, (name, places) in zip(lower.subplots(1, columns).flat, found.items(), strict=False):
        axes.imshow(picture, origin="lower", interpolation="nearest")
        axes.plot(*pictures["truth"].T, "o", mfc="none", mec="white", ms=7, mew=0.6)
        axes.plot(*places.T, "+", color="#E69F00", ms=5, mew=0.8)
        axes.set_title(name, fontsize=10)
    for axes in lower.axes:
        axes.set_axis_off()
    lower.suptitle(f"circles: true, S/N > 10 in {band}; crosses: found", fontsize=10)
    return figure


def _looks():
    """Yield colour and marker for each deblender."""
    for colour, marker in zip(cycle(_COLOURS), cycle(_MARKERS), strict=False):
        yield {"color": colour, "marker": marker}


def compared(pictures, labels, **options):
    """Draw blends, a row each: truth, blend, and the components of each deblender.

    ``pictures`` has the ``"truth"`` and by name the components, (n, 2, 3, y, x), and the
    ``"blend"``, (n, 3, y, x); ``labels`` has by name the texts on components, (n, 2).
    """
    number, pair = len(pictures["blend"]), ("central", "companion")
    columns = [pictures["truth"], pictures["blend"][:, None]]
    titles, texts = [*(f"true\n{which}" for which in pair), "blend"], {}
    for name, images in pictures.items():
        if name in ("truth", "blend"):
            continue
        for row, branch in np.ndindex(len(images), 2):
            texts[row, len(titles) + branch] = labels[name][row][branch]
        missing = ((0, number - len(images)), *[(0, 0)] * 4)  # it tried fewer blends
        columns.append(np.pad(images, missing, constant_values=1))
        titles += [f"{name}\n{which}" for which in pair]
    return _mosaic(np.concatenate(columns, axis=1), titles, texts, **options)


def panels(examples, *, title, across=3):
    """Draw `Examples` as the paper does, with the PSNR of each component, ``across`` in a row."""
    pictures = {"truth": examples.isolated, "blend": examples.blend}
    pictures["deblended"] = examples.components
    labels = {"deblended": psnr_texts(examples.components, examples.isolated)}
    return compared(pictures, labels, numbers=examples.index, title=title, across=across)


def psnr_texts(components, isolated):
    """Return the PSNR of components as text, (n, 2)."""
    return [[f"{score:.1f} dB" for score in pair] for pair in psnr(components, isolated)]


def _mosaic(pictures, titles, texts, *, numbers=(), title="", across=1):
    """Draw pictures (rows, columns, 3, y, x) in blocks of rows, ``across`` beside each other.

    ``titles`` stand over columns, ``texts`` on pictures by (row, column), ``numbers`` on rows.
    """
    number, columns, *_, size = pictures.shape
    across = min(across, number)
    rows = -(-number // across)
    gap, margin, top = max(1, size // 40), size // 6, 2 * size // 3  # of panels, blocks; titles
    step, block = size + gap, columns * (size + gap) + margin
    # One picture of all, which is drawn at once.
    canvas = np.ones(
        (top + rows * step - gap, max(across, 1 + bool(title)) * block - margin - gap, 3)
    )
    inches = 1.15 / size
    figure = Figure(figsize=(inches * canvas.shape[1], inches * canvas.shape[0]), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.text(gap, 2 * gap, title, fontsize=11, va="top")
    for k, row in enumerate(pictures):
        left, y = k // rows * block, top + k % rows * step
        for column, picture in enumerate(row):
            x = left + column * step
            canvas[y : y + size, x : x + size] = np.moveaxis(picture, 0, -1).clip(0, 1)
            if y == top:
                text = {"fontsize": 9, "ha": "center", "va": "bottom"}
                axes.text(x + size / 2, y - gap, titles[column], **text)
            if (k, column) in texts:
                axes.text(x + 2 * gap, y + size - 3 * gap, texts[k, column], **_OUTLINED)
        if len(numbers):
            axes.text(left + 2 * gap, y + 2 * gap, f"{numbers[k]}", va="top", **_OUTLINED)
    axes.imshow(canvas, interpolation="nearest")
    return figure
