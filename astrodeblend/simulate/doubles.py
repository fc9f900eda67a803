"""Stamps of one galaxy and of two, which differ in nothing else, to train blend scores."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from ..metrics import isophote, moments
from .batched import Simulator
from .recipes import Recipe, Rendering

__all__ = ["FAINTEST", "FARTHEST", "Doubles", "make_doubles"]

#: Stamp pixels: greatest separation of the two galaxies of a blend.
FARTHEST = 17.0
#: Smallest flux ratio, fainter to brighter, of the two galaxies of a blend.
FAINTEST = 0.1
_STAMP = 80  # pixels: width of a stamp
_MARGIN = 8  # stamp pixels: largest distance of the centre of a blend's light from the middle
_MISCENTRED = 0.4  # stamp pixels: standard deviation of the centring error along each axis
_NEAR = 20  # stamp pixels: distance from the middle within which a galaxy's centre is searched
_ZOOM = (0.6, 1.6)  # range of the enlargement of both galaxies
# Share of stamps resampled to coarser pixels and back, and the largest such pixel in stamp
# pixels: sources much smaller than a stamp reach its grid from few pixels.
_COARSE, _COARSEST = 0.3, 4.0
_RECIPE = Recipe(
    "one or two",
    "a galaxy and another one, or empty sky, at any distance",
    ("max", "sum"),
    crop=3 * (_STAMP + 2 * _MARGIN),
    symmetries=True,
    rendering=Rendering(),
)


@dataclass(frozen=True, eq=False)
class Doubles:
    """Stamps of one galaxy and of two, half of each.

    Attributes
    ----------
    picture : torch.Tensor
        Shape (n, bands, 80, 80), float32 from 0 to 1.
    blended : numpy.ndarray of bool
        Whether there are two galaxies, shape (n,).
    separation : numpy.ndarray
        Separation of the two galaxies in stamp pixels, shape (n,); NaN for single galaxies.
    flux_ratio : numpy.ndarray
        Flux of the fainter galaxy over that of the brighter, shape (n,); NaN for single galaxies.
    plain : numpy.ndarray of bool
        Whether the stamp was only zoomed, neither re-rendered nor resampled to coarser pixels,
        shape (n,).
    """

    picture: torch.Tensor
    blended: np.ndarray
    separation: np.ndarray
    flux_ratio: np.ndarray
    plain: np.ndarray

    def __len__(self):
        return len(self.blended)

    @classmethod
    def join(cls, parts):
        """Concatenate sets of stamps.

        Parameters
        ----------
        parts : iterable of Doubles
            The sets, in order.
        """
        parts = list(parts)
        arrays = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("blended", "separation", "flux_ratio", "plain")
        )
        return cls(torch.cat([part.picture for part in parts]), *arrays)


def make_doubles(images, number, *, rng):
    """Make stamps of two galaxies, and one of the first galaxy alone for each.

    A galaxy and a companion are blended by maximum or sum. Separations are uniform from 0 to 17
    stamp pixels, in any direction; companions are rotated, mirrored and scaled as in the recipe
    ``reiman2019``; both are re-rendered as in ``varied``, and zoomed. For a stamp of one galaxy the
    companion's picture is replaced by one of its corners without bright sources, mirrored to fill
    the frame, so that noise, interpolation and frame stay the same. Three in ten stamps are then
    resampled to coarser pixels and back, like sources of few pixels.

    A third of the stamps each is centred on the brightest pixel, on the centroid of the light
    around it, and on the true position, with an error of 0.4 pixels along each axis, rounded to
    whole pixels.

    A pair is dropped, with its stamp of one galaxy, if the flux ratio is below 0.1
    (`astrodeblend.metrics.isophote`).

    Parameters
    ----------
    images : numpy.ndarray
        Isolated galaxies, (n, bands, y, x), y = x, uint8 (0 to 255) or float (0 to 1); at least 2.
    number : int
        Number of stamps before pairs are dropped, made in batches of 64.
    rng : numpy.random.Generator
        Where the randomness comes from.

    Returns
    -------
    Doubles
        Blends and single galaxies alternate.
    """
    sizes = [64] * (number // 64) + [number % 64] * (number % 64 > 0)
    return Doubles.join(_make(images, 2 * -(-size // 2), rng) for size in sizes)


def _make(images, number, rng):
    """Make an even number of stamps, less the pairs that are dropped."""
    recipe = _RECIPE if images.shape[1] == 3 else replace(_RECIPE, rendering=None)
    draw = recipe.draw(rng, number, len(images))
    separation = rng.uniform(0, FARTHEST, number)
    angle = rng.uniform(0, 2 * np.pi, number)
    zoom = np.exp(rng.uniform(*np.log(_ZOOM), number))
    shift = (recipe.factor * separation / zoom)[:, None] * np.stack(
        [np.cos(angle), np.sin(angle)], axis=1
    )
    blended = np.arange(number) % 2 == 0
    # Zero where pictures are narrower than the cut-out; a pixel's bands are adjacent in memory.
    bands, size = images.shape[1:3]
    width = max(size, recipe.crop)
    frame = slice((width - size) // 2, (width - size) // 2 + size)
    pictures = np.moveaxis(np.zeros((2 * number, width, width, bands), images.dtype), -1, 1)
    for k, index in enumerate([*draw.central, *draw.companion]):
        alone = k >= number and not blended[k - number]
        pictures[k, :, frame, frame] = _empty(images[index]) if alone else images[index]
    order = np.arange(number)
    draw = replace(draw, central=order, companion=number + order, shift=shift, zoom=zoom)
    picture, isolated = Simulator(pictures, recipe)(draw)

    light = isolated[blended].flatten(0, 1)
    flux = _light(light)
    flux = moments(flux, isophote(flux, fraction=FAINTEST)).flux.reshape(-1, 2)
    ratio = flux.min(axis=1) / np.maximum(flux.max(axis=1), 1e-9)
    kept = np.repeat(ratio >= FAINTEST, 2)

    plain = np.ones(number, bool) if draw.gain is None else (draw.gain == 1).all(axis=1)
    coarse = rng.random(number) < _COARSE
    for k in np.flatnonzero(coarse):
        picture[k] = _coarse(picture[k], rng.uniform(1, _COARSEST))
    corner = _MARGIN + _centres(picture, rng)
    picture = torch.stack(
        [p[:, y : y + _STAMP, x : x + _STAMP] for p, (y, x) in zip(picture, corner, strict=True)]
    )
    separation[~blended] = np.nan
    flux_ratio = np.full(number, np.nan)
    flux_ratio[blended] = ratio
    arrays = (blended, separation, flux_ratio, plain & ~coarse)
    return Doubles(picture[kept], *(values[kept] for values in arrays))


def _empty(image):
    """Return sky like that of an image (bands, y, x): its emptiest corner, mirrored."""
    size = image.shape[-1]
    width = size // 4
    ends = slice(0, width), slice(size - width, size)
    corners = [image[:, rows, columns] for rows in ends for columns in ends]
    # A quantile instead of the brightest pixel, which may be an outlier.
    corner = min(corners, key=lambda part: np.quantile(part.max(axis=0)[::3, ::3], 0.99))
    return np.pad(corner, ((0, 0), *2 * [(0, size - width)]), mode="symmetric")


def _light(picture):
    """Return sky-subtracted pictures (n, bands, y, x) as an array."""
    return (picture - picture.flatten(2).median(dim=2).values[..., None, None]).numpy()


def _coarse(picture, factor):
    """Resample a picture (bands, y, x) to pixels larger by a factor, and back."""
    size = picture.shape[-1]
    few = F.interpolate(picture[None], size=round(size / factor), mode="bilinear")
    return F.interpolate(few, size=(size, size), mode="bicubic")[0].clamp(0, 1)


def _centres(picture, rng):
    """Return the shifts that centre stamps, in pixels (n, 2), y and x."""
    number, _, size, _ = picture.shape
    margin = size // 2 - _NEAR
    light = _light(picture)[..., margin:-margin, margin:-margin]
    bright = F.avg_pool2d(torch.from_numpy(light.sum(axis=1)), 3, stride=1, padding=1)
    peak = np.unravel_index(bright.flatten(1).argmax(dim=1).numpy(), bright.shape[1:])
    peak = np.stack(peak, axis=1).astype(float)
    centroid = moments(light, isophote(light, fraction=0.3)).centroid[:, ::-1]
    middle = np.full((number, 2), _NEAR - 0.5)
    kind = rng.integers(3, size=number)[:, None]
    centre = np.select([kind == 0, kind == 1], [peak, centroid], middle)
    moved = centre - middle + rng.normal(0, _MISCENTRED, (number, 2))
    # Galaxies farther apart are detected as two sources, and the stamp is centred on one of them.
    moved = np.where((np.abs(moved) <= _MARGIN).all(axis=1, keepdims=True), moved, 0)
    return np.rint(moved).astype(int)
