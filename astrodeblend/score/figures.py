"""Figures of scores; each returns a `~matplotlib.figure.Figure`."""

from itertools import cycle, pairwise

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullFormatter

from astrodeblend.metrics import psnr

from .report import limits_text

# Okabe & Ito's colours, told apart by all eyes; each deblender, or each kind of them, with a
# marker of its own.
_COLOURS = "#777777", "#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#009E73", "#56B4E9"
_MARKERS = "osD^v<>"
_STYLES = {
    "components": {"color": "#000000", "marker": "D", "linestyle": "-"},
    "central": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "companion": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    "blend itself": {"color": "#777777", "marker": "^", "linestyle": ":"},
}
_LABELS = {
    "psnr": "PSNR (dB)",
    "ssim_reiman2019": "SSIM, scale of the paper",
    "ssim": "SSIM, strict scale",
}
_COLUMNS = (
    "pre-blended\ncentral",
    "pre-blended\ncompanion",
    "blend",
    "deblended\ncentral",
    "deblended\ncompanion",
)
_KINDS = {
    "peer": {"color": "#D55E00", "marker": "s"},
    "model": {"color": "#0072B2", "marker": "o"},
}
_METHODS = {
    "apportioned": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "network": {"color": "#009E73", "marker": "D", "linestyle": "--"},
    "photutils": {"color": "#D55E00", "marker": "s", "linestyle": ":"},
}
_ROWS = {"given": "true positions given", "detected": "positions detected"}
_ERRORS = {"capsize": 3, "markersize": 5, "linewidth": 1.2}
_OUTLINED = {
    "color": "white",
    "fontsize": 9,
    "path_effects": [withStroke(linewidth=2, foreground="black")],
}


def _side_by_side(number, title, *, size=None, font=10, **options):
    """Return a figure of so many panels in a row, and these."""
    figure = Figure(figsize=size or (4 * number, 3.6), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=font)
    return figure, figure.subplots(1, number, squeeze=False, **options)[0]


