"""Real galaxies from colour pictures: converted to linear light, cut out, and shrunk.

The JPEGs of SDSS show i, r, g as red, green, blue after Lupton et al. (2004, PASP 116, 133): the
bands times a factor, x_i, x_r, x_g with mean I, become x asinh(q I) / (q' I), which keeps colours
at any brightness. `linear_light` inverts this with

- factors 4.9, 5.7, 7.8 of i, r, g: those of ``nw_scale_rgb`` in the SDSS's idlutils. They give
  Galaxy Zoo galaxies within their Petrosian radii the median colours of SDSS's main sample,
  g - r = 0.64 and r - i = 0.36;
- mean value V of a pixel (0 to 1) = asinh(I sinh(Q)) / Q, Q = 7.6. The Q of SDSS is not published;
  this one gives the galaxies of Galaxy Zoo 2 the median 90 % radius to which their pictures were
  scaled, 50 pixels (0.02 Petrosian 90 % radii a pixel).

Deconvolution is not needed. Half-light radii in the pictures are about 16 pixels, the FWHM of stars
about 5 pixels. Shrunk to a half-light radius of 0.5 arcsec that PSF is 0.15 arcsec wide, which adds
2 % to LSST's 0.79. With less shrinking the galaxy is a little smoother than in the sky, in blend
and truth alike. Noise averages out over the tens of picture pixels in a survey's pixel; outside the
galaxy there is none.

`cut_galaxies` shrinks galaxies, which averages the noise. `cut_large_galaxies` keeps the pixels of
well-resolved ones, so noise is removed, and the outskirts are continued: a galaxy cut at its
picture's noise would have an edge that a deeper survey shows.
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

#: Factors of g, r, i in the pictures (idlutils).
SCALES = np.array([7.8, 5.7, 4.9])
#: Softening Q of the pictures (measured; see above).
SOFTENING = 7.6

#: Width of a map in map pixels, and of a map pixel in pixels of the picture.
WIDTH = 96
SHRINK = 3

_CUT_OFF = 1  # map pixels: a galaxy with more saturated ones is dropped
_APART = 7  # map pixels: closer peaks belong to one galaxy
_COVERED = 0.1  # share of a galaxy's light that neighbours cover, from which on it is dropped
_OFF_CENTRE = 10  # map pixels: a galaxy whose brightest pixel is farther from the middle is dropped
_SKY = 12  # map pixels: width of the picture's border that shows the sky

# Large galaxies; pixels are those of the picture.
LARGE_WIDTH = 288  #: Width in pixels of the maps of large galaxies.
_LARGE_SKY = 36  # pixels: width of the picture's border that shows the sky
_SCALES = 3  # number of wavelet scales: 1, 2 and 4 pixels
_SIGNIFICANT = 5.0  # standard deviations of the noise: fainter wavelet coefficients are dropped
_SHARP = 1.4  # least noise at 1 pixel over that at 4 pixels; enlarged pictures have less
_SMALLEST = 11  # pixels: least half-light radius


def linear_light(picture):
    """Return the linear flux of a colour picture of SDSS.

    Parameters
    ----------
    picture : array_like
        Shape (..., 3, y, x): red, green, blue from 0 to 1.

    Returns
    -------
    numpy.ndarray
        Flux in g, r, i, of the same shape, in one arbitrary unit. It is too low in pixels that are
        saturated at 1.
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
    """Return the colour picture of SDSS that shows linear flux, the inverse of `linear_light`.

    Parameters
    ----------
    flux : array_like
        Shape (..., 3, y, x): flux in g, r, i.

    Returns
    -------
    numpy.ndarray
        Red, green, blue, of the same shape. A pixel above 1 is scaled so that its brightest colour
        is 1; negative values are 0.
    """
    scaled = np.clip(np.asarray(flux, float) * SCALES[:, None, None], 0, None)[..., ::-1, :, :]
    brightness = scaled.mean(axis=-3, keepdims=True)
    value = np.arcsinh(brightness * np.sinh(SOFTENING)) / SOFTENING
    with np.errstate(invalid="ignore", divide="ignore"):
        picture = np.where(brightness > 0, scaled * value / brightness, 0)
    return picture / np.maximum(picture.max(axis=-3, keepdims=True), 1)


