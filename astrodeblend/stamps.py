"""Stamps centred on galaxies: cut, brought to the network's grid, and brought back.

Everything here takes an image as `astrodeblend.images.read_image` gives it: an
`~astropy.nddata.NDData` with float data of shape (bands, y, x).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.nddata import NDData
from astropy.wcs import Sip
from scipy.interpolate import make_interp_spline

from astrodeblend.background import estimate_background
from astrodeblend.images import is_surface_brightness

__all__ = ["Stamp", "cut_stamp", "pixel_position", "stamp_width"]

_SMALLEST_STAMP = 16  # pixels; less holds no measurable galaxy


def stamp_width(radius, *, petrosian_radii=5.8, shape=None):
    """Width of the stamp for a galaxy, from its size by a model's rule.

    Parameters
    ----------
    radius : float or `~astropy.units.Quantity`
        Petrosian radius in pixels.
    petrosian_radii : float, optional
        Width of the stamp in Petrosian radii; part of a model's card.
    shape : tuple of int, optional
        The image's (y, x): the stamp is no wider than its longer side.

    Returns
    -------
    width : float
        In pixels of the image, at least 16.
    """
    width = petrosian_radii * float(u.Quantity(radius, u.pix).value)
    if not np.isfinite(width) or width <= 0:
        raise ValueError(f"radius is {radius}; a Petrosian radius is a positive number of pixels")
    if shape is not None:
        width = min(width, max(shape))
    return max(width, float(_SMALLEST_STAMP))


def pixel_position(image, position=None):
    """Turn a position into pixels, refusing what lies outside the image.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        Data of shape (bands, y, x).
    position : tuple of float or `~astropy.coordinates.SkyCoord`, optional
        One position: (x, y) in pixels, the first pixel's centre being (0, 0), or a place on
        the sky. By default the middle of the image.

    Returns
    -------
    x, y : float

    Raises
    ------
    ValueError
        If ``position`` is not inside the image, or on the sky while the image has no WCS.
    TypeError
        If ``position`` is neither two numbers nor a `~astropy.coordinates.SkyCoord`.
    """
    ny, nx = image.data.shape[-2:]
    if position is None:
        return (nx - 1) / 2, (ny - 1) / 2
    shown = repr(position)
    if isinstance(position, SkyCoord):
        if position.size != 1:
            raise ValueError(f"position holds {position.size} places; give one at a time")
        position = position.reshape(())
        shown = f"{position.to_string()} on the sky"
        if image.wcs is None:
            raise ValueError(
                f"position is {shown}, but the image has no WCS; "
                "give it as pixels (x, y), or give an image with a WCS"
            )
        position = image.wcs.world_to_pixel(position)
        if not np.isfinite(position).all():
            raise ValueError(f"position is {shown}, outside the image: its WCS ends before")
        shown += " (pixel {:.6g}, {:.6g})".format(*position)
    try:
        x, y = (float(value) for value in position)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"position is {shown}; it has to be two numbers (x, y) or a SkyCoord"
        ) from error
    if not (-0.5 <= x <= nx - 0.5 and -0.5 <= y <= ny - 0.5):
        raise ValueError(
            f"position is {shown}, outside the image; x has to be within 0 and {nx - 1}, "
            f"y within 0 and {ny - 1}"
        )
    return x, y


@dataclass(frozen=True, eq=False)
class Stamp:
    """A square part of an image on a grid of its own, with the way back.

    Made by `cut_stamp`.

    Attributes
    ----------
    image : `~astropy.nddata.NDData`
        The stamp: data of shape (bands, pixels, pixels), unit, WCS, and a mask that is true
        where any part of a pixel was masked or outside the image and so was filled with the
        background's level.
    position : tuple of float
        Where the stamp's middle lies in the image, (x, y) in pixels.
    width : float
        Width in pixels of the image.
    shape : tuple of int
        The image's (y, x).
    brightness : bool
        True if values are surface brightnesses (pictures, or a unit such as MJy/sr), which
        resampling keeps; false if they are fluxes per pixel, of which it keeps the sum.
    """

    image: NDData
    position: tuple[float, float]
    width: float
    shape: tuple[int, int]
    brightness: bool

    @property
    def pixels(self):
        """Pixels along each side of the stamp."""
        return self.image.data.shape[-1]

    @property
    def scale(self):
        """Width of a pixel of the stamp in pixels of the image."""
        return self.width / self.pixels

    @property
    def slices(self):
        """The part of the image that the stamp touches, as slices (y, x)."""
        return tuple(
            slice(max(axis.start, 0), min(axis.stop, side))
            for axis, side in zip(self._axes[::-1], self.shape, strict=True)
        )

    def to_image(self, values, *, cutout=False):
        """Resample an array from the stamp's grid to the image's own, flux kept.

        Parameters
        ----------
        values : `~numpy.ndarray`, shape (..., pixels, pixels)
            In the units of the stamp.
        cutout : bool, optional
            Return only the part of the image at `slices`.

        Returns
        -------
        `~numpy.ndarray`, shape (..., y, x)
            Zero outside the stamp. A pixel that the stamp covers in part has that part of
            the light.
        """
        x, y = self._axes
        if x.aligned and y.aligned:
            result = np.array(values, dtype=float)
        else:
            result = y.to_image @ np.asarray(values, dtype=float) @ x.to_image.T
            if self.brightness:
                result *= self.scale**2
        rows, columns = box = self.slices
        inside = result[
            ...,
            rows.start - y.start : rows.stop - y.start,
            columns.start - x.start : columns.stop - x.start,
        ]
        if cutout:
            return inside
        whole = np.zeros(inside.shape[:-2] + self.shape)
        whole[..., *box] = inside
        return whole

    def fractions_to_image(self, fractions, *, cutout=False):
        """Interpolate fractions of the light from the stamp's grid to the image's own.

        Multiplied there with the image, they give components of full resolution, in the
        image's own units, with its flux.

        Parameters
        ----------
        fractions : `~numpy.ndarray`, shape (..., pixels, pixels)
            Parts of the blend's light, 0 to 1.
        cutout : bool, optional
            Return only the part of the image at `slices`.

        Returns
        -------
        `~numpy.ndarray`, shape (..., y, x)
            Within 0 and 1; zero outside the stamp. Fractions that sum to 1 still do.
        """
        covered = self.to_image(np.ones((self.pixels, self.pixels)), cutout=cutout)
        result = self.to_image(fractions, cutout=cutout)
        return np.clip(result / np.maximum(covered, 1e-9), 0, 1)

    @cached_property
    def _axes(self):
        return [_Axis(centre, self.width, self.pixels) for centre in self.position]


@dataclass(frozen=True)
class _Axis:
    """A stamp along one axis: where its middle is, and its width, in pixels of the image."""

    centre: float
    width: float
    pixels: int

    @property
    def edges(self):
        """Edges of the stamp's pixels; those of the image are at integers and a half."""
        return self.centre + self.width * (np.arange(self.pixels + 1) / self.pixels - 0.5)

    @property
    def start(self):
        """First pixel of the image that the stamp touches, be it outside the image."""
        # the small number keeps rounding errors from touching a pixel by nothing
        return int(np.floor(self.centre - self.width / 2 + 0.5 + 1e-9))

    @property
    def stop(self):
        """The pixel after the last that the stamp touches."""
        return int(np.ceil(self.centre + self.width / 2 + 0.5 - 1e-9))

    @property
    def aligned(self):
        """Whether pixels of the stamp are pixels of the image."""
        low = self.centre - self.width / 2 + 0.5
        return self.width == self.pixels and abs(low - round(low)) < 1e-9

    @cached_property
    def to_image(self):
        """The matrix from pixels of the stamp to those of the image from start to stop."""
        return _rebinning(self.edges, np.arange(self.start, self.stop + 1) - 0.5)