def _picture(canvas, inches):
    """Return a figure of one picture without axes, a pixel so many inches wide."""
    figure = Figure(figsize=(inches * canvas.shape[1], inches * canvas.shape[0]), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    return figure, axes


def distributions(scores, published, *, title):
    """Draw how ``scores`` (by metric, (n, 2)) are distributed, and the ``published`` means."""
    figure, row = _side_by_side(len(scores), title)
    for axes, (metric, values) in zip(row, scores.items(), strict=True):
        values = np.where(np.isfinite(values), values, np.nan)
        edges = np.linspace(np.nanmin(values), np.nanmax(values) + 1e-9, 41)
        for k, name in enumerate(("central", "companion")):
            style = {key: _STYLES[name][key] for key in ("color", "linestyle")}
            axes.hist(values[:, k], edges, histtype="step", linewidth=1.5, label=name, **style)
        mean = np.nanmean(values)
        digits = 2 if metric == "psnr" else 3
        axes.axvline(mean, color="#000000", label=f"mean {mean:.{digits}f}")
        if metric in published:
            axes.axvline(
                published[metric], color="#009E73", linestyle="-.",
                label=f"the paper's mean {published[metric]:.{digits}f}",
            )  # fmt: skip
        axes.set(xlabel=_LABELS.get(metric, metric), ylabel="components")
        axes.margins(y=0.35)  # room for the legend
        axes.legend(fontsize=7, loc="upper left", frameon=False)
    return figure


def bins(table, labels, *, title):
    """Draw the mean PSNR against each quantity, with errors: the table ``bins`` of `evaluate`."""
    figure, axes = _side_by_side(len(labels), title, sharey=True)
    table = table[table["metric"] == "psnr"]
    for each, (quantity, label) in zip(axes, labels.items(), strict=True):
        for name in ("central", "companion", "blend itself"):
            rows = table[(table["quantity"] == quantity) & (table["of"] == name)]
            each.errorbar(
                rows["middle"],
                rows["mean"],
                yerr=np.nan_to_num(rows["error"]),
                label=name,
                **_ERRORS,
                **_STYLES[name],
            )
        each.set_xlabel(label, fontsize=9)
        each.grid(alpha=0.3)
    axes[0].set_ylabel("mean PSNR (dB)")
    axes[0].legend(fontsize=8)
    return figure


def power(table, *, title):
    """Draw power of output over truth by spatial frequency: the table ``texture`` of `evaluate`."""
    figure, axes = _side_by_side(2, title, size=(8.4, 3.8), sharey=True)
    kinds = (("power_ratio", "all components summed"), ("median_power_ratio", "median component"))
    for each, (name, text) in zip(axes, kinds, strict=True):
        each.axhline(1, color="#777777", linewidth=1, linestyle=":")
        for row in table:
            each.plot(
                table.meta["frequencies"], row[name], label=row["of"], markersize=4,
                **_STYLES[row["of"]],
            )  # fmt: skip
        each.set(xlabel="spatial frequency (cycles per pixel)", xlim=(0, 0.5))
        each.set_title(text, fontsize=9)
        each.grid(alpha=0.3)
    axes[0].set_ylabel("power of output over truth\nin the footprints")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    return figure


def calibration(curve, binned, *, title):
    """Draw how many truths error bars hold, and errors against what was expected of them.

    ``curve`` and ``binned`` are those of `astrodeblend.calibration.Coverage`.
    """
    figure, (left, *right) = _side_by_side(3, title, size=(12.6, 3.8))
    styles = {"pixels": _STYLES["central"], "fluxes": _STYLES["companion"]}
    left.plot(curve["multiple"], curve["normal"], color="#777777", linestyle=":", label="normal")
    for kind, style in styles.items():
        style = {name: style[name] for name in ("color", "linestyle")}
        left.plot(curve["multiple"], curve[kind], label=kind, **style)
    left.set(xlabel="standard deviations", ylabel="share of truths within", ylim=(0, 1.02))
    left.legend(fontsize=8, loc="lower right")
    for each, (kind, style) in zip(right, styles.items(), strict=True):
        known = binned[kind]
        each.loglog(known["std"], known["error"], markersize=5, linewidth=1.2, **style)
        if known["std"].size:
            ends = known["std"].min(), known["std"].max()
            each.plot(ends, ends, color="#777777", linewidth=1, linestyle=":")
        each.set(xlabel=f"standard deviation, {kind}", ylabel="error that 68.3 % are below")
    for each in (left, *right):
        each.grid(alpha=0.3)
    return figure


def detection(table, reliability, points, *, title):
    """Draw how many blends are found by their separation, and how right the score is.

    The tables are those of `score_detection`; ``points`` are the words over operating points, of
    which those are drawn at which there are two methods.
    """
    figure, (*left, right) = _side_by_side(3, title, size=(12.6, 3.8), font=9)
    styles = {
        "score": ("blend score", _STYLES["central"]),
        "photutils": ("photutils", _STYLES["companion"]),
    }
    both = [p for p in points if set(table["method"][table["point"] == p]) == set(styles)]
    for each, point in zip(left, both, strict=True):
        for method, (name, style) in styles.items():
            rows = table[(table["point"] == point) & (table["method"] == method)][:-1]
            each.errorbar(
                (rows["low"] + rows["high"]) / 2, rows["completeness"], yerr=rows["error"],
                xerr=(rows["high"] - rows["low"]) / 2, label=name, **_ERRORS, **style,
            )  # fmt: skip
        each.set_title(f"{points[point]} ({100 * rows['false_alarms'][0]:.1f} %)", fontsize=9)
        each.set(xlabel="separation (stamp pixels)", ylabel="completeness", ylim=(0, 1.02))
        each.legend(fontsize=8, loc="lower right")
    right.plot([0, 1], [0, 1], color="#777777", linewidth=1, linestyle=":")
    right.errorbar(
        reliability["score"], reliability["blended"], yerr=reliability["error"], **_ERRORS,
        **_STYLES["central"],
    )  # fmt: skip
    right.set(xlabel="mean blend score", ylabel="share of blends", xlim=(0, 1), ylim=(0, 1.02))
    for each in (*left, right):
        each.grid(alpha=0.3)
    return figure


def panels(examples, *, title, across=3):
    """Draw `Examples` as the paper does, with the PSNR of each component, so many ``across``."""
    number = len(examples.index)
    across = min(across, number)
    rows = -(-number // across)
    size = examples.blend.shape[-1]
    gap, margin, top = size // 40, size // 6, 2 * size // 3  # between panels, blocks; for titles
    step, block = size + gap, 5 * (size + gap) + margin
    # One picture of all, which is drawn at once.
    canvas = np.ones((top + rows * step - gap, max(across, 2) * block - margin - gap, 3))
    places = [(k // rows * block, top + k % rows * step) for k in range(number)]
    for k, (x, y) in enumerate(places):
        pictures = [*examples.isolated[k], examples.blend[k], *examples.components[k]]
        for picture in pictures:
            canvas[y : y + size, x : x + size] = np.moveaxis(picture, 0, -1).clip(0, 1)
            x += step
    figure, axes = _picture(canvas, 1.15 / size)
    axes.text(gap, 2 * gap, title, fontsize=11, va="top")
    score = psnr(examples.components, examples.isolated)
    for k, (x, y) in enumerate(places):
        axes.text(x + 2 * gap, y + 2 * gap, f"{examples.index[k]}", va="top", **_OUTLINED)
        for branch, column in enumerate((3, 4)):
            text = f"{score[k, branch]:.1f} dB"
            axes.text(x + column * step + 2 * gap, y + size - 3 * gap, text, **_OUTLINED)
        if y == top:
            for column, text in enumerate(_COLUMNS):
                middle = x + column * step + size / 2
                axes.text(middle, y - gap, text, fontsize=9, ha="center", va="bottom")
    return figure


def quality(entries, number, same, recipe):
    """Draw the mean PSNR of each deblender (`Entry`) against its time per blend.

    Open symbols are of the ``same`` blends, the first, if not all tried the whole ``number``.
    """
    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    for entry in entries:
        score = entry.scores["psnr"].mean()
        if entry.kind == "nothing":
            axes.axhline(score, color="#777777", linestyle=":")
            axes.annotate(
                entry.name, (0, score), (6, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", fontsize=8, color="#555555",
            )  # fmt: skip
            continue
        look = {"linestyle": "none", "markersize": 8, **_KINDS[entry.kind]}
        axes.plot(entry.milliseconds, score, **look)
        if same is not None:
            of_same = entry.scores["psnr"][:same].mean()
            axes.plot(entry.milliseconds, of_same, **look, fillstyle="none")
        some = f" ({len(entry)} blends)" if len(entry) < number else ""
        axes.annotate(
            f"{entry.name}{some}", (entry.milliseconds, score), (0, 7),
            textcoords="offset points", fontsize=9, ha="center",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.15)
    axes.grid(alpha=0.3)
    axes.set(xlabel="milliseconds per blend", ylabel="mean PSNR (dB)")
    some = "" if same is None else f" (open: the first {same}, which all have tried)"
    axes.set_title(f"{number} blends{some}, recipe {recipe}", fontsize=10)
    return figure


def flux_errors(entries, bins, medians, title):
    """Draw flux errors of a survey against what makes blends hard, and medians against time."""
    figure = Figure(figsize=(10, 7), dpi=130, layout="constrained")
    axes = figure.subplots(2, 2, sharey=True)
    looks = zip(cycle(_COLOURS), cycle(_MARKERS), strict=False)
    number = max(map(len, entries))
    for entry, median, (colour, marker) in zip(entries, medians, looks, strict=False):
        some = f" ({len(entry)} blends)" if len(entry) < number else ""
        look = {"color": colour, "marker": marker, "label": f"{entry.name}{some}"}
        mine = bins[(bins["deblender"] == entry.name) & (bins["band"] == "all")]
        mine = mine[mine["blends"] == len(entry)]
        for each, quantity in zip(axes.flat, ("separation", "fainter", "snr"), strict=False):
            rows = mine[mine["quantity"] == quantity]
            places = np.arange(len(rows))
            each.plot(places, rows["flux_median"], **look)
            each.plot(places, rows["flux_mean"], **look | {"linestyle": ":", "label": None})
            edges = [f"{edge:.3g}" for edge in rows["high"][:-1]]
            each.set_xticks(places[:-1] + 0.5, edges)
        axes[1, 1].plot(entry.milliseconds, median, **look | {"linestyle": "none"})
        if entry.kind == "nothing":
            axes[1, 1].axhline(median, color=colour, linestyle="--")
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
        f"{title}\nall bands together, S/N > 20; lines: median, dotted: mean", fontsize=10
    )
    return figure


def compared(pictures, labels):
    """Draw the first blends, a row each: truth, blend, and what each deblender made of it.

    ``pictures`` are the ``"truth"`` and by name what was made of the blends, (n, 2, 3, y, x), and
    the ``"blend"``, (n, 3, y, x); ``labels`` by name what to write on components, (n, 2).
    """
    truth, blend = pictures["truth"], pictures["blend"]
    found = {k: v for k, v in pictures.items() if k not in ("truth", "blend")}
    size = blend.shape[-1]
    gap, top = max(1, size // 40), size // 2
    step = size + gap
    columns = 3 + 2 * len(found)
    # One picture of all, which is drawn at once.
    canvas = np.ones((top + len(blend) * step - gap, columns * step - gap, 3))
    figure, axes = _picture(canvas, 1.1 / size)
    for row in range(len(blend)):
        y = top + row * step
        shown = dict(enumerate([*truth[row], blend[row]]))
        for k, (name, images) in enumerate(found.items()):
            for branch in (0, 1) if row < len(images) else ():
                column = 3 + 2 * k + branch
                shown[column] = images[row, branch]
                place = column * step + gap, y + size - 2 * gap
                axes.text(*place, labels[name][row][branch], **_OUTLINED)
        for column, picture in shown.items():
            x = column * step
            canvas[y : y + size, x : x + size] = np.moveaxis(picture, 0, -1).clip(0, 1)
    titles = ["true\ncentral", "true\ncompanion", "blend"]
    titles += [f"{name}\n{branch}" for name in found for branch in ("central", "companion")]
    for column, title in enumerate(titles):
        place = column * step + size / 2, top - 2 * gap
        axes.text(*place, title, fontsize=9, ha="center", va="bottom")
    axes.images[0].set_data(canvas)
    return figure


def fields(entries, numbers, pictures, band):
    """Draw what deblenders make of fields by signal to noise, and what they find in the first one.

    ``numbers`` gives those of an entry within limits of signal to noise; ``pictures`` has the
    ``"image"`` in colour, positions of the ``"truth"``, and by name what was found.
    """
    found = {k: v for k, v in pictures.items() if k not in ("image", "truth")}
    columns = max(3, len(found))
    figure = Figure(figsize=(4 * columns, 8), dpi=130, layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    left, middle, right = upper.subplots(1, 3)
    edges = np.array([5, 7, 10, 15, 20, 30, 50, 100, 1000])
    looks = zip(cycle(_COLOURS[1:]), cycle(_MARKERS), strict=False)
    for entry, (colour, marker) in zip(entries, looks, strict=False):
        rows = [numbers(entry, limits) for limits in pairwise(edges)]
        look = {"color": colour, "marker": marker, "label": entry.name}
        middles = np.sqrt(edges[1:] * edges[:-1])
        for axes, name in ((left, "error_median"), (middle, "complete"), (right, "within_1")):
            axes.plot(middles, [row[name] for row in rows], **look)
        left.plot(middles, [row["error_90"] for row in rows], color=colour, linestyle=":")
    right.axhline(0.683, color="#777777", linestyle="--")
    for axes, label in (
        (left, "|dF| over the noise limit: median, 90 % (dotted)"),
        (middle, "complete"),
        (right, "fluxes within one error"),
    ):
        axes.set(xscale="log", xlabel=f"S/N in {band}", ylabel=label)
        axes.grid(alpha=0.3)
    left.set_yscale("log")
    left.legend(fontsize=8)
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


def scenes(table, labels, *, title):
    """Draw the median error of the flux against what galaxies are grouped by, ``labels`` below."""
    figure = Figure(figsize=(4 * len(labels), 6.4), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(2, len(labels), sharey=True, squeeze=False)
    for (positions, words), row in zip(_ROWS.items(), grid, strict=True):
        for axes, (quantity, label) in zip(row, labels.items(), strict=True):
            chosen = (table["positions"] == positions) & (table["by"] == quantity)
            chosen &= table["number"] > 0
            rows = table[chosen]
            names = [
                f"{low:g}" if quantity == "number" else limits_text(low, high)
                for low, high in zip(rows["low"], rows["high"], strict=True)
            ]
            for k, (method, style) in enumerate(_METHODS.items()):
                axes.errorbar(
                    np.arange(len(rows)) + 0.08 * (k - 1),
                    rows[f"median_{method}"],
                    yerr=np.nan_to_num(rows[f"median_{method}_error"]),
                    label=method,
                    **_ERRORS,
                    **style,
                )
            axes.set_xticks(range(len(rows)), names, fontsize=8)
            axes.set_xlabel(label, fontsize=9)
            axes.grid(alpha=0.3)
        row[0].set_ylabel(f"median abs(dF / F)\n{words}")
    grid[0, 0].set_yscale("log")
    grid[0, 0].legend(fontsize=8)
    return figure
