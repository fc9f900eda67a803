"""Figures of blends and scenes: light in colour, each source alone, and residuals in sigma."""

import base64
from io import BytesIO

import numpy as np
from astropy import units as u
from astropy.visualization import LuptonAsinhStretch
from astropy.wcs.utils import proj_plane_pixel_scales
from matplotlib import colormaps
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from PIL import Image

from astrodeblend.files import atomic_path
from astrodeblend.images import channels_of
from astrodeblend.scaling import scaling_of

__all__ = ["in_colour", "panels", "save_figure", "scene_panels", "source_regions"]

#: Standard deviations of the noise at the ends of the residual's colours: blue, white, red.
SIGMA = 5.0
RESIDUAL = colormaps["RdBu_r"].with_extremes(bad="0.6")  # grey without data

_STRETCH = 10.0  # standard deviations of the noise up to which light is drawn nearly linearly
_BRIGHTER = 3.0  # largest factor by which a channel is amplified to make the light white
_THUMBNAIL = 300  # pixels along the side of a thumbnail
_MOST = 100  # largest number of sources drawn alone by default
# The colours of Okabe & Ito, told apart by colour-blind readers, that are bright on black.
_COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00")
_CHANNELS = {"red": "#ff7070", "green": "#70e070", "blue": "#80b0ff"}
_STROKE = (withStroke(linewidth=1.5, foreground="black"),)


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
            _write(chosen[0], 0.04, 0.96, str(number + 1), va="top")
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
    sources : sequence of int, optional
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
        lights["components"][:, *box] += np.nan_to_num(_cube(component.data))
    view.draw(drawn, lights, _cube(scene.residual.data) - view.level, "components")
    if "image" in drawn:
        _outline(drawn["image"], catalog[outlined], [colours[k] for k in outlined], labels=labels)
    for label in drawn.keys() - {"image", "components", "residual"}:
        each, component = drawn[label], scene.components[label - 1]
        view.show(each, np.nan_to_num(_cube(component.data)), component.meta["box"])
        _outline(each, catalog[label - 1 : label], colours[label - 1 : label])
        _write(each, 0.05, 0.95, str(label), va="top", color=colours[label - 1])
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


