"""Stamps: a network's input around a source, and the transformation back to the image."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import make_interp_spline

from astrodeblend.flags import Flag

__all__ = ["Stamp", "cut_stamp", "sky_at"]

_MARGIN = 4  # pixels beyond the stamp that support the spline
_KNOWN = 0.5  # least share of the middle of a stamp with data in a known band


@dataclass(frozen=True, eq=False)
class Stamp:
    """A square part of an image on the network's pixels, and the transformation back.

    Made by `cut_stamp`.
    """

    position: tuple[float, float]  # middle of the stamp in the image, (x, y) in pixels
    width: float  # in pixels of the image
    shape: tuple[int, int]  # the image's (y, x)
    scaling: object  # Picture or Flux
    blend: np.ndarray  # (bands, pixels, pixels): the network's input; empty sky without data
    level: np.ndarray  # (bands, 1, 1): of the sky at the position, per pixel of the image
    noise: np.ndarray  # (bands, 1, 1), likewise
    data: np.ndarray  # (bands, y, x): values of the image at ``slices``
    hidden: np.ndarray  # where it has no data
    deviation: np.ndarray  # standard deviation of its noise
    stated: bool  # whether that is the image's uncertainty; else it is the sky's noise
    known: np.ndarray  # (bands,): whether at least half of the middle of the stamp has data
    flags: Flag  # of the source

    @property
    def pixels(self):
        """Pixels along each side of the stamp."""
        return self.blend.shape[-1]

    @property
    def scale(self):
        """Width of a pixel of the stamp in pixels of the image."""
        return self.width / self.pixels

    @cached_property
    def _axes(self):
        return [_Axis(centre, self.width, self.pixels) for centre in self.position]

    @cached_property
    def slices(self):
        """The part of the image that the stamp touches, as slices (y, x)."""
        return _touched(self._axes, self.shape)

    def places(self, positions):
        """Return positions (n, 2) in the image in pixels of the stamp."""
        return (np.asarray(positions) - self.position) / self.scale + (self.pixels - 1) / 2

    def component(self, answer, std):
        """Return light, sky and deviations; see `astrodeblend.scaling.Picture.component`."""
        return self.scaling.component(self, answer, std)

    def to_image(self, values):
        """Interpolate (..., pixels, pixels) from the stamp's pixels to the image's at ``slices``.

        The integral is kept, and so are fractions that sum to 1.
        """
        x, y = self._axes
        rows, columns = self.slices
        inside = (
            ...,
            slice(rows.start - y.start, rows.stop - y.start),
            slice(columns.start - x.start, columns.stop - x.start),
        )
        if x.aligned and y.aligned:
            return np.array(values, dtype=float)[inside]
        result = y.to_image @ np.asarray(values, dtype=float) @ x.to_image.T
        covered = np.outer(y.to_image.sum(axis=1), x.to_image.sum(axis=1))
        return (result / np.maximum(covered, 1e-9))[inside]

    @property
    def core(self):
        """The part of the image in which components do not fade, as slices (y, x)."""
        box = []
        for part, ramp in zip(self.slices, self._ramps, strict=True):
            inside = np.flatnonzero(ramp == 1)
            box.append(slice(part.start + int(inside[0]), part.start + int(inside[-1]) + 1))
        return tuple(box)

    @property
    def weight(self):
        """Weight of a component, which fades at the edges of the stamp, shape (y, x)."""
        return np.outer(*self._ramps)

    @cached_property
    def _ramps(self):
        """Weights along y and x: 1, falling to 0 at edges of the stamp inside the image."""
        ramps = []
        for centre, part, side in zip(self.position[::-1], self.slices, self.shape, strict=True):
            low, high = centre - self.width / 2, centre + self.width / 2
            pixel = np.arange(part.start, part.stop)
            depth = np.full(pixel.shape, np.inf)
            if low > -0.5 + 1e-6:
                depth = pixel - low + 1e-6
            if high < side - 0.5 - 1e-6:
                depth = np.minimum(depth, high - pixel + 1e-6)
            depth = np.clip(depth / max(self.scaling.fade * self.width, 1e-9), 0, 1)
            ramps.append(depth**2 * (3 - 2 * depth))
        return ramps


@dataclass(frozen=True)
class _Axis:
    """A stamp along one axis: its middle and its width, in pixels of the image."""

    centre: float
    width: float
    pixels: int

    @property
    def edges(self):
        """Edges of the stamp's pixels; those of the image's are at half integers."""
        return self.centre + self.width * (np.arange(self.pixels + 1) / self.pixels - 0.5)

    @property
    def start(self):
        """First pixel that the stamp touches, which may be outside the image."""
        # 1e-9: a rounding error must not touch another pixel
        return int(np.floor(self.centre - self.width / 2 + 0.5 + 1e-9))

    @property
    def stop(self):
        """The pixel after the last one that the stamp touches."""
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


def cut_stamp(image, sky, scaling, position, *, width, pixels, flags=Flag(0)):  # noqa: B008
    """Cut a stamp around a position (x, y), and resample it to the network's pixels.

    Values are averaged over each pixel of the stamp, by cubic splines through cumulative sums at
    the edges of the image's pixels, along y and x. A stamp on the image's pixels is a copy.
    ``width`` is in pixels of the image, ``pixels`` their number along each side of the stamp,
    ``flags`` those of the source.
    """
    shape = image.data.shape[-2:]
    axes = [_Axis(centre, width, pixels) for centre in position]
    aligned = all(axis.aligned for axis in axes)
    box = _touched(axes, shape)
    level, noise = sky_at(sky, position)
    margin = 0 if aligned else _MARGIN
    columns, rows = (np.arange(axis.start - margin, axis.stop + margin) for axis in axes)
    outside = ((rows < 0) | (rows >= shape[0]))[:, None] | (columns < 0) | (columns >= shape[1])
    around = np.ix_(rows.clip(0, shape[0] - 1), columns.clip(0, shape[1] - 1))
    filled = outside | sky.hidden[:, *around]
    values = np.where(filled, level, image.data[:, *around])
    values = scaling.values(values, level, noise)
    if not aligned:
        edges = [np.append(known, known[-1] + 1) - 0.5 for known in (columns, rows)]
        across, along = (_rebinning(e, axis.edges) for e, axis in zip(edges, axes, strict=True))
        values = along @ values @ across.T / (width / pixels) ** 2
        values = scaling.averaged(values, width / pixels)

    data, hidden = image.data[:, *box], sky.hidden[:, *box]
    stated = image.uncertainty is not None
    deviation = noise
    if stated:
        deviation = np.where(hidden, noise, image.uncertainty.array[:, *box])
    inner = tuple(
        slice(*np.clip((int(p - width / 4), int(np.ceil(p + width / 4)) + 1), 0, n))
        for p, n in zip(position[::-1], shape, strict=True)
    )
    known = sky.hidden[:, *inner].mean(axis=(1, 2)) <= 1 - _KNOWN
    if hidden.any():
        flags |= Flag.MASKED
    if any(part.stop - part.start < width - 1 for part in box):
        flags |= Flag.EDGE
    white = scaling.saturated(image.meta.get("header", {}))
    if (data[~hidden] >= white).any():
        flags |= Flag.SATURATED
    return Stamp(
        tuple(map(float, position)),
        float(width),
        tuple(shape),
        scaling,
        values.astype(np.float32),
        *(level, noise, data, hidden),
        np.broadcast_to(deviation, data.shape),
        stated,
        known,
        flags,
    )


def sky_at(sky, position):
    """Return level and noise of the sky at a position (x, y), each (bands, 1, 1)."""
    shape = sky.hidden.shape
    y, x = (int(np.clip(p, 0, n - 1) + 0.5) for p, n in zip(position[::-1], shape[1:], strict=True))
    return (
        np.broadcast_to(each, shape)[:, y : y + 1, x : x + 1].astype(float)
        for each in (sky.level, sky.noise)
    )


def _touched(axes, shape):
    """Return the part of an image that a stamp touches, as slices (y, x)."""
    return tuple(
        slice(max(axis.start, 0), min(axis.stop, side))
        for axis, side in zip(axes[::-1], shape, strict=True)
    )


def _rebinning(old, new):
    """Return the matrix from light between edges ``old`` to light between edges ``new``."""
    # light of each old pixel below every edge, for one unit in the pixel
    below = np.tri(len(old), len(old) - 1, -1)
    spline = make_interp_spline(old, below, k=3)
    return np.diff(spline(np.clip(new, old[0], old[-1])), axis=0)
