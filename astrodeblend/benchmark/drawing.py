"""Figures of a benchmark."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from astrodeblend.metrics import psnr

__all__ = ["panels", "quality"]

# Okabe & Ito's colours, told apart by all eyes; each kind with a marker of its own.
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


def panels(result):
    """Draw the first blends, a row each: truth, blend, and what each deblender made of it.

    Parameters
    ----------
    result : Benchmark

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    truth, blend = result.pictures["truth"], result.pictures["blend"]
    found = {k: v for k, v in result.pictures.items() if k not in ("truth", "blend")}
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
        pictures = dict(enumerate([*truth[row], blend[row]]))
        for k, name in enumerate(found):
            if name not in tried:
                continue
            for branch in (0, 1):
                column = 3 + 2 * k + branch
                pictures[column] = tried[name][branch]
                score = psnr(tried[name][branch], truth[row, branch])
                place = column * step + gap, y + size - 2 * gap
                axes.text(*place, f"{score:.1f} dB", **outlined)
        for column, picture in pictures.items():
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