def cut_stamp(image, position=None, *, width, pixels=80, background=None):
    """Cut a stamp centred on a position and bring it to the network's grid.

    The light is averaged over each pixel of the stamp: a cubic spline through the summed
    light at the pixels' edges, along y and x, so that no flux is lost or made at any scale.
    A stamp whose pixels are those of the image is a plain copy.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        Data of shape (bands, y, x). Its uncertainty is left out.
    position : tuple of float or `~astropy.coordinates.SkyCoord`, optional
        As in `pixel_position`; it comes to lie in the stamp's middle.
    width : float
        Width in pixels of the image, such as `stamp_width` gives.
    pixels : int, optional
        Pixels along each side of the stamp.
    background : float or `~numpy.ndarray`, shape (bands,), optional
        What to fill masked pixels with, and those outside the image. By default the
        background's level at ``position``.

    Returns
    -------
    Stamp

    Raises
    ------
    ValueError
        If ``position`` is outside the image, or ``width`` less than a pixel.
    """
    x, y = pixel_position(image, position)
    bands, *shape = image.data.shape
    width = float(width)
    if not (np.isfinite(width) and width >= 1):
        raise ValueError(f"width is {width}; it has to be at least one pixel")
    if background is None:
        level, _ = estimate_background(image)
        background = np.broadcast_to(level, image.data.shape)[:, *_pixel_at(x, y, shape)]
    background = np.broadcast_to(background, bands)[:, None, None]

    axes = [_Axis(centre, width, pixels) for centre in (x, y)]
    aligned = all(axis.aligned for axis in axes)
    margin = 0 if aligned else 4  # pixels that support the spline beyond the stamp
    columns, rows = (np.arange(axis.start - margin, axis.stop + margin) for axis in axes)
    outside = ((rows < 0) | (rows >= shape[0]))[:, None] | (columns < 0) | (columns >= shape[1])
    box = np.ix_(rows.clip(0, shape[0] - 1), columns.clip(0, shape[1] - 1))
    data = image.data[:, *box].astype(float)
    filled = outside | ~np.isfinite(data)
    if image.mask is not None:
        filled |= image.mask[:, *box]
    data = np.where(filled, background, data)

    brightness = is_surface_brightness(image)
    if not aligned:
        edges = [np.append(known, known[-1] + 1) - 0.5 for known in (columns, rows)]
        across, along = (_rebinning(e, axis.edges) for e, axis in zip(edges, axes, strict=True))
        data = along @ data @ across.T
        area = (width / pixels) ** 2
        if filled.any():
            across, along = (
                _rebinning(e, axis.edges, 1) for e, axis in zip(edges, axes, strict=True)
            )
            filled = along @ filled @ across.T > 1e-6 * area
        else:
            filled = np.zeros(data.shape, bool)
        if brightness:
            data /= area
    stamp = NDData(
        data.astype(image.data.dtype),
        mask=filled,
        unit=image.unit,
        wcs=None if image.wcs is None else _stamp_wcs(image.wcs, (x, y), width, pixels),
        meta=dict(image.meta),
    )
    return Stamp(stamp, (x, y), width, tuple(shape), brightness)