@dataclass(frozen=True)
class Morphologies:
    """Real galaxies, each the sum of two maps of light, redder and bluer.

    Parameters
    ----------
    maps : numpy.ndarray
        Shape (n, 2, 96, 96), or wider, float16: the redder and the bluer light, each map of mean
        1, with the galaxy in the middle.
    spectra : numpy.ndarray
        Shape (n, 2, 3): flux of each map in g, r, i, relative to i.
    shares : numpy.ndarray
        Shape (n, 2): share of each map in the galaxy's flux in i.
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
        """Positions of galaxies, x and y from the middle of their maps in pixels, shape (n, 2).

        Windowed centroids as in SExtractor; the window scales with the galaxy's size.
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

    def centres_of(self, index, symmetry):
        """Return centres as `centres` does, of galaxies in symmetries of the square.

        Parameters
        ----------
        index, symmetry : numpy.ndarray
            Shape (n,): indices of galaxies, and symmetries as in `light`.

        Returns
        -------
        numpy.ndarray
            Shape (n, 2).
        """
        centre, code = self.centres[index], np.asarray(symmetry)[:, None]
        centre = np.where(code >= 4, centre[:, ::-1], centre)
        return centre * np.where(code // [1, 2] % 2 == 1, -1, 1)

    def light(self, index, fluxes, symmetry=0):
        """Return the light of a galaxy.

        Parameters
        ----------
        index : int
            Index of the galaxy.
        fluxes : array_like
            Shape (2,): flux of the redder and of the bluer light.
        symmetry : int, optional
            One of the eight symmetries of the square: the sum of 4 to exchange x and y first, 1 to
            mirror along x, 2 to mirror along y.

        Returns
        -------
        numpy.ndarray
            An image of the size of the maps.
        """
        light = (
            np.einsum("c,cyx->yx", fluxes, self.maps[index].astype(float))
            / self.maps.shape[-1] ** 2
        )
        light = light.T if symmetry & 4 else light
        return light[:: -1 if symmetry & 2 else 1, :: -1 if symmetry & 1 else 1].copy()

    def write(self, path, *, overwrite=False):
        """Write the galaxies to an ``.npz`` file; after an error no file is left.

        Parameters
        ----------
        path : str or path-like
            The file.
        overwrite : bool, optional
            Replace a file that exists.
        """
        with atomic_path(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
            np.savez(
                file, maps=self.maps, spectra=self.spectra, shares=self.shares, radius=self.radius
            )

    @classmethod
    def read(cls, path):
        """Read galaxies from an ``.npz`` file that `write` wrote.

        Parameters
        ----------
        path : str or path-like
            The file.
        """
        with np.load(path) as file:
            names = ("maps", "spectra", "shares", "radius")
            missing = [name for name in names if name not in file]
            if missing:
                raise ValueError(f"{str(path)!r} holds no galaxies: it lacks {', '.join(missing)}")
            return cls(**{name: file[name] for name in names})


def cut_galaxies(pictures, *, progress=False):
    """Cut the middle galaxy out of each picture of SDSS.

    The light connected with the middle is kept, up to the watershed towards neighbours; pixels
    that these cover are replaced by those on the opposite side of the galaxy. Galaxies are dropped
    if neighbours cover a tenth of their light, if they extend beyond the map, or if more than one
    pixel of the map is saturated.

    Parameters
    ----------
    pictures : iterable of array_like or path-like
        Shape (3, y, x) each, uint8, at least 288 pixels wide; or JPEG or PNG files.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Morphologies
        The usable galaxies, in order.
    """
    return _cut_all(_cut, pictures, progress)


def _cut_all(cut, pictures, progress):
    """Cut a galaxy out of each picture, and keep the usable ones."""
    bar = tqdm(pictures, "cutting galaxies", disable=not progress, unit="picture")
    found = [galaxy for galaxy in map(cut, bar) if galaxy is not None]
    if not found:
        raise ValueError("pictures: no galaxy in the middle of any of them can be used")
    return Morphologies(*(np.array(column) for column in zip(*found, strict=True)))


def _read_picture(picture):
    """Return a picture from an array or a file, uint8, (3, y, x); raise for any other."""
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
    picture = _read_picture(picture)
    margin = (picture.shape[1] - WIDTH * SHRINK) // 2
    blocks = WIDTH + 2 * (margin // SHRINK)
    start = margin % SHRINK
    used = slice(start, start + blocks * SHRINK)
    cells = picture[:, used, used].reshape(3, blocks, SHRINK, blocks, SHRINK)
    cut_off = (cells >= 254).any(axis=(0, 2, 4))
    flux = linear_light(picture[:, used, used] / np.float32(255)).reshape(cells.shape)
    flux = flux.mean(axis=(2, 4))
    flux, smooth, threshold = _above_sky(flux, _SKY, 1)
    mine, others = _middle_and_others(smooth, threshold)
    # Pixels that a neighbour covers are replaced by those on the opposite side of the galaxy.
    covered = others & mine[::-1, ::-1]
    if smooth[::-1, ::-1][covered].sum() >= _COVERED * smooth[mine].sum():
        return None
    if (cut_off & mine).sum() > _CUT_OFF:
        return None
    flux = np.where(covered, flux[:, ::-1, ::-1], flux)
    # Smooth edges: galaxies have no sharp ones.
    mask = np.clip(2 * ndimage.gaussian_filter((mine | covered).astype(float), 1.5) - 1, 0, 1)
    outside = (blocks - WIDTH) // 2
    kept = slice(outside, outside + WIDTH)
    if np.count_nonzero(mask) > np.count_nonzero(mask[kept, kept]):
        return None
    light = np.clip(flux * mask, 0, None)[:, kept, kept]
    # Brightest off centre: another source dominates.
    peak = np.unravel_index(light.sum(axis=0).argmax(), (WIDTH, WIDTH))
    if np.hypot(*(np.array(peak) - (WIDTH - 1) / 2)) >= _OFF_CENTRE + 1:
        return None
    return _two_maps(light)


def _above_sky(flux, width, sigma):
    """Return flux above the sky of a border, its smoothed mean, and the threshold of galaxies."""
    border = np.ones(flux.shape[1:], bool)
    border[width:-width, width:-width] = False
    flux = flux - np.median(flux[:, border], axis=1)[:, None, None]
    smooth = ndimage.gaussian_filter(flux.mean(axis=0), sigma)
    noise = 1.4826 * np.median(np.abs(smooth[border]))
    # The floor ends galaxies in pictures without noise, or with a sky clipped at 0.
    return flux, smooth, max(1.5 * noise, 1e-3 * smooth.max())


def _middle_and_others(smooth, threshold):
    """Return the pixels of the galaxy in the middle, and those of other sources."""
    middle = len(smooth) // 2
    brightest = ndimage.maximum_filter(smooth, size=2 * _APART + 1)
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
    # colour from smoothed light, brightness from all bands: less noise in both
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
    radius = half_light_radius(maps.sum(axis=0))
    maps = maps / flat.mean(axis=1)[:, None, None]
    return maps.astype(np.float16), spectra / spectra[:, 2:], shares / shares.sum(), radius


def half_light_radius(light):
    """Return the half-light radius of a map about its middle, in pixels."""
    ring = np.hypot(*(np.indices(light.shape) - (len(light) - 1) / 2)).astype(int)
    curve = np.cumsum(np.bincount(ring.ravel(), light.ravel()))
    return np.interp(0.5, curve / curve[-1], np.arange(len(curve)) + 0.5)


def cut_large_galaxies(pictures, *, progress=False):
    """Cut the middle galaxy out of each picture of SDSS, at full resolution and without noise.

    Of the wavelet coefficients (starlet transform, Starck & Murtagh 1994, A&A 288, 342) the
    significant ones are kept. Where the galaxy falls below the noise, an exponential disk of its
    shape, fitted to its outer light, continues it. Pixels that neighbours cover are replaced by
    those on the opposite side. Galaxies are dropped if neighbours cover a tenth of their light,
    if they are small or off centre, or if the picture was enlarged: its noise is then nearly as
    strong over four pixels as over one.

    Parameters
    ----------
    pictures : iterable of array_like or path-like
        As for `cut_galaxies`.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Morphologies
        With maps 288 pixels wide.
    """
    return _cut_all(_cut_large, pictures, progress)


def _cut_large(picture):
    picture = _read_picture(picture)
    side = picture.shape[1] // 2 // SHRINK * SHRINK * 2  # whole blocks on each side of the middle
    start = (picture.shape[1] - side) // 2
    picture = picture[:, start : start + side, start : start + side]
    light = linear_light(picture / np.float32(255))
    flux, smooth, threshold = _above_sky(light, _LARGE_SKY, SHRINK)
    small = smooth[1::SHRINK, 1::SHRINK]
    mine, others = (
        np.kron(part, np.ones((SHRINK, SHRINK), bool))
        for part in _middle_and_others(small, threshold)
    )
    others = ndimage.binary_dilation(others, iterations=5)
    covered = others & mine[::-1, ::-1]
    if smooth[::-1, ::-1][covered].sum() >= _COVERED * smooth[mine].sum():
        return None
    flux = np.where(covered, flux[:, ::-1, ::-1], flux)
    smooth = np.where(covered, smooth[::-1, ::-1], smooth)
    mine = (mine & ~others) | covered
    # Brightest off centre, or saturated at full scale: a star is in front of the galaxy.
    peak = np.unravel_index(np.where(mine, smooth, 0).argmax(), smooth.shape)
    off = np.hypot(*(np.array(peak) - (len(smooth) - 1) / 2))
    if off > _OFF_CENTRE or ((picture >= 254).any(axis=0) & mine).sum() > SHRINK**2:
        return None
    seen = ndimage.gaussian_filter(np.where(mine, smooth, 0), 3) / threshold
    clean = _denoise(flux, np.clip(np.log2(np.maximum(seen, 1)) / 3, 0, 1))
    if clean is None:
        return None
    light = _with_envelope(clean, flux, mine, others, seen, threshold)
    if light is None:
        return None
    outside = (light.shape[-1] - LARGE_WIDTH) // 2
    kept = slice(outside, outside + LARGE_WIDTH)
    x = (np.arange(LARGE_WIDTH) - (LARGE_WIDTH - 1) / 2) / (LARGE_WIDTH / 2)
    fade = np.clip(3 - 3 * np.hypot(x, x[:, None]), 0, 1)
    galaxy = _two_maps(light[:, kept, kept] * fade**2 * (3 - 2 * fade))
    return None if galaxy is None or galaxy[-1] < _SMALLEST else galaxy


def _denoise(flux, bright):
    """Return the significant part of a galaxy: its smooth light, and detail where it is bright."""
    kept, kernel = np.zeros_like(flux), np.array([1, 4, 6, 4, 1], flux.dtype) / 16
    noises, outskirts = [], (bright > 0) & (bright < 0.7)
    if not outskirts.any():
        return None
    for scale in range(_SCALES):
        taps = np.zeros(4 * 2**scale + 1, flux.dtype)
        taps[:: 2**scale] = kernel
        smooth = flux
        for axis in (1, 2):
            smooth = ndimage.convolve1d(smooth, taps, axis=axis, mode="nearest")
        detail = flux - smooth
        together = detail.mean(axis=0)
        # noise in the outskirts of the galaxy: in the sky, pictures clip it at 0
        noises.append(1.4826 * np.median(np.abs(together[outskirts])))
        # quantisation and compression add noise in proportion to the light
        noise = np.hypot(noises[-1], 0.03 / 2**scale * np.clip(smooth.mean(axis=0), 0, None))
        part = np.clip(np.abs(together) / noise - _SIGNIFICANT + 1, 0, 1)
        kept += detail * part * bright
        flux = smooth
    if noises[0] < _SHARP * noises[2]:
        return None
    return kept + flux


def _with_envelope(light, flux, mine, others, seen, threshold):
    """Continue faint light by an elliptical exponential disk."""
    total = np.where(mine, np.clip(flux.mean(axis=0), 0, None), 0)
    y, x = np.indices(total.shape) - np.array(ndimage.center_of_mass(total))[:, None, None]
    weight = total / total.sum()
    xx, yy, xy = ((weight * a).sum() for a in (x * x, y * y, x * y))
    root = np.sqrt(xx * yy - xy**2)
    radius = np.sqrt(np.clip(yy * x * x + xx * y * y - 2 * xy * x * y, 0, None) / root)
    ring = radius.astype(int)
    ring[others] = ring.max()
    number = np.maximum(np.bincount(ring.ravel()), 1)
    profile = np.array([np.bincount(ring.ravel(), band.ravel()) for band in flux]) / number
    faint = np.flatnonzero(profile.mean(axis=0) < threshold)
    if len(faint) == 0 or faint[0] < 12:
        return None
    end = faint[0] - 1
    outer = np.arange(end // 2, end + 1)
    r = np.arange(profile.shape[1])[outer] + 0.5
    slope, _ = np.polyfit(r, np.log(profile.mean(axis=0)[outer]), 1)
    slope = min(slope, -4 / end)
    outer = outer[-(end // 5) :]
    colour = np.clip(profile[:, outer].mean(axis=1), 0, None)
    height = -slope * (np.mean(outer) + 0.5)
    envelope = np.exp(height + slope * radius)
    # weight of the galaxy against the disk, from 0 to 1 just above the noise
    share = np.clip(np.log2(np.maximum(seen, 1e-9)), 0, 1)
    return np.clip(share * light + (1 - share) * envelope * colour[:, None, None], 0, None)