class View:
    """Draws an image or a part of it: bands as colours, stretched light, residual over the noise.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` returns it.
    sky : `~astrodeblend.sky.Sky`
        Its sky.
    bands, stretch : optional
        As in `scene_panels`.
    box : pair of pairs of int, optional
        First and last row, and column, of the part; the last ones are excluded.
    """

    def __init__(self, image, sky, bands=None, stretch=None, box=None):
        if stretch is not None and not stretch > 0:
            raise ValueError(f"stretch is {stretch}; it has to be above 0")
        scaling, shape = scaling_of(image), sky.hidden.shape
        self.wcs = image.wcs
        self.box = box or tuple((0, length) for length in shape[1:])
        self.cut = (..., *(slice(*ends) for ends in self.box))
        self.level = np.broadcast_to(sky.level, shape)[self.cut]
        noise = sky.noise if image.uncertainty is None else _cube(image.uncertainty.array)
        self.noise = np.broadcast_to(noise, shape)[self.cut]
        self.valid = ~sky.hidden[self.cut]
        self.light = self.above(image)
        self.groups, self.names = channels_of(image, bands)
        self.white = None if scaling.adds or stretch is not None else scaling.full_scale
        self.stretch = _STRETCH if stretch is None else stretch
        # the first row of a picture is its top, that of a FITS image its bottom
        upper = not scaling.adds and image.wcs is None
        smooth = "antialiased" if scaling.adds else "bicubic"
        self.look = {"origin": "upper" if upper else "lower", "interpolation": smooth}
        light = self._channels(self.light)
        scale = self._channels(np.median(sky.noise, axis=(1, 2), keepdims=True))
        # a channel with hardly any light would show its noise only
        self.scale = np.maximum(_whitened(light, scale), scale / _BRIGHTER)

    def above(self, image):
        """Return the sky-subtracted light of an image, shape (bands, y, x)."""
        return np.where(self.valid, _cube(image.data)[self.cut] - self.level, 0)

    def _channels(self, data):
        """Reduce (bands, y, x) to one channel, or to red, green and blue."""
        return np.stack([data[group].mean(axis=0) for group in self.groups])

    def draw(self, axes, lights, left, less):
        """Draw lights of the whole image, and its residual, into axes of these names."""
        for name in axes.keys() & {*lights, "residual"}:
            axes[name].set_title(name, fontsize=9, pad=4, y=1)
            if name == "residual":
                self._show_left(axes[name], left, less)
            else:
                self.show(axes[name], lights[name])
        for name in axes.keys() & {"image", "blend"}:
            self._explain(axes[name])

    def pixels(self, light):
        """Return sky-subtracted light (bands, y, x) as grey (y, x) or RGB (y, x, 3), 0 to 1."""
        if self.white is None:
            shown = _lupton(self._channels(light) / self.scale, self.stretch)
        else:
            level = np.median(self.level, axis=(1, 2), keepdims=True)
            shown = self._channels(light + level) / self.white
        return np.moveaxis(shown, 0, -1).squeeze(axis=-1 if len(shown) == 1 else ()).clip(0, 1)

    def show(self, axes, light, box=None):
        """Draw sky-subtracted light, shape (bands, y, x), of the image or of a part of it."""
        self._imshow(axes, self.pixels(light), box or self.box, cmap="gray", vmin=0, vmax=1)
        axes.set_facecolor("black")
        if box is not None:  # in the middle of a square
            half, (y, x) = np.ptp(box, axis=1).max() / 2, np.mean(box, axis=1) - 0.5
            down = -half if axes.yaxis_inverted() else half
            axes.set(xlim=(x - half, x + half), ylim=(y - down, y + down))

    def sigma(self, left):
        """Return a residual (bands, y, x) in standard deviations (y, x), NaN without data."""
        chosen = sorted({int(band) for group in self.groups for band in group})
        left, noise = left[chosen], self.noise[chosen]
        seen = self.valid[chosen] & (noise > 0)
        sigma = np.where(seen, left, 0) / np.where(seen, noise, 1)
        count = seen.sum(axis=0)
        return np.where(count > 0, sigma.sum(axis=0) / np.sqrt(np.maximum(count, 1)), np.nan)

    def as_bytes(self, shown):
        """Return a drawing with values from 0 to 1 in 8 bits, its top row first."""
        up = -1 if self.look["origin"] == "lower" else 1
        return (255 * shown).astype(np.uint8)[::up]

    def _show_left(self, axes, left, less):
        """Draw the residual over the noise, with a colour bar."""
        ends = {"vmin": -SIGMA, "vmax": SIGMA, "interpolation": "antialiased"}
        axes.set_facecolor(RESIDUAL.get_bad())
        drawn = self._imshow(axes, self.sigma(left), self.box, cmap=RESIDUAL, **ends)
        bar = axes.figure.colorbar(drawn, cax=axes.inset_axes((1.03, 0, 0.05, 1)), extend="both")
        bar.set_label(f"(data − {less}) / σ", fontsize=8)
        bar.ax.tick_params(labelsize=7)

    def _imshow(self, axes, shown, box, **look):
        (bottom, top), (left, right) = np.subtract(box, 0.5)
        ends = (top, bottom) if self.look["origin"] == "upper" else (bottom, top)
        drawn = axes.imshow(shown, **self.look | look, extent=(left, right, *ends))
        if not hasattr(axes, "coords"):
            axes.set(xticks=[], yticks=[])
        return drawn

    def legend(self):
        """Return the bands of each channel in words, such as "red i", with a colour for them."""
        if self.names is None:
            return {}
        colours = _CHANNELS if len(self.names) == 3 else {"": "white"}
        return {
            f"{channel} {name}".strip(): colour
            for (channel, colour), name in zip(colours.items(), self.names, strict=True)
        }

    def _explain(self, axes):
        """Label the bands of the colours, and draw the scale if the axes do not show it."""
        for k, (text, colour) in enumerate(self.legend().items()):
            _write(axes, 0.97, 0.97, "\n" * k + text, va="top", ha="right", color=colour)
        if not hasattr(axes, "coords"):
            _draw_scale(axes, self.box, self.wcs)


def thumbnails(scene, images, *, box=None):
    """Return images of a scene, or the same part of each, as self-contained HTML."""
    view, pictures = View(scene.image, scene.sky, box=box), []
    for name, image in images.items():
        pixels = view.as_bytes(view.pixels(view.above(image)))
        source = png_address(shrunk(pixels, _THUMBNAIL))
        style = f"height:{_THUMBNAIL * 2 // 3}px;image-rendering:pixelated"
        pictures.append(f'<img src="{source}" alt="{name}" title="{name}" style="{style}">')
    return " ".join(pictures)


