"""Real galaxies out of colour pictures: back to linear light, cut out, and made small.

The JPEGs of SDSS show i, r, g as red, green, blue after Lupton et al. (2004, PASP 116, 133): the
bands, each times a factor, x_i, x_r, x_g with mean I, become x asinh(q I) / (q' I), so that
colours stay what they are at any brightness. Undone by `linear_light`:

- factors 4.9, 5.7, 7.8 of i, r, g: those of ``nw_scale_rgb`` in the SDSS's idlutils. With them the
  median colours of Galaxy Zoo galaxies within their Petrosian radii come out as g - r = 0.64 and
  r - i = 0.36, those of SDSS's main sample;
- mean value V of a pixel (0 to 1) = asinh(I sinh(Q)) / Q, Q = 7.6. What was used is not
  published; with this Q the median 90 % radius of the galaxies of Galaxy Zoo 2 comes out as the
  50 pixels that their pictures were scaled to (0.02 Petrosian 90 % radii a pixel).

Nothing needs deconvolution. In the pictures half-light radii are some 16 pixels, and stars some 5
pixels wide at half maximum. Shrunk to a half-light radius of 0.5 arcsec that PSF is 0.15 arcsec
wide, which adds 2 % to LSST's 0.79. Where less shrinking leaves more of it, it makes the galaxy
itself a little smoother than it was, and the blend and its truth alike. Noise: a pixel of a survey
holds tens of the picture's, and what lies outside the galaxy is cut off.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.segmentation import watershed
from tqdm import tqdm

from ..files import atomic_path

__all__ = ["Morphologies", "composite", "cut_galaxies", "linear_light"]

#: Factors of g, r, i in the pictures.
SCALES = np.array([7.8, 5.7, 4.9])
#: Softening of the pictures.
SOFTENING = 7.6

#: Width of a map, and how many picture pixels become one of its pixels.
WIDTH = 96
SHRINK = 3

# A galaxy is left out if in more of its pixels of the map than this the picture was cut off.
CUT_OFF = 1
# Peaks that are closer than this, in pixels of the map, belong to one galaxy.
APART = 7
# A galaxy is left out if neighbours cover as much of its light as this.
COVERED = 0.1
# Or if its brightest pixel is this far, in pixels of the map, from the middle.
OFF_CENTRE = 10
# Width of the picture's border that shows the sky, in pixels of the map.
SKY = 12


def linear_light(picture):
    """Take a colour picture of SDSS back to linear light.

    Parameters
    ----------
    picture : array_like
        Shape (..., 3, y, x): red, green, blue from 0 to 1.

    Returns
    -------
    numpy.ndarray
        The same shape: flux in g, r, i; the unit is arbitrary but the same for all bands. Pixels
        that were cut off at 1 hold less than they had.
    """
    picture = np.asarray(picture)
    if picture.dtype != np.float32:
        picture = picture.astype(float)
    value = sum(np.moveaxis(picture, -3, 0)) / 3
    brightness = np.sinh(SOFTENING * value) / np.sinh(SOFTENING)
    per_value = brightness / np.maximum(value, 1e-9)
    scales = SCALES.astype(picture.dtype)[:, None, None]
    return picture[..., ::-1, :, :] * per_value[..., None, :, :] / scales


def composite(flux):
    """Draw linear light as a colour picture of SDSS, the inverse of `linear_light`.

    Parameters
    ----------
    flux : array_like
        Shape (..., 3, y, x): flux in g, r, i.

    Returns
    -------
    numpy.ndarray
        The same shape: red, green, blue. What is brighter than 1 is scaled down to 1 in the
        brightest of its colours; negative values are 0.
    """
    scaled = np.clip(np.asarray(flux, float) * SCALES[:, None, None], 0, None)[..., ::-1, :, :]
    brightness = scaled.mean(axis=-3, keepdims=True)
    value = np.arcsinh(brightness * np.sinh(SOFTENING)) / SOFTENING
    with np.errstate(invalid="ignore", divide="ignore"):
        picture = np.where(brightness > 0, scaled * value / brightness, 0)
    return picture / np.maximum(picture.max(axis=-3, keepdims=True), 1)


@dataclass(frozen=True)
class Morphologies:
    """Galaxies of real images, each the sum of two maps of light, redder and bluer.

    Parameters
    ----------
    maps : numpy.ndarray
        Shape (n, 2, 96, 96), or wider, float16: where the redder and the bluer light is; each map
        sums up to the number of its pixels. The galaxy is in the middle.
    spectra : numpy.ndarray
        Shape (n, 2, 3): flux of each map in g, r, i, relative to i.
    shares : numpy.ndarray
        Shape (n, 2): of the maps in the galaxy's flux in i.
    radius : numpy.ndarray
        Shape (n,): half-light radius in pixels of the map.
    """

    maps: np.ndarray
    spectra: np.ndarray
    shares: np.ndarray
    radius: np.ndarray

    def __len__(self):
        return len(self.maps)

    @cached_property
    def centres(self):
        """Where galaxies are brightest, x and y from the middle of their maps, shape (n, 2).

        Windowed centroids, as SExtractor has them, in a window that goes with the galaxy's size.
        """
        found = []
        for maps, radius in zip(self.maps, self.radius, strict=True):
            sigma = max(1, radius / 4)
            light = ndimage.gaussian_filter(maps.sum(axis=0, dtype=np.float32), sigma)
            centre = np.array(np.unravel_index(light.argmax(), light.shape), float)
            grid = np.arange(len(light))[:, None]
            for _ in range(10):
                away = grid - centre
                y, x = np.exp(-0.5 * (away / sigma) ** 2).T
                total = y @ light @ x
                step = np.array([(y * away[:, 0]) @ light @ x, y @ light @ (x * away[:, 1])])
                centre += 2 * step / total
            found.append((centre - (len(light) - 1) / 2)[::-1])
        return np.array(found)

    def light(self, index, fluxes, symmetry=0):
        """Return the light of a galaxy.

        Parameters
        ----------
        index : int
            Which galaxy.
        fluxes : array_like
            Shape (2,): flux of the redder and of the bluer light.
        symmetry : int, optional
            One of the eight symmetries of the square: 1 is added for mirrored along x, then 2
            along y; and 4 for x and y exchanged before.

        Returns
        -------
        numpy.ndarray
            As large as the maps.
        """
        light = (
            np.einsum("c,cyx->yx", fluxes, self.maps[index].astype(float))
            / self.maps.shape[-1] ** 2
        )
        light = light.T if symmetry & 4 else light
        return light[:: -1 if symmetry & 2 else 1, :: -1 if symmetry & 1 else 1].copy()

    def write(self, path, *, overwrite=False):
        """Write the galaxies to an ``.npz`` file, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            Where to.
        overwrite : bool, optional
            Replace a file that is there already.
        """
        with atomic_path(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
            np.savez(
                file, maps=self.maps, spectra=self.spectra, shares=self.shares, radius=self.radius
            )

    @classmethod
    def read(cls, path):
        """Read galaxies that `write` wrote.

        Parameters
        ----------
        path : str or path-like
            An ``.npz`` file.

        Raises
        ------
        ValueError
            If the file does not hold such galaxies.
        """
        with np.load(path) as file:
            names = ("maps", "spectra", "shares", "radius")
            missing = [name for name in names if name not in file]
            if missing:
                raise ValueError(f"{str(path)!r} holds no galaxies: it lacks {', '.join(missing)}")
            return cls(**{name: file[name] for name in names})


def cut_galaxies(pictures, *, progress=False):
    """Cut the middle galaxy out of each picture of SDSS.

    The light that hangs together with the middle is kept, up to the watershed towards neighbours;
    what these cover is taken from the opposite side of the galaxy. Left out are galaxies of which
    neighbours cover a tenth, that run out of the map, or that were cut off at the picture's full
    scale in more than one pixel of the map.

    Parameters
    ----------
    pictures : iterable of array_like or path-like
        Shape (3, y, x) each, uint8, at least 288 pixels wide; or JPEG or PNG files.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Morphologies
        Of the galaxies that could be used, in order.

    Raises
    ------
    ValueError
        If a picture has another shape or type, or no galaxy can be used.
    """
    return _cut_all(_cut, pictures, progress)


def _cut_all(cut, pictures, progress):
    """Cut a galaxy out of each picture, and keep those that can be used."""
    bar = tqdm(pictures, "cutting galaxies", disable=not progress, unit="picture")
    found = [galaxy for galaxy in map(cut, bar) if galaxy is not None]
    if not found:
        raise ValueError("pictures: no galaxy in the middle of any of them can be used")
    return Morphologies(*(np.array(column) for column in zip(*found, strict=True)))


def read_picture(picture):
    """Return a picture, shape (3, y, x), uint8, from an array or a file, or refuse it."""
    if isinstance(picture, str | Path):
        with Image.open(picture) as image:
            picture = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    picture = np.ascontiguousarray(picture)
    smallest = WIDTH * SHRINK
    if picture.ndim != 3 or picture.dtype != np.uint8 or min(*picture.shape[1:]) < smallest:
        raise ValueError(
            f"a picture has shape {picture.shape} and type {picture.dtype}; "
            f"it takes (3, y, x), uint8, at least {smallest} pixels wide"
        )
    return picture


def _cut(picture):
    picture = read_picture(picture)
    margin = (picture.shape[1] - WIDTH * SHRINK) // 2
    blocks = WIDTH + 2 * (margin // SHRINK)
    start = margin % SHRINK
    used = slice(start, start + blocks * SHRINK)
    cells = picture[:, used, used].reshape(3, blocks, SHRINK, blocks, SHRINK)
    cut_off = (cells >= 254).any(axis=(0, 2, 4))
    flux = linear_light(picture[:, used, used] / np.float32(255)).reshape(cells.shape)
    flux = flux.mean(axis=(2, 4))
    border = np.ones((blocks, blocks), bool)
    border[SKY:-SKY, SKY:-SKY] = False
    flux -= np.median(flux[:, border], axis=1)[:, None, None]
    smooth = ndimage.gaussian_filter(flux.mean(axis=0), 1)
    noise = 1.4826 * np.median(np.abs(smooth[border]))
    # a picture without noise, or with its sky cut off, has galaxies without end
    threshold = max(1.5 * noise, 1e-3 * smooth.max())
    mine, others = _middle_and_others(smooth, threshold)
    # What a neighbour covers is taken from the opposite side of the galaxy.
    covered = others & mine[::-1, ::-1]
    if smooth[::-1, ::-1][covered].sum() >= COVERED * smooth[mine].sum():
        return None
    if (cut_off & mine).sum() > CUT_OFF:
        return None
    flux = np.where(covered, flux[:, ::-1, ::-1], flux)
    # It ends softly: an edge in the light would be a shape that no galaxy has.
    mask = np.clip(2 * ndimage.gaussian_filter((mine | covered).astype(float), 1.5) - 1, 0, 1)
    outside = (blocks - WIDTH) // 2
    kept = slice(outside, outside + WIDTH)
    if np.count_nonzero(mask) > np.count_nonzero(mask[kept, kept]):
        return None
    light = np.clip(flux * mask, 0, None)[:, kept, kept]
    # Brightest elsewhere: it is not the galaxy in the middle that one sees.
    peak = np.unravel_index(light.sum(axis=0).argmax(), (WIDTH, WIDTH))
    if _rings(WIDTH)[peak] > OFF_CENTRE:
        return None
    return _two_maps(light)


def _middle_and_others(smooth, threshold):
    """Return the pixels of the galaxy in the middle, and those of other sources."""
    middle = len(smooth) // 2
    brightest = ndimage.maximum_filter(smooth, size=2 * APART + 1)
    markers, _ = ndimage.label((smooth == brightest) & (smooth > 3 * threshold))
    parts = watershed(-smooth, markers, mask=smooth > threshold)
    mine = (parts > 0) & (parts == parts[middle, middle])
    labels, _ = ndimage.label(mine)
    mine &= labels == labels[middle, middle]
    others = (parts > 0) & ~mine
    return ndimage.binary_fill_holes(mine) & ~others, others


def _two_maps(light):
    """Split light in g, r, i into redder and bluer light; see `Morphologies`."""
    total = light.sum(axis=(1, 2))
    if (total <= 0).any():
        return None
    smooth = ndimage.gaussian_filter(light, (0, 1.5, 1.5)) + 1e-6 * light.max()
    # the colour from some pixels around, the brightness from all bands: less noise in both
    i = light.sum(axis=0) * smooth[2] / smooth.sum(axis=0)
    colour = smooth[0] / smooth[2]
    order = np.argsort(colour, axis=None)
    weight = np.cumsum(i.ravel()[order])
    red, blue = np.interp([0.1, 0.9], weight / weight[-1], colour.ravel()[order])
    bluer = np.clip((colour - red) / max(blue - red, 1e-3), 0, 1)
    maps = np.stack([i * (1 - bluer), i * bluer])
    flat = maps.reshape(2, -1)
    spectra = np.linalg.lstsq(flat.T, light.reshape(3, -1).T, rcond=None)[0]  # (2, 3)
    if (spectra <= 0).any() or (flat.sum(axis=1) <= 0).any():
        return None
    spectra *= total / (flat.sum(axis=1) @ spectra)  # the galaxy's colours are kept exactly
    shares = flat.sum(axis=1) * spectra[:, 2]
    curve = np.cumsum(np.bincount(_rings(maps.shape[-1]).ravel(), maps.sum(axis=0).ravel()))
    radius = np.interp(0.5, curve / curve[-1], np.arange(len(curve)) + 0.5)
    maps = maps / flat.mean(axis=1)[:, None, None]
    return maps.astype(np.float16), spectra / spectra[:, 2:], shares / shares.sum(), radius


def _rings(width):
    return np.hypot(*(np.indices((width, width)) - (width - 1) / 2)).astype(int)
