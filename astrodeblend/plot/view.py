"""How an image is drawn: its bands as colours, its light stretched, its residual over the noise."""

import base64
from io import BytesIO
from numbers import Real

import numpy as np
from astropy import units as u
from astropy.visualization import LuptonAsinhStretch
from astropy.wcs.utils import proj_plane_pixel_scales
from matplotlib import colormaps
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from PIL import Image

from astrodeblend.images import channels_of
from astrodeblend.scaling import scaling_of

#: Standard deviations of the noise at the ends of the residual's colours: blue, white, red.
SIGMA = 5.0
RESIDUAL = colormaps["RdBu_r"].with_extremes(bad="0.6")  # grey without data

_STRETCH = 10.0  # standard deviations of the noise up to which light is drawn nearly linearly
_BRIGHTER = 3.0  # largest factor by which a channel is amplified to make the light white
_THUMBNAIL = 300  # pixels along the side of a thumbnail
_CHANNELS = {"red": "#ff7070", "green": "#70e070", "blue": "#80b0ff"}
STROKE = (withStroke(linewidth=1.5, foreground="black"),)


class View:
    """Draws an image or a part of it: bands as colours, stretched light, residual over the noise.

    ``sky`` is the image's `astrodeblend.sky.Sky`; ``bands`` and ``stretch`` are as in
    `scene_panels`; ``box`` has the first and the last row and column of the part, the last ones
    excluded.
    """

    def __init__(self, image, sky, bands=None, stretch=None, box=None):
        if stretch is not None and not (isinstance(stretch, Real) and stretch > 0):
            raise ValueError(f"stretch is {stretch!r}; it has to be a number above 0")
        scaling, shape = scaling_of(image), sky.hidden.shape
        self.wcs = image.wcs
        self.box = box or tuple((0, length) for length in shape[1:])
        self.cut = (..., *(slice(*ends) for ends in self.box))
        self.level = np.broadcast_to(sky.level, shape)[self.cut]
        noise = sky.noise if image.uncertainty is None else cube(image.uncertainty.array)
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
        return np.where(self.valid, cube(image.data)[self.cut] - self.level, 0)

    def _channels(self, data):
        """Reduce (bands, y, x) to one channel, or to red, green and blue."""
        return np.stack([data[group].mean(axis=0) for group in self.groups])

    def draw(self, axes, lights, left, less):
        """Draw light and residual of the whole image into the axes of these names."""
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
            write_on(axes, 0.97, 0.97, "\n" * k + text, va="top", ha="right", color=colour)
        if not hasattr(axes, "coords"):
            _draw_scale(axes, self.box, self.wcs)


def cube(data):
    """View an array (y, x) or (bands, y, x) as (bands, y, x)."""
    return np.asarray(data, dtype=float).reshape(-1, *data.shape[-2:])


def residual_of(blend, central, companion, *, adds):
    """Return what was subtracted from a blend, sum or maximum, and the residual.

    In pictures, in which light need not add, that which leaves the smaller residual.
    """
    left = {"sum": blend - central - companion}
    if not adds:
        left["maximum"] = blend - np.maximum(central, companion)
    way = min(left, key=lambda way: (left[way] ** 2).sum())
    return way, left[way]


def write_on(axes, x, y, text, *, color="white", **where):
    """Write text at a place in the panel, as a fraction of its width and height."""
    axes.text(
        x, y, text, color=color, fontsize=7, path_effects=STROKE, transform=axes.transAxes, **where
    )


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


def _whitened(light, noise):
    """Return the scale of each channel that makes the total light white."""
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

    The flux above the sky (n, rows, bands, y, x) becomes (n, rows, 3, y, x) from 0 to 1, of the
    bands whose ``wavelength`` in nm is nearest to that of SDSS's i, r and g. The mean ``noise`` of
    these, out of (n, bands), sets the contrast.
    """
    chosen = [np.abs(np.subtract(wavelength, nm)).argmin() for nm in (753, 621, 475)]
    scale = noise[:, chosen].mean(axis=1)[:, None, None, None, None]
    return _lupton(flux[:, :, chosen] / scale)


def thumbnails(scene, images, *, box=None):
    """Return images of a scene, or one part of them, as self-contained HTML."""
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
