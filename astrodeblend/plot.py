"""Panels of blends, their components, and what is left of the light."""

import numpy as np
from astropy import units as u
from astropy.stats import mad_std
from astropy.wcs.utils import proj_plane_pixel_scales
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from astrodeblend.files import atomic_path
from astrodeblend.stretch import LinearStretch, stretch_for

__all__ = ["panels", "save_figure", "scene_panels"]

_TITLES = ("blend", "central", "companion")
_GAP = 0.04  # inches between panels
_MARGIN = 0.3  # inches above them for titles, and between blends side by side


def panels(results, *, across=None):
    """Draw blends, their components and what is left, each blend in a row.

    The panels show the part of the image inside the stamp, all of a row in the same
    brightness scale: a picture as it is, flux as pictures of the SDSS are made (Lupton et al.
    2004), the light of the blend as a whole being white. Three bands are red, green and blue;
    two, or more than three, go from blue to red; one is grey. In the panel of what is left,
    grey is nothing. Its title says what was taken from the data: the sum of the components
    (with the sky counted once), or, where that leaves less of pictures, their maximum.

    Parameters
    ----------
    results : Deblended or sequence of Deblended
        What a `astrodeblend.Deblender` returned.
    across : int, optional
        Blends side by side; by default two from five blends on.

    Returns
    -------
    `~matplotlib.figure.Figure`
        With ``savefig``; it is shown nowhere by itself.

    Raises
    ------
    ValueError
        If there are no results, or ``across`` is not positive.
    """
    results = [results] if hasattr(results, "central") else list(results)
    if not results:
        raise ValueError("results is empty; give at least one result")
    if across is None:
        across = 1 if len(results) < 5 else 2
    if across < 1:
        raise ValueError(f"across is {across}; it has to be at least 1")
    across = min(across, len(results))
    rows = -(-len(results) // across)
    side = 2.4 if len(results) == 1 else 1.6
    drawn = [_draw(result) for result in results]
    # one title for a column, so one way to put the components together for all blends
    ways = set.intersection(*(set(each["left"]) for each in drawn))
    way = min(sorted(ways), key=lambda way: sum(each["left"][way][1] for each in drawn))

    width = across * (4 * (side + _GAP)) - _GAP + (across - 1) * _MARGIN
    height = rows * (side + _GAP) - _GAP + _MARGIN
    figure = Figure(figsize=(width, height), dpi=150)
    for number, each in enumerate(drawn):
        row, column = divmod(number, across)
        pictures = [*each["pictures"], each["left"][way][0]]
        for k, picture in enumerate(pictures):
            x = (4 * column + k) * (side + _GAP) + column * _MARGIN
            y = (rows - 1 - row) * (side + _GAP)
            axes = figure.add_axes((x / width, y / height, side / width, side / height))
            axes.imshow(picture, **each["look"], cmap="gray", vmin=0, vmax=1)
            axes.set_facecolor("black")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title([*_TITLES, f"data − {way}"][k], fontsize=10, pad=4)
            if k == 0:
                _draw_scale(axes, each)
                if len(drawn) > 1:
                    axes.text(
                        0.04, 0.96, str(number + 1), color="white", fontsize=9, va="top",
                        transform=axes.transAxes,
                    )  # fmt: skip
    return figure


def scene_panels(scene):
    """Draw a scene: the image with its sources, all components together, and what is left.

    Every source has an ellipse of 3 semi-axes around it: solid if its light touches that of
    others, dotted if it is isolated. In the panel of what is left grey is nothing; that is the
    image less the network's own components, in the same brightness scale.

    Parameters
    ----------
    scene : Scene
        What `astrodeblend.Deblender.deblend_scene` returned.

    Returns
    -------
    `~matplotlib.figure.Figure`
        With ``savefig``; it is shown nowhere by itself.
    """
    data, left = (np.atleast_3d(i.data.T).T.astype(float) for i in (scene.image, scene.residual))
    together = np.zeros_like(data)
    for component in scene.components:
        box = [slice(*ends) for ends in component.meta["box"]]
        together[:, *box] += np.atleast_3d(component.data.T).T
    valid = np.isfinite(data)
    if scene.image.mask is not None:
        valid &= ~scene.image.mask
    level = np.array([np.median(b[v]) for b, v in zip(data, valid, strict=True)])[:, None, None]
    noise = np.array([mad_std(b[v]) for b, v in zip(data, valid, strict=True)])[:, None, None]
    data, left = (np.where(valid, values, level) for values in (data, left))
    data, together, left, level, noise = map(
        _channels, (data, together + level, left, level, noise)
    )
    full_scale = scene.image.meta.get("astrodeblend", {}).get("full_scale")
    noise = _whitened(data - level, np.maximum(noise, 1e-12 * np.ptp(data)))
    stretch = stretch_for(data, level, noise, full_scale, unit=scene.image.unit)
    pictures = [_shown(stretch(data)), _shown(stretch(together))]
    pictures += [_shown(0.5 + stretch(data) - stretch(data - left + level))]
    look = {"origin": "lower", "interpolation": "nearest"}
    if isinstance(stretch, LinearStretch):
        look["origin"] = "upper"

    height, width = data.shape[1:]
    side = 6.0
    tall = side * height / width
    figure = Figure(figsize=(3 * side + 2 * _GAP, tall + _MARGIN), dpi=150)
    for k, (picture, title) in enumerate(
        zip(pictures, ("image", "components", "data − components"), strict=True)
    ):
        total = 3 * side + 2 * _GAP, tall + _MARGIN
        axes = figure.add_axes((k * (side + _GAP) / total[0], 0, side / total[0], tall / total[1]))
        axes.imshow(picture, **look, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(title, fontsize=11, pad=4)
        if k == 0:
            _draw_scale(axes, {"pictures": pictures, "wcs": scene.image.wcs})
            _draw_sources(axes, scene.catalog)
    return figure


def _draw_sources(axes, catalog):
    """Draw an ellipse around every source."""
    measured = catalog[np.isfinite(catalog["x_centroid"])]
    if not len(measured):
        return
    place = np.stack([measured["x_centroid"], measured["y_centroid"]], axis=-1)
    axis = [6 * measured[f"semi{name}_axis"].to_value("pix") for name in ("major", "minor")]
    angle = measured["orientation"].to_value("deg")
    for blended, style in ((True, "-"), (False, ":")):
        chosen = (measured["n_blended"] > 1) == blended
        axes.add_collection(
            EllipseCollection(
                *(axis[0][chosen], axis[1][chosen], angle[chosen]),
                units="x", offsets=place[chosen], offset_transform=axes.transData,
                facecolor="none", edgecolor="#56b4e9" if blended else "white", lw=0.5, ls=style,
            )
        )  # fmt: skip


def save_figure(figure, path, *, overwrite=False):
    """Write a figure to a file, which appears whole or not at all.

    Parameters
    ----------
    figure : `~matplotlib.figure.Figure`
    path : str or path-like
        Its suffix says what kind of file: ``.png``, ``.pdf``, ``.svg``, ``.jpg``.
    overwrite : bool, optional
        Replace a file that is there already. By default that is refused.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError
        If ``path`` exists, its folder does not, or that is read-only.
    ValueError
        If matplotlib writes no files of that kind.
    """
    with atomic_path(path, overwrite=overwrite) as file:
        figure.savefig(file)


def _draw(result):
    """Render one result: three pictures, and what is left in either way, and how much."""
    box = result.meta.get("core")
    box = tuple(slice(*ends) for ends in box) if box else (slice(None), slice(None))
    blend, central, companion = (
        np.atleast_3d(image.data[..., *box].T).T.astype(float)
        for image in (result.image, result.central, result.companion)
    )
    valid = np.isfinite(blend)
    if result.image.mask is not None:
        valid &= ~result.image.mask[..., *box]
    level = result.meta.get("background")
    if level is None:
        level = [np.median(band[seen]) for band, seen in zip(blend, valid, strict=True)]
    noise = result.meta.get("noise")
    if noise is None:
        noise = [mad_std(band[seen]) for band, seen in zip(blend, valid, strict=True)]
    level, noise = np.array(level)[:, None, None], np.array(noise)[:, None, None]
    blend, central, companion = (
        _channels(np.where(valid, data, level)) for data in (blend, central, companion)
    )
    level, noise = _channels(level), _channels(noise)
    full_scale = result.image.meta.get("astrodeblend", {}).get("full_scale")
    noise = _whitened(blend - level, noise)
    stretch = stretch_for(blend, level, noise, full_scale, unit=result.image.unit)
    is_picture = isinstance(stretch, LinearStretch)
    together = {"sum": central + companion - level}
    if is_picture:
        together["maximum"] = np.maximum(central, companion)
    left = {}
    for way, light in together.items():
        difference = stretch(blend) - stretch(light)
        left[way] = _shown(0.5 + difference), (difference**2).mean()
    return {
        "pictures": [_shown(stretch(data)) for data in (blend, central, companion)],
        "left": left,
        # the first row of a picture is its top, that of a FITS image its bottom
        "look": {"origin": "upper", "interpolation": "bicubic"}
        if is_picture
        else {"origin": "lower", "interpolation": "nearest"},
        "wcs": result.image.wcs,
    }


def _channels(data):
    """Reduce (bands, y, x) to one channel, or to red, green and blue."""
    if len(data) in (1, 3):
        return data
    if len(data) == 2:
        return np.stack([data[1], data.mean(axis=0), data[0]])
    return np.stack([part.mean(axis=0) for part in np.array_split(data[::-1], 3)])


def _whitened(light, noise):
    """Scale the noise of the channels alike to their light, which makes the blend white."""
    bright = np.where(light > 3 * noise, light, 0).sum(axis=(1, 2), keepdims=True)
    if (bright <= 0).any():
        return noise
    return bright * np.min(noise / bright)


def _shown(values):
    """Turn (channels, y, x) into what imshow takes, (y, x) or (y, x, 3) within [0, 1]."""
    return np.moveaxis(values, 0, -1).squeeze(axis=-1 if len(values) == 1 else ()).clip(0, 1)


def _draw_scale(axes, each):
    """Draw a bar of a round length, in arcseconds if there is a WCS, else in pixels."""
    width = each["pictures"][0].shape[1]
    size, unit = 1.0, " px"
    if each["wcs"] is not None:
        scales = u.Quantity(proj_plane_pixel_scales(each["wcs"]), each["wcs"].wcs.cunit[0])
        size, unit = scales.to_value(u.arcsec).mean(), "″"
    longest = 0.3 * width * size
    power = 10.0 ** np.floor(np.log10(longest))
    length = max(step for step in (1, 2, 5) if step * power <= longest) * power
    part, start = length / size / width, 0.06
    axes.plot(
        [start, start + part], [0.06, 0.06], color="white", lw=1.2, transform=axes.transAxes,
        solid_capstyle="butt",
    )  # fmt: skip
    axes.text(
        start + part / 2, 0.08, f"{length:g}{unit}", color="white", fontsize=7, ha="center",
        va="bottom", transform=axes.transAxes,
    )  # fmt: skip
