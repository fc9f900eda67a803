"""Figures of an evaluation: distributions, bins, power, and panels of single blends."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from astrodeblend.metrics import psnr

__all__ = ["bins", "calibration", "detection", "distributions", "panels", "power"]

# Okabe & Ito's colours, told apart by all eyes; each with a marker and line of its own.
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


def distributions(scores, published, *, title):
    """Draw how the scores are distributed, with the mean and that of the paper.

    Parameters
    ----------
    scores : dict of str to numpy.ndarray
        Of each metric, shape (n, 2), central first.
    published : dict of str to float
        Means to mark.
    title : str
        Over the figure.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(4 * len(scores), 3.6), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axes, (metric, values) in zip(
        figure.subplots(1, len(scores), squeeze=False)[0], scores.items(), strict=True
    ):
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
    """Draw the mean PSNR against each quantity, with errors.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        From `astrodeblend.evaluate.Evaluation.to_bin_table`.
    labels : dict of str to str
        What to write below each quantity.
    title : str
        Over the figure.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(4 * len(labels), 3.6), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(1, len(labels), sharey=True, squeeze=False)[0]
    table = table[table["metric"] == "psnr"]
    for each, (quantity, label) in zip(axes, labels.items(), strict=True):
        for name in ("central", "companion", "blend itself"):
            rows = table[(table["quantity"] == quantity) & (table["of"] == name)]
            each.errorbar(
                rows["middle"], rows["mean"], yerr=np.nan_to_num(rows["error"]), label=name,
                capsize=3, markersize=5, linewidth=1.2, **_STYLES[name],
            )  # fmt: skip
        each.set_xlabel(label, fontsize=9)
        each.grid(alpha=0.3)
    axes[0].set_ylabel("mean PSNR (dB)")
    axes[0].legend(fontsize=8)
    return figure


def power(table, *, title):
    """Draw power of output over truth against spatial frequency.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        From `astrodeblend.evaluate.Evaluation.to_texture_table`.
    title : str
        Over the figure.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(8.4, 3.8), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(1, 2, sharey=True)
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

    Parameters
    ----------
    curve : dict of numpy.ndarray
        From `astrodeblend.calibration.Coverage.curve`.
    binned : dict of dict of numpy.ndarray
        From `astrodeblend.calibration.Coverage.binned`.
    title : str
        Over the figure.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(12.6, 3.8), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=10)
    left, *right = figure.subplots(1, 3)
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

    Parameters
    ----------
    table, reliability : `~astropy.table.QTable`
        From `astrodeblend.blend_detection.BlendDetection.to_table` and ``to_reliability_table``.
    points : dict of str to str
        What to write over each operating point that is drawn; those at which there are two
        methods.
    title : str
        Over the figure.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(12.6, 3.8), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=9)
    *left, right = figure.subplots(1, 3)
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
                xerr=(rows["high"] - rows["low"]) / 2, label=name, capsize=3, markersize=5,
                linewidth=1.2, **style,
            )  # fmt: skip
        each.set_title(f"{points[point]} ({100 * rows['false_alarms'][0]:.1f} %)", fontsize=9)
        each.set(xlabel="separation (stamp pixels)", ylabel="completeness", ylim=(0, 1.02))
        each.legend(fontsize=8, loc="lower right")
    right.plot([0, 1], [0, 1], color="#777777", linewidth=1, linestyle=":")
    right.errorbar(
        reliability["score"], reliability["blended"], yerr=reliability["error"], capsize=3,
        markersize=5, linewidth=1.2, **_STYLES["central"],
    )  # fmt: skip
    right.set(xlabel="mean blend score", ylabel="share of blends", xlim=(0, 1), ylim=(0, 1.02))
    for each in (*left, right):
        each.grid(alpha=0.3)
    return figure


def panels(examples, *, title, across=3):
    """Draw blends as the paper does: the galaxies, the blend, and what was made of it.

    Parameters
    ----------
    examples : astrodeblend.evaluate.Examples
        What to draw; the PSNR of each component is on it.
    title : str
        Over the figure.
    across : int, optional
        Blends side by side, at most.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
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
    height, width = canvas.shape[:2]
    inches = 1.15 / size
    figure = Figure(figsize=(inches * width, inches * height), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    axes.text(gap, 2 * gap, title, fontsize=11, va="top")
    score = psnr(examples.components, examples.isolated)
    outlined = {
        "color": "white",
        "fontsize": 9,
        "path_effects": [withStroke(linewidth=2, foreground="black")],
    }
    for k, (x, y) in enumerate(places):
        axes.text(x + 2 * gap, y + 2 * gap, f"{examples.index[k]}", va="top", **outlined)
        for branch, column in enumerate((3, 4)):
            text = f"{score[k, branch]:.1f} dB"
            axes.text(x + column * step + 2 * gap, y + size - 3 * gap, text, **outlined)
        if y == top:
            for column, text in enumerate(_COLUMNS):
                middle = x + column * step + size / 2
                axes.text(middle, y - gap, text, fontsize=9, ha="center", va="bottom")
    return figure