def shrunk(pixels, side):
    """Return an array of bytes as a picture, shrunk to fit into a square."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize([max(1, round(scale * n)) for n in picture.size], Image.Resampling.BOX)


def png_address(picture):
    """Return a picture as a data URL of a PNG."""
    content = BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _cube(data):
    """View an array (y, x) or (bands, y, x) as (bands, y, x)."""
    return np.asarray(data, dtype=float).reshape(-1, *data.shape[-2:])


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


def _whitened(light, noise):
    """Return the scale of each channel, in proportion to its light, which makes the blend white."""
    bright = np.where(light > 3 * noise, light, 0).sum(axis=(1, 2), keepdims=True)
    if (bright <= 0).any():
        return noise
    return bright * np.min(noise / bright)


def _lupton(light, stretch=_STRETCH):
    """Stretch light in units of the noise, shape (..., channels, y, x), keeping its colours."""
    brightness = light.mean(axis=-3, keepdims=True).clip(min=1e-3)
    shown = light * LuptonAsinhStretch(stretch=stretch, Q=8)(brightness, clip=False) / brightness
    return (shown / shown.max(axis=-3, keepdims=True).clip(min=1)).clip(min=0)


def in_colour(flux, noise, wavelength):
    """Turn linear flux into red, green and blue, after Lupton et al. (2004, PASP 116, 133).

    Parameters
    ----------
    flux : numpy.ndarray
        Shape (n, rows, bands, y, x), sky-subtracted.
    noise : numpy.ndarray
        Shape (n, bands): sky noise. Its mean over the bands shown sets the contrast.
    wavelength : sequence of float
        Wavelengths of the bands in nm. The bands nearest to SDSS's i, r and g are shown.

    Returns
    -------
    numpy.ndarray
        Shape (n, rows, 3, y, x), within [0, 1].
    """
    chosen = [np.abs(np.subtract(wavelength, nm)).argmin() for nm in (753, 621, 475)]
    scale = noise[:, chosen].mean(axis=1)[:, None, None, None, None]
    return _lupton(flux[:, :, chosen] / scale)


def _draw_result(result, axes, bands, stretch):
    """Draw a blend, its components and its residual."""
    drawn = _by_name(axes, ["blend", "central", "companion", "residual"])
    view = View(result.image, result.scene.sky, bands, stretch, result.meta.get("core"))
    lights = {name: view.above(getattr(result, name)) for name in ("central", "companion")}
    way, left = residual_of(view.light, *lights.values(), adds=scaling_of(result.image).adds)
    view.draw(drawn, {"blend": view.light, **lights}, left, way)


def residual_of(blend, central, companion, *, adds):
    """Return what was subtracted from a blend, sum or maximum, and the residual.

    In pictures, in which light need not add, that which leaves the smaller residual.
    """
    left = {"sum": blend - central - companion}
    if not adds:
        left["maximum"] = blend - np.maximum(central, companion)
    way = min(left, key=lambda way: (left[way] ** 2).sum())
    return way, left[way]


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
            path_effects=_STROKE, annotation_clip=True,
        )  # fmt: skip


def _write(axes, x, y, text, *, color="white", **where):
    axes.text(
        x, y, text, color=color, fontsize=7, path_effects=_STROKE, transform=axes.transAxes, **where
    )


def _label_sky(axes, wcs):
    """Label the first axes of a row with the sky's coordinates."""
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


def _draw_scale(axes, box, wcs):
    """Draw a bar of a round length: an angle if there is a WCS, else pixels."""
    width, size, unit = np.ptp(box[1]), 1.0, " px"
    if wcs is not None:
        scales = u.Quantity(proj_plane_pixel_scales(wcs), wcs.wcs.cunit[0])
        size, unit = scales.to_value(u.arcsec).mean(), "″"
        for sixty in "′°":
            if 0.3 * width * size >= 60:
                size, unit = size / 60, sixty
    longest = 0.3 * width * size
    power = 10.0 ** np.floor(np.log10(longest))
    length = max(step for step in (1, 2, 5) if step * power <= longest) * power
    bar = AnchoredSizeBar(
        axes.transData, length / size, f"{length:g}{unit}", "lower left", color="white",
        label_top=True, sep=3, pad=0.3, borderpad=0.3, fontproperties=FontProperties(size=7),
    )  # fmt: skip
    bar.patch.set(facecolor="black", edgecolor="none", alpha=0.6)  # readable on bright galaxies
    axes.add_artist(bar)


def source_regions(catalog, wcs=None):
    """Return the sources of a catalogue as regions: ellipses of 3 semi-axes.

    Parameters
    ----------
    catalog : `~astropy.table.QTable`
        As `astrodeblend.measure.measure` returns it.
    wcs : `~astropy.wcs.WCS`, optional
        WCS of the image, for regions in sky coordinates.

    Returns
    -------
    ``regions.Regions``
        Cyan for blended sources, white for isolated ones, with the label as text.

    Raises
    ------
    ImportError
        If the package regions is missing.
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


def save_figure(figure, path, *, overwrite=False):
    """Write a figure to a file; after an error no file is left.

    Parameters
    ----------
    figure : `~matplotlib.figure.Figure`
    path : str or path-like
        The file; its suffix is the format: ``.png``, ``.pdf``, ``.svg``, ``.jpg``.
    overwrite : bool, optional
        Replace a file that exists. By default that raises.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError
        If ``path`` exists, its folder does not, or that is read-only.
    ValueError
        If matplotlib does not write that format.
    """
    with atomic_path(path, overwrite=overwrite) as file:
        figure.savefig(file)
