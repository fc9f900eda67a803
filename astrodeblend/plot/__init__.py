"""Figures of blends and scenes: light in colour, each source alone, and residuals in sigma."""

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from astrodeblend.scaling import scaling_of

from .view import STROKE, View, cube, in_colour, residual_of, write_on

__all__ = ["in_colour", "panels", "scene_panels", "source_regions"]

_MOST = 100  # largest number of sources drawn alone by default
# The colours of Okabe & Ito, told apart by colour-blind readers, that are bright on black.
_COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00")


def panels(results, *, across=None, bands=None, stretch=None, axes=None):
    """Draw blends, their components and their residuals, each blend in a row.

    The panels show the part of the image inside the stamp, all of a row in the same brightness
    scale. The residual is drawn as in `scene_panels`; its colour bar names what was subtracted: the
    sum of the components, or, if that leaves a smaller residual in pictures, their maximum.

    Parameters
    ----------
    results : Deblended or sequence of Deblended
        Results of a `astrodeblend.Deblender`.
    across : int, optional
        Blends per row of the figure; by default 1, or 2 for five or more blends.
    bands, stretch : optional
        As in `scene_panels`.
    axes : `~matplotlib.axes.Axes`, sequence or dict of them, optional
        For one result, axes for ``blend``, ``central``, ``companion`` and ``residual``, in this
        order or by name, or for some of them.

    Returns
    -------
    `~matplotlib.figure.Figure`
        The figure, which is not displayed; its ``axes`` are the panels. Or ``axes``, if given.

    Raises
    ------
    ValueError
        If there are no results, an option is invalid, or there are ``axes`` for several results.
    """
    results = [results] if hasattr(results, "central") else list(results)
    if not results:
        raise ValueError("results is empty; give at least one result")
    if across is None:
        across = 1 if len(results) < 5 else 2
    if across < 1:
        raise ValueError(f"across is {across}; it has to be at least 1")
    if axes is not None:
        if len(results) > 1:
            raise ValueError(f"axes are for one result, and there are {len(results)}")
        _draw_result(results[0], axes, bands, stretch)
        return axes
    across = min(across, len(results))
    rows = -(-len(results) // across)
    side, wcs = (2.4, results[0].image.wcs) if len(results) == 1 else (1.7, None)
    size = across * (4 * side + 0.65), rows * side * max(map(_shape_ratio, results)) + 0.35
    figure = _figure(size if wcs is None else np.add(size, (0.7, 0.25)), "compressed")
    grid = figure.add_gridspec(rows, 4 * across)
    for number, result in enumerate(results):
        row, column = divmod(number, across)
        chosen = [figure.add_subplot(grid[row, 4 * column + k], projection=wcs) for k in range(4)]
        _draw_result(result, chosen, bands, stretch)
        _label_sky(chosen, wcs)
        for each in chosen if row else ():
            each.set_title("")
        if len(results) > 1:
            write_on(chosen[0], 0.04, 0.96, str(number + 1), va="top")
    return figure


def scene_panels(scene, *, sources=None, bands=None, stretch=None, labels=False, axes=None):
    """Draw a scene: the image with its sources, all components, the residual, each source alone.

    Every source has an ellipse of 2 semi-axes: in a colour that differs from its neighbours' if it
    is blended, white and dotted if it is isolated. The residual is the image less the network's
    components over the noise of each pixel (of the sky, for pictures), summed over the bands shown
    and divided by the square root of their number, so that noise has a standard deviation of 1.
    Below is every blended source alone, its label in its colour.

    Flux is drawn like the pictures of the SDSS (Lupton et al. 2004), with the colours scaled to
    make the total light white; a picture is drawn unchanged. Axes show sky coordinates with a
    celestial WCS, else a bar shows the scale.

    Parameters
    ----------
    scene : Scene
        Result of `astrodeblend.Deblender.deblend_scene`.
    sources : int or sequence of int, optional
        Labels of the sources to outline and to draw alone. By default all are outlined, and the
        blended ones, up to the 100 brightest, are drawn alone.
    bands : sequence of str or int, optional
        Bands to draw, such as ``"gri"``, ``["F606W", "F814W"]`` or ``[0, 2, 3]``: names, which are
        sorted by wavelength, or numbers from 0, from blue to red. For an image without names of
        bands, one name for each. One band is grey; green is the mean of two; more than three share
        the channels. By default all, sorted by wavelength, or in their order if a name is unknown.
    stretch : float, optional
        Standard deviations of the noise up to which light is drawn nearly linearly; a smaller
        value shows fainter light. By default 10 for flux; pictures are drawn unchanged.
    labels : bool, optional
        Write the labels of the sources into the image.
    axes : `~matplotlib.axes.Axes`, sequence or dict of them, optional
        Axes for ``image``, ``components``, ``residual`` and the labels of the sources drawn alone,
        in this order or by name, or for some of them.

    Returns
    -------
    `~matplotlib.figure.Figure`
        The figure, which is not displayed; its ``axes`` are the panels. Or ``axes``, if given.

    Raises
    ------
    ValueError
        If there is no such source or band, an option is invalid, or there are too many axes.
    """
    catalog, view = scene.catalog, View(scene.image, scene.sky, bands, stretch)
    blended = np.flatnonzero(catalog["n_blended"] > 1)
    colours, said = _told_apart(catalog, blended), ""
    if sources is None:
        outlined, alone = np.arange(len(catalog)), blended
        if len(alone) > _MOST:
            bright = np.argsort([-scene.components[k].data.sum(dtype=float) for k in alone])
            said = f"the brightest {_MOST} of {len(alone)} blended sources"
            alone = np.sort(alone[bright[:_MOST]])
    else:
        sources = np.ravel(sources).tolist()
        if unknown := set(sources) - set(catalog["label"].tolist()):
            text = f"the catalogue has labels 1 to {len(catalog)}"
            raise ValueError(f"sources has {min(unknown)}: {text}")
        alone = outlined = np.asarray(sources, dtype=int) - 1
    names = ["image", "components", "residual", *catalog["label"][alone].tolist()]
    figure = None
    if axes is None:
        figure, drawn = _scene_figure(names, view, said)
    else:
        drawn = _by_name(axes, names)

    lights = {"image": view.light, "components": np.zeros_like(view.light)}
    for component in scene.components if "components" in drawn else ():
        box = [slice(*ends) for ends in component.meta["box"]]
        lights["components"][:, *box] += np.nan_to_num(cube(component.data))
    view.draw(drawn, lights, cube(scene.residual.data) - view.level, "components")
    if "image" in drawn:
        _outline(drawn["image"], catalog[outlined], [colours[k] for k in outlined], labels=labels)
    for label in drawn.keys() - {"image", "components", "residual"}:
        each, component = drawn[label], scene.components[label - 1]
        view.show(each, np.nan_to_num(cube(component.data)), component.meta["box"])
        _outline(each, catalog[label - 1 : label], colours[label - 1 : label])
        write_on(each, 0.05, 0.95, str(label), va="top", color=colours[label - 1])
    return figure or axes


def _shape_ratio(result):
    """Return height over width of the drawn part of the image, at most 1."""
    height, width = result.image.data.shape[-2:]
    if "core" in result.meta:
        height, width = np.ptp(result.meta["core"], axis=1)
    return min(height / width, 1)


def _figure(size, layout):
    figure = Figure(figsize=size, dpi=200)
    figure.set_layout_engine(layout, w_pad=0.025, h_pad=0.025, wspace=0, hspace=0)
    return figure


def _scene_figure(names, view, said):
    """Return a figure and its axes by name: three of the image, and small ones below."""
    height, width = view.light.shape[1:]
    small = len(names) - 3
    across = max(8, int(np.ceil(np.sqrt(2 * small))))
    rows = -(-small // across)
    tall = (
        3.3 * height / width + (0.4 if view.wcs is None else 0.7),
        rows * 10.8 / across + 0.2 * bool(said),
    )
    figure = top = _figure((11, sum(tall)), "constrained")
    if rows:
        top, below = figure.subfigures(2, 1, height_ratios=tall)
        below.suptitle(said, fontsize=9)
    axes = [*top.subplots(1, 3, subplot_kw={"projection": view.wcs})]
    _label_sky(axes, view.wcs)
    if rows:
        grid = below.add_gridspec(rows, across)
        axes += [below.add_subplot(grid[divmod(k, across)]) for k in range(small)]
    return figure, dict(zip(names, axes, strict=True))


def _by_name(axes, names):
    """Return axes by the names of their panels."""
    if isinstance(axes, dict):
        if unknown := set(axes) - set(names):
            raise ValueError(f"axes has {unknown.pop()!r}; panels are {', '.join(map(str, names))}")
        return axes
    axes = np.ravel(axes).tolist()
    if len(axes) > len(names):
        raise ValueError(f"axes are {len(axes)}, and there are {len(names)} panels; give fewer")
    return dict(zip(names, axes, strict=False))


def _draw_result(result, axes, bands, stretch):
    """Draw a blend, its components and its residual."""
    drawn = _by_name(axes, ["blend", "central", "companion", "residual"])
    view = View(result.image, result.scene.sky, bands, stretch, result.meta.get("core"))
    lights = {name: view.above(getattr(result, name)) for name in ("central", "companion")}
    way, left = residual_of(view.light, *lights.values(), adds=scaling_of(result.image).adds)
    view.draw(drawn, {"blend": view.light, **lights}, left, way)


def _told_apart(catalog, blended):
    """Return a colour for each source; blended ones of the same colour are far apart."""
    places = np.stack([catalog["x_centroid"], catalog["y_centroid"]], axis=-1)
    colours = ["white"] * len(catalog)
    nearest = np.full((len(catalog), len(_COLOURS)), np.inf)  # distance to each colour
    for k in blended:
        best = int(np.argmax(nearest[k]))
        colours[k] = _COLOURS[best]
        apart = np.hypot(*(places - places[k]).T)
        nearest[:, best] = np.fmin(nearest[:, best], apart)
    return colours


def _outline(axes, catalog, colours, *, labels=False):
    """Draw an ellipse around every source, and write its label on it."""
    measured = np.isfinite(catalog["x_centroid"])
    catalog, colours = catalog[measured], np.array(colours, dtype=object)[measured].tolist()
    if not len(catalog):
        return
    place = np.stack([catalog["x_centroid"], catalog["y_centroid"]], axis=-1)
    sizes = [4 * catalog[f"semi{name}_axis"].to_value("pix") for name in ("major", "minor")]
    angle = catalog["orientation"].to_value("deg")
    axes.add_collection(
        EllipseCollection(
            *sizes, angle, units="xy", offsets=place, offset_transform=axes.transData,
            facecolor="none", edgecolor=colours, lw=np.clip(10 / np.sqrt(len(catalog)), 0.3, 0.9),
            ls=["-" if colour != "white" else ":" for colour in colours],
        ),
        autolim=False,
    )  # fmt: skip
    turn, (major, minor) = np.radians(angle), np.array(sizes) / 2
    up = np.hypot(major * np.sin(turn), minor * np.cos(turn))
    above = place + np.outer(-up if axes.yaxis_inverted() else up, (0, 1))
    for at, row, colour in zip(above, catalog, colours, strict=True) if labels else ():
        axes.annotate(
            str(row["label"]), at, color=colour, fontsize=7, ha="center", va="center",
            path_effects=STROKE, annotation_clip=True,
        )  # fmt: skip


def _label_sky(axes, wcs):
    """Label the first axes of a row with sky coordinates."""
    for number, each in enumerate(axes if wcs is not None else ()):
        each.patch.set_in_layout(False)  # it keeps the limits of its creation
        for axis, name in ((wcs.wcs.lng, wcs.wcs.lngtyp), (wcs.wcs.lat, wcs.wcs.lattyp)):
            coordinate = each.coords[axis]
            coordinate.set_ticks(number=3)
            coordinate.tick_params(direction="in", color="0.6")
            coordinate.set_ticklabel(exclude_overlapping=True, fontsize=7)
            coordinate.set_ticklabel_visible(number == 0)
            name = {"DEC": "Dec"}.get(name, name) if number == 0 else " "
            coordinate.set_axislabel(name, fontsize=8)


def source_regions(catalog, wcs=None):
    """Return the sources of a catalogue as ``regions.Regions``: ellipses of 3 semi-axes.

    They are cyan for blended sources, white for isolated ones, with the label as text, and in sky
    coordinates if the WCS of the image is given. It takes the package regions.
    """
    try:
        import regions
    except ImportError as error:
        raise ImportError(
            "regions for DS9 need the package regions: pip install regions"
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
