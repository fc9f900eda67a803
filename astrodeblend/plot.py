"""Panels of blends, their components, and what is left of the light."""

import numpy as np
from astropy import units as u
from astropy.nddata import StdDevUncertainty
from astropy.stats import mad_std
from astropy.visualization import LuptonAsinhStretch
from astropy.wcs.utils import proj_plane_pixel_scales
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from astrodeblend.files import atomic_path
from astrodeblend.scaling import scaling_of

__all__ = ["in_colour", "panels", "save_figure", "scene_panels", "source_regions"]

_TITLES = ("blend", "central", "companion")
_GAP = 0.04  # inches between panels
_DEVIATIONS = 5.0  # of the noise, that are black and white in what is left of flux
_BRIGHTER = 3.0  # at most so much is a channel of a scene, for the light to be white
_MARGIN = 0.3  # inches above them for titles, and between blends side by side


def panels(results, *, across=None):
    """Draw blends, their components and what is left, each blend in a row.

    The panels show the part of the image inside the stamp, all of a row in the same
    brightness scale: a picture as it is, flux as pictures of the SDSS are made (Lupton et al.
    2004), the light of the blend as a whole being white. Three bands are red, green and blue;
    two, or more than three, go from blue to red; one is grey. In the panel of what is left,
    grey is nothing; of flux black and white are 5 standard deviations. Its title says what was
    taken from the data: the sum of the components (with the sky counted once), or, where that
    leaves less of pictures, their maximum.

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


def scene_panels(scene, *, alone=0):
    """Draw a scene: the image with its sources, all components together, and what is left.

    Every source has an ellipse of 3 semi-axes around it: solid if its light touches that of
    others, dotted if it is isolated. In the panel of what is left grey is nothing; that is the
    image less the network's own components: of a picture in the same brightness scale, of flux
    over the noise of each pixel, black and white being 5 standard deviations.

    Parameters
    ----------
    scene : Scene
        What `astrodeblend.Deblender.deblend_scene` returned.
    alone : int, optional
        So many components are drawn below, each alone under its label: the brightest of those
        whose light touches that of others. By default none.

    Returns
    -------
    `~matplotlib.figure.Figure`
        With ``savefig``; it is shown nowhere by itself.

    Raises
    ------
    ValueError
        If ``alone`` is negative.
    """
    if alone < 0:
        raise ValueError(f"alone is {alone}; it has to be at least 0")
    data, left = (np.atleast_3d(i.data.T).T.astype(float) for i in (scene.image, scene.residual))
    blended = np.flatnonzero(scene.catalog["n_blended"] > 1)
    bright = np.argsort([-scene.components[k].data.sum(dtype=float) for k in blended])
    chosen = sorted(blended[bright[:alone]])
    lights = np.zeros((1 + len(chosen), *data.shape))  # of all together, and of some alone
    for k, component in enumerate(scene.components):
        box = [slice(*ends) for ends in component.meta["box"]]
        for row in [0, *(1 + j for j, one in enumerate(chosen) if one == k)]:
            lights[row][:, *box] += np.nan_to_num(np.atleast_3d(component.data.T).T)
    valid = np.isfinite(data)
    if scene.image.mask is not None:
        valid &= ~scene.image.mask
    level, noise = (
        np.reshape(
            scene.meta.get(name) or [of(b[v]) for b, v in zip(data, valid, strict=True)], (-1, 1, 1)
        )
        for name, of in (("background", np.median), ("noise", mad_std))
    )
    scaling = scaling_of(scene.image)
    data, left = (np.where(valid, values, level) for values in (data, left))
    look = {"origin": "lower", "interpolation": "nearest"}
    titles = ["image", "components"]
    if not scaling.adds:
        look["origin"] = "upper"
        white = scaling.full_scale
        shown = [_channels(light) / white for light in (data, *(lights + level))]
        shown.insert(2, 0.5 + shown[0] - _channels(data - left + level) / white)
        titles.append("data − components")
    else:
        spread = noise if scene.image.uncertainty is None else _deviation(scene.image)
        over = np.where(valid & (spread > 0), left - level, 0) / np.where(spread > 0, spread, 1)
        light, scale = _channels(data - level), np.maximum(_channels(noise), 1e-12 * np.ptp(data))
        # a channel that has hardly any light would be nothing but its noise
        scale = np.maximum(_whitened(light, scale), scale / _BRIGHTER)
        shown = [_lupton(each / scale) for each in (light, *map(_channels, lights))]
        shown.insert(2, 0.5 + _channels(over) / (2 * _DEVIATIONS))
        titles.append(f"(data − components) / noise, ±{_DEVIATIONS:g}")
    titles += [str(scene.catalog["label"][k]) for k in chosen]

    height, width = data.shape[1:]
    side, across = 6.0, 6
    small = (3 * side + 2 * _GAP - (across - 1) * _GAP) / across
    rows = -(-len(chosen) // across)
    total = 3 * side + 2 * _GAP, side * height / width + _MARGIN
    total = total[0], total[1] + rows * (small * height / width + _MARGIN)
    figure = Figure(figsize=total, dpi=150)
    for k, (picture, title) in enumerate(zip(shown, titles, strict=True)):
        row, column = divmod(k - 3, across) if k > 2 else (-1, k)
        length = small if k > 2 else side
        tall = length * height / width
        low = (rows - 1 - row) * (small * height / width + _MARGIN)
        axes = figure.add_axes(
            (
                column * (length + _GAP) / total[0],
                low / total[1],
                length / total[0],
                tall / total[1],
            )
        )
        axes.imshow(_shown(picture), **look, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(title, fontsize=11, pad=4)
        if k == 0:
            _draw_scale(axes, {"pictures": [data.T.swapaxes(0, 1)], "wcs": scene.image.wcs})
            _draw_sources(axes, scene.catalog)
    return figure


def _deviation(image):
    """Return the standard deviation of every pixel, shape (bands, y, x)."""
    spread = image.uncertainty.represent_as(StdDevUncertainty).array
    return np.atleast_3d(spread.T).T.astype(float)


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


def source_regions(catalog, wcs=None):
    """Return the sources of a catalogue as regions: ellipses of 3 semi-axes.

    Parameters
    ----------
    catalog : `~astropy.table.QTable`
        As `astrodeblend.measure.measure` gives it.
    wcs : `~astropy.wcs.WCS`, optional
        Of the image; then they are on the sky.

    Returns
    -------
    ``regions.Regions``
        Cyan if the source is blended, white if it is isolated, with its label as text.

    Raises
    ------
    ImportError
        If the package regions is missing.
    """
    try:
        import regions
    except ImportError as error:
        raise ImportError(
            "regions for DS9 take the package regions: pip install 'astrodeblend[regions]'"
        ) from error
    found = []
    for row in catalog:
        centre = regions.PixCoord(row["x_centroid"], row["y_centroid"])
        look = {
            "meta": {"text": str(row["label"])},
            "visual": {"color": "cyan" if row["n_blended"] > 1 else "white"},
        }
        axes = [6 * row[f"semi{name}_axis"].to_value("pix") for name in ("major", "minor")]
        if np.min(axes) > 0:  # false for NaN
            shape = regions.EllipsePixelRegion(centre, *axes, angle=row["orientation"], **look)
        else:
            shape = regions.PointPixelRegion(centre, **look)
        found.append(shape if wcs is None else shape.to_sky(wcs))
    return regions.Regions(found)


def in_colour(flux, noise, wavelength):
    """Turn linear flux into red, green and blue, after Lupton et al. (2004, PASP 116, 133).

    Parameters
    ----------
    flux : numpy.ndarray
        Shape (n, rows, bands, y, x), above the sky.
    noise : numpy.ndarray
        Shape (n, bands): of the sky. Its mean over the bands shown sets the contrast.
    wavelength : sequence of float
        Of the bands in nm. Those nearest to SDSS's i, r and g are shown.

    Returns
    -------
    numpy.ndarray
        Shape (n, rows, 3, y, x), within [0, 1].
    """
    chosen = [np.abs(np.subtract(wavelength, nm)).argmin() for nm in (753, 621, 475)]
    scale = noise[:, chosen].mean(axis=1)[:, None, None, None, None]
    return _lupton(flux[:, :, chosen] / scale)


def _lupton(light):
    """Stretch light in units of the noise, shape (..., channels, y, x), and keep its colours."""
    brightness = light.mean(axis=-3, keepdims=True).clip(min=1e-3)
    shown = light * LuptonAsinhStretch(stretch=10, Q=8)(brightness, clip=False) / brightness
    return (shown / shown.max(axis=-3, keepdims=True).clip(min=1)).clip(min=0)


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
    noise = _whitened(blend - level, noise)
    scaling = scaling_of(result.image)
    together = {"sum": central + companion - level}
    least = max(1e-12 * np.ptp(blend), np.finfo(float).tiny)
    if scaling.adds:

        def stretch(light):
            return _lupton((light - level) / np.maximum(noise, least))

    else:
        together["maximum"] = np.maximum(central, companion)

        def stretch(light):
            return light / scaling.full_scale

    left = {}
    for way, light in together.items():
        if scaling.adds:  # the stretch cuts noise off at black
            difference = (blend - light) / (2 * _DEVIATIONS * np.maximum(noise, least))
        else:
            difference = stretch(blend) - stretch(light)
        left[way] = _shown(0.5 + difference), (difference**2).mean()
    return {
        "pictures": [_shown(stretch(data)) for data in (blend, central, companion)],
        "left": left,
        # the first row of a picture is its top, that of a FITS image its bottom
        "look": {"origin": "upper", "interpolation": "bicubic"}
        if not scaling.adds
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