def _pixel_at(x, y, shape):
    """Return the index (y, x) of the pixel that holds a position."""
    return tuple(min(int(np.floor(p + 0.5)), n - 1) for p, n in zip((y, x), shape, strict=True))


def _rebinning(old, new, degree=3):
    """Return the matrix that takes light between edges ``old`` to that between edges ``new``."""
    # of each old pixel the light below every edge, if there is one unit of it
    below = np.tri(len(old), len(old) - 1, -1)
    spline = make_interp_spline(old, below, k=degree)
    return np.diff(spline(np.clip(new, old[0], old[-1])), axis=0)


def _stamp_wcs(wcs, position, width, pixels):
    """Move and scale a celestial WCS to a stamp's grid, with its distortions."""
    scale = width / pixels
    offset = np.array(position) - scale * (pixels - 1) / 2

    def moved(pixel):  # counted from 1, as in FITS
        return (np.asarray(pixel) - 1 - offset) / scale + 1

    new = wcs.deepcopy()
    new.wcs.crpix = moved(wcs.wcs.crpix)
    if wcs.wcs.has_cd():
        new.wcs.cd = wcs.wcs.cd * scale
    else:
        new.wcs.cdelt = wcs.wcs.cdelt * scale
    if wcs.sip is not None:
        new.sip = Sip(
            *(_scaled_sip(getattr(wcs.sip, name), scale) for name in ("a", "b", "ap", "bp")),
            moved(wcs.sip.crpix),
        )
    for name in ("cpdis1", "cpdis2", "det2im1", "det2im2"):
        table = getattr(new, name)
        if table is not None:
            table.crval = tuple(moved(table.crval))
            table.cdelt = tuple(np.asarray(table.cdelt) / scale)
            table.data /= scale
    new.array_shape = (pixels, pixels)
    return new


def _scaled_sip(coefficients, scale):
    """Coefficients of a SIP polynomial for pixels ``scale`` times as wide."""
    if coefficients is None:
        return None
    order = np.add.outer(*2 * [np.arange(len(coefficients))])
    return coefficients * scale ** (order - 1.0)
